// The ledger: whether it balances, what a user has, money that came in, and the latest movements.
// Amounts are text from the server and stay text: nothing here adds or rounds.

import { segment } from "../api.js";
import { legs } from "../saga-parts.js";
import { badge, button, empty, facts, failure, fill, formDialog, h, id, load, money, pageHead, panel, table, time, toast, words } from "../ui.js";

const LATEST = 15;
const LOOK_EVERY_MS = 5_000;

export default {
  title: "Ledger",
  async render(root, _params, ctx) {
    const balance = h("div");
    const account = h("div");
    const saga = h("div");
    const latest = h("div.ledger-movements");
    const trialAgain = load(balance, ctx, async () => trialPanel(await ctx.api.get("v1/ledger/trial-balance", { signal: ctx.signal, patience: 120_000 }), () => trialAgain()));
    const latestAgain = load(latest, ctx, () => latestPanel(ctx));
    const accountAgain = () => showAccount(account, ctx);
    const deposit = () => makeDeposit(ctx, async (done) => {
      ctx.setQuery({ user: done.user_id, currency: done.currency });
      root.querySelector("[name=user]").value = done.user_id;
      root.querySelector("[name=currency]").value = done.currency;
      await Promise.all([accountAgain(), trialAgain(), latestAgain()]);
    });
    accountAgain();
    showMovements(saga, ctx);
    ctx.every(LOOK_EVERY_MS, () => {
      latestAgain();
      if (ctx.query.get("user")) showAccount(account, ctx, true);
    });
    root.append(
      pageHead("Ledger", { note: "Users' money, exactly, in movements that come to zero.", actions: button("Deposit…", { need: "operator", ctx, onclick: deposit }) }),
      balance,
      h("div.split",
        h("div.main-column", latest),
        h("div.side-column",
          panel("Account of a user", {}, lookUp(ctx, [["user", "User", "ann"], ["currency", "Currency", "USD"]], "Look up", accountAgain), account),
          panel("Movements of a saga", {}, lookUp(ctx, [["saga", "Saga or escrow id", ""]], "Show", () => showMovements(saga, ctx)), saga))),
    );
  },
};

/** A small form whose values are kept in the address. */
function lookUp(ctx, names, label, act) {
  const inputs = names.map(([name, text, placeholder]) =>
    h("label.filter", h("span", text), h("input", { name, value: ctx.query.get(name) ?? "", placeholder, autocomplete: "off", spellcheck: "false", size: name === "currency" ? 4 : 11 })));
  const submit = (event) => {
    event.preventDefault();
    for (const [name] of names) ctx.setQuery({ [name]: event.target.elements[name].value.trim() || null });
    act();
  };
  return h("form.filters", { onsubmit: submit }, inputs, button(label, { type: "submit" }));
}

async function showAccount(place, ctx, quiet) {
  const user = ctx.query.get("user");
  const currency = ctx.query.get("currency")?.toUpperCase();
  if (!user || !currency) return fill(place, h("p.note", "Name a user and a currency."));
  try {
    const found = await ctx.api.get(`v1/ledger/accounts/${segment(user)}`, { query: { currency }, signal: ctx.signal });
    fill(place, facts([
      ["Available", h("strong.large", money(found.available, found.currency))],
      ["Held", money(found.held, found.currency)],
    ]));
  } catch (error) {
    if (ctx.signal.aborted || (quiet && error.status === 0)) return;
    fill(place, failure(error));
  }
}

async function showMovements(place, ctx) {
  const saga_id = ctx.query.get("saga");
  if (!saga_id) return fill(place, h("p.note", "Name a saga. An escrow has the id of the saga that made it."));
  try {
    const found = await ctx.api.get("v1/ledger/postings", { query: { saga_id, page_size: 100 }, signal: ctx.signal });
    const link = h("p", h("a", { href: `#/sagas/${encodeURIComponent(saga_id)}` }, "To the saga"));
    fill(place, found.items.length > 0 ? [link, ...found.items.map(movementCard)] : empty("No movements", "This saga has moved no money."));
  } catch (error) {
    if (ctx.signal.aborted) return;
    fill(place, failure(error));
  }
}

const movementCard = (movement) => h("div.movement", h("div", h("strong", words(movement.kind)), " ", h("span.faint", movement.reference?.step ?? ""), " ", time(movement.at)), legs(movement));

function trialPanel(trial, again) {
  const off = trial.currencies.filter((row) => !/^-?0*\.?0*$/.test(row.sum));
  const columns = [
    { label: "Currency", render: (row) => h("strong", row.currency) },
    { label: "Available to users", align: "end", render: (row) => money(row.available) },
    { label: "Held for users", align: "end", render: (row) => money(row.held) },
    { label: "In escrow", align: "end", render: (row) => money(row.escrow) },
    { label: "Outside", align: "end", render: (row) => money(row.external) },
    { label: "Sum", align: "end", render: (row) => h("strong", { class: off.includes(row) ? "bad" : "" }, money(row.sum)) },
  ];
  const verdict = trial.balanced ? badge("Balanced", "ok") : badge("Unbalanced", "bad");
  const note = h("span", "all accounts at one moment, ", time(trial.at), ", up to commit ", h("code", trial.as_of));
  return panel(h("span.title-line", "Trial balance", verdict), { note, flush: true, label: "Trial balance", tone: trial.balanced ? null : "bad", actions: button("Take again", { small: true, iconName: "refresh", onclick: again }) },
    !trial.balanced && h("p.padded.bad", "Accounts do not come to zero: that is a defect or a damaged store. Stop payouts, and see the runbook in docs/operations.md."),
    table(columns, trial.currencies, { caption: "Trial balance", key: (row) => row.currency, empty: empty("No money yet", "A deposit brings the first.") }));
}

/** The latest movements of all, as the audit trail has them. */
async function latestPanel(ctx) {
  const page = await ctx.api.get("v1/audit", { query: { entity: "movement/*", page_size: LATEST }, signal: ctx.signal });
  const columns = [
    { label: "When", render: (entry) => time(entry.at) },
    { label: "Movement", render: (entry) => h("strong", words(entry.detail?.kind ?? entry.action)) },
    { label: "Saga", render: (entry) => (entry.detail?.saga_id ? id(entry.detail.saga_id, `#/sagas/${encodeURIComponent(entry.detail.saga_id)}`, { copy: false }) : h("span.faint", "none")) },
    { label: "Accounts and amounts", grow: true, render: (entry) => (entry.detail?.legs ? legs(entry.detail) : "") },
  ];
  return panel("Latest movements", { note: "from the audit trail", flush: true }, table(columns, page.items, { caption: "Latest movements", key: (entry) => entry.entity, empty: empty("No movements", "Either no money has moved yet, or the audit trail is off.") }));
}

/** A deposit under one key: confirmed twice, it is made once. */
function makeDeposit(ctx, after) {
  const key = crypto.randomUUID ? crypto.randomUUID() : `dashboard-${Date.now()}`;
  return formDialog({
    title: "Deposit",
    body: h("p", "Money that came in from outside. With the same key the same deposit is made once, however often it is sent."),
    fields: [
      { name: "user_id", label: "User", required: true, value: ctx.query.get("user") ?? "" },
      { name: "amount", label: "Amount", required: true, placeholder: "100.00", hint: "Exactly as written; nothing is rounded." },
      { name: "currency", label: "Currency", required: true, value: ctx.query.get("currency") ?? "", placeholder: "USD" },
      { name: "key", label: "Idempotency key", required: true, value: key, hint: "Use the id of the payment at your provider, if there is one." },
    ],
    confirm: "Make deposit",
    submit: async ({ user_id, amount, currency, key: given }) => {
      const body = { user_id, amount, currency: currency.toUpperCase() };
      const done = await ctx.api.post("v1/ledger/deposits", body, { headers: { "idempotency-key": given } });
      if (done.approval_id) toast("A second person has to approve this; see Approvals.", "info");
      else {
        toast(`${done.user_id} has ${done.available} ${done.currency} available.`);
        await after(done);
      }
      return done;
    },
  });
}

