// The page that shows the OpenAPI document of the server that it comes from. Everything is of that
// server: the page asks nobody else for anything.

import { make, prose } from "./element.js";
import { operationView, operationsOf } from "./operation.js";

const main = document.getElementById("main");
const search = document.getElementById("search");
const list = document.getElementById("operations");
const found = document.getElementById("found");

start();

async function start() {
  colours();
  try {
    const answer = await fetch(new URL("openapi.json", document.baseURI));
    if (!answer.ok) throw new Error(`the server answered with status ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    main.replaceChildren(
      make("h1", {}, "The document cannot be read"),
      make("p", { role: "alert" }, `openapi.json: ${error.message}. Load the page again.`),
    );
  }
}

function show(root) {
  document.getElementById("version").textContent = root.info.version;
  const operations = operationsOf(root);
  const links = listOperations(root, operations);
  const narrow = () => filter(links);
  search.addEventListener("input", narrow);
  narrow();
  const open = (moved) => openOperation(root, operations, links, moved);
  window.addEventListener("hashchange", () => open(true));
  document.addEventListener("keydown", (event) => onKey(event, links, narrow));
  open(false);
}

/** A link for each operation, by tags. */
function listOperations(root, operations) {
  const links = [];
  const about = new Map((root.tags ?? []).map((tag) => [tag.name, tag.description]));
  for (const tag of new Set(operations.map((one) => one.tag))) {
    const rows = operations.filter((one) => one.tag === tag).map((one) => {
      const { id, path, method, operation } = one;
      const link = make("a", { href: `#${encodeURIComponent(id)}` },
        make("span", { class: `method ${method}` }, method), " ", path,
        make("small", {}, operation.summary ?? ""));
      const row = make("li", {}, link);
      const text = `${method} ${path} ${id} ${operation.summary ?? ""} ${operation.description ?? ""} ${tag}`;
      links.push({ id, row, link, text: text.toLowerCase() });
      return row;
    });
    const heading = make("h2", { title: about.get(tag) }, tag);
    list.append(make("section", {}, heading, make("ul", {}, rows)));
  }
  return links;
}

/** Every word that is looked for must be there. */
function filter(links) {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { row, text } of links) {
    row.hidden = !wanted.every((word) => text.includes(word));
    count += row.hidden ? 0 : 1;
  }
  for (const section of list.children) {
    section.hidden = ![...section.querySelectorAll("li")].some((row) => !row.hidden);
  }
  found.textContent = wanted.length ? `${count} of ${links.length} operations` : `${links.length} operations`;
}

function openOperation(root, operations, links, moved) {
  const id = decodeURIComponent(location.hash.slice(1));
  if (id === "main") return;
  const one = operations.find((operation) => operation.id === id);
  for (const { id: of, link } of links) {
    if (of === id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(...(one ? operationView(root, one) : overview(root, id)));
  document.title = one ? `${one.operation.summary ?? id} – LockBay HTTP API` : "LockBay HTTP API";
  links.find((link) => link.id === id)?.link.scrollIntoView?.({ block: "nearest" });
  if (moved) {
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

function overview(root, id) {
  const missing = id ? [make("p", { role: "alert" }, `There is no operation ${id}.`)] : [];
  return [make("h1", {}, root.info.title, " HTTP API"), ...missing, ...prose(root.info.description)];
}

function onKey(event, links, narrow) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const shown = links.filter(({ row }) => !row.hidden).map(({ link }) => link);
  const at = shown.indexOf(document.activeElement);
  const inSearch = document.activeElement === search;
  if (event.key === "/" && !inSearch) {
    search.focus();
  } else if (event.key === "Escape" && (inSearch || at >= 0)) {
    search.value = "";
    narrow();
    search.focus();
  } else if (event.key === "ArrowDown" && (inSearch || at >= 0)) {
    shown[Math.min(at + 1, shown.length - 1)]?.focus();
  } else if (event.key === "ArrowUp" && at >= 0) {
    (shown[at - 1] ?? search).focus();
  } else if (event.key === "Enter" && inSearch) {
    shown[0]?.click();
  } else {
    return;
  }
  event.preventDefault();
}

/** The button that changes between light and dark; what was chosen is kept by the browser. */
function colours() {
  const button = document.getElementById("theme");
  const page = document.documentElement;
  const kept = (() => { try { return localStorage.getItem("lockbay-docs-theme"); } catch { return null; } })();
  if (kept === "light" || kept === "dark") page.dataset.theme = kept;
  const prefers = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (page.dataset.theme ?? (prefers.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = isDark() ? "Light colours" : "Dark colours"; };
  label();
  prefers.addEventListener("change", label);
  button.addEventListener("click", () => {
    page.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("lockbay-docs-theme", page.dataset.theme); } catch { /* it is not kept then */ }
    label();
  });
}
