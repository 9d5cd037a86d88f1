// Schedules: what is due next, what went wrong last, and a way to put one.

import { segment } from "../api.js";
import { editSchedule, pauseOrResume, runNow, scheduleStatus } from "../schedule-parts.js";
import { button, empty, h, listView, pageHead, table, time, panel, toast } from "../ui.js";

const PAGE_SIZE = 100;
const LOOK_EVERY_MS = 5_000;
/** How many due times are shown of one schedule, and of all together. */
const DUE_OF_EACH = 3;
const SHOWN_DUE = 12;
/** How many schedules are asked for their due times. */
const ASKED = 30;

const FILTERS = [
  { name: "status", label: "Status", type: "select", options: [["", "Any status"], ["active", "Active"], ["paused", "Paused"], ["ending", "Ending"]] },
  { name: "job_type", label: "Job type", width: 14 },
  { name: "handler", label: "Handler", width: 14 },
];

const address = (schedule) => `#/schedules/${encodeURIComponent(schedule.job_id)}`;

export default {
  title: "Schedules",
  async render(root, _params, ctx) {
    const upcoming = h("div");
    let dueOf = "";
    const view = listView(ctx, {
      fetch: async (values, page_token) => {
        const page = await ctx.api.get("v1/schedules", { query: { ...values, page_size: PAGE_SIZE, page_token }, signal: ctx.signal });
        const due = page.items.map((schedule) => schedule.next_due).join();
        if (!page_token && due !== dueOf) {
          dueOf = due;
          showUpcoming(upcoming, page.items, ctx);
        }
        return page;
      },
      filters: FILTERS,
      caption: "Schedules",
      href: address,
      key: (schedule) => schedule.job_id,
      tone: (schedule) => (schedule.problem || schedule.last_run?.outcome === "failed" ? "bad" : ""),
      nothing: empty("No schedules yet", "A schedule is work that is due at times: a reconciliation every night, a check every 30 seconds."),
      columns: [
        { label: "Status", render: scheduleStatus },
        { label: "Schedule", render: (schedule) => h("span.two-lines", h("a.strong.wrap", { href: address(schedule) }, schedule.job_id), h("span.faint", schedule.job_type)) },
        { label: "Due", render: (schedule) => h("span.two-lines", h("code", schedule.schedule_expression), h("span.faint", schedule.time_zone)) },
        { label: "Next", render: (schedule) => (schedule.status === "active" ? time(schedule.next_due) : h("span.faint", "–")) },
        { label: "Last run", render: lastRun },
        { label: "Done", align: "end", render: (schedule) => h("span.figure", schedule.counts.completed) },
        { label: "Failed", align: "end", render: (schedule) => h("span.figure", { class: schedule.counts.failed > 0 ? "bad" : "" }, schedule.counts.failed) },
        { label: "Missed", align: "end", hide: "narrow", render: (schedule) => h("span.figure", schedule.counts.misfired + schedule.counts.skipped) },
        { label: "", align: "end", render: (schedule) => h("span.actions.end", pauseOrResume(ctx, schedule, view.refresh, true), runNow(ctx, schedule, view.refresh, true)) },
      ],
      refreshOn: ["schedule_misfired", "schedule_tick_failed"],
    });
    ctx.every(LOOK_EVERY_MS, () => view.rows().length <= PAGE_SIZE && view.refresh());
    const add = () => editSchedule(ctx, null, (put) => {
      toast(`The schedule ${put.job_id} is put.`);
      ctx.go(`/schedules/${segment(put.job_id)}`);
    });
    root.append(pageHead("Schedules", { note: "Work by the clock; the instance that leads begins it.", actions: button("New schedule…", { need: "operator", ctx, tone: "primary", onclick: add }) }), view.element, upcoming);
  },
};

function lastRun(schedule) {
  if (schedule.problem) return h("span.clip.bad", { title: schedule.problem }, schedule.problem);
  if (schedule.in_progress.length > 0) return h("span.detail", "running since ", time(schedule.in_progress[0].scheduled_time), schedule.in_progress[0].error && h("span.bad", schedule.in_progress[0].error));
  if (!schedule.last_run) return h("span.faint", "never");
  return h("span.detail", h("span", { class: schedule.last_run.outcome === "failed" ? "bad" : "faint" }, schedule.last_run.outcome), time(schedule.last_run.ended_at));
}

/** What is due next, of all schedules that are shown. */
async function showUpcoming(place, schedules, ctx) {
  const active = schedules.filter((schedule) => schedule.status === "active").slice(0, ASKED);
  const asked = active.map(async (schedule) => {
    const { due } = await ctx.api.get(`v1/schedules/${segment(schedule.job_id)}/upcoming`, { query: { count: DUE_OF_EACH }, signal: ctx.signal });
    return due.map((at) => ({ at, schedule }));
  });
  const found = (await Promise.allSettled(asked)).flatMap((one) => one.value ?? []);
  const next = found.sort((one, other) => one.at.localeCompare(other.at)).slice(0, SHOWN_DUE);
  if (ctx.signal.aborted || next.length === 0) return;
  const columns = [
    { label: "Due", render: ({ at }) => time(at) },
    { label: "At", render: ({ at }) => h("span.figure", at.replace(".000000", "").replace("T", " ").replace("Z", " UTC")) },
    { label: "Schedule", grow: true, render: ({ schedule }) => h("a", { href: address(schedule) }, schedule.job_id) },
    { label: "Type", hide: "narrow", render: ({ schedule }) => schedule.job_type },
  ];
  place.replaceChildren(panel("Due next", { flush: true }, table(columns, next, { caption: "Due next", key: ({ at, schedule }) => `${at} ${schedule.job_id}` })));
}
