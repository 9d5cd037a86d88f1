// What pages about alerts share: severities, the form of a rule, the form of a silence.

import { badge, formDialog, toast, words } from "../ui.js";

export const severityBadge = (severity) => badge(words(severity), { critical: "bad", error: "bad", warning: "warn", info: "info" }[severity] ?? "quiet");

const choices = (names, usual) => [...(usual ? [["", usual]] : []), ...names.map((name) => [name, words(name)])];

/** Makes a rule, or changes this one. Gives what was put, or null. */
export async function editRule(ctx, rule, usual = {}) {
  const known = await ctx.api.get("v1/metrics/paths").then((answer) => answer.items.map((one) => one.path), () => []);
  const put = await formDialog({
    title: rule ? `Change ${rule.name}` : "New alert rule",
    wide: true,
    confirm: rule ? "Change the rule" : "Put the rule",
    fields: [
      ...(rule ? [] : [{ name: "name", label: "Name", required: true, placeholder: "payouts_slow" }]),
      { name: "metric_path", label: "Metric", required: true, value: rule?.metric_path ?? usual.metric_path, placeholder: "saga_metrics.sagas_failed", suggest: known, hint: "A path of the metrics document, as the metrics page lists them." },
      { name: "aggregation", label: "What the window comes to", type: "select", value: rule?.aggregation ?? "", options: choices(["increase", "rate", "avg", "max", "min", "last", "quantile"], "what is usual for the metric") },
      { name: "operator", label: "Alert if it is", type: "select", value: rule?.operator ?? ">", options: [">", ">=", "<", "<=", "==", "!="].map((sign) => [sign, sign]) },
      { name: "threshold", label: "Threshold", type: "number", required: true, value: rule?.threshold },
      { name: "window_minutes", label: "Over so many minutes", type: "number", required: true, value: rule?.window_minutes ?? 10 },
      { name: "severity", label: "Severity", type: "select", value: rule?.severity ?? "warning", options: choices(["info", "warning", "error", "critical"]) },
      { name: "for_seconds", label: "Fires after so many seconds", type: "number", value: rule?.for_seconds ?? 0 },
      { name: "keep_firing_for_seconds", label: "Resolves after so many seconds", type: "number", value: rule?.keep_firing_for_seconds ?? 60 },
      { name: "description", label: "What is wrong if it fires", value: rule?.description },
      { name: "enabled", label: "Judge this rule", type: "checkbox", value: rule?.enabled ?? true },
    ],
    submit: async ({ name = rule?.name, ...values }) => {
      const { origin: _origin, name: _name, ...kept } = rule ?? {};
      const body = { ...kept, ...values };
      for (const field of ["aggregation", "description"]) if (!body[field]) delete body[field];
      return ctx.api.put(`v1/alerts/rules/${encodeURIComponent(name)}`, body);
    },
  });
  if (!put) return null;
  toast(`The rule ${put.name} is judged from the next evaluation on.`);
  if (!rule) ctx.go(`/alerts/rules/${encodeURIComponent(put.name)}`);
  return put;
}

/** Makes a silence. Gives it, or null. */
export async function askForSilence(ctx, { rules = "" } = {}) {
  const made = await formDialog({
    title: "New silence",
    confirm: "Keep quiet",
    body: "Nobody is told of these alerts meanwhile. They fire and are shown nevertheless, and what still fires at the end is told then.",
    fields: [
      { name: "rules", label: "Rules", required: true, value: rules, placeholder: "store_*", hint: "A name, or a glob: * is any text, ? any character." },
      { name: "hours", label: "For so many hours", type: "number", required: true, value: 1 },
      { name: "reason", label: "Reason", type: "textarea", required: true, rows: 2, hint: "Kept in the audit trail." },
    ],
    submit: (values) => ctx.api.post("v1/alerts/silences", { rules: values.rules, duration_seconds: values.hours * 3_600, reason: values.reason, actor: ctx.actor() }),
  });
  if (made) toast("The silence has begun.");
  return made;
}
