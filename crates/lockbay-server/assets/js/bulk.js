// One decision about many: what is chosen, a dry run that says what it would be about, and only then
// the decision, with what came of each.

import { ApiError, segment } from "./api.js";
import { button, fill, formDialog, h, number, statusBadge, toast } from "./ui.js";

/** How many are decided upon in one call. */
const CALL_SIZE = 100;
/** Where a run over everything that matches ends: nobody decides on more in one go. */
const MOST = 10_000;
/** How many are named in a dialog. */
const NAMED = 12;

const plural = (count, noun) => (count === 1 ? `1 ${noun}` : `${number(count)} ${noun}s`);

/**
 * Rows that can be chosen. Gives `{ column, bar, clear }`: the column of boxes for a table, and the bar
 * above it with `choices(rows)` buttons.
 */
export function selection(idOf, labelOf, buttons) {
  const chosen = new Map();
  const bar = h("div.bulk", { role: "group", "aria-label": "Decide on many" });
  const draw = () => {
    const rows = [...chosen.values()];
    fill(bar, rows.length > 0 && [h("strong", `${number(rows.length)} selected`), button("Clear", { small: true, tone: "plain", onclick: clear })], buttons(rows));
  };
  const box = (row) => {
    const key = idOf(row);
    if (chosen.has(key)) chosen.set(key, row);
    const input = h("input", { type: "checkbox", "aria-label": `Select ${labelOf(row)}`, "data-key": `select-${key}`, "data-select": key });
    input.checked = chosen.has(key);
    input.addEventListener("click", (event) => event.stopPropagation());
    input.addEventListener("change", () => {
      if (input.checked) chosen.set(key, row);
      else chosen.delete(key);
      draw();
    });
    return h("label.select", { onclick: (event) => event.stopPropagation() }, input);
  };
  function clear() {
    chosen.clear();
    for (const input of document.querySelectorAll("input[data-select]")) input.checked = false;
    draw();
  }
  draw();
  return { column: { label: "Select", render: box }, bar, clear, draw };
}

/**
 * Asks for a decision about many and takes it. `verbs` are those of `decisions.js` that can be taken
 * about many; `rows` those that were selected, or nothing if all are meant that match `filter`.
 */
export async function decideOnMany(ctx, { noun, path, idOf, verbs, rows, filter, stepVerbs }) {
  const wish = await ask(ctx, { noun, path, verbs, rows, filter, stepVerbs });
  if (!wish) return false;
  const verb = wish.verb;
  const outcome = await formDialog({
    title: `${verb.label}: ${plural(wish.count, noun)}${wish.more ? " or more" : ""}`,
    body: [h("p", verb.does), whatIsMeant(wish.named, wish.count), h("p.note", `Reason: ${wish.reason}`)],
    confirm: `${verb.label} ${plural(wish.count, noun)}`,
    tone: verb.danger ? "danger" : "primary",
    wide: true,
    submit: () => (rows ? decideOnEach(ctx, { path, idOf, rows, wish }) : decideOnAll(ctx, { path, filter, wish })),
  });
  if (!outcome) return false;
  await report(outcome, verb, noun);
  return true;
}

/** Which decision, why, and what it would be about. */
function ask(ctx, { noun, path, verbs, rows, filter, stepVerbs = {} }) {
  const all = { ...verbs, ...stepVerbs };
  const fields = [
    { name: "decision", label: "Decision", type: "select", value: Object.keys(all)[0], options: Object.entries(all).map(([name, verb]) => [name, name in stepVerbs ? `${verb.label} one step` : verb.label]) },
    Object.keys(stepVerbs).length > 0 && { name: "step", label: "Step", hint: `For ${Object.values(stepVerbs).map((verb) => verb.label.toLowerCase()).join(" and ")}: the name of the step.` },
    { name: "reason", label: "Reason", type: "textarea", rows: 2, required: true, max: 1_000, hint: "Kept in the audit trail of each, with your name." },
  ].filter(Boolean);
  return formDialog({
    title: rows ? `Decide on ${plural(rows.length, `selected ${noun}`)}` : `Decide on all ${noun}s that match`,
    body: h("p", "Nothing is decided yet: the dry run shows what is meant."),
    fields,
    confirm: "Dry run",
    submit: async ({ decision, step, reason }) => {
      const verb = all[decision];
      const about = decision in stepVerbs ? step : undefined;
      if (decision in stepVerbs && !step) throw Object.assign(new Error("Name the step."), { field: "step" });
      if (rows) {
        const fitting = rows.filter((row) => decision in stepVerbs || verb.fits(row));
        if (fitting.length === 0) throw new Error(`None of them can be decided upon so: ${verb.does}`);
        return { verb, decision, step: about, reason, count: fitting.length, named: fitting, rows: fitting };
      }
      const body = { decision, step: about, filter, reason, dry_run: true, limit: 1_000 };
      const found = await call(ctx, path, body);
      const named = found.would_operate ?? [];
      if (named.length === 0) throw new Error("Nothing matches the filters any more.");
      return { verb, decision, step: about, reason, count: named.length, named, more: Boolean(found.next_page_token) };
    },
  });
}

async function call(ctx, path, body) {
  try {
    return await ctx.api.post(`${path}/bulk`, body, { patience: 120_000 });
  } catch (error) {
    if (error instanceof ApiError && (error.status === 404 || error.status === 405)) throw new Error("This server takes no decision about all that match; select them one by one.");
    throw error;
  }
}

const whatIsMeant = (named, count) =>
  h("ul.meant", named.slice(0, NAMED).map((row) => h("li", h("code", row.saga_id ?? row.job_id), " ", statusBadge(row.status))), count > NAMED && h("li.faint", `and ${number(count - NAMED)} more`));

async function decideOnEach(ctx, { path, idOf, wish }) {
  const outcome = { operated: 0, refused: [] };
  for (const row of wish.rows) {
    const behind = wish.step ? `steps/${segment(wish.step)}/${wish.decision}` : wish.decision;
    try {
      await ctx.api.post(`${path}/${segment(idOf(row))}/${behind}`, { reason: wish.reason });
      outcome.operated += 1;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status === 0 || error.status === 401) throw error;
      outcome.refused.push({ id: idOf(row), detail: error.message });
    }
  }
  return outcome;
}

async function decideOnAll(ctx, { path, filter, wish }) {
  const outcome = { operated: 0, refused: [] };
  let token;
  do {
    const body = { decision: wish.decision, step: wish.step, filter, reason: wish.reason, limit: CALL_SIZE, page_token: token };
    const page = await call(ctx, path, body);
    if (page.approval_id) return { ...outcome, approval: page.approval_id };
    outcome.operated += page.operated.length;
    outcome.refused.push(...page.refused.map((one) => ({ id: one.saga_id ?? one.job_id, detail: one.detail })));
    token = page.next_page_token ?? undefined;
  } while (token && outcome.operated + outcome.refused.length < MOST);
  return { ...outcome, more: Boolean(token) };
}

async function report(outcome, verb, noun) {
  if (outcome.approval) return toast("A second person has to approve this; see Approvals.", "info");
  const done = `${verb.label}: decided on ${plural(outcome.operated, noun)}.`;
  if (outcome.refused.length === 0 && !outcome.more) return toast(done);
  await formDialog({
    title: `${plural(outcome.operated, noun)} decided upon, ${number(outcome.refused.length)} refused`,
    body: [
      outcome.more && h("p", "There are more that match: decide again to go on."),
      h("ul.meant", outcome.refused.slice(0, 50).map((one) => h("li", h("code", one.id), " ", one.detail))),
    ],
    confirm: "Close",
    wide: true,
  });
}
