// What pages are made of. Whatever comes from the server is set as text, never as markup.
//
// `h` makes elements; everything else is made of it. Parts that load show a skeleton first, then what
// they are about, or what went wrong and a way to try again.

import { ApiError, Exact } from "./api.js";
import { announce, askReason, confirm, formDialog, toast } from "./dialog.js";
import { ago, amount, number, shortId, when, words } from "./format.js";

export { announce, askReason, confirm, formDialog, toast };
export * from "./format.js";

/**
 * An element: `h("a.link", { href: "#/" , onclick }, "text", child, [children])`. Attributes that are
 * `null`, `undefined` or `false` are left out; `on…` are listeners; `class` adds to that of the name.
 */
export function h(name, attributes, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  const plain = attributes === null || attributes === undefined || attributes instanceof Node || Array.isArray(attributes) || typeof attributes !== "object";
  if (plain) children.unshift(attributes);
  for (const [key, value] of Object.entries(plain ? {} : attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.classList.add(...String(value).split(" ").filter(Boolean));
    else if (key === "value" && "value" in element) element.value = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  put(element, children);
  return element;
}

const SVG = new Set(["svg", "path", "circle", "rect", "line", "g", "polyline", "text", "marker", "defs"]);

function put(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Replaces what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  put(element, children);
  return element;
}

// Small parts

/** A moment: how long ago, kept fresh, and exactly on hover. */
export function time(iso) {
  if (!iso) return h("span.faint", "–");
  return h("time", { datetime: iso, title: when(iso), "data-ago": "" }, ago(iso));
}

setInterval(() => {
  for (const element of document.querySelectorAll("time[data-ago]")) {
    const text = ago(element.dateTime);
    if (element.textContent !== text) element.textContent = text;
  }
}, 5_000);

/** Tones: ok, warn, bad, info, busy, quiet. */
export const badge = (text, tone = "quiet", title) => h("span.badge", { class: `tone-${tone}`, title }, h("i", { "aria-hidden": "true" }), text);

const TONES = {
  ok: "completed healthy succeeded active delivered ok done balanced valid approved renewed elected resolved",
  busy: "running claimed compensating open sending in_progress executing leading",
  info: "pending scheduled info waiting listening queued created new sealed",
  warn: "degraded warning unknown retrying lapsed paused compensated skipped stale expired silenced",
  bad: "parked failed unhealthy critical error firing dead fenced broken rejected lost abandoned unbalanced fired",
  quiet: "cancelled inactive removed not_judged disabled inhibited",
};
const TONE_OF = new Map(Object.entries(TONES).flatMap(([tone, names]) => names.split(" ").map((name) => [name, tone])));

/** The tone of a status of anything: sagas, steps, jobs, alerts, checks. */
export const toneOf = (status) => TONE_OF.get(String(status)) ?? "quiet";

export const statusBadge = (status, title) => badge(words(status), toneOf(status), title);

/** An amount of money, aligned by its figures. */
export const money = (text, currency) => h("span.money", { title: currency ? `${text} ${currency}` : null }, amount(text, currency));

export const count = (value) => h("span.figure", number(value));

export function copyButton(text, what = "it") {
  const button = h("button.copy", { type: "button", "aria-label": `Copy ${what}`, title: `Copy ${what}` }, icon("copy"));
  button.addEventListener("click", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    let copied = true;
    try {
      await navigator.clipboard.writeText(String(text));
    } catch {
      copied = copyByHand(String(text));
    }
    fill(button, icon(copied ? "check" : "cross"));
    setTimeout(() => fill(button, icon("copy")), 1_200);
  });
  return button;
}

/** Where a page is not served securely, there is no clipboard but this. */
function copyByHand(text) {
  const area = h("textarea.offscreen", { "aria-hidden": "true" });
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

/** An id: short, in full on hover, to be copied, and a link if there is somewhere to go. */
export function id(text, href, { head = 8, copy = true } = {}) {
  if (!text) return h("span.faint", "–");
  const shown = shortId(text, head);
  const label = href ? h("a.id", { href, title: text }, shown) : h("span.id", { title: text }, shown);
  return h("span.with-copy", label, copy && copyButton(text, "the id"));
}

const ICONS = {
  copy: "M6 6V3h7v7h-3M3 6h7v7H3z",
  check: "M3 8.5l3 3 7-7",
  cross: "M4 4l8 8M12 4l-8 8",
  menu: "M2 4h12M2 8h12M2 12h12",
  sun: "M8 5a3 3 0 100 6 3 3 0 000-6zM8 1v1.500M8 13.500V15M1 8h1.500M13.500 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
  moon: "M13.500 9.500A6 6 0 016.500 2.500a6 6 0 107 7z",
  refresh: "M13 8a5 5 0 11-1.500-3.600M13 2v3h-3",
  chevron: "M6 4l4 4-4 4",
  plus: "M8 3v10M3 8h10",
  warn: "M8 2l6.500 12h-13zM8 6.500v3.500M8 11.800v.2",
  external: "M9 3h4v4M13 3L7 9M11 9v4H3V5h4",
  out: "M6 3H3v10h3M10 5l3 3-3 3M6 8h7",
};

export function icon(name) {
  return h("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, h("path", { d: ICONS[name] ?? "" }));
}

// Buttons

/**
 * A button. With `need` ("operator", "admin") and `ctx`, it is disabled and says why for those whose
 * role may not; one that is `disabled` says its `title`. While `onclick` runs it is busy; what that throws is shown as a toast.
 */
export function button(label, { onclick, tone, need, ctx, title, iconName, small, disabled, type = "button" } = {}) {
  const denied = need && ctx && !ctx.can(need);
  const why = denied ? `This needs the role ${need}; yours is ${ctx.me.role}.` : title;
  const element = h("button.button", { type, class: [tone ?? "", small ? "small" : ""].join(" "), title: why, "aria-disabled": denied || disabled ? "true" : null },
    iconName && icon(iconName), h("span", label));
  const told = (denied || disabled) && why;
  if (told) element.append(h("span.offscreen", ` (${why})`));
  element.addEventListener("click", async (event) => {
    event.stopPropagation();
    if (element.getAttribute("aria-disabled") === "true") {
      event.preventDefault();
      if (told) toast(why, "warn");
      return;
    }
    if (!onclick) return;
    element.setAttribute("aria-busy", "true");
    try {
      await onclick(event);
    } catch (error) {
      if (error.name !== "AbortError") toast(error.message, "bad");
    } finally {
      element.removeAttribute("aria-busy");
    }
  });
  return element;
}

// Layout

/** The head of a page: its heading, what stands beside it, and its buttons. */
export function pageHead(title, { note, actions } = {}) {
  return h("header.page-head", h("div", h("h1", title), note && h("p.note", note)), actions && h("div.actions", actions));
}

/** A part of a page with a heading. */
export function panel(title, { actions, note, flush, tone, label } = {}, ...body) {
  const head = (title || actions) && h("header", h("h2", title, note && h("small", note)), actions && h("div.actions", actions));
  return h("section.panel", { class: [flush ? "flush" : "", tone ? `tone-${tone}` : ""].join(" "), "aria-label": label ?? (typeof title === "string" ? title : null) }, head, h("div.body", body));
}

/** A figure with its name: `stat("Parked", 3, { tone, href, hint })`. */
export function stat(label, value, { tone, href, hint } = {}) {
  const inside = [h("span.label", label), h("span.value", { title: typeof value === "string" ? value : null }, value), hint && h("span.hint", hint)];
  return h(href ? "a.stat" : "div.stat", { href, class: tone ? `tone-${tone}` : "" }, inside);
}

/** Names and values. */
export const facts = (pairs) => h("dl.facts", pairs.filter(Boolean).map(([name, value]) => h("div", h("dt", name), h("dd", value ?? h("span.faint", "–")))));

/** A few choices of which one holds: `choices` are `[value, label]`. `choose(value)` is called for another. */
export function segmented(label, choices, chosen, choose) {
  return h("div.segmented", { role: "group", "aria-label": label }, choices.map(([value, text]) =>
    h("button", { type: "button", "data-key": `${label}/${value}`, "aria-pressed": String(value === chosen), onclick: () => value === chosen || choose(value) }, text)));
}

/** Tabs kept in the address: `tabs(ctx, "tab", [["active", "Active", 3], …])`. Gives `[bar, chosen]`. */
export function tabs(ctx, name, choices) {
  const wanted = ctx.query.get(name);
  const chosen = choices.some(([key]) => key === wanted) ? wanted : choices[0][0];
  const bar = h("nav.tabs", { "aria-label": "Parts of this page" }, choices.map(([key, label, badgeText]) =>
    h("a", { href: ctx.href({ [name]: key === choices[0][0] ? null : key }), "data-key": `tab/${key}`, "aria-current": key === chosen ? "true" : null }, label,
      badgeText !== undefined && badgeText !== null && h("span.count", badgeText))));
  return [bar, chosen];
}

// States of parts that load

export const skeleton = (lines = 4) => h("div.skeleton", { "aria-busy": "true", "aria-label": "Loading" }, Array.from({ length: lines }, () => h("i")));

export const empty = (title, hint, action) => h("div.empty", h("strong", title), hint && h("p", hint), action);

/** What went wrong, and a way to try again. */
export function failure(error, retry) {
  const known = error instanceof ApiError;
  return h("div.failure", { role: "alert" }, icon("warn"), h("div",
    h("strong", known ? error.headline : "This page has a defect"),
    h("p", error.message),
    known && error.problem.request_id && h("p.faint", "Request ", h("code", error.problem.request_id)),
    retry && button("Try again", { onclick: retry, small: true, iconName: "refresh" })));
}

/** Shows a skeleton, then what `make` gives, or what went wrong. Gives a function that does it again,
 *  keeping what is shown until the new is there. */
export function load(root, ctx, make, { lines } = {}) {
  let turn = 0;
  let shown = false;
  const again = async () => {
    const mine = ++turn;
    if (!shown) fill(root, skeleton(lines));
    try {
      const made = await make();
      if (mine !== turn || ctx.signal.aborted) return;
      shown = true;
      const place = keepPlace(root);
      fill(root, made);
      place();
    } catch (error) {
      if (mine !== turn || ctx.signal.aborted) return;
      if (!(error instanceof ApiError)) console.error(error);
      // What is shown stays while the server does not answer; the connection says so above.
      if (shown && error.status === 0) return;
      shown = false;
      fill(root, failure(error, again));
    }
  };
  again();
  return again;
}

/** Focus and what is folded open survive a refresh. */
function keepPlace(root) {
  const focused = root.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const open = [...root.querySelectorAll("details[open][data-key]")].map((element) => element.dataset.key);
  return () => {
    for (const key of open) root.querySelector(`details[data-key="${CSS.escape(key)}"]`)?.setAttribute("open", "");
    if (focused) root.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  };
}

// Tables and lists

/**
 * A table. Columns are `{ label, render(row), align?: "end", grow?, hide?: "narrow", title?(row) }`;
 * `href(row)` makes rows go somewhere, by click, by Enter, and by j/k. On a phone rows become cards.
 */
export function table(columns, rows, { href, onRow, caption, key, empty: nothing, tone } = {}) {
  if (rows.length === 0 && nothing) return nothing;
  const head = h("thead", h("tr", columns.map((column) => h("th", { scope: "col", class: classOf({ ...column, mono: false }) }, column.label))));
  const body = h("tbody", rows.map((row) => {
    const target = href?.(row);
    const cells = columns.map((column) => h("td", { class: classOf(column), "data-label": column.label || null, title: column.title?.(row) }, h("div.cell", column.render(row))));
    const element = h("tr", { class: [target || onRow ? "goes" : "", tone ? `tone-${tone(row) ?? ""}` : ""].join(" "), tabindex: target || onRow ? "0" : null, "data-key": key?.(row) ?? target ?? null }, cells);
    const go = () => (target ? location.assign(target) : onRow?.(row));
    if (target || onRow) {
      element.addEventListener("click", (event) => {
        if (event.target.closest("a, button, input, select, summary") || getSelection()?.toString()) return;
        if (target && (event.ctrlKey || event.metaKey)) window.open(target);
        else go();
      });
      element.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && event.target === element) go();
      });
    }
    return element;
  }));
  return h("div.table-wrap", h("table.table", caption && h("caption.offscreen", caption), head, body));
}

const classOf = (column) => [column.align === "end" ? "end" : "", column.grow ? "grow" : "", column.hide ? `hide-${column.hide}` : "", column.mono ? "mono" : ""].join(" ").trim() || null;

/**
 * Filters above a list, kept in the address. Fields are `{ name, label, type?: "text"|"select"|"date",
 * options?: [[value, label]], placeholder?, width? }`. `change(values)` is called for each change.
 */
export function filterBar(ctx, fields, change) {
  const values = () => Object.fromEntries(fields.map((field) => [field.name, ctx.query.get(field.name) ?? ""]));
  let waiting;
  const put = (name, value, now) => {
    ctx.setQuery({ [name]: value || null });
    reset.hidden = !fields.some((field) => ctx.query.get(field.name));
    clearTimeout(waiting);
    waiting = setTimeout(() => change(values()), now ? 0 : 300);
  };
  const inputs = fields.map((field) => {
    const value = ctx.query.get(field.name) ?? "";
    const control = field.type === "select"
      ? h("select", { name: field.name, onchange: (event) => put(field.name, event.target.value, true) },
        field.options.map(([option, label]) => h("option", { value: option, selected: option === value }, label)))
      : h("input", { name: field.name, type: field.type ?? "search", value, placeholder: field.placeholder, autocomplete: "off", spellcheck: "false", size: field.width ?? 18,
        oninput: (event) => put(field.name, event.target.value.trim(), false) });
    return h("label.filter", h("span", field.label), control);
  });
  const reset = button("Clear", { small: true, tone: "plain", onclick: () => {
    fields.forEach((field, index) => {
      const control = inputs[index].querySelector("input, select");
      control.value = "";
      ctx.setQuery({ [field.name]: null });
    });
    reset.hidden = true;
    change(values());
  } });
  reset.hidden = !fields.some((field) => ctx.query.get(field.name));
  return h("form.filters", { role: "search", onsubmit: (event) => event.preventDefault() }, inputs, reset);
}

/**
 * A list in pages: filters, the table, and a way on. `fetch(filters, pageToken)` gives the server's
 * page. `refreshOn` names events that make it load again while the first page is shown.
 * Gives `{ element, refresh }`.
 */
export function listView(ctx, { fetch, columns, filters = [], href, onRow, key, nothing, caption, refreshOn = [], tone, above }) {
  const body = h("div.list-body");
  const foot = h("footer.pager");
  const values = () => Object.fromEntries(filters.map((field) => [field.name, ctx.query.get(field.name) || undefined]));
  let rows = [];
  let next = null;
  let pages = 1;
  let turn = 0;
  const draw = () => {
    const filtered = filters.some((field) => ctx.query.get(field.name));
    const none = filtered ? empty("Nothing matches these filters", "Clear a filter, or ask for less.") : nothing ?? empty("Nothing here yet");
    const place = keepPlace(body);
    fill(body, above?.(rows), table(columns, rows, { href, onRow, key, caption, empty: none, tone }));
    place();
    fill(foot, rows.length > 0 && h("span.faint", `${number(rows.length)}${next ? "+" : ""} shown`),
      next && button("Show more", { small: true, onclick: more }));
  };
  const more = async () => {
    const mine = turn;
    const page = await fetch(values(), next);
    if (mine !== turn) return;
    rows = rows.concat(page.items);
    next = page.next_page_token;
    pages += 1;
    draw();
  };
  const begin = async (keep) => {
    const mine = ++turn;
    if (!keep) fill(body, skeleton(8));
    try {
      const page = await fetch(values(), undefined);
      if (mine !== turn || ctx.signal.aborted) return;
      rows = page.items;
      next = page.next_page_token;
      pages = 1;
      draw();
    } catch (error) {
      if (mine !== turn || ctx.signal.aborted) return;
      if (keep && error.status === 0) return;
      if (!(error instanceof ApiError)) console.error(error);
      fill(body, failure(error, () => begin(false)));
      fill(foot);
    }
  };
  const refresh = () => (pages === 1 ? begin(true) : undefined);
  let soon;
  ctx.on([...refreshOn, "poll"], () => {
    clearTimeout(soon);
    soon = setTimeout(refresh, 400);
  });
  const bar = filters.length > 0 ? filterBar(ctx, filters, () => begin(false)) : null;
  begin(false);
  return { element: h("div.list", bar, body, foot), refresh: () => begin(true), rows: () => rows };
}

// JSON

/** A JSON value, to be unfolded; `open` is how many levels are at first. */
export function json(value, { open = 2, label } = {}) {
  const text = () => JSON.stringify(value, null, 2);
  return h("div.json", label && h("div.json-label", label), copyButton(text(), "the JSON"), h("div.json-tree", { tabindex: "0", role: "group", "aria-label": label ?? "JSON" }, node(value, open)));
}

const MOST_MEMBERS = 200;

function node(value, open, name) {
  const before = name === undefined ? [] : [h("span.json-name", name), ": "];
  if (value === null) return h("div.json-line", before, h("span.json-null", "null"));
  if (value instanceof Exact) return h("div.json-line", before, h("span.json-number", value.toString()));
  if (typeof value !== "object") {
    const written = typeof value === "string" ? JSON.stringify(value) : String(value);
    return h("div.json-line", before, h(`span.json-${typeof value}`, written));
  }
  const members = Array.isArray(value) ? value.map((member, index) => [index, member]) : Object.entries(value);
  const [start, end] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  if (members.length === 0) return h("div.json-line", before, start + end);
  const details = h("details.json-node", { open: open > 0 }, h("summary", before, start, h("span.json-count", Array.isArray(value) ? `${members.length} items` : `${members.length} members`), h("span.json-end", end)));
  // What is folded is made when it is opened: a large value costs what is looked at.
  const make = () => {
    if (details.childElementCount > 1) return;
    const shown = members.slice(0, MOST_MEMBERS).map(([key, member]) => node(member, open - 1, key));
    const rest = members.length - shown.length;
    details.append(h("div.json-members", shown, rest > 0 && h("div.faint", `… ${number(rest)} more; copy it to see all`)), h("div.json-line", end));
  };
  details.addEventListener("toggle", make);
  if (open > 0) make();
  return details;
}
