// Alerts: what fires, by which rules, what is kept quiet, and who was told.

import { badge, button, confirm, duration, empty, fill, formDialog, h, id, json, listView, load, number, pageHead, segmented, statusBadge, table, tabs, time, toast, words } from "../ui.js";
import { askForSilence, editRule, severityBadge } from "./alert-forms.js";

const ORDER = ["firing", "recovering", "pending", "resolved", "inactive"];
const SEVERITIES = ["critical", "error", "warning", "info"];

export default {
  title: "Alerts",
  render(root, _params, ctx) {
    const [bar, chosen] = tabs(ctx, "tab", [["alerts", "Alerts"], ["rules", "Rules"], ["silences", "Silences"], ["notifications", "Notifications"]]);
    const body = h("div.stack");
    const actions = {
      rules: button("New rule", { need: "operator", ctx, iconName: "plus", onclick: () => editRule(ctx) }),
      silences: button("New silence", { need: "operator", ctx, iconName: "plus", onclick: async () => (await askForSilence(ctx)) && dispatchEvent(new Event("hashchange")) }),
      notifications: button("Send a test", { need: "operator", ctx, onclick: () => sendTest(ctx) }),
    }[chosen];
    fill(root, pageHead("Alerts", { note: "What is judged, what fires, what is kept quiet, and who was told.", actions }), bar, body);
    ({ alerts: showAlerts, rules: showRules, silences: showSilences, notifications: showNotifications })[chosen](body, ctx);
  },
};

const ruleLink = (name) => h("a", { href: `#/alerts/rules/${encodeURIComponent(name)}` }, name);

// Alerts

function showAlerts(body, ctx) {
  const refresh = load(body, ctx, async () => {
    const { items } = await everything(ctx, "v1/alerts");
    const told = items.filter((alert) => alert.state !== "inactive");
    const calm = items.filter((alert) => alert.state === "inactive");
    told.sort((one, other) => ORDER.indexOf(one.state) - ORDER.indexOf(other.state) || SEVERITIES.indexOf(one.severity) - SEVERITIES.indexOf(other.severity));
    const quiet = empty("No alert fires", `${number(items.length)} rules are judged. What begins to fire stands here at once, and on the overview.`);
    return [h("div.list-body", alertTable(told, quiet)),
      calm.length > 0 && h("details.fold", { "data-key": "calm" }, h("summary", `${number(calm.length)} at rest`), h("div.list-body", alertTable(calm)))];
  }, { lines: 8 });
  ctx.on(["alert_fired", "alert_resolved", "poll"], refresh);
  ctx.every(10_000, refresh);
}

const alertTable = (alerts, nothing) => table([
  { label: "State", render: (alert) => statusBadge(alert.state, alert.reason) },
  { label: "Severity", render: (alert) => severityBadge(alert.severity) },
  { label: "Rule", render: (alert) => ruleLink(alert.rule) },
  { label: "What", grow: true, render: what },
  { label: "Value", align: "end", render: (alert) => (alert.value === null ? h("span.faint", "–") : h("span", number(alert.value), h("span.faint", ` ${alert.operator} ${number(alert.threshold)}`))) },
  { label: "Since", render: (alert) => time(alert.since) },
], alerts, { href: (alert) => `#/alerts/rules/${encodeURIComponent(alert.rule)}`, caption: "Alerts", empty: nothing });

/** A summary says first what it means, then what was measured. */
function what(alert) {
  const at = alert.summary.indexOf(": ");
  const [means, measured] = at < 0 ? [alert.summary] : [alert.summary.slice(0, at), alert.summary.slice(at + 2)];
  return [h("span", means, alert.reason && h("span.faint", ` (${alert.reason})`)), measured && h("span.todo", measured)];
}

/** All pages of a list that is short by nature. */
async function everything(ctx, path, query = {}) {
  const items = [];
  let token;
  do {
    const page = await ctx.api.get(path, { query: { ...query, page_size: 500, page_token: token }, signal: ctx.signal });
    items.push(...page.items);
    token = page.next_page_token;
  } while (token);
  return { items };
}

// Rules

function showRules(body, ctx) {
  const list = listView(ctx, {
    fetch: async (filters) => {
      const { items } = await everything(ctx, "v1/alerts/rules");
      const text = (filters.q ?? "").toLowerCase();
      return { items: items.filter((rule) => (!text || `${rule.name} ${rule.metric_path} ${rule.description ?? ""}`.toLowerCase().includes(text)) && (!filters.severity || rule.severity === filters.severity)), next_page_token: null };
    },
    filters: [
      { name: "q", label: "Name, metric or words", width: 30 },
      { name: "severity", label: "Severity", type: "select", options: [["", "any"], ...SEVERITIES.map((name) => [name, name])] },
    ],
    columns: [
      { label: "Rule", render: (rule) => ruleLink(rule.name) },
      { label: "Severity", render: (rule) => severityBadge(rule.severity) },
      { label: "Condition", grow: true, render: (rule) => h("span", rule.aggregation && h("span.faint", `${rule.aggregation} of `), h("code", rule.metric_path), rule.divide_by && [h("span.faint", " / "), h("code", rule.divide_by.metric_path)], ` ${rule.operator} `, h("b", number(rule.threshold)), h("span.faint.nowrap", ` over ${duration(rule.window_minutes * 60_000)}`)) },
      { label: "For", align: "end", hide: "narrow", render: (rule) => (rule.for_seconds ? `${rule.for_seconds} s` : h("span.faint", "at once")) },
      { label: "From", hide: "narrow", render: (rule) => h("span.muted.nowrap", words(rule.origin)) },
      { label: "", render: (rule) => (rule.enabled ? null : badge("Disabled", "quiet")) },
    ],
    href: (rule) => `#/alerts/rules/${encodeURIComponent(rule.name)}`,
    nothing: empty("No rules", "Every shipped rule was deleted. Put one to be told when something goes wrong."),
    caption: "Alert rules",
  });
  body.append(list.element);
}

// Silences

function showSilences(body, ctx) {
  const list = listView(ctx, {
    fetch: (_filters, page_token) => ctx.api.get("v1/alerts/silences", { query: { page_token }, signal: ctx.signal }),
    columns: [
      { label: "State", render: (silence) => badge(words(silence.state), silence.state === "active" ? "busy" : "quiet") },
      { label: "Rules", render: (silence) => [h("code", silence.rules), silence.severities.length > 0 && h("span.faint", ` ${silence.severities.join(", ")}`)] },
      { label: "Why", grow: true, render: (silence) => silence.reason },
      { label: "By", render: (silence) => silence.actor },
      { label: "From", hide: "narrow", render: (silence) => time(silence.from) },
      { label: "Until", render: (silence) => (silence.window ? h("span", `${silence.window.schedule_expression} `, h("span.faint", silence.window.time_zone)) : time(silence.until)) },
      { label: "", align: "end", render: (silence) => silence.state !== "ended" && button("End", { small: true, need: "operator", ctx, onclick: () => endSilence(ctx, silence, list) }) },
    ],
    key: (silence) => silence.id,
    nothing: empty("Nothing is kept quiet", "A silence keeps alerts from being told for a while, as during maintenance. They fire and are shown nevertheless."),
    caption: "Silences",
  });
  body.append(list.element);
}

async function endSilence(ctx, silence, list) {
  const sure = await confirm({ title: "End this silence?", body: `What it covers (${silence.rules}) and still fires is told then.`, confirm: "End it", act: () => ctx.api.delete(`v1/alerts/silences/${encodeURIComponent(silence.id)}`, { query: { actor: ctx.actor() } }) });
  if (sure) {
    toast("The silence has ended.");
    list.refresh();
  }
}

// Notifications

const STATUSES = [["pending", "Pending"], ["delivered", "Delivered"], ["dead", "Dead letters"], ["held", "Held back"]];

function showNotifications(body, ctx) {
  const status = ctx.query.get("status") || "pending";
  const held = status === "held";
  const switcher = segmented("Which notices", STATUSES, status, (key) => ctx.go(ctx.href({ status: key === "pending" ? null : key })));
  const notices = [
    { label: "Status", render: (kept) => statusBadge(kept.status) },
    { label: "Turn", render: (kept) => badge(words(kept.notice.status), kept.notice.status === "firing" ? "bad" : "ok") },
    { label: "Severity", render: (kept) => severityBadge(kept.notice.severity) },
    { label: "Alerts", grow: true, render: (kept) => kept.notice.alerts.map((alert, index) => [index > 0 && ", ", ruleLink(alert.rule)]) },
    { label: "Channels", render: (kept) => Object.entries(kept.channels).map(([name, channel]) => h("span.channel", badge(name, { delivered: "ok", dead: "bad" }[channel.standing.state] ?? "warn", channelWords(channel)))) },
    { label: "Written", render: (kept) => time(kept.notice.at) },
    { label: "", align: "end", render: (kept) => kept.status === "dead" && button("Retry", { small: true, need: "operator", ctx, onclick: () => retry(ctx, kept, list) }) },
  ];
  const kept = [
    { label: "Rule", render: (one) => ruleLink(one.rule) },
    { label: "Held back by", grow: true, render: (one) => why(one.why) },
  ];
  const list = listView(ctx, {
    fetch: (_filters, page_token) => ctx.api.get("v1/alerts/notifications", { query: { status, page_token, page_size: 50 }, signal: ctx.signal }),
    columns: held ? kept : notices,
    onRow: held ? undefined : (one) => showNotice(one),
    key: (one) => one.notice?.id ?? one.rule,
    refreshOn: ["alert_notified", "notification_dead", "alert_fired", "alert_resolved"],
    nothing: {
      pending: empty("Nothing waits to be told", "Notices stand here from the moment an alert fires until every channel has taken them."),
      delivered: empty("Nothing was delivered lately", "What was delivered stays listed for 7 days."),
      dead: empty("No dead letters", "A notice that a channel did not take for 6 hours or 100 attempts would stand here, to be tried again."),
      held: empty("Nothing is held back", "Alerts stand here that fire and are not told: silenced, inhibited by something worse, or below the least severity."),
    }[status],
    caption: "Notifications",
  });
  body.append(switcher, list.element);
}

function why(reason) {
  if (typeof reason === "string") return words(reason);
  const [kind, by] = Object.entries(reason)[0] ?? ["", ""];
  return h("span", kind === "inhibited" ? ["it follows from ", ruleLink(by)] : `${words(kind)} ${typeof by === "string" ? by : ""}`);
}

const channelWords = (channel) => `${words(channel.standing.state)}, ${channel.attempts} ${channel.attempts === 1 ? "attempt" : "attempts"}${channel.last_error ?? channel.standing.error ? `: ${channel.last_error ?? channel.standing.error}` : ""}`;

async function showNotice(kept) {
  await formDialog({ title: "Notice", wide: true, confirm: "Close", body: [h("div", id(kept.notice.id, null, { head: 40 })), json(kept, { open: 3 })] });
}

async function retry(ctx, kept, list) {
  await ctx.api.post(`v1/alerts/notifications/${encodeURIComponent(kept.notice.id)}/retry`, { actor: ctx.actor() });
  toast("It is tried again, under the same identity.");
  list.refresh();
}

async function sendTest(ctx) {
  const { channels } = await ctx.api.post("v1/alerts/notifications/test", {});
  await formDialog({ title: "Test of the channels", confirm: "Close", body: table([
    { label: "Channel", render: (one) => one.channel },
    { label: "Delivered", render: (one) => (one.delivered ? badge("Delivered", "ok") : badge("Refused", "bad")) },
    { label: "Why not", grow: true, render: (one) => one.error ?? "" },
  ], channels, { empty: empty("No channels", "Set LOCKBAY_ALERT_WEBHOOK_URL, LOCKBAY_ALERT_COMMAND or LOCKBAY_ALERT_SMTP_URL.") }) });
}
