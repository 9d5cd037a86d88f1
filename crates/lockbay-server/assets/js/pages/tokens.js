// Tokens: who may do what. A token is shown once, when it is made.

import { askReason, badge, button, copyButton, empty, fill, formDialog, h, id, listView, pageHead, statusBadge, time, toast } from "../ui.js";

const ROLES = [["viewer", "viewer: sees everything"], ["operator", "operator: changes things"], ["admin", "admin: tokens and cleanup rules as well"]];

export default {
  title: "Tokens",
  render(root, _params, ctx) {
    const open = ctx.me.authentication === "none";
    const list = listView(ctx, {
      fetch: (_filters, page_token) => ctx.api.get("v1/tokens", { query: { page_token }, signal: ctx.signal }),
      columns: [
        { label: "Name", grow: true, render: (token) => h("b", token.name) },
        { label: "Role", render: (token) => badge(token.role, { admin: "bad", operator: "warn" }[token.role] ?? "quiet") },
        { label: "Status", render: (token) => statusBadge(token.status ?? "active", token.reason) },
        { label: "Id", render: (token) => id(token.token_id) },
        { label: "Made", hide: "narrow", render: (token) => h("span", time(token.created_at), token.created_by && h("span.faint", ` by ${token.created_by}`)) },
        { label: "Last used", render: (token) => (token.last_used_at ? time(token.last_used_at) : h("span.faint", "never")) },
        { label: "Expires", render: (token) => (token.expires_at ? time(token.expires_at) : h("span.faint", "never")) },
        { label: "", align: "end", render: (token) => (token.status ?? "active") === "active" && button("Revoke", { small: true, tone: "danger", need: "admin", ctx, onclick: () => revoke(ctx, token, list) }) },
      ],
      key: (token) => token.token_id,
      nothing: empty("There are no tokens yet", "Whoever reaches this server may do everything. Make an admin token, and it is closed to all who have none."),
      caption: "Tokens",
    });
    fill(root, pageHead("Tokens", { note: "Who may do what. Only a digest of each is kept.", actions: button("New token", { need: "admin", ctx, tone: "primary", iconName: "plus", onclick: () => create(ctx, list, open) }) }),
      open && h("section.callout.tone-warn", h("div", h("strong", "This server is open. "), "The first admin token closes it: from then on everybody needs one, this page included.")), list.element);
  },
};

async function create(ctx, list, first) {
  const made = await formDialog({
    title: "New token",
    confirm: "Make it",
    body: first ? "The first token of a store is an admin token. Keep it well: with it you make the others." : null,
    fields: [
      { name: "name", label: "Name", required: true, max: 128, placeholder: "who or what uses it", hint: "The audit trail calls them so." },
      { name: "role", label: "Role", type: "select", value: first ? "admin" : "viewer", options: ROLES },
      { name: "days", label: "Expires after so many days", type: "number", hint: "Never, if nothing is said." },
    ],
    submit: ({ name, role, days }) => ctx.api.post("v1/tokens", { name, role, ...(days ? { expires_in_seconds: days * 86_400 } : {}) }),
  });
  if (!made) return;
  await formDialog({
    title: "Copy the token now",
    confirm: "I have kept it",
    body: [h("p", "It is shown this once. Whoever has it has the role ", h("b", made.role), "."), h("div.secret", h("code", made.token), copyButton(made.token, "the token")),
      first && h("p", "From now on this server asks for a token. Log in with this one.")],
  });
  if (first) location.reload();
  else list.refresh();
}

async function revoke(ctx, token, list) {
  const done = await askReason({ title: `Revoke ${token.name}?`, body: "Whoever uses it is refused within seconds, and so are the sessions that began with it. It cannot be undone.", confirm: "Revoke", danger: true,
    act: async ({ reason }) => (await ctx.api.delete(`v1/tokens/${encodeURIComponent(token.token_id)}`, { query: { reason } })) ?? true });
  if (!done) return;
  toast(`${token.name} is revoked.`);
  list.refresh();
}
