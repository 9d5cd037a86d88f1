// One saga, followed as it goes: what is wrong and what can be done about it first, then its steps,
// what happened to it, and who decided what.

import { segment } from "../api.js";
import { decideOnSaga, decideOnStep, ENDED, goesBack, SAGA_VERBS, STEP_VERBS } from "../decisions.js";
import { drawSteps } from "../graph.js";
import { button, duration, facts, failure, fill, h, id, json, pageHead, panel, skeleton, statusBadge, time, words } from "../ui.js";
import { callout, countdown, historyTable, length, movements, stepPanel, trail } from "../saga-parts.js";

/** A saga tells of no single step, so it is asked while it moves; what rests is asked now and then. */
const MOVING_MS = 700;
const RESTING_MS = 5_000;
/** What stands left and right of the graph. */
const PADDING = 28;
/** How many entries of a history are read. */
const MOST_HISTORY = 5_000;
const EVENTS = ["saga_completed", "saga_compensated", "saga_parked", "saga_abandoned", "session_taken_over"];

export default {
  title: ({ saga_id }) => `Saga ${saga_id.slice(0, 8)}`,
  async render(root, { saga_id }, ctx) {
    const path = `v1/sagas/${segment(saga_id)}`;
    const view = makeView(root);
    let saga = null;
    let shown = "";
    let past = "";
    let pastAt = 0;
    let handlers = null;
    let handlersAt = 0;

    const draw = () => {
      ctx.title(`${saga.saga_name} ${saga_id.slice(0, 8)}`);
      const chosen = chosenStep(saga, ctx.query.get("step"));
      keepFocus(root, () => {
        view.head.replaceChildren(head(saga, ctx, again));
        fill(view.trouble, trouble(saga, ctx, again), waiting(saga, handlers));
        fill(view.graph, graph(saga, chosen, ctx, view.graph.clientWidth));
        // What can be done about a parked step stands above already.
        fill(view.step, chosen && stepPanel(chosen, chosen.status === "parked" ? null : stepActions(saga, chosen, ctx, again)));
        fill(view.facts, sagaFacts(saga));
        fill(view.context, contextOf(saga));
      });
    };
    const again = async () => {
      const next = await ctx.api.get(path, { signal: ctx.signal });
      const text = JSON.stringify(next);
      const changed = text !== shown;
      if (changed) {
        shown = text;
        saga = next;
        draw();
      }
      if (await handlersAgain()) draw();
      // Seals come to entries without a change of the saga.
      if (changed || Date.now() - pastAt >= RESTING_MS) await pastAgain();
    };
    /** Who is known for the steps that are on their way; gives whether that changed what is shown. */
    const handlersAgain = async () => {
      const lacking = () => lacks(saga, handlers).map((step) => step.name).join();
      const before = lacking();
      const unknown = onTheirWay(saga).some((step) => !handlers?.has(handlerOf(step)));
      if (unknown && Date.now() - handlersAt >= RESTING_MS) {
        handlersAt = Date.now();
        const found = await all(ctx, "v1/handlers").catch(() => null);
        handlers = found && !found.more ? new Map(found.items.map((handler) => [handler.name, handler])) : null;
      }
      return lacking() !== before;
    };
    const pastAgain = async () => {
      pastAt = Date.now();
      const [history, audit, postings] = await Promise.all([
        all(ctx, `${path}/history`),
        ctx.api.maybe("v1/audit/history", { query: { entity: `saga/${saga_id}`, page_size: 100 }, signal: ctx.signal }).catch(() => null),
        ctx.api.get("v1/ledger/postings", { query: { saga_id, page_size: 100 }, signal: ctx.signal }).catch(() => null),
      ]);
      const nothing = whyNothing(saga, handlers);
      const text = JSON.stringify([history, audit?.items, postings?.items, nothing, saga.steps.map((step) => step.next_retry_at)]);
      if (text === past) return;
      past = text;
      fill(view.history, historyTable(history.items, { more: history.more, steps: saga.steps, nothing }));
      fill(view.movements, movements(postings?.items ?? []));
      fill(view.audit, audit && trail(audit, saga_id));
    };

    try {
      await again();
    } catch (error) {
      if (ctx.signal.aborted) return;
      fill(root, h("header.page-head", h("h1", "Saga")), failure(error, () => location.reload()));
      return;
    }
    follow(ctx, () => saga, again);
    const onResize = () => draw();
    addEventListener("resize", onResize);
    return () => removeEventListener("resize", onResize);
  },
};

/** The parts of the page, each drawn anew by itself. */
function makeView(root) {
  const part = (name) => h(`div.${name}`);
  const view = { head: part("saga-head"), trouble: part("saga-trouble"), graph: part("graph-wrap"), step: part("saga-step"), facts: part("saga-facts"),
    context: part("saga-context"), history: part("saga-history"), movements: part("saga-movements"), audit: part("saga-audit") };
  view.graph.tabIndex = 0;
  view.graph.setAttribute("role", "region");
  view.graph.setAttribute("aria-label", "Steps");
  fill(view.graph, skeleton(3));
  root.append(view.head, view.trouble,
    h("div.split", h("div.main-column", panel("Steps", { note: legend(), flush: true }, view.graph), view.step, view.history, view.movements), h("div.side-column", view.facts, view.context)),
    view.audit);
  return view;
}

const legend = () => h("span.legend", h("i.forward", { "aria-hidden": "true" }), "depends on", h("i.back", { "aria-hidden": "true" }), "undone in this direction");

/** The pages of a list that begins with the oldest, as far as anybody reads. */
async function all(ctx, path) {
  let items = [];
  let page_token;
  do {
    const page = await ctx.api.get(path, { query: { page_size: 1_000, page_token }, signal: ctx.signal });
    items = items.concat(page.items);
    page_token = page.next_page_token ?? undefined;
  } while (page_token && items.length < MOST_HISTORY);
  return { items, more: Boolean(page_token) };
}

function keepFocus(root, act) {
  const key = root.contains(document.activeElement) ? document.activeElement.closest("[data-key]")?.dataset.key : null;
  const open = [...root.querySelectorAll("details[open][data-key]")].map((element) => element.dataset.key);
  act();
  for (const each of open) root.querySelector(`details[data-key="${CSS.escape(each)}"]`)?.setAttribute("open", "");
  if (key) root.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** Asks again as often as the saga moves, and when an event names it. */
function follow(ctx, saga, again) {
  let last = Date.now();
  const ask = async () => {
    last = Date.now();
    try {
      await again();
    } catch {
      // What is shown stays; the connection above says that the server does not answer.
    }
  };
  ctx.every(MOVING_MS, () => {
    const resting = ENDED.has(saga().status) || saga().status === "parked";
    if (Date.now() - last >= (resting ? RESTING_MS : MOVING_MS) - 50) ask();
  });
  ctx.on([...EVENTS, "poll"], (event) => (event.data.saga_id === undefined || event.data.saga_id === saga().saga_id) && ask());
}

/** The step that is shown: the one asked for, else the one that somebody should look at. */
function chosenStep(saga, wanted) {
  const asked = saga.steps.find((step) => step.name === wanted);
  if (asked) return asked;
  for (const status of ["parked", "unknown", "failed", "compensating", "running"]) {
    const found = saga.steps.find((step) => step.status === status);
    if (found) return found;
  }
  return saga.steps.at(-1);
}

function withKey(element, key) {
  element.dataset.key = key;
  return element;
}

function head(saga, ctx, again) {
  const verbs = Object.entries(SAGA_VERBS).filter(([, verb]) => verb.fits(saga));
  const actions = verbs.map(([name, verb]) =>
    withKey(button(`${verb.label}…`, { need: "operator", ctx, tone: name === "resume" ? "primary" : "", onclick: () => decideOnSaga(ctx, name, saga, again) }), `verb-${name}`));
  const title = h("span.title-line", h("span.wrap", saga.saga_name), statusBadge(saga.status));
  return pageHead(title, { note: h("span.note-line", id(saga.saga_id, null, { head: 32 }), h("span", "started ", time(saga.created_at)), saga.ended_at && h("span", "ended ", time(saga.ended_at))), actions });
}

/** What is in the way, and what a person can do about it. */
function trouble(saga, ctx, again) {
  if (saga.status !== "parked") {
    if (!saga.reason || saga.status === "completed") return null;
    return callout("warn", saga.status === "compensating" ? "It goes back" : words(saga.status), h("p", saga.reason));
  }
  const stuck = saga.steps.filter((step) => step.status === "parked");
  return callout("bad", `This saga needs a person${goesBack(saga) ? ", on its way back" : ""}`,
    h("p", saga.reason),
    h("p.note", "Find out what the world is like, then decide. Nothing is done until you do, and no deadline runs."),
    stuck.map((step) => h("div.stuck", h("strong", step.name), h("div.actions", stepActions(saga, step, ctx, again, "stuck")))));
}

const goesBackWith = (step) => step.status === "compensating";
const handlerOf = (step) => (goesBackWith(step) && step.compensation_handler) || step.handler;

/** The steps that should be done or undone now, of which no attempt has ended yet. */
const onTheirWay = (saga) =>
  (ENDED.has(saga.status) ? [] : saga.steps.filter((step) => (step.status === "running" && step.attempts === 0) || (goesBackWith(step) && step.compensation_attempts === 0)));

/** Those of them for whose handler nobody is known; none while that has not been asked. */
const lacks = (saga, handlers) => (handlers ? onTheirWay(saga).filter((step) => !handlers.has(handlerOf(step))) : []);

/** What a saga waits for that somebody else has to bring. */
function waiting(saga, handlers) {
  const steps = lacks(saga, handlers);
  return steps.length > 0 && callout("warn", steps.length === 1 ? "It waits for a handler" : "It waits for handlers", steps.map((step) =>
    h("p", "Nobody is known here for ", h("code", handlerOf(step)), `, which ${goesBackWith(step) ? "undoes" : "does"} the step ${step.name}. It is waited for as long as one attempt may take, ${duration(step.timeout_seconds * 1_000)}.`)));
}

/** Why the history of a saga is empty. */
function whyNothing(saga, handlers) {
  const first = onTheirWay(saga);
  const [steps, are, wait] = first.length > 1 ? ["the first steps", "are", "wait"] : ["the first step", "is", "waits"];
  if (lacks(saga, handlers).length > 0) return `${steps} ${wait} for a handler`;
  const polled = first.some((step) => handlers?.get(handlerOf(step))?.kind === "pull");
  return `${steps} ${are} on ${first.length > 1 ? "their" : "its"} way${polled ? `, or ${wait} for a worker that takes it` : ""}`;
}

function stepActions(saga, step, ctx, again, place = "step") {
  if (ENDED.has(saga.status)) return [];
  return Object.entries(STEP_VERBS).filter(([, verb]) => verb.fits(step)).map(([name, verb]) =>
    withKey(button(`${verb.label}…`, { small: true, need: "operator", ctx, title: verb.does, onclick: () => decideOnStep(ctx, name, saga, step, again) }), `${place}-${step.name}-${name}`));
}

function graph(saga, chosen, ctx, width) {
  const href = (step) => ctx.href({ step: step.name });
  const drawn = drawSteps(saga.steps, { href, chosen: chosen?.name, room: width - PADDING });
  for (const node of drawn.querySelectorAll("[data-step]")) {
    node.dataset.key = `node-${node.dataset.step}`;
    const step = saga.steps.find((each) => each.name === node.dataset.step);
    if (step.next_retry_at) node.querySelector(".more").replaceChildren(countdown(step.next_retry_at, { svg: true }));
  }
  return drawn;
}

function sagaFacts(saga) {
  const counts = new Map();
  for (const step of saga.steps) counts.set(step.status, (counts.get(step.status) ?? 0) + 1);
  return panel("Saga", {}, facts([
    ["Status", statusBadge(saga.status)],
    ["Steps", [...counts].map(([status, count]) => `${count} ${words(status).toLowerCase()}`).join(", ")],
    ["Started", time(saga.created_at)],
    ["Last change", time(saga.updated_at)],
    saga.ended_at ? ["Took", length(saga.created_at, saga.ended_at)] : ["Deadline", saga.status === "parked" ? "does not run while parked" : countdown(saga.deadline)],
    ["Fencing token", id(saga.fencing_token, null, { head: 24 })],
    ["Executed under", id(saga.session, `#/audit?entity=${encodeURIComponent(`session/${saga.session}`)}`, { head: 24 })],
  ]));
}

function contextOf(saga) {
  const isEmpty = (value) => value === null || (typeof value === "object" && Object.keys(value).length === 0);
  const parts = [["Context", saga.context], ["Metadata", saga.metadata]].filter(([, value]) => !isEmpty(value));
  return parts.length > 0 && panel("What it was given", {}, parts.map(([label, value]) => json(value, { label, open: 2 })));
}
