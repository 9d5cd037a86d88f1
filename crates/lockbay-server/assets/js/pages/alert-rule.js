// One alert rule: how it stands, what it watches beside its threshold, and what it would have done.

import { chart, history } from "../chart.js";
import { badge, button, confirm, duration, empty, facts, fill, h, load, number, pageHead, panel, segmented, statusBadge, table, time, toast, words } from "../ui.js";
import { askForSilence, editRule, severityBadge } from "./alert-forms.js";

const RANGES = [[180, "3 h"], [1_440, "24 h"], [10_080, "7 d"], [43_200, "30 d"]];

export default {
  title: ({ name }) => `Alert rule ${name}`,
  render(root, { name }, ctx) {
    const path = `v1/alerts/rules/${encodeURIComponent(name)}`;
    load(root, ctx, async () => {
      const [rule, alerts] = await Promise.all([
        ctx.api.get(path, { signal: ctx.signal }),
        ctx.api.get("v1/alerts", { query: { page_size: 1_000 }, signal: ctx.signal }),
      ]);
      const alert = alerts.items.find((one) => one.rule === name);
      return draw(ctx, path, rule, alert);
    }, { lines: 10 });
  },
};

function draw(ctx, path, rule, alert) {
  const actions = [
    button("Silence", { need: "operator", ctx, onclick: () => askForSilence(ctx, { rules: rule.name }) }),
    button("Change", { need: "operator", ctx, onclick: async () => (await editRule(ctx, rule)) && dispatchEvent(new Event("hashchange")) }),
    button("Delete", { need: "operator", ctx, tone: "danger", onclick: () => remove(ctx, path, rule) }),
  ];
  const test = h("div");
  const value = h("span", unmeasured(false));
  const summary = h("p.muted.gap", alert?.summary);
  if (alert?.value === null && rule.divide_by?.minimum) tooLittle(rule, ctx).then((little) => {
    if (!little) return;
    fill(value, unmeasured(true));
    fill(summary, alert.summary.replace(/nothing is measured.*$/, unmeasured(true)));
  }, () => {});
  backtest(test, ctx, path, rule);
  return [
    pageHead([h("a.crumb", { href: "#/alerts?tab=rules" }, "Alerts"), rule.name], { note: rule.description ?? "A rule without a description.", actions }),
    alert && standing(alert, value, summary),
    h("div.grid", h("div.span-8", test), h("div.span-4", panel("The rule", {}, facts([
      ["Metric", h("code", rule.metric_path)],
      rule.divide_by && ["Divided by", h("span", h("code", rule.divide_by.metric_path), rule.divide_by.minimum ? h("span.faint", ` of at least ${number(rule.divide_by.minimum)}`) : null)],
      ["Alert if", h("b", `${rule.operator} ${rule.threshold}`)],
      ["Window", duration(rule.window_minutes * 60_000)],
      rule.confirm_window_minutes && ["Confirmed over", duration(rule.confirm_window_minutes * 60_000)],
      ["Aggregation", rule.aggregation ? words(rule.aggregation) : h("span.faint", "usual for the metric")],
      ["Severity", severityBadge(rule.severity)],
      ["Fires after", rule.for_seconds ? duration(rule.for_seconds * 1_000) : "at once"],
      ["Resolves after", rule.keep_firing_for_seconds ? duration(rule.keep_firing_for_seconds * 1_000) : "at once"],
      ["Without data", words(rule.on_no_data)],
      ["From", words(rule.origin)],
      ["Judged", rule.enabled ? badge("Yes", "ok") : badge("Disabled", "warn")],
    ]))))];
}

const unmeasured = (little) => (little ? "too little to judge" : "nothing is measured");

/** Whether both parts of a ratio were measured in its window, and what it divides by is less than the rule asks for. */
async function tooLittle(rule, ctx) {
  const { metric_path: path, minimum } = rule.divide_by;
  const lines = [rule.metric_path, path].map((each) => ({ path: each, label: each }));
  const { answers } = await history(lines, { minutes: rule.window_minutes, signal: ctx.signal });
  const kind = rule.aggregation ?? { counter: "increase", gauge: "last" }[answers.get(path)?.type];
  const part = { increase: answers.get(path)?.type === "histogram" ? "count" : "increase", last: "value" }[kind];
  // What is summed up in another way is not told from here.
  if (!part) return false;
  const [above, below] = lines.map((line) => (answers.get(line.path)?.points ?? []).map((point) => point[part] ?? null).filter((value) => value !== null).map(Number));
  if (above.length === 0 || below.length === 0) return false;
  return (kind === "last" ? below.at(-1) : below.reduce((sum, value) => sum + value, 0)) < minimum;
}

function standing(alert, value, summary) {
  const fires = ["firing", "recovering"].includes(alert.state);
  return panel("How it stands", { tone: fires ? (["critical", "error"].includes(alert.severity) ? "bad" : "warn") : null },
    facts([
      ["State", h("span", statusBadge(alert.state), alert.reason && h("span.faint", ` ${alert.reason}`))],
      ["Since", time(alert.since)],
      ["Value", alert.value === null ? value : h("b", number(alert.value))],
      ["Fired", time(alert.fired_at)],
      ["Resolved", time(alert.resolved_at)],
      ["Last judged", time(alert.evaluated_at)],
      alert.runbook && ["What to do", h("code", alert.runbook)],
    ]), summary);
}

async function remove(ctx, path, rule) {
  const body = rule.origin === "built_in"
    ? "This rule is shipped with LockBay. It stays deleted until one of its name is put. An alert of it that fires resolves."
    : "An alert of it that fires resolves, and that is told once.";
  if (await confirm({ title: `Delete ${rule.name}?`, body, confirm: "Delete it", danger: true, act: () => ctx.api.delete(path) })) {
    toast(`The rule ${rule.name} is deleted.`);
    ctx.go("/alerts?tab=rules");
  }
}

/** What the rule would have done, and the metric beside its threshold. */
function backtest(root, ctx, path, rule) {
  const minutes = Number(ctx.query.get("minutes")) || 1_440;
  const body = h("div");
  const switcher = segmented("How far back", RANGES, minutes, (range) => ctx.go(ctx.href({ minutes: range === 1_440 ? null : range })));
  fill(root, panel("What it would have done", { actions: switcher }, body));
  load(body, ctx, async () => {
    const [test, data] = await Promise.all([
      ctx.api.post(`${path}/test`, { minutes }, { signal: ctx.signal, patience: 60_000 }),
      watched(rule, minutes, ctx),
    ]);
    const drawn = chart({ title: data.title, series: [{ label: data.label, fill: true }], unit: data.unit, height: 210, min: 0 });
    queueMicrotask(() => drawn.draw({ times: data.times, columns: [data.values], bands: bands(test),
      marks: data.comparable ? [{ value: rule.threshold, label: `alert if ${rule.operator} ${rule.threshold}` }] : [] }));
    return [drawn.element, h("p.gap", "It would have fired ", h("b", number(test.times_fired)), test.times_fired === 1 ? " time" : " times", `, for ${duration(test.firing_seconds * 1_000)} in all, judged ${number(test.evaluations)} times`, test.fires_now ? ", and fires now." : "."),
      table([
        { label: "When", render: (moved) => time(moved.at) },
        { label: "Turn", render: (moved) => statusBadge(moved.turn) },
        { label: "Value", align: "end", render: (moved) => number(moved.value) },
        { label: "What", grow: true, render: (moved) => moved.summary },
      ], [...test.transitions].reverse().slice(0, 50), { empty: empty("It would not have fired", "Try a longer time, or a lower threshold."), caption: "Firings and ends" })];
  }, { lines: 8 });
}

function bands(test) {
  const found = [];
  let from = null;
  for (const { turn, at } of test.transitions) {
    if (turn === "fired") from = Date.parse(at) / 1_000;
    else if (from !== null) {
      found.push({ from, to: Date.parse(at) / 1_000 });
      from = null;
    }
  }
  if (from !== null) found.push({ from, to: Date.parse(test.to) / 1_000 });
  return found;
}

/**
 * The metric as the rule sees it, as nearly as history tells: increases are summed up over the rule's
 * window, ratios divided. Where that is not what the threshold is held against, it is not drawn.
 */
async function watched(rule, minutes, ctx) {
  const paths = [rule.metric_path, ...(rule.divide_by ? [rule.divide_by.metric_path] : [])];
  const { times, answers } = await history(paths.map((path) => ({ path, label: path })), { minutes, signal: ctx.signal });
  const answer = answers.get(rule.metric_path);
  const kind = rule.aggregation ?? { counter: "increase", gauge: "last", histogram: "quantile" }[answer?.type];
  const part = { increase: answer?.type === "histogram" ? "count" : "increase", rate: "rate", avg: "value", last: "value", max: "max", min: "min", quantile: rule.quantile === 0.5 ? "p50" : rule.quantile === 0.99 ? "p99" : "p95" }[kind];
  const column = (path) => (answers.get(path)?.points ?? []).map((point) => point[part] ?? point.value ?? null);
  const step = answer?.step_seconds ?? 60;
  const summed = (values) => (kind === "increase" ? rolling(values, Math.max(1, Math.round((rule.window_minutes * 60) / step))) : values);
  const above = summed(column(rule.metric_path));
  const below = rule.divide_by && summed(column(rule.divide_by.metric_path));
  const values = below ? above.map((value, index) => (value === null || !below[index] || below[index] < (rule.divide_by.minimum ?? 0) ? null : value / below[index])) : above;
  const label = below ? "ratio" : `${kind}${kind === "increase" ? ` over ${rule.window_minutes} min` : ""}`;
  return { title: paths.join(" / "), label, times, values, unit: below ? "none" : kind === "increase" ? "none" : answer?.unit, comparable: true };
}

function rolling(values, size) {
  return values.map((_value, index) => {
    const window = values.slice(Math.max(0, index - size + 1), index + 1).filter((value) => value !== null);
    return window.length ? window.reduce((sum, value) => sum + value, 0) : null;
  });
}
