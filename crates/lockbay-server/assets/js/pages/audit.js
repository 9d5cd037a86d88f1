// The audit trail: who did what to what, when and why; and whether it is still as it was sealed.

import { address } from "../api.js";
import { actor, brief } from "../saga-parts.js";
import { badge, button, empty, facts, fill, formDialog, h, icon, id, json, listView, pageHead, panel, shortId, time, toast } from "../ui.js";

const PAGE_SIZE = 100;
const VERIFY_MS = 600_000;
const LOOK_EVERY_MS = 4_000;

const FILTERS = [
  { name: "entity", label: "Entity", placeholder: "saga/* or job/ID", width: 22 },
  { name: "actor", label: "Actor", placeholder: "ann" },
  { name: "action", label: "Action", placeholder: "step_skipped" },
  { name: "from", label: "From", type: "datetime-local" },
  { name: "until", label: "Until", type: "datetime-local" },
];

/** A local time as the server takes it. */
const instant = (text) => (text ? new Date(text).toISOString() : undefined);

/** Where an entity has a page of its own. */
function entityLink(entity) {
  const at = entity.indexOf("/");
  const [kind, name] = [entity.slice(0, at), entity.slice(at + 1)];
  const pages = { saga: "/sagas/", job: "/jobs/", schedule: "/schedules/", "alert-rule": "/alerts/rules/" };
  const shown = h("span.entity", h("span.faint", `${kind}/`), shortId(name, 10));
  if (kind === "movement" && name.includes("/")) return h("a.nowrap", { href: `#/sagas/${encodeURIComponent(name.split("/")[0])}`, title: entity }, shown);
  return pages[kind] ? h("a.nowrap", { href: `#${pages[kind]}${encodeURIComponent(name)}`, title: entity }, shown) : h("span.nowrap", { title: entity }, shown);
}

export default {
  title: "Audit",
  async render(root, _params, ctx) {
    const verdict = h("div", { role: "status" });
    let newest = "";
    const queryOf = (values) => ({ ...values, from: instant(values.from), until: instant(values.until) });
    const view = listView(ctx, {
      fetch: async (values, page_token) => {
        const page = await ctx.api.get("v1/audit", { query: { ...queryOf(values), page_size: PAGE_SIZE, page_token }, signal: ctx.signal });
        if (!page_token) newest = keyOf(page.items[0]);
        return page;
      },
      filters: FILTERS,
      caption: "Audit entries",
      key: keyOf,
      onRow: (entry) => showEntry(ctx, entry),
      nothing: empty("No entries", "The audit trail is off, or nothing has changed yet."),
      columns: [
        { label: "When", render: (entry) => time(entry.at) },
        { label: "Who", render: (entry) => actor(entry.actor) },
        { label: "What", render: (entry) => h("code.event", entry.action) },
        { label: "To what", render: (entry) => entityLink(entry.entity) },
        { label: "Why, and what else", grow: true, render: (entry) => (entry.reason ? h("q", entry.reason) : entry.detail ? brief(entry.detail) : "") },
        { label: "Sealed", hide: "narrow", render: (entry) => h("span.faint.nowrap", entry.sealed_by ? `#${entry.sealed_by}` : "not yet") },
      ],
    });
    ctx.every(LOOK_EVERY_MS, async () => {
      if (view.rows().length > PAGE_SIZE || ctx.query.get("until")) return;
      try {
        const values = Object.fromEntries(FILTERS.map(({ name }) => [name, ctx.query.get(name)]));
        const page = await ctx.api.get("v1/audit", { query: { ...queryOf(values), page_size: 1 }, signal: ctx.signal });
        if (keyOf(page.items[0]) !== newest) view.refresh();
      } catch {
        // The connection above says that the server does not answer.
      }
    });
    const verify = async () => {
      fill(verdict, panel("Verification", {}, h("p.note", "Going through the whole log…")));
      const found = await ctx.api.get("v1/audit/verify", { patience: VERIFY_MS, signal: ctx.signal }).catch((error) => {
        fill(verdict);
        throw error;
      });
      fill(verdict, verdictPanel(found));
    };
    const actions = [button("Verify", { tone: "primary", onclick: verify, title: "Goes through the whole log: every seal, signature and link." }), exportLink(ctx)];
    root.append(pageHead("Audit", { note: "Every change, entered in the commit of the change itself and sealed by the instance that leads.", actions }), verdict, view.element);
  },
};

const keyOf = (entry) => (entry ? `${entry.revision}/${entry.index}` : "");

/** The export of what the filter of time names, as a file. */
function exportLink(ctx) {
  if (!ctx.can("operator")) return button("Export…", { need: "operator", ctx });
  const act = () => formDialog({
    title: "Export the audit trail",
    body: h("p", "JSON lines with entries, seals and a signed last line; “lockbay audit verify FILE” checks the file anywhere. Bounds are widened to whole seals."),
    fields: [
      { name: "from", label: "From", type: "datetime-local", value: ctx.query.get("from") ?? "" },
      { name: "until", label: "Until", type: "datetime-local", value: ctx.query.get("until") ?? "" },
    ],
    confirm: "Download",
    submit: async ({ from, until }) => {
      const link = h("a", { href: address("v1/audit/export", { from: instant(from), until: instant(until) }).href, download: `audit-${new Date().toISOString().slice(0, 10)}.jsonl` });
      document.body.append(link);
      link.click();
      link.remove();
      return true;
    },
  });
  return button("Export…", { onclick: act });
}

function verdictPanel(found) {
  const result = found.ok ? badge("As it was sealed", "ok") : badge("Not as it was sealed", "bad");
  const problems = found.problems.map((problem) => h("li", h("strong", problem.problem), h("span.faint", [problem.checkpoint && ` checkpoint ${problem.checkpoint}`, problem.revision && ` revision ${problem.revision}`])));
  return panel(h("span.title-line", "Verification", result), { label: "Verification", tone: found.ok ? "ok" : "bad" },
    problems.length > 0 && [h("p", "Somebody changed the log, or the store is damaged. Keep the store as it is, export what is there, and see the runbook audit_broken."), h("ul.problems", problems), found.more_problems > 0 && h("p.bad", `and ${found.more_problems} more`)],
    facts([
      ["Entries", `${found.entries}, ${found.unsealed} of them not sealed yet`],
      ["Checkpoints", found.checkpoints],
      ["Newest seal", found.newest_hash ? h("span.with-copy", h("span.nowrap", `#${found.newest_checkpoint}`), id(found.newest_hash, null, { head: 12 })) : "none yet"],
      ["Public key", found.public_key ? id(found.public_key, null, { head: 12 }) : "none yet"],
      ["Key", found.key_outside_of_store ? "of the setting; the store does not know it" : "of the store: who can read the store can seal anew"],
      ["Took", `${found.took_ms} ms`],
    ]),
    found.newest_hash && h("p.note", "Keep number and hash of the newest seal elsewhere: then nobody can set the log back unnoticed."));
}

/** One entry with all it says, and its proof. */
function showEntry(ctx, entry) {
  const place = h("div");
  const prove = async () => {
    try {
      const proof = await ctx.api.get("v1/audit/proof", { query: { revision: entry.revision, index: entry.index } });
      const url = URL.createObjectURL(new Blob([JSON.stringify(proof)], { type: "application/json" }));
      const link = h("a.button.small", { href: url, download: `proof-${entry.revision}.json` }, icon("external"), "Download the proof");
      fill(place, json(proof, { label: "Proof", open: 1 }), link);
    } catch (error) {
      toast(error.status === 409 ? "It is not sealed yet; that takes a few seconds." : error.message, "warn");
    }
  };
  const about = facts([
    ["When", h("span", entry.at)],
    ["Who", actor(entry.actor)],
    ["What", h("code.event", entry.action)],
    ["To what", h("code.wrap", entry.entity)],
    entry.reason && ["Why", h("q", entry.reason)],
    ["Revision", id(entry.revision, null, { head: 24 })],
    entry.request_id && ["Request", id(entry.request_id, null, { head: 12 })],
    entry.previous && ["Entry before it", h("code", entry.previous)],
    entry.digest && ["Digest of the record", id(entry.digest, null, { head: 16 })],
    ["Sealed by", entry.sealed_by ? `checkpoint ${entry.sealed_by}` : "none yet"],
  ]);
  return formDialog({
    title: "Audit entry",
    wide: true,
    confirm: "Close",
    body: [about, entry.detail !== null && json(entry.detail, { label: "Detail", open: 3 }), h("div.actions", button("Prove it", { small: true, onclick: prove, title: "The way of this entry to the root of its seal" })), place],
  });
}
