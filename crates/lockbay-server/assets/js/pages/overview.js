// The overview: what is wrong, since when, and what to do; then how things go; then everything else.
//
// It is made for somebody who was just woken up. What needs a person stands first, in the order in
// which it hurts, and each line says where to go. If nothing does, one calm line says so.

import { historyChart } from "../chart.js";
import { latest } from "../live.js";
import { badge, duration, fill, h, icon, id, load, measured, number, pageHead, panel, segmented, shortId, stat, statusBadge, table, time, toneOf, words } from "../ui.js";

/** More than these are folded away: whoever was just woken up begins at the top. */
const SHOWN = 6;

const SEVERITIES = ["critical", "error", "warning", "info"];

/** What to do about a check that is not well, and where. */
const STEPS = {
  store: ["Check the store and its settings", "lockbay doctor"],
  leader_election: ["See that an instance runs for leadership", null, "#/instances", "Instances"],
  job_coordination: ["See who should run the jobs whose claims lapsed", null, "#/jobs?status=claimed", "Claimed jobs"],
  saga_coordination: ["Look at the sagas that wait for a person", null, "#/sagas?status=parked", "Parked sagas"],
  cleanup: ["See what cleanup cannot do", null, "#/cleanup?tab=run", "Dry run"],
  schedules: ["Put the schedules again that cannot be read", null, "#/schedules", "Schedules"],
  clock: ["Set the clocks of this machine and of the store by NTP", "timedatectl status"],
  disk: ["Make room on the volume of the store's file", "df -h"],
  alerts: ["Alerts are not judged: see the log of the leader", null, "#/instances", "Who leads"],
  notifications: ["See which channel takes no notices", null, "#/alerts?tab=notifications&status=dead", "Notifications"],
  audit: ["See why nothing is entered or sealed", "lockbay audit verify", "#/audit", "Audit"],
  history: ["Nothing is sampled: see the logs of the instances", null, "#/instances", "Instances"],
};

const RANGES = [[15, "15 min"], [60, "1 h"], [360, "6 h"], [1_440, "24 h"]];

export default {
  title: "Overview",
  render(root, _params, ctx) {
    const attention = h("div");
    const figures = h("div");
    const checks = h("div");
    const range = Number(ctx.query.get("minutes")) || 60;
    const charts = drawCharts(ctx, range);
    const drift = drawDrift(ctx);
    const feed = drawFeed(ctx);
    const note = h("span.note", "What is wrong, since when, and what to do.");
    fill(root, pageHead("Overview", { note, actions: choice(ctx, range) }), attention, figures, charts, drift,
      h("div.grid", h("div.span-7", panel("Checks", { flush: true }, checks)), h("div.span-5", feed)));
    const refresh = load(attention, ctx, async () => {
      const found = await look(ctx);
      fill(figures, drawFigures(found));
      fill(checks, drawChecks(found.health));
      return drawAttention(found);
    }, { lines: 3 });
    ctx.every(5_000, refresh);
    let soon;
    ctx.on(["alert_fired", "alert_resolved", "saga_parked", "system_unhealthy", "system_healthy", "leader_changed", "poll"], () => {
      clearTimeout(soon);
      soon = setTimeout(refresh, 300);
    });
    return () => clearTimeout(soon);
  },
};

const choice = (ctx, chosen) => segmented("Time shown in the charts", RANGES, chosen, (minutes) => ctx.go(ctx.href({ minutes: minutes === 60 ? null : minutes })));

async function look(ctx) {
  const options = { signal: ctx.signal };
  const [health, metrics, firing, recovering, parked, dead, waiting] = await Promise.all([
    ctx.api.get("api/advanced-state/health", options),
    ctx.api.get("api/advanced-state/metrics", options),
    ctx.api.get("v1/alerts", { ...options, query: { state: "firing" } }).catch(none),
    ctx.api.get("v1/alerts", { ...options, query: { state: "recovering" } }).catch(none),
    ctx.api.get("v1/sagas", { ...options, query: { status: "parked", page_size: 100 } }).catch(none),
    ctx.api.get("v1/alerts/notifications", { ...options, query: { status: "dead", page_size: 1 } }).catch(none),
    ctx.api.maybe("v1/approvals", { ...options, query: { status: "waiting", page_size: 100 } }).catch(none),
  ]);
  return { health, metrics, alerts: [...firing.items, ...recovering.items], parked, dead, waiting: waiting ?? { items: [] } };
}

/** A part that cannot be read is no reason to hide the others; health says what is wrong. */
const none = (error) => {
  if (error.name === "AbortError") throw error;
  return { items: [], next_page_token: null };
};

// What needs a person

function drawAttention({ health, alerts, parked, dead, waiting }) {
  const lines = [
    ...parkedLine(parked),
    ...waitingLine(waiting),
    ...health.checks.filter((check) => check.status === "unhealthy").map(checkLine),
    ...alerts.filter((alert) => !saysTheSame(alert, health, parked)).sort(bySeverity).map(alertLine),
    ...health.checks.filter((check) => check.status === "degraded" && !(check.name === "saga_coordination" && parked.items.length)).map(checkLine),
    ...(dead.items.length ? [entry("warn", "Dead letters", "Notices of alerts could not be delivered", null, [link("#/alerts?tab=notifications&status=dead", "See and retry")])] : []),
  ];
  if (lines.length === 0) {
    const judged = health.checks.filter((check) => check.status === "healthy").length;
    return h("section.calm.tone-ok", { "aria-label": "State" }, icon("check"), h("div", h("strong", "Nothing needs you."),
      h("span", ` ${judged} checks pass, no alert fires, and no saga waits for a person.`)), h("span.faint", "checked ", time(health.last_check)));
  }
  const worst = lines.some((line) => line.dataset.tone === "bad") ? "bad" : "warn";
  return h("section.attention", { class: `tone-${worst}`, "aria-label": "Needs a person" },
    h("header", h("h2", icon("warn"), `${lines.length === 1 ? "One thing needs" : `${lines.length} things need`} you`), h("span.faint", "checked ", time(health.last_check))), h("ol", lines.slice(0, SHOWN)), lines.length > SHOWN && h("details", { "data-key": "more" }, h("summary", `${lines.length - SHOWN} more`), h("ol", lines.slice(SHOWN))));
}

function entry(tone, kind, text, since, steps) {
  return h("li.entry", { class: `tone-${tone}`, "data-tone": tone }, h("span.entry-kind", badge(kind, tone)),
    h("div.entry-text", text), h("div.entry-since", since && ["since ", time(since)]), h("div.entry-steps", steps));
}

const link = (href, label) => h("a.button.small", { href }, label);

function parkedLine(parked) {
  const size = parked.items.length;
  if (size === 0) return [];
  const moments = parked.items.map((saga) => saga.updated_at ?? saga.started_at ?? saga.created_at).filter(Boolean).sort();
  const many = `${size}${parked.next_page_token ? "+" : ""}`;
  const text = size === 1
    ? ["The saga ", h("b", parked.items[0].saga_name), " cannot go on without a decision"]
    : [h("b", many), " sagas cannot go on without a decision: ", tally(parked.items.map((saga) => saga.saga_name))];
  const where = size === 1 ? `#/sagas/${encodeURIComponent(parked.items[0].saga_id)}` : "#/sagas?status=parked";
  return [entry("bad", "Parked", text, moments[0], [link(where, "Decide")])];
}

function waitingLine(waiting) {
  const size = waiting.items.length;
  if (size === 0) return [];
  const first = waiting.items.map((one) => one.asked_at).filter(Boolean).sort()[0];
  const text = [h("b", `${size}${waiting.next_page_token ? "+" : ""}`), size === 1 ? " call waits" : " calls wait", " for a second person to approve"];
  return [entry("warn", "Approval", text, first, link("#/approvals?status=waiting", "Decide"))];
}

/** `payout ×3, order`. */
function tally(names) {
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  const written = [...counts].sort((one, other) => other[1] - one[1]).map(([name, times]) => (times > 1 ? `${name} ×${times}` : name));
  return written.slice(0, 4).join(", ") + (written.length > 4 ? " and others" : "");
}

function checkLine(check) {
  const [what, command, href, label] = STEPS[check.name] ?? ["See the log"];
  const tone = check.status === "unhealthy" ? "bad" : "warn";
  return entry(tone, words(check.name), [check.reasons.join("; "), h("span.todo", what, command && [": ", h("code", command)], ".")], check.since, href && link(href, label));
}

/** Alerts whose cause stands above already, with more to say. */
const saysTheSame = (alert, health, parked) => (alert.rule === "saga_parked" && parked.items.length > 0)
  || (alert.rule === "instance_unhealthy" && health.checks.some((check) => check.status === "unhealthy"));

const bySeverity = (one, other) => SEVERITIES.indexOf(one.severity) - SEVERITIES.indexOf(other.severity) || Date.parse(one.since) - Date.parse(other.since);

function alertLine(alert) {
  const tone = ["critical", "error"].includes(alert.severity) ? "bad" : "warn";
  const [what, measured = ""] = split(alert.summary);
  return entry(tone, words(alert.severity), [h("b", alert.rule), ` ${what}`, measured && h("span.todo", measured)], alert.fired_at ?? alert.since,
    [link(`#/alerts/rules/${encodeURIComponent(alert.rule)}`, "Look")]);
}

/** A summary says first what it means, then what was measured. */
function split(summary) {
  const at = summary.indexOf(": ");
  return at < 0 ? [summary] : [summary.slice(0, at), summary.slice(at + 2)];
}

// How things go

function drawFigures({ health, metrics, parked }) {
  const { saga_metrics: sagas, system_metrics: system, job_idempotency_metrics: jobs, leader_info: leader } = metrics;
  const size = parked.items.length;
  return h("div.stats.eight",
    stat("Health", words(health.status), { tone: toneOf(health.status), hint: health.store_round_trip_ms === null ? "the store does not answer" : `store ${duration(health.store_round_trip_ms)}` }),
    stat("Parked sagas", size ? `${size}${parked.next_page_token ? "+" : ""}` : "0", { tone: size ? "bad" : null, href: "#/sagas?status=parked", hint: "wait for a person" }),
    stat("Leader", leader ? leader.instance_name ?? leader.instance_id.slice(0, 8) : "none", { tone: leader ? null : "bad", href: "#/instances", hint: leader ? ["term ", number(leader.term), ", since ", time(leader.elected_at)] : "nobody leads" }),
    stat("Sagas running", number(sagas.running_sagas), { href: "#/sagas?status=running", hint: "in this instance" }),
    stat("Saga, p95", measured(sagas.saga_seconds?.p95, "seconds"), { hint: `${number(sagas.sagas_completed, { short: true })} completed here` }),
    stat("Duplicates stopped", number(jobs.duplicates_prevented, { short: true }), { hint: `${number(jobs.jobs_claimed, { short: true })} jobs claimed here` }),
    stat("Commit, p99", measured(system.commit_seconds?.p99, "seconds"), { hint: `${system.store?.backend}, ${number(system.commit_seconds?.count, { short: true })} commits` }),
    stat("Requests", number(system.requests_in_flight), { hint: `of ${number(system.max_in_flight, { short: true })} at once` }));
}

function drawCharts(ctx, minutes) {
  const made = (title, note, lines, options) => h("div.span-6", panel(null, { label: title }, historyChart(ctx, { title, note, lines, minutes, ...options }).element));
  return h("div.grid",
    made("Sagas", "per minute, all instances", [
      { path: "saga_metrics.sagas_started", label: "started", part: "rate", scale: 60, fill: true },
      { path: "saga_metrics.sagas_completed", label: "completed", part: "rate", scale: 60 },
      { path: "saga_metrics.sagas_compensated", label: "rolled back", part: "rate", scale: 60 },
      { path: "saga_metrics.sagas_parked", label: "parked", part: "rate", scale: 60 },
    ]),
    made("Jobs", "per minute, all instances", [
      { path: "job_idempotency_metrics.jobs_claimed", label: "claimed", part: "rate", scale: 60, fill: true },
      { path: "job_idempotency_metrics.jobs_completed", label: "completed", part: "rate", scale: 60 },
      { path: "job_idempotency_metrics.duplicates_prevented", label: "duplicates stopped", part: "rate", scale: 60 },
      { path: "job_idempotency_metrics.jobs_failed", label: "failed", part: "rate", scale: 60 },
    ]),
    made("How long things take", "95 of 100 are quicker", [
      { path: "saga_metrics.saga_seconds", label: "saga", part: "p95" },
      { path: "saga_metrics.step_seconds", label: "step", part: "p95" },
      { path: "job_idempotency_metrics.job_seconds", label: "job", part: "p95" },
    ], { unit: "seconds" }),
    made("Store", "time of a commit", [
      { path: "system_metrics.commit_seconds", label: "p50", part: "p50" },
      { path: "system_metrics.commit_seconds", label: "p95", part: "p95" },
      { path: "system_metrics.commit_seconds", label: "p99", part: "p99" },
    ], { unit: "seconds" }));
}

/** What gets better or worse within a day, if anything does. */
function drawDrift(ctx) {
  const place = h("div", { hidden: true });
  const refresh = async () => {
    const answer = await ctx.api.maybe("v1/trends", { signal: ctx.signal }).catch(() => null);
    const moving = (answer?.items ?? []).filter((trend) => ["degrading", "improving"].includes(trend.label));
    if (ctx.signal.aborted || !answer) return;
    moving.sort((one, other) => one.label.localeCompare(other.label));
    place.hidden = moving.length === 0;
    fill(place, panel("Which way it goes", { flush: true, note: "over the last 24 hours, beyond chance" }, table([
      { label: "What", grow: true, mono: true, render: (trend) => trend.path },
      { label: "", render: (trend) => badge(words(trend.label), trend.label === "degrading" ? "warn" : "ok") },
      { label: "Now", align: "end", render: (trend) => measured(trend.level, trend.unit) },
      { label: "Moved by", align: "end", render: (trend) => `${trend.change > 0 ? "+" : "−"}${measured(Math.abs(trend.change), trend.unit)}` },
      { label: "Limit", render: (trend) => (trend.time_to_limit ? `in ${duration(trend.time_to_limit.hours * 3_600_000)}` : "") },
    ], moving, { caption: "Trends" })));
  };
  refresh();
  ctx.every(60_000, refresh);
  return place;
}

function drawChecks(health) {
  return table([
    { label: "Check", render: (check) => words(check.name) },
    { label: "State", render: (check) => statusBadge(check.status) },
    { label: "Why", grow: true, render: (check) => (check.reasons.length ? check.reasons.join("; ") : h("span.faint", "as it should be")) },
    { label: "Since", render: (check) => (check.since ? time(check.since) : "") },
  ], health.checks, { caption: "Checks of health" });
}

// What happens

const QUIET = new Set(["sequence", "at", "event", "fencing_token", "episode", "notice_id"]);

/** Where to look at what an event is about. */
function target(data) {
  if (data.saga_id) return `#/sagas/${encodeURIComponent(data.saga_id)}`;
  if (data.job_id) return `#/jobs/${encodeURIComponent(data.job_id)}`;
  if (data.rule) return `#/alerts/rules/${encodeURIComponent(data.rule)}`;
  if (data.event.startsWith("leader") || data.event === "session_taken_over") return "#/instances";
  return null;
}

const EVENT_TONES = [[/unhealthy|broken|rolled_back|dead|parked|abandoned|lost|failed|fired/, "bad"], [/compensated|misfired|taken_over/, "warn"], [/completed|healthy|elected|resolved/, "ok"]];

function drawFeed(ctx) {
  const list = h("ol.feed");
  const body = h("div");
  const draw = () => {
    const events = latest().slice(0, 40);
    if (events.length === 0) fill(body, h("div.empty", h("strong", "Nothing has happened yet"), h("p", "Sagas that end, jobs that fail, leaders and alerts show up here at once.")));
    else fill(body, fill(list, events.map(({ name, data }) => line(name, data))));
  };
  draw();
  let soon;
  ctx.on("*", () => {
    soon ??= setTimeout(() => {
      soon = undefined;
      draw();
    }, 250);
  });
  return panel("What happens", { flush: true, note: "in this instance" }, body);
}

/** Some values say themselves what they are. */
const PLAIN = new Set(["reason", "summary", "severity", "instance_name"]);

function told(key, value) {
  if (PLAIN.has(key)) return value;
  return `${words(key.replace(/_id$/, "")).toLowerCase()} ${key.endsWith("_id") ? shortId(value) : value}`;
}

function line(name, data) {
  const tone = EVENT_TONES.find(([pattern]) => pattern.test(name))?.[1] ?? "quiet";
  const href = target(data);
  const subject = data.saga_id ?? data.job_id;
  const rest = Object.entries(data).filter(([key, value]) => !QUIET.has(key) && value !== null && value !== subject && typeof value !== "object" && (key !== "rule" || !href));
  return h("li", h("span.when", time(data.at)), badge(words(name), tone),
    h("span.what", { title: data.reason ?? data.summary }, subject ? id(subject, href, { copy: false }) : href && data.rule ? h("a", { href }, data.rule) : null,
      rest.slice(0, 3).map(([key, value]) => h("span.faint", ` ${told(key, value)}`))));
}
