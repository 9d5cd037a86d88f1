// The shell: who asks, where they are, and what stands around every page.
//
// A route is behind the `#`, so that a path prefix of a proxy does not matter. A page gets a signal
// that ends with it, and everything it began through its context ends then as well.

import { ApiError, actAs, api, logIn, logOut, whenUnauthorized, whoAmI } from "./api.js";
import * as live from "./live.js";
import { GROUPS, PAGES } from "./pages.js";
import { announce, badge, button, failure, fill, formDialog, h, icon, skeleton, statusBadge, time, toast } from "./ui.js";

const at = (id) => document.getElementById(id);
const ROLES = ["viewer", "operator", "admin"];

let me = null;
let about = null;
let current = null;
let pageTitle = "";
/** How many sagas, alerts and approvals wait for somebody. */
let needed = 0;
/** Routes of pages whose part of the API is not there. */
const missing = new Set();

// Where we are

function whereWeAre() {
  const text = location.hash.replace(/^#/, "") || "/";
  const [path, query = ""] = text.split("?");
  return { path: path || "/", query: new URLSearchParams(query) };
}

function find(path) {
  for (const page of PAGES) {
    const names = [];
    const pattern = page.route.replace(/:(\w+)/g, (_all, name) => {
      names.push(name);
      return "([^/]+)";
    });
    const match = new RegExp(`^${pattern}/?$`).exec(path);
    if (match) return { page, params: Object.fromEntries(names.map((name, index) => [name, decode(match[index + 1])])) };
  }
  return null;
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * What a page gets:
 *   api            the calls, see api.js; pass `{ signal: ctx.signal }` so that they end with the page
 *   me             { actor, role, authentication }
 *   about          what GET /v1/about says
 *   actor()        the name in which changes are asked for
 *   can(role)      whether the caller's role suffices
 *   query          the parameters behind the `?` of the route
 *   href(change)   the address of this page with some of them changed; null takes one away
 *   setQuery(change)  the same, put into the address without rendering anew
 *   go(route)      goes elsewhere
 *   on(names, act) events of the server, see live.js, until the page is left
 *   every(ms, act) repeats, but not while nobody looks, until the page is left
 *   title(text)    the title of the document
 *   signal         aborted when the page is left
 */
function contextOf(path, query) {
  const ending = new AbortController();
  const ctx = {
    api,
    me,
    about,
    query,
    actor: () => me.actor ?? chosenName() ?? "dashboard",
    signal: ending.signal,
    can: (role) => ROLES.indexOf(me.role) >= ROLES.indexOf(role),
    href: (change) => `#${path}${changed(query, change)}`,
    setQuery: (change) => {
      const text = changed(query, change);
      for (const [name, value] of Object.entries(change)) value === null ? query.delete(name) : query.set(name, value);
      history.replaceState(null, "", `#${path}${text}`);
    },
    go: (route) => {
      location.hash = route.replace(/^#/, "");
    },
    on: (names, act) => ending.signal.addEventListener("abort", live.on(names, (event) => ending.signal.aborted || act(event))),
    every: (ms, act) => {
      const timer = setInterval(() => document.hidden || act(), ms);
      ending.signal.addEventListener("abort", () => clearInterval(timer));
    },
    title: (text) => {
      pageTitle = text;
      drawTitle();
    },
  };
  return { ctx, end: () => ending.abort() };
}

/** How many things need somebody stands first, so that a tab in the background tells it. */
function drawTitle() {
  const many = needed ? `(${needed}) ` : "";
  document.title = `${many}${pageTitle} · LockBay${about?.environment ? ` ${about.environment}` : ""}`;
}

function changed(query, change) {
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(change)) value === null || value === undefined ? next.delete(name) : next.set(name, value);
  const text = next.toString();
  return text ? `?${text}` : "";
}

async function route() {
  if (!me) return;
  const { path, query } = whereWeAre();
  const previous = current;
  current?.end();
  if (previous?.cleanup) previous.cleanup();
  const main = at("main");
  const found = find(path);
  const { ctx, end } = contextOf(path, query);
  const mine = (current = { end, path, cleanup: null });
  mark(path);
  closeMenu();
  // A change of filters or tabs is no new page: focus and place stay.
  const samePage = previous?.path === path;
  if (!found) {
    ctx.title("Not found");
    fill(main, h("div.page", h("h1", "There is no such page"), h("p", h("a", { href: "#/" }, "Go to the overview"))));
    return;
  }
  const root = h("div.page");
  const focused = samePage ? document.activeElement?.dataset.key : null;
  if (!samePage) {
    // A dialog is about the page that it was opened on.
    closeDialogs();
    fill(main, h("div.page", skeleton(6)));
  }
  try {
    const module = await moduleOf(found.page);
    if (current !== mine) return;
    const title = typeof module.title === "function" ? module.title(found.params) : module.title;
    ctx.title(title);
    fill(main, root);
    const cleanup = await module.render(root, found.params, ctx);
    if (current !== mine) return cleanup?.();
    mine.cleanup = cleanup ?? null;
    if (focused && document.activeElement === document.body) root.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    if (!samePage) {
      window.scrollTo(0, 0);
      announce(title);
      if (previous) main.focus({ preventScroll: true });
    }
  } catch (error) {
    if (current !== mine || error.name === "AbortError") return;
    console.error(error);
    fill(main, h("div.page", failure(error, route)));
  }
}

async function moduleOf(page) {
  try {
    return (await page.load()).default;
  } catch (cause) {
    console.error(cause);
    throw new ApiError(0, null, "This page could not be fetched: is the server running?");
  }
}

/** Pages are there before they are needed: a server that went away is no reason not to look around. */
function fetchPages() {
  for (const page of PAGES) page.load().catch(() => {});
}

// Navigation

const shown = (page) => page.label && !missing.has(page.route) && (!page.need || ROLES.indexOf(me.role) >= ROLES.indexOf(page.need));

function drawNavigation() {
  fill(at("nav"), GROUPS.map((group) => {
    const pages = PAGES.filter((page) => page.group === group && shown(page));
    if (pages.length === 0) return null;
    return h("div.nav-group", group && h("h2", group), h("ul", pages.map((page) =>
      h("li", h("a", { href: `#${page.route}`, "data-route": page.route, title: page.key ? `g ${page.key}` : null }, page.label, h("span.count", { "data-count": page.route, hidden: true }))))));
  }), h("footer.nav-foot", { id: "nav-foot" }, about && [h("span", `${about.instance_name ?? about.instance_id.slice(0, 8)}`), h("span.faint", `v${about.version} · ${about.store}`)]));
  mark(whereWeAre().path);
}

function mark(path) {
  const links = [...document.querySelectorAll("#nav a[data-route]")];
  const fits = (route) => (route === "/" ? path === "/" : path === route || path.startsWith(`${route}/`));
  for (const link of links) {
    if (fits(link.dataset.route)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** A number beside an entry of the navigation; none for zero. */
export function setCount(route, value, tone) {
  const element = document.querySelector(`[data-count="${route}"]`);
  if (!element) return;
  element.hidden = !value;
  element.textContent = value || "";
  element.className = `count${tone ? ` tone-${tone}` : ""}`;
}

async function probe() {
  await Promise.all(PAGES.filter((page) => page.probe && shown(page)).map(async (page) => {
    const [path, query] = page.probe.split("?");
    try {
      if ((await api.maybe(path, { query: Object.fromEntries(new URLSearchParams(query)), quiet401: true })) === null) missing.add(page.route);
    } catch (error) {
      if (error.status === 403) missing.add(page.route);
    }
  }));
  drawNavigation();
}

/** What needs somebody is counted beside the navigation, wherever one is. */
async function count() {
  if (!me || document.hidden) return;
  const quietly = (promise) => promise.catch(() => null);
  const [parked, alerts, approvals] = await Promise.all([
    quietly(api.get("v1/sagas", { query: { status: "parked", page_size: 100 } })),
    quietly(api.get("v1/alerts", { query: { state: "firing" } })),
    missing.has("/approvals") ? null : quietly(api.maybe("v1/approvals", { query: { status: "waiting", page_size: 100 } })),
  ]);
  const size = (page) => (page ? (page.next_page_token ? `${page.items.length}+` : page.items.length) : 0);
  needed = [parked, alerts, approvals].reduce((sum, page) => sum + (page?.items.length ?? 0), 0);
  drawTitle();
  setCount("/sagas", size(parked), "bad");
  setCount("/alerts", size(alerts), "bad");
  setCount("/approvals", size(approvals), "warn");
}

// Around the page

const CONNECTION = {
  live: ["Live", "ok", "Events arrive as they happen."],
  connecting: ["Connecting", "quiet", "Connecting to the server's events."],
  polling: ["Polling", "warn", "The stream of events is broken; pages ask every 10 seconds."],
  paused: ["Paused", "quiet", "Nobody was looking, so nothing was fetched."],
  lost: ["No connection", "bad", "The server does not answer; it is asked again and again. What is shown is from before."],
  offline: ["Offline", "bad", "The server does not let us listen."],
};

function environmentTone(name) {
  if (/^(prod|production|live)/i.test(name)) return "production";
  if (/^(stag|pre|uat|canary)/i.test(name)) return "staging";
  return "other";
}

/** On an open server nobody is known; whoever changes something may still say who it was. */
function chosenName() {
  try {
    return localStorage.getItem("lockbay.actor");
  } catch {
    return null;
  }
}

async function chooseName() {
  await formDialog({
    title: "Who are you?",
    body: "This server has no tokens, so it knows nobody: whoever reaches it may do everything. What you change is entered into the audit trail under this name, which proves nothing.",
    fields: [{ name: "name", label: "Your name", value: chosenName() ?? "", max: 64 }],
    submit: ({ name }) => {
      try {
        localStorage.setItem("lockbay.actor", name);
      } catch {
        // It lasts as long as the page.
      }
      actAs(name);
    },
  });
  drawBar();
}

function drawBar() {
  const environment = about?.environment;
  const element = at("environment");
  element.hidden = !environment;
  element.textContent = environment ?? "";
  document.documentElement.dataset.environment = environment ? environmentTone(environment) : "none";
  fill(at("menu"), icon("menu"));
  const open = me.authentication === "none";
  const label = [h("span.role-text", me.actor ?? (open ? chosenName() || "open access" : "")), h("span.role-name", me.role)];
  fill(at("who"), open
    ? h("button.role", { type: "button", title: "This server has no tokens yet: whoever reaches it may do everything. Say who you are.", onclick: chooseName }, label)
    : h("span.role", { title: `Known by a ${me.authentication}` }, label),
  me.authentication === "session" && h("button.icon-button", { type: "button", "aria-label": "Log out", title: "Log out", onclick: leave }, icon("out")));
  drawTheme();
}

async function leave() {
  try {
    await logOut();
  } catch (error) {
    return toast(error.message, "bad");
  }
  showLogin("You are logged out.");
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function drawTheme() {
  const dark = isDark();
  const element = at("theme");
  fill(element, icon(dark ? "sun" : "moon"));
  element.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
  element.title = element.getAttribute("aria-label");
}

function toggleTheme() {
  const next = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("lockbay.theme", next);
  } catch {
    // It lasts as long as the page.
  }
  drawTheme();
  dispatchEvent(new Event("themechange"));
}

const closeDialogs = () => document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());

function closeMenu() {
  document.body.classList.remove("menu-open");
  at("menu").setAttribute("aria-expanded", "false");
}

// Search

let searching = null;

async function search(text) {
  searching?.abort();
  const found = at("found");
  if (text.length < 2) {
    found.hidden = true;
    return;
  }
  const mine = (searching = new AbortController());
  try {
    const page = await api.maybe("v1/search", { query: { q: text, page_size: 12 }, signal: mine.signal });
    if (mine.signal.aborted) return;
    found.hidden = false;
    if (page === null) return void fill(found, byId(text));
    fill(found, page.items.length === 0 ? h("p.faint", "Nothing found.") : page.items.map((item) =>
      h("a", { href: `#/${item.kind}s/${encodeURIComponent(item.id)}` }, h("span.kind", item.kind), h("span.grow", item.name, item.key && h("span.faint", ` ${item.key}`)), statusBadge(item.status), time(item.created_at))));
  } catch (error) {
    if (mine.signal.aborted) return;
    found.hidden = false;
    fill(found, h("p.faint", error.message));
  }
}

/** Without an index an id can still be opened. */
const byId = (text) => ["sagas", "jobs"].map((kind) =>
  h("a", { href: `#/${kind}/${encodeURIComponent(text)}` }, h("span.kind", kind.slice(0, -1)), h("span.grow", "Open by id: ", h("code", text))));

function wireSearch() {
  const input = at("query");
  const found = at("found");
  let waiting;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => search(input.value.trim()), 200);
  });
  at("find").addEventListener("submit", (event) => {
    event.preventDefault();
    found.querySelector("a")?.click();
  });
  at("find").addEventListener("keydown", (event) => {
    const links = [input, ...found.querySelectorAll("a")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      links[(links.indexOf(document.activeElement) + step + links.length) % links.length]?.focus();
    } else if (event.key === "Escape") {
      found.hidden = true;
      input.blur();
    }
  });
  document.addEventListener("click", (event) => {
    if (!at("find").contains(event.target) || event.target.closest("#found a")) found.hidden = true;
  });
}

// Keys

let awaiting = null;

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !me) return;
  if (event.target.closest?.("input, textarea, select, dialog, [contenteditable]")) return;
  if (awaiting) {
    clearTimeout(awaiting);
    awaiting = null;
    const page = PAGES.find((candidate) => candidate.key === event.key && shown(candidate));
    if (page) {
      event.preventDefault();
      location.hash = page.route;
    }
    return;
  }
  switch (event.key) {
    case "g":
      awaiting = setTimeout(() => (awaiting = null), 1_500);
      break;
    case "/":
      event.preventDefault();
      at("query").focus();
      at("query").select();
      break;
    case "?":
      help();
      break;
    case "j":
    case "k":
      step(event.key === "j" ? 1 : -1);
      break;
    default:
  }
}

function step(by) {
  const rows = [...document.querySelectorAll("#main tr.goes")];
  if (rows.length === 0) return;
  const at = rows.indexOf(document.activeElement);
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1);
  rows[next].focus();
  rows[next].scrollIntoView({ block: "nearest" });
}

function help() {
  const row = (name, ...what) => h("div", h("dt", what.flatMap((key) => [h("kbd", key), " "])), h("dd", name));
  formDialog({
    title: "Keyboard shortcuts",
    confirm: "Close",
    body: h("dl.shortcuts", row("Search", "/"), row("Next row", "j"), row("Previous row", "k"), row("Open the row", "Enter"), row("This help", "?"),
      PAGES.filter((page) => page.key && shown(page)).map((page) => row(page.label, "g", page.key))),
  });
}

// Beginning

function showLogin(message) {
  live.stop();
  me = null;
  current?.end();
  current = null;
  closeDialogs();
  at("shell").hidden = true;
  const gate = at("gate");
  gate.hidden = false;
  document.title = "Log in · LockBay";
  const input = h("input", { id: "token", name: "token", type: "password", autocomplete: "current-password", spellcheck: "false", placeholder: "lbk_…", required: true, "aria-describedby": "token-hint" });
  const error = h("div.form-error", { role: "alert" });
  const go = h("button.button.primary", { type: "submit" }, h("span", "Log in"));
  const form = h("form.login", { onsubmit: async (event) => {
    event.preventDefault();
    fill(error);
    go.setAttribute("aria-busy", "true");
    try {
      await logIn(input.value.trim());
      await begin();
    } catch (problem) {
      fill(error, problem.status === 401 ? "This token is not known, or it was revoked or has expired." : problem.message);
      input.select();
      input.focus();
    } finally {
      go.removeAttribute("aria-busy");
    }
  } },
  h("div.login-brand", h("span.mark", { "aria-hidden": "true" }), "LockBay"), h("h1", "Log in"), message && h("p.note", message),
  h("label.field", { for: "token" }, h("span.field-label", "Token"), input, h("span.hint", { id: "token-hint" }, "An admin makes tokens with ", h("code", "lockbay token create"), ". The token is not kept: a session is, in a cookie that scripts cannot read.")), error, go);
  fill(gate, form);
  input.focus();
}

async function begin() {
  const session = await whoAmI();
  if (!session) return showLogin();
  me = session;
  actAs(me.authentication === "none" ? chosenName() : null);
  about = await api.maybe("v1/about").catch(() => null);
  at("gate").hidden = true;
  at("shell").hidden = false;
  drawBar();
  drawNavigation();
  live.start(about?.instance_id);
  route();
  await probe();
  count();
  setTimeout(fetchPages, 2_000);
}

function wire() {
  whenUnauthorized(() => me && showLogin("Your session has ended. Log in again to go on where you were."));
  addEventListener("hashchange", route);
  document.addEventListener("keydown", keys);
  at("skip").addEventListener("click", (event) => {
    event.preventDefault();
    at("main").focus();
  });
  at("theme").addEventListener("click", toggleTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawTheme();
    dispatchEvent(new Event("themechange"));
  });
  at("keys").addEventListener("click", help);
  at("keys").title = "Keyboard shortcuts";
  at("menu").addEventListener("click", () => at("menu").setAttribute("aria-expanded", String(document.body.classList.toggle("menu-open"))));
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#nav, #menu")) closeMenu();
  });
  wireSearch();
  live.watch((state) => {
    const [label, tone, why] = CONNECTION[state];
    fill(at("connection"), badge(label, tone, why));
  });
  // Another process may answer by now.
  live.on("gap", async () => {
    about = (await api.maybe("v1/about").catch(() => null)) ?? about;
    if (me) drawNavigation();
  });
  let soon;
  live.on(["saga_parked", "saga_completed", "saga_compensated", "saga_abandoned", "alert_fired", "alert_resolved", "poll"], () => {
    clearTimeout(soon);
    soon = setTimeout(count, 1_000);
  });
  setInterval(count, 30_000);
}

wire();
begin().catch((error) => {
  at("shell").hidden = true;
  const gate = at("gate");
  gate.hidden = false;
  fill(gate, h("div.login", h("div.login-brand", h("span.mark", { "aria-hidden": "true" }), "LockBay"), failure(error, () => location.reload())));
});
