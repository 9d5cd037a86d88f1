// One schedule: when it is due, how its ticks went, and its definition.

import { segment } from "../api.js";
import { callout, trail } from "../saga-parts.js";
import { dueTimes, editSchedule, inZone, pauseOrResume, runNow, scheduleStatus } from "../schedule-parts.js";
import { button, confirm, duration, facts, h, json, load, pageHead, panel, statusBadge, table, time, toast } from "../ui.js";

const LOOK_EVERY_MS = 2_000;
const SHOWN = 10;

export default {
  title: ({ job_id }) => `Schedule ${job_id}`,
  async render(root, { job_id }, ctx) {
    const path = `v1/schedules/${segment(job_id)}`;
    let seen = "";
    const again = load(root, ctx, async () => {
      const [schedule, upcoming] = await Promise.all([
        ctx.api.get(path, { signal: ctx.signal }),
        ctx.api.get(`${path}/upcoming`, { query: { count: SHOWN }, signal: ctx.signal }),
      ]);
      seen = JSON.stringify(schedule);
      const [jobs, audit] = await Promise.all([
        ctx.api.get("v1/jobs", { query: { job_type: schedule.job_type, page_size: 100 }, signal: ctx.signal }).catch(() => null),
        ctx.api.maybe("v1/audit", { query: { entity: `schedule/${job_id}`, page_size: 20 }, signal: ctx.signal }).catch(() => null),
      ]);
      const ticks = (jobs?.items ?? []).filter((job) => job.job_key.startsWith(`${job_id}@`) && !schedule.in_progress.some((tick) => tick.job_key === job.job_key)).slice(0, SHOWN);
      return draw({ schedule, upcoming, ticks, audit }, ctx, again);
    });
    ctx.every(LOOK_EVERY_MS, async () => {
      try {
        if (JSON.stringify(await ctx.api.get(path, { signal: ctx.signal })) !== seen) again();
      } catch {
        // What is shown stays; the connection above says that the server does not answer.
      }
    });
  },
};

function draw({ schedule, upcoming, ticks, audit }, ctx, again) {
  const edit = () => editSchedule(ctx, schedule, async () => {
    toast(`${schedule.job_id} is saved.`);
    await again();
  });
  const remove = () => confirm({
    title: `Delete ${schedule.job_id}`,
    body: h("p", "No more ticks begin. Those that have started go on, and its jobs stay."),
    confirm: "Delete schedule",
    danger: true,
    act: async () => {
      await ctx.api.delete(`v1/schedules/${segment(schedule.job_id)}`);
      ctx.go("/schedules");
    },
  });
  const actions = [runNow(ctx, schedule, again), pauseOrResume(ctx, schedule, again), button("Edit…", { need: "operator", ctx, onclick: edit }), button("Delete…", { need: "operator", ctx, tone: "danger", onclick: remove })];
  const { last_run: last } = schedule;
  return [
    pageHead(h("span.title-line", h("span.wrap", schedule.job_id), scheduleStatus(schedule)), { note: h("span.note-line", h("code", schedule.schedule_expression), h("span", schedule.time_zone)), actions }),
    schedule.problem && callout("bad", "It stands still", h("p", schedule.problem)),
    last?.outcome === "failed" && callout("bad", "The last tick failed", h("p", last.error ?? "Its job says why."), h("p.note", "It stays failed. Run makes another tick.")),
    h("div.split",
      h("div.main-column",
        schedule.in_progress.length > 0 && panel("In progress", { flush: true }, inProgress(schedule)),
        panel("Latest ticks", { note: last ? "" : "none yet", flush: true }, ticks.length > 0 ? tickTable(ticks, schedule.job_id) : h("p.faint.padded", "Nothing has run yet.")),
        schedule.parameters !== null && panel("Parameters", {}, json(schedule.parameters))),
      h("div.side-column",
        panel("Due next", { note: schedule.status === "paused" ? "if it were resumed now" : "" }, upcoming.due.length > 0 ? dueTimes(upcoming.due, upcoming.time_zone) : h("p.faint", "Nothing.")),
        panel("Schedule", {}, definition(schedule)))),
    audit && trail(audit, schedule.job_id, "schedule"),
  ];
}

function inProgress(schedule) {
  return table([
    { label: "Due", render: (tick) => time(tick.scheduled_time) },
    { label: "Job", render: (tick) => (tick.job_id ? h("a", { href: `#/jobs/${encodeURIComponent(tick.job_id)}` }, tick.job_key) : tick.job_key) },
    { label: "Attempt", align: "end", render: (tick) => tick.attempt ?? "" },
    { label: "What went wrong", grow: true, render: (tick) => h("span.bad", tick.error ?? "") },
  ], schedule.in_progress, { caption: "Ticks in progress", key: (tick) => tick.job_key });
}

function tickTable(ticks, name) {
  return table([
    { label: "Due", render: (job) => time(job.scheduled_time) },
    // What stands before the time is the same for all of them.
    { label: "Job", render: (job) => h("a.clip.tick", { href: `#/jobs/${encodeURIComponent(job.job_id)}`, title: job.job_key, "aria-label": job.job_key }, job.job_key.slice(name.length)) },
    { label: "Status", render: (job) => statusBadge(job.status) },
    { label: "What went wrong", grow: true, render: (job) => h("span.clip.bad", job.error ?? "") },
    { label: "Took", align: "end", render: (job) => (job.completed_at ? duration(new Date(job.completed_at) - new Date(job.claimed_at)) : "") },
  ], ticks, { caption: "Latest ticks", key: (job) => job.job_id });
}

const MISFIRE = { run_once: "the latest of them runs", run_all: "all of them run", skip: "none of them runs" };
const OVERLAP = { queue: "a tick waits for the one before", skip: "a tick is skipped while one runs", allow: "ticks may run side by side" };

function definition(schedule) {
  const seconds = (value) => (value === null || value === undefined ? "as the settings say" : duration(value * 1_000));
  const { counts } = schedule;
  return facts([
    ["Type of its jobs", h("a", { href: `#/jobs?job_type=${encodeURIComponent(schedule.job_type)}` }, schedule.job_type)],
    ["Handler", h("code", schedule.handler)],
    schedule.last_run && ["Last due", inZone(schedule.last_run.scheduled_time, schedule.time_zone)],
    ["Ticks", `${counts.begun} begun, ${counts.completed} done, ${counts.failed} failed`],
    ["Not run", `${counts.skipped} skipped, ${counts.misfired} too late`],
    ["Too late", `after ${duration(schedule.misfire_grace_seconds * 1_000)}: ${MISFIRE[schedule.misfire] ?? schedule.misfire}`],
    ["Overlap", OVERLAP[schedule.overlap] ?? schedule.overlap],
    schedule.jitter_seconds > 0 && ["Begins at random", `up to ${duration(schedule.jitter_seconds * 1_000)} later`],
    ["Retries", schedule.max_retries ?? "as the settings say"],
    ["One attempt may take", seconds(schedule.timeout_seconds)],
    ["Place", schedule.leader_only ? "under the leader's fence" : "where it was begun"],
    ["Changed", time(schedule.changed_at)],
  ]);
}
