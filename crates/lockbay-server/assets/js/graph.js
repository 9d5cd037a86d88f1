// The steps of a saga as a graph: what depends on what, how each stands, and which way it goes.
//
// It draws and knows nothing of the server. A status is told three times: by its word, by its shape
// and by its colour. Where steps are undone, the arrow turns around.

const SVG = "http://www.w3.org/2000/svg";
const NODE = { width: 146, height: 54 };
const GAP = { along: 36, across: 14 };
const MARGIN = 8;
/** Where text begins beside the mark, and under it; how much stays free behind it. */
const TEXT = { beside: 30, under: 10, end: 8, between: 5 };
/** The longest that stands behind a status. */
const LONGEST_MORE = "in 59 s";

/** What stands for a status, in a field of 16 by 16. */
const SHAPES = {
  pending: "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10",
  running: "M5 3l8 5-8 5z",
  completed: "M3 8.5l3.5 3.5L13 4.5",
  failed: "M4 4l8 8M12 4l-8 8",
  unknown: "M5.5 6a2.5 2.5 0 1 1 3.6 2.2C8.3 8.6 8 9 8 10M8 12.6v.4",
  compensating: "M6 3L3 6l3 3M3 6h6a4 4 0 0 1 0 8H7",
  compensated: "M6 3L3 6l3 3M3 6h6a4 4 0 0 1 0 8H7",
  skipped: "M3 4l5 4-5 4M9 4l5 4-5 4",
  parked: "M5.5 3v10M10.5 3v10",
};

const WAY_BACK = new Set(["compensating", "compensated"]);

/** An element of SVG with these attributes. */
function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** The steps in layers: each stands behind all that it depends on. */
export function layersOf(steps) {
  const byName = new Map(steps.map((step) => [step.name, step]));
  const depth = new Map();
  // The server takes no circles, and a step may be written before what it depends on.
  const settle = (first) => {
    const open = [first];
    while (open.length > 0) {
      const name = open[open.length - 1];
      const needs = (byName.get(name)?.depends_on ?? []).filter((other) => byName.has(other));
      const missing = needs.filter((other) => !depth.has(other));
      if (missing.length > 0 && open.length <= steps.length) {
        open.push(...missing);
        continue;
      }
      depth.set(name, needs.reduce((most, other) => Math.max(most, (depth.get(other) ?? 0) + 1), 0));
      open.pop();
    }
  };
  steps.forEach((step) => depth.has(step.name) || settle(step.name));
  const layers = [];
  for (const step of steps) (layers[depth.get(step.name)] ??= []).push(step);
  return layers;
}

/** Where each step stands, and how large the picture is. */
function layout(steps, upright) {
  const layers = layersOf(steps);
  const size = upright ? { along: NODE.height, across: NODE.width } : { along: NODE.width, across: NODE.height };
  const widest = Math.max(...layers.map((layer) => layer.length), 1);
  const extent = (count, length, gap) => count * length + (count - 1) * gap;
  const breadth = extent(widest, size.across, GAP.across);
  const places = new Map();
  layers.forEach((layer, row) => {
    const begin = (breadth - extent(layer.length, size.across, GAP.across)) / 2;
    layer.forEach((step, column) => {
      const along = MARGIN + row * (size.along + GAP.along);
      const across = MARGIN + begin + column * (size.across + GAP.across);
      places.set(step.name, upright ? { x: across, y: along } : { x: along, y: across });
    });
  });
  const length = extent(layers.length, size.along, GAP.along) + 2 * MARGIN;
  const [width, height] = upright ? [breadth + 2 * MARGIN, length] : [length, breadth + 2 * MARGIN];
  return { places, width, height };
}

/** The way from one step to another, drawn from the one that comes first. */
function edge(from, to, upright, back) {
  const begin = upright
    ? { x: from.x + NODE.width / 2, y: from.y + NODE.height }
    : { x: from.x + NODE.width, y: from.y + NODE.height / 2 };
  const end = upright ? { x: to.x + NODE.width / 2, y: to.y } : { x: to.x, y: to.y + NODE.height / 2 };
  const [first, last] = back ? [end, begin] : [begin, end];
  const way = Math.sign(upright ? last.y - first.y : last.x - first.x);
  // The point of the arrow is drawn beyond the line.
  const stop = upright ? { x: last.x, y: last.y - way * 6 } : { x: last.x - way * 6, y: last.y };
  const bend = GAP.along / 2;
  const curve = upright
    ? `C${first.x} ${first.y + way * bend} ${stop.x} ${stop.y - way * bend} ${stop.x} ${stop.y}`
    : `C${first.x + way * bend} ${first.y} ${stop.x - way * bend} ${stop.y} ${stop.x} ${stop.y}`;
  const point = upright
    ? `M${last.x - 4} ${stop.y}h8l-4 ${way * 6}z`
    : `M${stop.x} ${last.y - 4}v8l${way * 6} -4z`;
  return svg(
    "g",
    { class: back ? "edge back" : "edge" },
    svg("path", { class: "line", d: `M${first.x} ${first.y}${curve}` }),
    svg("path", { class: "point", d: point }),
  );
}

let ruler;

/** How wide a text is, as work.css has it drawn. */
function widthOf(text, font) {
  ruler ??= document.createElement("canvas").getContext("2d");
  ruler.font = `${font} ${getComputedStyle(document.documentElement).getPropertyValue("--sans").trim()}`;
  return ruler.measureText(text).width;
}

/** As much of the beginning of a text as there is room for. */
function fitted(text, font, room) {
  if (widthOf(text, font) <= room) return text;
  const letters = [...text];
  let [fits, tooMany] = [0, letters.length];
  while (tooMany - fits > 1) {
    const count = Math.floor((fits + tooMany) / 2);
    if (widthOf(`${letters.slice(0, count).join("")}…`, font) <= room) fits = count;
    else tooMany = count;
  }
  return `${letters.slice(0, fits).join("")}…`;
}

function node(step, place, { href, chosen }) {
  const room = NODE.width - TEXT.beside - TEXT.end;
  const small = widthOf(step.name, "600 13px") > room;
  const short = small ? fitted(step.name, "600 11px", room) : step.name;
  const told = step.pivot && step.status === "pending" ? "pending, pivot" : step.status;
  const more = step.next_retry_at ? LONGEST_MORE : step.attempts > 1 ? `×${step.attempts}` : "";
  const lacks = more && TEXT.beside + widthOf(told, "500 12px") + TEXT.between + widthOf(more, "12px") + TEXT.end > NODE.width;
  const text = (attributes, told) => {
    const element = svg("text", attributes);
    element.textContent = told;
    return element;
  };
  const box = svg("rect", { width: NODE.width, height: NODE.height, rx: 6, class: "box" });
  const mark = svg("path", { d: SHAPES[step.status] ?? SHAPES.pending, class: "mark", transform: "translate(9 8)" });
  const link = svg(
    "a",
    {
      href: href(step),
      class: `node status-${step.status}${chosen ? " chosen" : ""}`,
      transform: `translate(${place.x} ${place.y})`,
      "data-step": step.name,
    },
    box,
    ...(step.pivot ? [svg("path", { class: "pivot", d: `M3 0v${NODE.height}` })] : []),
    mark,
    text({ x: TEXT.beside, y: 21, class: small ? "name small" : "name" }, short),
    " ",
    text({ x: lacks ? TEXT.under : TEXT.beside, y: 40, class: "told" }, told),
    " ",
    text({ x: NODE.width - TEXT.end, y: 40, class: "more", "text-anchor": "end" }, step.attempts > 1 ? `×${step.attempts}` : ""),
  );
  if (short !== step.name) {
    const whole = svg("title", {});
    whole.textContent = `${step.name}, ${told}`;
    link.prepend(whole);
  }
  if (chosen) link.setAttribute("aria-current", "true");
  return link;
}

/**
 * Draws the steps: from left to right if that fits into `room`, else from top to bottom. `href(step)`
 * is where a step leads, and `chosen` the name of the one that is shown.
 */
export function drawSteps(steps, { href, chosen, room }) {
  const along = layout(steps, false);
  const upright = along.width > room;
  const { places, width, height } = upright ? layout(steps, true) : along;
  const back = (step) => WAY_BACK.has(step.status);
  const edges = steps.flatMap((step) =>
    (step.depends_on ?? [])
      .filter((other) => places.has(other))
      .map((other) => edge(places.get(other), places.get(step.name), upright, back(step))),
  );
  const nodes = steps.map((step) => node(step, places.get(step.name), { href, chosen: chosen === step.name }));
  return svg(
    "svg",
    { class: "graph", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "Steps and what they depend on" },
    ...edges,
    ...nodes,
  );
}
