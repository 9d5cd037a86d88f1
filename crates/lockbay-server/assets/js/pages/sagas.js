// Sagas: which need a person, which are on their way, and which have ended.

import { decideOnMany, selection } from "../bulk.js";
import { SAGA_VERBS, STEP_VERBS } from "../decisions.js";
import { hasSearch } from "../features.js";
import { latestOfEach } from "../latest.js";
import { button, duration, empty, h, icon, id, listView, pageHead, statusBadge, time, words } from "../ui.js";

const PAGE_SIZE = 50;
/** Lists change without an event when a saga starts or takes a step, so the first page is asked for again. */
const LOOK_EVERY_MS = 2_000;
/** So many parked sagas are looked at, and there may be more. */
const PARKED_COUNTED = 25;
/** How many steps are drawn one by one. */
const SEGMENTS = 30;

/** What the list without a status shows. */
const LATEST = { open: ["parked", "compensating", "running", "pending"], ended: ["compensated", "abandoned", "completed"], endOf: (saga) => saga.ended_at };

const STATUSES = ["", "parked", "running", "compensating", "pending", "completed", "compensated", "abandoned"];
const AGES = [["", "Any age"], ["60", "Older than 1 min"], ["600", "Older than 10 min"], ["3600", "Older than 1 h"], ["86400", "Older than 1 d"], ["604800", "Older than 7 d"]];

const FILTERS = [
  { name: "status", label: "Status", type: "select", options: STATUSES.map((status) => [status, status ? words(status) : "Latest of each"]) },
  { name: "saga_name", label: "Name", placeholder: "order" },
  { name: "step", label: "Step", placeholder: "charge", width: 12 },
  { name: "older_than_seconds", label: "Age", type: "select", options: AGES },
];
/** By these a list can be searched and nothing can be decided upon: what is found is no list to go by. */
const SEARCHES = [
  { name: "q", label: "Words in it", placeholder: "ann@example.com", width: 20 },
  { name: "key", label: "Idempotency key", placeholder: "order-17", width: 14 },
];

/** A segment for each step, by its status. */
export function progress(steps) {
  const done = steps.filter((step) => step.status === "completed" || step.status === "skipped").length;
  const label = `${done} of ${steps.length} steps done`;
  return h("span.progress", { role: "img", "aria-label": label, title: label },
    steps.slice(0, SEGMENTS).map((step) => h("i", { class: `status-${step.status}`, title: `${step.name}: ${words(step.status).toLowerCase()}` })),
    steps.length > SEGMENTS && h("span.faint", `+${steps.length - SEGMENTS}`));
}

/** What is in the way, or what is being done. */
export function whereItStands(saga) {
  if (saga.reason) return saga.reason;
  const now = saga.steps.filter((step) => ["running", "compensating", "unknown"].includes(step.status));
  if (now.length === 0) return "";
  const waits = now.find((step) => step.next_retry_at && step.error);
  return waits ? `${waits.name}: ${waits.error}` : now.map((step) => step.name).join(", ");
}

const clipped = (text) => text && h("span.clip", { title: text }, text);

/** From the beginning to the end, or to now. */
const took = (saga) => duration(new Date(saga.ended_at ?? Date.now()) - new Date(saga.created_at));

const address = (saga) => `#/sagas/${encodeURIComponent(saga.saga_id)}`;

export default {
  title: "Sagas",
  async render(root, _params, ctx) {
    const filters = (await hasSearch()) ? [SEARCHES[0], ...FILTERS, SEARCHES[1]] : FILTERS;
    const filter = () => Object.fromEntries(filters.map(({ name }) => [name, ctx.query.get(name)]).filter(([, value]) => value));
    const decide = async (rows) => {
      const wanted = rows ? undefined : bulkFilter(filter());
      const decided = await decideOnMany(ctx, {
        noun: "saga", path: "v1/sagas", idOf: (saga) => saga.saga_id, verbs: SAGA_VERBS, rows, filter: wanted, stepVerbs: { retry: STEP_VERBS.retry, skip: STEP_VERBS.skip },
      });
      if (decided) {
        chosen.clear();
        view.refresh();
      }
    };
    const chosen = selection((saga) => saga.saga_id, (saga) => `${saga.saga_name} ${saga.saga_id}`, (rows) => {
      if (rows.length > 0) return button("Decide on selected…", { small: true, need: "operator", ctx, onclick: () => decide(rows) });
      const chosenBy = Object.keys(filter());
      const listed = chosenBy.length > 0 && !SEARCHES.some(({ name }) => chosenBy.includes(name));
      return listed && button("Decide on all that match…", { small: true, tone: "plain", need: "operator", ctx, onclick: () => decide() });
    });
    let seen = "";
    let more = false;
    const page = (values, page_token) => {
      if (!values.status && !values.q && !values.key) return latestOfEach(ctx, "v1/sagas", values, LATEST);
      return ctx.api.get("v1/sagas", { query: { ...values, page_size: PAGE_SIZE, page_token }, signal: ctx.signal });
    };
    const fetch = async (values, page_token) => {
      const found = await page(values, page_token);
      if (!page_token) seen = JSON.stringify(found.items);
      more = Boolean(found.more);
      return found;
    };
    const view = listView(ctx, {
      fetch,
      filters,
      caption: "Sagas",
      href: address,
      key: (saga) => saga.saga_id,
      tone: (saga) => (saga.status === "parked" ? "bad" : ""),
      above: (rows) => (chosen.draw(), [parkedFirst(rows, ctx), chosen.bar, more && h("p.thin.faint", "The latest of each status. Choose one to see all of it.")]),
      nothing: empty("No sagas yet", "A saga is started with POST /v1/sagas, or by a service that has LockBay built in.", h("code", "lockbay saga start FILE")),
      columns: [
        chosen.column,
        { label: "Status", render: (saga) => statusBadge(saga.status) },
        { label: "Saga", render: (saga) => h("span.named", h("a.strong.wrap", { href: address(saga) }, saga.saga_name), id(saga.saga_id)) },
        { label: "Steps", render: (saga) => progress(saga.steps) },
        { label: "Where it stands", grow: true, render: (saga) => clipped(whereItStands(saga)) },
        { label: "Started", render: (saga) => time(saga.created_at) },
        { label: "Took", align: "end", hide: "narrow", render: (saga) => h("span.figure", took(saga)) },
      ],
      refreshOn: ["saga_completed", "saga_compensated", "saga_parked", "saga_abandoned"],
    });
    const look = async () => {
      if (ctx.query.get("status") && view.rows().length > PAGE_SIZE) return;
      try {
        const found = await page(filter());
        if (JSON.stringify(found.items) !== seen) view.refresh();
      } catch {
        // The connection above says that the server does not answer.
      }
    };
    ctx.every(LOOK_EVERY_MS, look);
    root.append(pageHead("Sagas", { note: "Steps that are done together, or undone together." }), view.element);
  },
};

/** Where somebody is needed is said before everything else. */
function parkedFirst(rows, ctx) {
  const parked = rows.filter((saga) => saga.status === "parked");
  if (parked.length === 0 || ctx.query.get("status")) return null;
  const many = parked.length === 1 ? "A saga needs a person" : `${parked.length < PARKED_COUNTED ? parked.length : `${parked.length} or more`} sagas need a person`;
  return h("div.strip.tone-bad", icon("warn"), h("strong", many), h("span.clip", parked[0].reason), h("a", { href: ctx.href({ status: "parked" }) }, "Show them"));
}

/** The filter as a decision about many takes it. */
function bulkFilter({ older_than_seconds, ...rest }) {
  return older_than_seconds ? { ...rest, older_than_seconds: Number(older_than_seconds) } : rest;
}
