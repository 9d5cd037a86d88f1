// Parts of the page of a saga: a step with all that is known of it, the history, the money it moved,
// and its entries in the audit trail.

import { copyButton, duration, facts, h, icon, id, json, money, panel, shortId, statusBadge, table, time, words } from "./ui.js";

/** What somebody has to see first. */
export const callout = (tone, title, ...body) => h("div.callout", { class: `tone-${tone}` }, icon("warn"), h("div.callout-body", h("strong", title), body));

/** From one moment to another. */
export const length = (from, to) => duration(new Date(to) - new Date(from));

/** How long it is until a moment, and then `past(length)`; kept by the clock of this browser. */
export function countdown(iso, { svg, past = () => "now" } = {}) {
  if (!iso) return h("span.faint", "–");
  const element = svg ? document.createTextNode("") : h("time.figure", { datetime: iso, title: iso });
  const write = () => {
    const left = new Date(iso) - Date.now();
    const length = duration(Math.ceil(Math.abs(left) / 1_000) * 1_000);
    element.textContent = left > 0 ? `in ${length}` : left > -1_000 ? "now" : past(length);
  };
  write();
  const timer = setInterval(() => (element.isConnected ? write() : clearInterval(timer)), 1_000);
  return element;
}

/** When an attempt may begin. Whether it has is not known before it ends. */
export const attemptDue = (iso) => countdown(iso, { past: (length) => `due ${length} ago` });

const OF_DECISIONS = new Set(["cancelled", "resumed", "step_retried", "step_skipped", "step_resolved_done", "step_resolved_undone", "abandoned"]);

/** What happened to these steps, the newest first; `nothing` says why nothing has. */
export function historyTable(entries, { more, steps, nothing }) {
  const newest = [...entries].reverse();
  const isNext = (entry) => steps.some((step) => step.name === entry.step && step.next_retry_at === entry.next_retry_at);
  const columns = [
    { label: "#", align: "end", render: (entry) => h("span.figure", entry.number) },
    { label: "When", render: (entry) => time(entry.at) },
    { label: "What", render: (entry) => h("code.event", { class: toneOfEvent(entry.event) }, entry.event) },
    { label: "Step", render: (entry) => h("span.wrap", entry.step ?? "") },
    { label: "Detail", grow: true, render: (entry) => detailOf(entry, isNext(entry)) },
  ];
  const note = `${entries.length} ${entries.length === 1 ? "entry" : "entries"}${more ? ", and more" : ""}, newest first`;
  return panel("History", { note, flush: true }, table(columns, newest, { caption: "History", key: (entry) => entry.revision, empty: h("p.faint.padded", `Nothing has happened yet: ${nothing}.`) }));
}

function toneOfEvent(event) {
  if (/failed|parked|timed_out|abandoned/.test(event)) return "tone-bad";
  if (/unknown|taken_over|cancelled/.test(event)) return "tone-warn";
  return OF_DECISIONS.has(event) ? "tone-info" : "";
}

function detailOf(entry, isNext) {
  return h("span.detail",
    entry.error && h("span.bad", entry.error),
    entry.actor && h("span", "by ", h("b", entry.actor)),
    entry.reason && h("q", entry.reason),
    entry.next_retry_at && h("span.faint.nowrap", "next attempt ", isNext ? attemptDue(entry.next_retry_at) : `after ${length(entry.at, entry.next_retry_at)}`),
    entry.result !== undefined && entry.result !== null && brief(entry.result));
}

/** A value in a line; the whole of it on hover. */
export function brief(value) {
  const text = JSON.stringify(value);
  return h("code.clip.faint", { title: text.slice(0, 2_000) }, text.length > 120 ? `${text.slice(0, 119)}…` : text);
}

/** A step with all that is known of it. */
export function stepPanel(step, actions) {
  const attempts = `${step.attempts} of ${step.max_retries + 1}`;
  const undone = step.compensation_attempts > 0 && `${step.compensation_attempts} of ${step.compensation_max_retries + 1}`;
  const flags = [step.pivot && "pivot: no way back once it may have happened", !step.idempotent && "not idempotent: probed when in doubt", step.in_doubt && "in doubt: its effect may be there"].filter(Boolean);
  const compensation = step.compensation_handler && step.compensation_handler !== step.handler ? step.compensation_handler : null;
  return panel(h("span.title-line", h("span.wrap", `Step ${step.name}`), statusBadge(step.status)), { actions, label: `Step ${step.name}` },
    facts([
      step.error && ["Last error", h("span", { class: step.status === "completed" || step.status === "compensated" ? "" : "bad" }, step.error)],
      ["Attempts", attempts],
      undone && ["Attempts to undo", undone],
      step.next_retry_at && ["Next attempt", attemptDue(step.next_retry_at)],
      ["Handler", h("code", step.handler)],
      compensation && ["Undone by", h("code", compensation)],
      ["One attempt may take", duration(step.timeout_seconds * 1_000)],
      ["Last change", time(step.updated_at)],
      step.depends_on.length > 0 && ["Depends on", step.depends_on.join(", ")],
      ["Idempotency key", h("span.with-copy", h("code.wrap", step.idempotency_key), copyButton(step.idempotency_key, "the idempotency key"))],
      flags.length > 0 && ["Mind", flags.join("; ")],
    ]),
    h("div.values", json(step.parameters, { label: "Parameters" }), step.result !== null && json(step.result, { label: "Result" }),
      step.compensation_result !== null && json(step.compensation_result, { label: "Result of undoing" })));
}

/** An account of the ledger, with its long parts cut; those of users lead to what they have. */
export function account(name) {
  const short = h("code.account", { title: name }, name.split("/").map((part) => shortId(part, 12)).join("/"));
  const [kind, user, currency] = name.split("/");
  if (kind !== "user") return short;
  return h("a", { href: `#/ledger?user=${encodeURIComponent(user)}&currency=${encodeURIComponent(currency)}` }, short);
}

/** The legs of a movement. */
export const legs = (movement) =>
  h("ul.legs", movement.legs.map((leg) => h("li", account(leg.account), h("span.amounts", money(leg.amount, movement.currency), leg.balance !== undefined && h("span.faint", "→ ", money(leg.balance))))));

/** The money that a saga moved. */
export function movements(items) {
  if (items.length === 0) return null;
  const columns = [
    { label: "When", render: (movement) => time(movement.at) },
    { label: "Movement", render: (movement) => h("strong", words(movement.kind)) },
    { label: "Step", render: (movement) => h("span.wrap", movement.reference?.step ?? "") },
    { label: "Accounts, amounts and what is there afterwards", grow: true, render: legs },
  ];
  return panel("Money moved", { note: `${items.length} ${items.length === 1 ? "movement" : "movements"}`, flush: true }, table(columns, items, { caption: "Movements", key: (movement) => movement.movement_id }));
}

/** The entries of the audit trail about one thing. */
export function trail(page, name, kind = "saga") {
  const columns = [
    { label: "When", render: (entry) => time(entry.at) },
    { label: "Who", render: (entry) => actor(entry.actor) },
    { label: "What", render: (entry) => h("code.event", entry.action) },
    { label: "Why", grow: true, render: (entry) => (entry.reason ? h("q", entry.reason) : "") },
    { label: "Request", hide: "narrow", render: (entry) => id(entry.request_id) },
    { label: "Sealed", hide: "narrow", render: (entry) => (h("span.faint.nowrap", entry.sealed_by ? `#${entry.sealed_by}` : "not yet")) },
  ];
  const link = h("a", { href: `#/audit?entity=${encodeURIComponent(`${kind}/${name}`)}` }, "In the audit trail");
  const nothing = h("p.faint.padded", "No entries: the audit trail is off, or they were let go of.");
  return panel("Who did what", { actions: link, flush: true }, table(columns, page.items, { caption: "Audit entries", key: (entry) => `${entry.revision}/${entry.index}`, empty: nothing }));
}

/** Who did something; an instance by the beginning of its id. */
export const actor = (name) => (/^[0-9a-f]{32}$/.test(name ?? "") ? h("span.faint.nowrap", { title: `The instance ${name}` }, `instance ${name.slice(0, 8)}`) : h("b.wrap", name ?? "–"));
