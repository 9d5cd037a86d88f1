// Approvals: calls that move much money and wait for a second person.

import { amount, askReason, badge, button, empty, fill, formDialog, h, id, json, listView, money, pageHead, statusBadge, time, toast, words } from "../ui.js";

const STATUSES = ["waiting", "approved", "done", "failed", "rejected", "expired"];

export default {
  title: "Approvals",
  render(root, _params, ctx) {
    const above = limits(ctx.about?.four_eyes_above);
    const list = listView(ctx, {
      fetch: ({ status }, page_token) => ctx.api.get("v1/approvals", { query: { status, page_token }, signal: ctx.signal }),
      filters: [{ name: "status", label: "Status", type: "select", options: [["", "any"], ...STATUSES.map((name) => [name, name])] }],
      columns: [
        { label: "Status", render: (one) => (one.status === "waiting" ? badge("Waiting", "warn") : statusBadge(one.status, one.decision_reason ?? one.outcome)) },
        { label: "What", grow: true, render: (one) => what(one) },
        { label: "Amount", align: "end", render: (one) => money(one.amount, one.currency) },
        { label: "Asked by", render: (one) => one.asked_by ?? h("span.faint", "unknown") },
        { label: "Asked", render: (one) => time(one.asked_at) },
        { label: "Until", render: (one) => (one.status === "waiting" ? time(one.expires_at) : h("span", time(one.decided_at), one.decided_by && h("span.faint", ` by ${one.decided_by}`))) },
        { label: "Id", hide: "narrow", render: (one) => id(one.approval_id) },
        { label: "", align: "end", render: (one) => one.status === "waiting" && h("span.actions.end",
          button("Approve", { small: true, need: "operator", ctx, ...second(ctx, one), onclick: () => decide(ctx, one, "approve", list) }),
          button("Reject", { small: true, tone: "danger", need: "operator", ctx, onclick: () => decide(ctx, one, "reject", list) })) },
      ],
      onRow: (one) => formDialog({ title: "What was asked", wide: true, confirm: "Close", body: json(one, { open: 3 }) }),
      key: (one) => one.approval_id,
      nothing: empty("Nothing waits for a second person", above ? `Calls that move more than ${above} stand here until somebody else has approved them.` : "Set four_eyes_above, and calls that move more than that stand here until somebody else has approved them."),
      caption: "Approvals",
    });
    fill(root, pageHead("Approvals", { note: above ? `What moves more than ${above} needs a second person.` : "What moves much money needs a second person." }), list.element);
    ctx.every(10_000, list.refresh);
  },
};

/** `USD:10000,*:5000` as people read it. */
function limits(setting) {
  const parts = (setting ?? "").split(",").map((part) => part.trim().split(":")).filter(([currency, most]) => currency && most);
  return parts.map(([currency, most]) => (currency === "*" ? `${amount(most)} of any other currency` : amount(most, currency))).join(", ");
}

/** Whoever asked is not the second person. */
const second = (ctx, one) => (one.asked_by && one.asked_by === ctx.me.actor ? { disabled: true, title: "You asked for this; somebody else has to approve it." } : {});

const what = (one) => h("span", h("b", words(one.verb)), " ", one.subject, one.reason && h("span.todo", one.reason));

async function decide(ctx, one, verb, list) {
  const approve = verb === "approve";
  const done = await askReason({
    title: approve ? "Approve this?" : "Reject this?",
    body: [approve ? "It is carried out at once, as it was asked." : "It is not carried out, and whoever asked is told so.", json(one.request ?? one, { open: 2 })],
    confirm: approve ? "Approve" : "Reject",
    danger: !approve,
    act: async ({ reason }) => (await ctx.api.post(`v1/approvals/${encodeURIComponent(one.approval_id)}/${verb}`, { reason })) ?? true,
  });
  if (!done) return;
  toast(approve ? "It is approved." : "It is rejected.");
  list.refresh();
}
