// Charts over time: uPlot with the dashboard's colours, a reading of the values under the pointer, and
// the same numbers as a table for those who do not see it.
//
// uPlot is a plain script beside the modules, and so a global. It draws on a canvas, which knows no
// CSS variables: colours are read when it is drawn, and it is drawn anew when they change.

import { api } from "./api.js";
import { fill, h, measured } from "./ui.js";

const uPlot = globalThis.uPlot;
const GAP = null;

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * A chart. `series` are `{ label, unit?, fill?, dash? }`, of which there are six at most; `unit` is of
 * all that have none. `draw({ times, columns, marks? })` takes times in seconds and one column of
 * values or nulls per series. `marks` are horizontal lines `{ value, label, tone }`, `bands` are times
 * `{ from, to, tone }` in seconds.
 * Gives `{ element, draw }`.
 */
export function chart({ title, series, unit, height = 132, note, actions, min = 0 }) {
  const plot = h("div.chart-plot");
  const legend = h("div.chart-legend");
  const table = h("details", h("summary", "As a table"));
  const element = h("figure.chart", { "aria-label": title }, title && h("div.chart-head", h("h3", title, note && h("small", note)), actions), plot, legend, table);
  let shown = null;
  let drawn = null;
  const unitOf = (index) => series[index].unit ?? unit;
  const colour = (index) => token(`--chart-${(index % 6) + 1}`);

  const tell = (at) => {
    if (!drawn) return;
    const last = drawn.times.length - 1;
    const index = at ?? lastKnown(drawn.columns, last);
    const parts = series.map((one, column) =>
      h("span", { class: `swatch-${(column % 6) + 1}` }, h("i"), one.label, " ", h("b", measured(drawn.columns[column][index], unitOf(column)))));
    fill(legend, parts, at !== undefined && at !== null && h("span.faint", new Date(drawn.times[index] * 1_000).toLocaleTimeString()));
  };

  const options = (width) => ({
    width,
    height,
    // The last time on the axis reaches beyond its tick.
    padding: [6, 18, 0, 0],
    cursor: { points: { size: 6 }, drag: { x: true, y: false }, sync: { key: "lockbay" } },
    legend: { show: false },
    scales: { x: { time: true }, y: { range: (_u, low, high) => range(low, high, drawn?.marks, min) } },
    axes: [
      { stroke: token("--faint"), font: `11px ${token("--sans")}`, grid: { show: false }, ticks: { stroke: token("--line"), size: 4 }, size: 24, space: 70,
        values: (_u, ticks, _axis, _space, step) => ticks.map((tick) => clock(tick, step)) },
      { stroke: token("--faint"), font: `11px ${token("--sans")}`, grid: { stroke: token("--line"), width: 1 }, ticks: { show: false }, size: 54, space: 30,
        values: (_u, ticks) => ticks.map((tick) => measured(tick, unitOf(0))) },
    ],
    series: [{}, ...series.map((one, index) => ({
      label: one.label,
      stroke: colour(index),
      width: 1.5,
      dash: one.dash,
      fill: one.fill ? `${colour(index)}1f` : undefined,
      // Only what stands alone between gaps, which no line would show.
      points: { show: true, size: 4, fill: colour(index), filter: (u, at) => alone(u.data[at]) },
      spanGaps: false,
    }))],
    hooks: {
      setCursor: [(u) => tell(u.cursor.idx)],
      drawClear: [(u) => drawn.bands?.forEach((band) => shade(u, band))],
      draw: [(u) => drawn.marks?.forEach((mark) => line(u, mark))],
    },
  });

  const make = () => {
    shown?.destroy();
    shown = null;
    const width = plot.clientWidth;
    if (!drawn || width === 0 || !uPlot) return;
    shown = new uPlot(options(width), [drawn.times, ...drawn.columns], plot);
  };

  const draw = (data) => {
    drawn = data;
    const known = data.columns.some((column) => column.some((value) => value !== null));
    plot.classList.toggle("is-empty", !known);
    if (shown) shown.setData([data.times, ...data.columns]);
    else make();
    tell();
    fill(table, h("summary", "As a table"), rowsOf);
    if (!known) fill(legend, h("span.faint", "Nothing was measured in this time yet."));
  };
  // Made when it is opened: most people see the line.
  const rowsOf = h("div");
  table.addEventListener("toggle", () => {
    if (table.open) fill(rowsOf, asTable(drawn, series, unitOf));
  });

  const resized = new ResizeObserver(() => {
    if (!element.isConnected) return;
    const width = plot.clientWidth;
    if (!shown) make();
    else if (width > 0 && width !== shown.width) shown.setSize({ width, height });
  });
  resized.observe(plot);
  const recolour = () => (element.isConnected ? make() : removeEventListener("themechange", recolour));
  addEventListener("themechange", recolour);
  return { element, draw };
}

function alone(values) {
  const found = [];
  for (let at = 0; at < values.length; at += 1) {
    if (values[at] !== null && (values[at - 1] ?? null) === null && (values[at + 1] ?? null) === null) found.push(at);
  }
  return found;
}

function lastKnown(columns, last) {
  for (let index = last; index >= 0; index -= 1) if (columns.some((column) => column[index] !== null)) return index;
  return last;
}

function range(low, high, marks = [], min) {
  const values = [low, high, ...marks.map((mark) => mark.value)].filter((value) => value !== null && value !== undefined);
  if (values.length === 0) return [0, 1];
  const bottom = min === null ? Math.min(...values) : Math.min(min, ...values);
  const top = Math.max(...values);
  return [bottom, top === bottom ? bottom + 1 : top + (top - bottom) * 0.08];
}

const clock = (seconds, step) => {
  const date = new Date(seconds * 1_000);
  const two = (part) => String(part).padStart(2, "0");
  if (step >= 86_400) return `${date.getMonth() + 1}/${date.getDate()}`;
  return `${two(date.getHours())}:${two(date.getMinutes())}${step < 60 ? `:${two(date.getSeconds())}` : ""}`;
};

function shade(u, { from, to, tone = "bad" }) {
  const left = Math.max(u.valToPos(from, "x", true), u.bbox.left);
  const right = Math.min(u.valToPos(to, "x", true), u.bbox.left + u.bbox.width);
  if (right <= left) return;
  u.ctx.save();
  u.ctx.globalAlpha = 0.16;
  u.ctx.fillStyle = token(`--${tone}`);
  u.ctx.fillRect(left, u.bbox.top, Math.max(right - left, devicePixelRatio), u.bbox.height);
  u.ctx.restore();
}

function line(u, { value, label, tone = "bad" }) {
  const y = Math.round(u.valToPos(value, "y", true));
  if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) return;
  const { ctx } = u;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = token(`--${tone}`);
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(u.bbox.left, y);
  ctx.lineTo(u.bbox.left + u.bbox.width, y);
  ctx.stroke();
  if (label) {
    ctx.font = `${11 * devicePixelRatio}px ${token("--sans")}`;
    ctx.textAlign = "right";
    ctx.fillText(label, u.bbox.left + u.bbox.width - 4 * devicePixelRatio, y - 4 * devicePixelRatio);
  }
  ctx.restore();
}

function asTable(drawn, series, unitOf) {
  if (!drawn) return null;
  const rows = drawn.times.map((at, index) => ({ at, values: drawn.columns.map((column) => column[index]) })).filter((row) => row.values.some((value) => value !== GAP)).slice(-200).reverse();
  return h("div.table-wrap", { tabindex: "0" }, h("table.table", h("thead", h("tr", h("th", { scope: "col" }, "Until"), series.map((one) => h("th.end", { scope: "col" }, one.label)))),
    h("tbody", rows.map((row) => h("tr", h("td", new Date(row.at * 1_000).toLocaleString()), row.values.map((value, index) => h("td.end", measured(value, unitOf(index)))))))));
}

/** How a point is read, by the type of its metric: a rate, a level, a quantile. */
export function valueOf(point, part) {
  if (part) return point[part] ?? null;
  return point.rate ?? point.value ?? point.p95 ?? null;
}

/**
 * Fetches the histories of several paths at one step: `lines` are `{ path, label, part?, scale? }`.
 * A path that the server does not have is a line without values. Gives `{ times, columns, unit }`.
 */
export async function history(lines, { minutes = 60, signal, instance, step } = {}) {
  const paths = [...new Set(lines.map((one) => one.path))];
  const answers = new Map(await Promise.all(paths.map(async (path) => {
    const query = { path, minutes, instance, step_seconds: step };
    return [path, await api.maybe("v1/metrics/history", { query, signal })];
  })));
  // Each was asked a moment later than the one before, and so ends a moment later: steps are matched
  // by their number, and drawn at the times of the longest.
  const base = [...answers.values()].filter(Boolean).reduce((one, other) => (other.points.length > (one?.points.length ?? 0) ? other : one), null);
  if (!base) return { times: [], columns: lines.map(() => []), answers };
  const times = base.points.map((point) => Date.parse(point.at) / 1_000);
  const columns = lines.map((one) => {
    const values = times.map(() => GAP);
    for (const point of answers.get(one.path)?.points ?? []) {
      const index = Math.round((Date.parse(point.at) / 1_000 - times[0]) / base.step_seconds);
      const value = valueOf(point, one.part);
      if (index >= 0 && index < values.length && value !== null) values[index] = Number(value) * (one.scale ?? 1);
    }
    return values;
  });
  return { times, columns, answers };
}

/**
 * A chart that fetches its own history and keeps it fresh while its page is shown.
 * `lines` are as of `history`; `minutes` may be a function.
 */
export function historyChart(ctx, { title, lines, unit, minutes = 60, height, note, every = 10_000, marks, min }) {
  const made = chart({ title, series: lines.map((one) => ({ ...one })), unit, height, note, min });
  const refresh = async () => {
    const asked = typeof minutes === "function" ? minutes() : minutes;
    try {
      const data = await history(lines, { minutes: asked, signal: ctx.signal });
      if (!ctx.signal.aborted) made.draw({ ...data, marks });
    } catch (error) {
      // The next time may be better; the connection says what is wrong.
      if (error.name !== "AbortError" && error.status !== 0) made.draw({ times: [], columns: lines.map(() => []) });
    }
  };
  refresh();
  ctx.every(every, refresh);
  return { element: made.element, refresh };
}
