// Metrics: any number that is kept, as it went.

import { chart, history } from "../chart.js";
import { badge, button, empty, fill, h, load, measured, number, pageHead, panel, segmented, words } from "../ui.js";

const RANGES = [[15, "15 min"], [60, "1 h"], [360, "6 h"], [1_440, "24 h"], [10_080, "7 d"], [43_200, "30 d"]];
/** How many charts are shown at once. */
const MOST = 6;
const FIRST = "saga_metrics.sagas_started";

export default {
  title: "Metrics",
  async render(root, _params, ctx) {
    const paths = (await ctx.api.get("v1/metrics/paths", { signal: ctx.signal })).items;
    const chosen = (ctx.query.get("path") ?? FIRST).split(",").filter((path) => paths.some((one) => one.path === path)).slice(0, MOST);
    const minutes = Number(ctx.query.get("minutes")) || 60;
    const instance = ctx.query.get("instance") || undefined;
    const charts = h("div.stack");
    const ranges = segmented("Time shown", RANGES, minutes, (range) => ctx.go(ctx.href({ minutes: range === 60 ? null : range })));
    fill(root, pageHead("Metrics", { note: "Every number that is kept: 72 hours finely, 30 days coarsely.", actions: ranges }),
      h("div.picking", picker(ctx, paths, chosen), charts));
    if (chosen.length === 0) fill(charts, h("div.list-body", empty("Choose a metric", "Its history is shown here; choose several to see them under each other.")));
    else fill(charts, chosen.map((path) => one(ctx, paths.find((entry) => entry.path === path), minutes, instance, chosen)));
  },
};

function picker(ctx, paths, chosen) {
  const groups = new Map();
  for (const entry of paths) {
    // The parts of a histogram are in its chart.
    if (entry.path.split(".").length > 2) continue;
    const [group] = entry.path.split(".");
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(entry);
  }
  const filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter metrics", autocomplete: "off", spellcheck: "false" });
  const list = h("div.picker-list", [...groups].map(([group, entries]) => h("section", h("h3", words(group.replace(/_metrics$/, ""))), entries.map((entry) => item(ctx, entry, chosen)))));
  filter.addEventListener("input", () => {
    const text = filter.value.trim().toLowerCase();
    for (const section of list.children) {
      let any = false;
      for (const element of section.querySelectorAll("label")) {
        element.hidden = text !== "" && !element.dataset.text.includes(text);
        any ||= !element.hidden;
      }
      section.hidden = !any;
    }
  });
  return h("aside.panel.picker", { "aria-label": "Metrics" }, h("div.picker-head", filter), list);
}

function item(ctx, entry, chosen) {
  const name = entry.path.split(".").slice(1).join(".");
  const checked = chosen.includes(entry.path);
  return h("label", { title: entry.help, "data-text": `${entry.path} ${entry.help}`.toLowerCase() }, h("input", { type: "checkbox", "data-key": entry.path, checked, onchange: (event) => {
    const next = event.target.checked ? [...chosen, entry.path].slice(-MOST) : chosen.filter((path) => path !== entry.path);
    ctx.go(ctx.href({ path: next.length ? next.join(",") : "none" }));
  } }), h("span", name));
}

/** The lines of a metric, by its type. */
function linesOf({ path, type }) {
  if (type === "counter") return [{ path, label: "per second", part: "rate", fill: true }];
  if (type === "histogram") return ["p50", "p95", "p99"].map((part) => ({ path, label: part, part }));
  return [{ path, label: "average", part: "value", fill: true }, { path, label: "lowest", part: "min" }, { path, label: "highest", part: "max" }];
}

function one(ctx, entry, minutes, instance, chosen) {
  const lines = linesOf(entry);
  const drawn = chart({ title: null, series: lines, unit: entry.unit, height: chosen.length > 2 ? 130 : 200 });
  drawn.element.setAttribute("aria-label", entry.path);
  const aside = h("span.actions");
  const body = h("div");
  const refresh = load(body, ctx, async () => {
    const data = await history(lines, { minutes, instance, signal: ctx.signal });
    const answer = data.answers.get(entry.path);
    fill(aside, instances(ctx, answer, instance), h("span.faint", answer && `every ${measured(answer.step_seconds, "seconds")}`),
      button("Alert on it", { small: true, need: "operator", ctx, onclick: () => newRule(ctx, entry) }));
    queueMicrotask(() => drawn.draw(data));
    return drawn.element;
  });
  ctx.every(minutes <= 60 ? 10_000 : 60_000, refresh);
  return panel([h("code", entry.path), badge(entry.type, "quiet")], { actions: aside, label: entry.path }, h("p.muted", entry.help, entry.unit !== "none" && `, in ${entry.unit}`), body);
}

function instances(ctx, answer, instance) {
  const names = answer?.instances ?? [];
  if (names.length < 2 && !instance) return null;
  return h("select", { "aria-label": "Instance", onchange: (event) => ctx.go(ctx.href({ instance: event.target.value || null })) },
    h("option", { value: "" }, `all ${number(names.length)} instances`), names.map((name) => h("option", { value: name, selected: name === instance }, name)));
}

async function newRule(ctx, entry) {
  const { editRule } = await import("./alert-forms.js");
  await editRule(ctx, undefined, { metric_path: entry.path });
}
