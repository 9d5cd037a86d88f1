// State: values by prefix, what follows from their changes, and voiding many at once.

import { askReason, bytes, button, confirm, empty, fill, formDialog, h, listView, number, pageHead, tabs, time, toast } from "../ui.js";

export default {
  title: "State",
  render(root, _params, ctx) {
    const [bar, chosen] = tabs(ctx, "tab", [["keys", "Keys"], ["rules", "Rules"]]);
    const body = h("div.stack");
    const actions = chosen === "keys"
      ? button("Invalidate", { need: "operator", ctx, tone: "danger", onclick: async () => (await invalidate(ctx)) && list?.refresh() })
      : button("New rule", { need: "operator", ctx, iconName: "plus", onclick: async () => (await putRule(ctx)) && list?.refresh() });
    fill(root, pageHead("State", { note: "Values with versions and tags, and what follows from their changes.", actions }), bar, body);
    const list = chosen === "keys" ? keys(ctx) : rules(ctx, () => list.refresh());
    body.append(list.element);
  },
};

function keys(ctx) {
  return listView(ctx, {
    fetch: ({ prefix }, page_token) => ctx.api.get("v1/state", { query: { prefix, page_token, page_size: 100 }, signal: ctx.signal }),
    filters: [{ name: "prefix", label: "Keys that begin with", placeholder: "user/", width: 36 }],
    columns: [
      { label: "Key", grow: true, mono: true, render: (entry) => h("a", { href: keyHref(entry.key) }, entry.key) },
      { label: "Tags", render: (entry) => entry.tags.map((tag) => h("span.tag", tag)) },
      { label: "Source", hide: "narrow", render: (entry) => entry.source ?? "" },
      { label: "Size", align: "end", render: (entry) => bytes(entry.bytes) },
      { label: "Written", render: (entry) => time(entry.updated_at) },
      { label: "Expires", hide: "narrow", render: (entry) => (entry.expires_at ? time(entry.expires_at) : h("span.faint", "never")) },
    ],
    href: (entry) => keyHref(entry.key),
    nothing: empty("No state yet", h("span", "Put a value with ", h("code", "PUT /v1/state/{key}"), " or ", h("code", "lockbay state set"), ".")),
    caption: "State keys",
  });
}

const keyHref = (key) => `#/state/keys/${encodeURIComponent(key)}`;

/** One of a pattern, tags or keys; and why. */
export function invalidate(ctx, { pattern = "", tags = "" } = {}) {
  return askReason({
    title: "Invalidate values",
    body: "What matches is gone at once, everywhere, together with what follows from it by the rules. Values are loaded or set anew when they are needed.",
    confirm: "Invalidate",
    danger: true,
    fields: [
      { name: "pattern", label: "Keys by a pattern", value: pattern, placeholder: "user/7/*", hint: "* is any text, ? any character." },
      { name: "tags", label: "Values with one of these tags", value: tags, placeholder: "user:7, profiles", hint: "With commas between." },
    ],
    act: async ({ pattern: glob, tags: names, reason }) => {
      const list = names.split(",").map((tag) => tag.trim()).filter(Boolean);
      if (!glob && list.length === 0) throw Object.assign(new Error("Name a pattern or a tag; nothing was done."), { field: "pattern" });
      const done = await ctx.api.post("v1/state/invalidate", { reason, ...(glob ? { pattern: glob } : {}), ...(list.length ? { tags: list } : {}) });
      toast(told(done));
      return done;
    },
  });
}

const told = ({ invalidated }) => (Array.isArray(invalidated) ? `Invalidated ${number(invalidated.length)} keys.` : `Invalidated: ${number(invalidated)}.`);

function rules(ctx, refresh) {
  return listView(ctx, {
    fetch: (_filters, page_token) => ctx.api.get("v1/state-rules", { query: { page_token }, signal: ctx.signal }),
    columns: [
      { label: "Rule", render: (rule) => rule.name },
      { label: "When this changes", render: (rule) => h("code", rule.update_pattern) },
      { label: "this is invalidated", grow: true, render: (rule) => rule.invalidate_patterns.map((pattern) => h("span.tag", pattern)) },
      { label: "", align: "end", render: (rule) => h("span.actions.end", button("Change", { small: true, need: "operator", ctx, onclick: async () => (await putRule(ctx, rule)) && refresh() }),
        button("Delete", { small: true, tone: "danger", need: "operator", ctx, onclick: async () => (await deleteRule(ctx, rule)) && refresh() })) },
    ],
    key: (rule) => rule.name,
    nothing: empty("No rules", "A rule says which values are void when another changes."),
    caption: "State rules",
  });
}

function putRule(ctx, rule) {
  return formDialog({
    title: rule ? `Change ${rule.name}` : "New state rule",
    confirm: rule ? "Change the rule" : "Put the rule",
    fields: [
      ...(rule ? [] : [{ name: "name", label: "Name", required: true }]),
      { name: "update_pattern", label: "When a key like this changes", required: true, value: rule?.update_pattern, placeholder: "user:{id}", hint: "A name in braces stands for one part, and can be used below." },
      { name: "invalidate_patterns", label: "invalidate keys like these", type: "textarea", required: true, value: rule?.invalidate_patterns.join("\n"), placeholder: "user_cache:{id}:*", hint: "One on each line." },
    ],
    submit: async ({ name = rule?.name, update_pattern, invalidate_patterns }) => {
      const put = await ctx.api.put(`v1/state-rules/${encodeURIComponent(name)}`, { update_pattern, invalidate_patterns: invalidate_patterns.split("\n").map((line) => line.trim()).filter(Boolean) });
      toast(`The rule ${name} holds from now on.`);
      return put;
    },
  });
}

async function deleteRule(ctx, rule) {
  const body = h("span", "Changes of ", h("code", rule.update_pattern), " invalidate nothing by it any more. What was cached may then be shown although it is old.");
  const done = await confirm({ title: `Delete the rule ${rule.name}?`, body, confirm: "Delete it", danger: true, act: () => ctx.api.delete(`v1/state-rules/${encodeURIComponent(rule.name)}`) });
  if (done) toast(`The rule ${rule.name} is deleted.`);
  return done;
}
