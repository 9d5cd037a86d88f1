// What the list of schedules and the page of one share: its status, its verbs, and the form that puts
// one, with the times at which it would be due.

import { ApiError, segment } from "./api.js";
import { badge, button, confirm, fill, formDialog, h, statusBadge, time, toast } from "./ui.js";

const PREVIEW = 5;
const TYPING_MS = 250;

export function scheduleStatus(schedule) {
  if (schedule.problem) return badge("Cannot be read", "bad", schedule.problem);
  if (schedule.status === "active" && schedule.in_progress.length > 0) return badge("Running", "busy");
  return statusBadge(schedule.status);
}

const path = (schedule) => `v1/schedules/${segment(schedule.job_id)}`;

/** The verb that fits: pause what is active, resume what is paused. */
export function pauseOrResume(ctx, schedule, after, small) {
  if (schedule.status === "active") {
    const act = async () => {
      await ctx.api.post(`${path(schedule)}/pause`, undefined);
      toast(`${schedule.job_id} is paused: no more ticks begin.`);
      await after();
    };
    return keyed(button("Pause", { small, need: "operator", ctx, onclick: act }), `pause-${schedule.job_id}`);
  }
  if (schedule.status !== "paused") return null;
  const act = () => formDialog({
    title: `Resume ${schedule.job_id}`,
    fields: [{ name: "missed", label: "What was due meanwhile", type: "select", options: [["skip", "Is passed over: go on from now"], ["catch_up", "Is late: grace and misfire policy decide"]] }],
    confirm: "Resume",
    submit: async ({ missed }) => {
      await ctx.api.post(`${path(schedule)}/resume`, undefined, { query: { missed } });
      toast(`${schedule.job_id} goes on.`);
      await after();
    },
  });
  return keyed(button("Resume…", { small, need: "operator", ctx, onclick: act }), `resume-${schedule.job_id}`);
}

/** A tick now; the same key however often the dialog is confirmed, so it is one tick. */
export function runNow(ctx, schedule, after, small) {
  if (schedule.status === "ending") return null;
  const act = () => {
    const key = crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2);
    return confirm({
      title: `Run ${schedule.job_id} now`,
      body: h("p", "A tick is run within a second, beside those that are due. It moves no due time."),
      confirm: "Run now",
      act: async () => {
        const asked = await ctx.api.post(`${path(schedule)}/run`, undefined, { headers: { "idempotency-key": key } });
        toast(`A tick is on its way: ${asked.job_key}`);
        await after();
      },
    });
  };
  return keyed(button("Run…", { small, need: "operator", ctx, onclick: act }), `run-${schedule.job_id}`);
}

function keyed(element, key) {
  element.dataset.key = key;
  return element;
}

/** A moment in a time zone, for people. Where it is `brief`, the year of now goes without saying. */
export function inZone(iso, zone, brief = false) {
  try {
    const yearOf = (moment) => new Intl.DateTimeFormat("en-GB", { timeZone: zone, year: "numeric" }).format(moment);
    const year = brief && yearOf(new Date(iso)) === yearOf(Date.now()) ? undefined : "numeric";
    return new Intl.DateTimeFormat("en-GB", { timeZone: zone, weekday: "short", day: "2-digit", month: "short", year, hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" }).format(new Date(iso));
  } catch {
    return iso;
  }
}

/** Due times, in the zone of the schedule. */
export const dueTimes = (due, zone) => h("ol.due", due.map((at) => h("li", h("span.figure", { title: `${inZone(at, zone)} (${at})` }, inZone(at, zone, true)), h("span.faint", time(at)))));

/** The form that puts a schedule: a new one, or an existing one with another definition. */
export function editSchedule(ctx, schedule, after) {
  const preview = h("div.preview", { role: "status", "aria-label": "When it would be due" });
  const known = schedule ?? { time_zone: "UTC", misfire: "run_once", overlap: "queue", misfire_grace_seconds: 60, jitter_seconds: 0, leader_only: true };
  const text = (name, label, more = {}) => ({ name, label, value: known[name] ?? "", ...more });
  const when = [
    text("schedule_expression", "When it is due", { required: true, placeholder: "30 2 * * *", hint: "Cron with five or six fields, @daily, or an interval such as every 30s." }),
    text("time_zone", "Time zone", { required: true, placeholder: "Europe/Berlin", hint: "A name of the IANA database." }),
  ];
  const type = text("job_type", "Type of its jobs", { required: true, placeholder: "reconcile" });
  const fields = [
    ...(schedule ? [...when, type] : [text("job_id", "Name", { required: true, placeholder: "nightly" }), type, ...when]),
    text("handler", "Handler", { required: true, placeholder: "reconcile" }),
    { name: "parameters", label: "Parameters", type: "json", value: known.parameters === undefined || known.parameters === null ? "" : JSON.stringify(known.parameters, null, 2), hint: "JSON that the handler gets." },
    { name: "misfire", label: "Ticks that are too late", type: "select", value: known.misfire, options: [["run_once", "Run the latest of them"], ["run_all", "Run all of them"], ["skip", "Run none of them"]] },
    text("misfire_grace_seconds", "Too late after, in seconds", { type: "number" }),
    { name: "overlap", label: "When the one before still runs", type: "select", value: known.overlap, options: [["queue", "Wait for it"], ["skip", "Skip the tick"], ["allow", "Run beside it"]] },
    text("jitter_seconds", "Begin at random up to so many seconds later", { type: "number" }),
    text("max_retries", "Retries of a failed tick", { type: "number" }),
    text("timeout_seconds", "One attempt may take, in seconds", { type: "number" }),
    { name: "leader_only", label: "Run ticks under the leader's fence", type: "checkbox", value: known.leader_only },
  ];
  const saved = formDialog({
    title: schedule ? `Edit ${schedule.job_id}` : "New schedule",
    body: preview,
    fields,
    wide: true,
    confirm: schedule ? "Save" : "Create",
    submit: async ({ job_id, ...rest }) => {
      const body = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null && value !== ""));
      const put = await ctx.api.put(`v1/schedules/${segment(schedule?.job_id ?? job_id)}`, body);
      await after(put);
      return put;
    },
  });
  showPreview(ctx, [...document.querySelectorAll("dialog[open]")].at(-1), preview);
  return saved;
}

/** Shows when the expression in the form would be due, while it is typed. */
function showPreview(ctx, dialog, place) {
  const field = (name) => dialog.querySelector(`[name="${name}"]`);
  // What it is due by stands right above when it is due.
  field("time_zone").closest(".field").after(place);
  let turn = 0;
  let waiting;
  const look = async () => {
    const mine = ++turn;
    const schedule_expression = field("schedule_expression").value.trim();
    const time_zone = field("time_zone").value.trim() || "UTC";
    if (!schedule_expression) return fill(place, h("span.faint", "Its next times are shown here."));
    try {
      const found = await ctx.api.get("v1/schedule-preview", { query: { schedule_expression, time_zone, count: PREVIEW }, signal: ctx.signal });
      if (mine === turn) fill(place, h("strong", "Due next"), dueTimes(found.due, found.time_zone));
    } catch (error) {
      if (mine !== turn) return;
      const absent = error instanceof ApiError && (error.status === 404 || error.status === 405);
      fill(place, absent ? null : h("span.bad", error.message));
    }
  };
  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(look, TYPING_MS);
  };
  for (const name of ["schedule_expression", "time_zone"]) field(name).addEventListener("input", soon);
  look();
}
