// One state key: its value, where it comes from, on what it depends; and voiding it.

import { ApiError } from "../api.js";
import { askReason, badge, button, copyButton, empty, facts, h, json, load, pageHead, panel, time, toast } from "../ui.js";
import { invalidate } from "./state.js";

export default {
  title: ({ key }) => `State ${key}`,
  render(root, { key }, ctx) {
    const path = `v1/state/${encodeURIComponent(key)}`;
    const refresh = load(root, ctx, async () => {
      const [entry, depends] = await Promise.all([
        ctx.api.get(path, { signal: ctx.signal }).catch((error) => {
          if (error instanceof ApiError && error.status === 404) return null;
          throw error;
        }),
        ctx.api.maybe(`v1/state-dependencies/${encodeURIComponent(key)}`, { signal: ctx.signal }),
      ]);
      return draw(ctx, key, path, entry, depends, () => refresh());
    });
  },
};

function draw(ctx, key, path, entry, depends, refresh) {
  const head = pageHead([h("a.crumb", { href: "#/state" }, "State"), h("span.mono", key), copyButton(key, "the key")], {
    actions: entry && [
      button("Invalidate", { need: "operator", ctx, tone: "danger", onclick: () => voidKey(ctx, key, refresh) }),
      entry.tags.length > 0 && button("Invalidate by tag", { need: "operator", ctx, onclick: async () => (await invalidate(ctx, { tags: entry.tags.join(", ") })) && refresh() }),
    ],
  });
  if (!entry) return [head, h("div.list-body", empty("There is no value under this key", "It was never set, or was deleted or invalidated, or its time to live has passed.", h("a.button", { href: "#/state" }, "All keys")))];
  return [head, h("div.grid", h("div.span-8", json(entry.value, { open: 3, label: "Value" })), h("div.span-4", panel("About it", {}, facts([
    ["Version", h("span.with-copy", h("span.mono", entry.version), copyButton(entry.version, "the version"))],
    ["Written", time(entry.updated_at)],
    ["Expires", entry.expires_at ? time(entry.expires_at) : "never"],
    ["Source", entry.source],
    ["Freshness", entry.stale ? badge("May be old", "warn") : badge("As promised", "ok")],
    ["Tags", entry.tags.length ? entry.tags.map((tag) => h("span.tag", tag)) : h("span.faint", "none")],
    depends && ["Made of", depends.depends_on.map((name) => h("a.tag", { href: `#/state/keys/${encodeURIComponent(name)}` }, name))],
  ]))))];
}

async function voidKey(ctx, key, refresh) {
  const done = await askReason({
    title: "Invalidate this value?",
    body: h("span", h("code", key), " is gone at once, everywhere, with what follows from it by the rules."),
    confirm: "Invalidate",
    danger: true,
    act: ({ reason }) => ctx.api.post("v1/state/invalidate", { keys: [key], reason }),
  });
  if (!done) return;
  toast("The value is invalidated.");
  refresh();
}
