// Cleanup: what goes after which time, and a run now, which is first only tried.

import { badge, button, bytes, confirm, duration, empty, facts, failure, fill, formDialog, h, listView, number, pageHead, panel, skeleton, stat, table, tabs, toast, words } from "../ui.js";

const SCOPES = "expired_state stale_state leftovers job_results jobs sagas leases history state_keys audit foreign_keys notices dead_notices".split(" ");

export default {
  title: "Cleanup",
  render(root, _params, ctx) {
    const [bar, chosen] = tabs(ctx, "tab", [["rules", "Rules"], ["run", "Run"]]);
    const body = h("div.stack");
    const actions = chosen === "rules"
      ? button("New rule", { need: "admin", ctx, iconName: "plus", onclick: async () => (await putRule(ctx)) && list.refresh() })
      : button("Give memory back", { need: "operator", ctx, title: "Asks the store to give freed room back to the system", onclick: () => optimize(ctx) });
    fill(root, pageHead("Cleanup", { note: "What has ended goes after a while, by rule. The leader does it.", actions }), bar, body);
    const list = chosen === "rules" ? rules(ctx) : null;
    if (list) body.append(list.element);
    else run(body, ctx);
  },
};

function rules(ctx) {
  const list = listView(ctx, {
    fetch: (_filters, page_token) => ctx.api.get("v1/cleanup/rules", { query: { page_token, page_size: 200 }, signal: ctx.signal }),
    columns: [
      { label: "Rule", render: (rule) => rule.name },
      { label: "What", grow: true, render: (rule) => (rule.applies_to ?? []).map((scope) => h("span.tag", words(scope).toLowerCase())) },
      { label: "Pattern", render: (rule) => h("code", rule.pattern) },
      { label: "Kept for", align: "end", render: (rule) => (rule.ttl_seconds ? duration(rule.ttl_seconds * 1_000) : h("span.faint", "as each says")) },
      { label: "When", hide: "narrow", render: (rule) => h("span.nowrap", words(rule.strategy), rule.interval_seconds && h("span.faint", ` every ${duration(rule.interval_seconds * 1_000)}`)) },
      { label: "Priority", align: "end", hide: "narrow", render: (rule) => rule.priority },
      { label: "From", hide: "narrow", render: (rule) => h("span.muted.nowrap", words(rule.origin)) },
      { label: "", align: "end", render: (rule) => h("span.actions.end",
        h("a.button.small", { href: `#/cleanup?tab=run&type=${encodeURIComponent(rule.name)}` }, "Try"),
        button("Change", { small: true, need: "admin", ctx, onclick: async () => (await putRule(ctx, rule)) && list.refresh() }),
        button("Delete", { small: true, tone: "danger", need: "admin", ctx, onclick: async () => (await remove(ctx, rule)) && list.refresh() })) },
    ],
    key: (rule) => rule.name,
    nothing: empty("No rules", "Every built-in rule was deleted, so nothing is cleaned up and the store grows."),
    caption: "Cleanup rules",
  });
  return list;
}

function putRule(ctx, rule) {
  return formDialog({
    title: rule ? `Change ${rule.name}` : "New cleanup rule",
    confirm: rule ? "Change the rule" : "Put the rule",
    tone: "danger",
    body: "What a rule names is deleted when its time has passed, and cannot be brought back. Try it first with a dry run.",
    fields: [
      ...(rule ? [] : [{ name: "name", label: "Name", required: true }]),
      { name: "pattern", label: "Pattern", required: true, value: rule?.pattern ?? "*", hint: "Of the names of things: * is any text, ? any character." },
      { name: "ttl_seconds", label: "Kept for so many seconds", type: "number", required: true, value: rule?.ttl_seconds },
      { name: "applies_to", label: "What", value: (rule?.applies_to ?? []).join(", "), hint: `With commas between: ${SCOPES.join(", ")}.` },
      { name: "strategy", label: "When", type: "select", value: rule?.strategy ?? "batch", options: ["immediate", "batch", "lazy", "never"].map((name) => [name, words(name)]) },
      { name: "batch_size", label: "At most so many in one commit", type: "number", value: rule?.batch_size ?? 200 },
      { name: "priority", label: "Priority", type: "number", value: rule?.priority ?? 50 },
    ],
    submit: async ({ name = rule?.name, applies_to, ...values }) => {
      const { origin: _origin, ...kept } = rule ?? {};
      const scopes = applies_to.split(",").map((scope) => scope.trim()).filter(Boolean);
      const body = { ...kept, ...values, ...(scopes.length ? { applies_to: scopes } : {}) };
      const put = await ctx.api.put(`v1/cleanup/rules/${encodeURIComponent(name)}`, body);
      toast(`The rule ${name} holds from the next cycle on.`);
      return put;
    },
  });
}

async function remove(ctx, rule) {
  const done = await confirm({ title: `Delete the rule ${rule.name}?`, confirm: "Delete it", danger: true, body: "What it named is kept from now on, and the store grows with it.", act: () => ctx.api.delete(`v1/cleanup/rules/${encodeURIComponent(rule.name)}`) });
  if (done) toast(`The rule ${rule.name} is deleted.`);
  return done;
}

// A run

function run(body, ctx) {
  const result = h("div.stack");
  const field = (name, label, hint, placeholder) => h("label.field", h("span.field-label", label), h("input", { name, value: ctx.query.get(name) ?? "", placeholder, autocomplete: "off", spellcheck: "false" }), h("span.hint", hint));
  const type = field("type", "Rule", "Only this one; all, if nothing is said.", "all rules");
  const pattern = field("pattern", "Pattern", "Only what is named like this.", "*");
  const wish = () => Object.fromEntries([type, pattern].map((element) => element.querySelector("input")).map((input) => [input.name, input.value.trim()]).filter(([, value]) => value));
  let tried = null;
  const real = button("Delete for good", { tone: "danger", need: "operator", ctx, onclick: async () => {
    const names = tried.total_cleaned;
    const what = [wish().type && `by the rule ${wish().type}`, wish().pattern && `named like ${wish().pattern}`].filter(Boolean).join(", ") || "by all rules";
    const done = await confirm({ title: `Delete ${number(names)} ${names === 1 ? "thing" : "things"}?`, body: `Everything that is due, ${what}. It cannot be brought back. What became due since the dry run goes as well.`, confirm: "Delete for good", danger: true, act: () => go(false) });
    if (done) toast("The cleanup is through.");
  } });
  real.hidden = true;
  const go = async (dry) => {
    fill(result, skeleton(6));
    try {
      const report = await ctx.api.post("v1/cleanup/run", { ...wish(), dry_run: dry }, { patience: 600_000, signal: ctx.signal });
      tried = dry ? report : null;
      real.hidden = !dry || report.total_cleaned === 0;
      fill(result, shown(report));
    } catch (error) {
      if (ctx.signal.aborted) return;
      real.hidden = true;
      fill(result, failure(error));
      if (!dry) throw error;
    }
  };
  for (const element of [type, pattern]) element.addEventListener("input", () => {
    real.hidden = true;
    tried = null;
  });
  body.append(panel("Run now", { note: "first without deleting anything" }, h("form.run", { onsubmit: (event) => event.preventDefault() }, type, pattern,
    h("div.actions", button("Dry run", { tone: "primary", need: "operator", ctx, type: "submit", onclick: () => go(true) }), real))), result);
}

function shown(report) {
  const busy = report.rules.filter((rule) => rule.scanned || rule.cleaned || rule.errors || rule.messages.length || Object.keys(rule.kept).length);
  return [h("div.stats",
    stat(report.dry_run ? "Would be deleted" : "Deleted", number(report.total_cleaned), { tone: report.dry_run ? "info" : "ok", hint: bytes(report.bytes_freed) }),
    stat("Looked at", number(report.total_scanned)),
    stat("Errors", number(report.total_errors), { tone: report.total_errors ? "bad" : null }),
    stat("Took", duration(report.cleanup_time_ms), { hint: report.dry_run ? "a dry run: nothing was deleted" : "" })),
  panel("By rule", { flush: true, note: busy.length < report.rules.length ? `${report.rules.length - busy.length} had nothing to do` : null }, table([
    { label: "Rule", render: (rule) => rule.rule },
    { label: "Looked at", align: "end", render: (rule) => number(rule.scanned) },
    { label: report.dry_run ? "Would go" : "Gone", align: "end", render: (rule) => h("b", number(rule.cleaned)) },
    { label: "Room", align: "end", render: (rule) => bytes(rule.bytes_freed) },
    { label: "Stays, and why", grow: true, render: (rule) => Object.entries(rule.kept).map(([why, times]) => h("div.muted", `${number(times)}: ${why}`)) },
    { label: "Errors", render: (rule) => (rule.errors ? badge(number(rule.errors), "bad", rule.messages.join("\n")) : "") },
  ], busy, { empty: empty("Nothing is due", "No rule has anything to delete now."), caption: "Result by rule" }))];
}

async function optimize(ctx) {
  const report = await ctx.api.post("v1/cleanup/optimize-memory", {}, { patience: 600_000 });
  await formDialog({ title: "Memory given back", confirm: "Close", body: facts(Object.entries(report).map(([name, value]) => [words(name), typeof value === "number" ? number(value) : String(value ?? "–")])) });
}
