// What asks and what tells: dialogs with their forms, toasts, and a voice for screen readers.

import { parse } from "./api.js";
import { fill, h } from "./ui.js";

/** How long a toast stays. What went wrong stays until it is closed. */
const TOAST_MS = 6_000;

/** Tells something at the edge of the page. Tones as of badges. */
export function toast(text, tone = "ok") {
  const close = h("button.toast-close", { type: "button", "aria-label": "Close" }, "×");
  const element = h("div.toast", { class: `tone-${tone}`, role: tone === "bad" ? "alert" : null }, h("span", text), close);
  close.addEventListener("click", () => element.remove());
  const place = document.getElementById("toasts");
  place.append(element);
  while (place.childElementCount > 4) place.firstElementChild.remove();
  if (tone !== "bad") setTimeout(() => element.remove(), TOAST_MS);
}

/** Says something to those who do not see the page. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

let serial = 0;

/**
 * A form in a dialog. Fields are `{ name, label, type?: text|textarea|number|select|checkbox|json|password,
 * value?, options?, required?, hint?, placeholder?, max?, suggest?: [text] }`. `submit(values)` may throw: the dialog then
 * stays, says why, and loses nothing. Without fields and `submit` it only tells. Gives what `submit` gave, or null if it was left.
 */
export function formDialog({ title, body, fields = [], confirm: label = "Save", tone, submit, wide }) {
  return new Promise((done) => {
    const number = ++serial;
    const error = h("div.form-error", { role: "alert" });
    const inputs = fields.map((field) => control(field, `field-${number}-${field.name}`));
    // Where nothing is asked and nothing done, there is nothing to cancel.
    const only = !submit && fields.length === 0;
    const cancel = h("button.button", { type: "button" }, h("span", "Go back"));
    const go = h("button.button", { type: "submit", class: tone ?? "primary" }, h("span", label));
    const form = h("form", { method: "dialog", novalidate: true }, h("h2", { id: `dialog-${number}` }, title), body && h("div.dialog-body", body),
      inputs.map((input) => input.element), error, h("footer", !only && cancel, go));
    const dialog = h("dialog.dialog", { "aria-labelledby": `dialog-${number}`, class: wide ? "wide" : "" }, form);
    let outcome = null;
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      done(outcome);
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (go.getAttribute("aria-busy")) return;
      fill(error);
      go.setAttribute("aria-busy", "true");
      try {
        const values = Object.fromEntries(inputs.map((input) => [input.name, input.read()]));
        outcome = (await submit?.(values)) ?? values;
        dialog.close();
      } catch (problem) {
        fill(error, problem.message);
        const field = inputs.find((input) => input.name === problem.field);
        (field?.input ?? go).focus();
      } finally {
        go.removeAttribute("aria-busy");
      }
    });
    document.body.append(dialog);
    dialog.showModal();
    (inputs[0]?.input ?? (tone === "danger" ? cancel : go)).focus();
  });
}

function wrong(field, message) {
  return Object.assign(new Error(message), { field });
}

function control(field, elementId) {
  const { name, label, type = "text", value = "", options = [], required, hint, placeholder, max, suggest } = field;
  const hintId = hint ? `${elementId}-hint` : null;
  const captionId = `${elementId}-caption`;
  const common = { id: elementId, name, placeholder, "aria-labelledby": captionId, "aria-describedby": hintId, "aria-required": required ? "true" : null, autocomplete: "off" };
  let input;
  if (type === "select") input = h("select", common, options.map(([option, text]) => h("option", { value: option, selected: option === value }, text)));
  else if (type === "textarea" || type === "json") input = h("textarea", { ...common, rows: field.rows ?? 3, spellcheck: "false", class: type === "json" ? "mono" : "", maxlength: max });
  else if (type === "checkbox") input = h("input", { ...common, type, checked: Boolean(value) });
  else input = h("input", { ...common, type: type === "number" ? "text" : type, inputmode: type === "number" ? "decimal" : null, maxlength: max, list: suggest ? `${elementId}-list` : null, spellcheck: "false" });
  if (type !== "checkbox" && type !== "select") input.value = value ?? "";
  const read = () => {
    if (type === "checkbox") return input.checked;
    const text = input.value.trim();
    if (required && !text) throw wrong(name, `${label} is missing.`);
    if (type === "number") {
      if (!text) return null;
      if (Number.isNaN(Number(text))) throw wrong(name, `${label} is a number, not “${text}”.`);
      return Number(text);
    }
    if (type === "json") {
      if (!text) return null;
      try {
        return parse(text);
      } catch (error) {
        throw wrong(name, `${label} is not JSON: ${error.message}`);
      }
    }
    return text;
  };
  const caption = h("span.field-label", { id: captionId }, label, required || type === "checkbox" || type === "select" ? "" : [" ", h("small", "optional")]);
  const element = h("label.field", { class: type === "checkbox" ? "check" : "", for: elementId }, type === "checkbox" ? [input, caption] : [caption, input], hint && h("span.hint", { id: hintId }, hint), suggest && h("datalist", { id: `${elementId}-list` }, suggest.map((text) => h("option", { value: text }))));
  return { name, element, input, read };
}

/** Asks whether to go on. Gives true or false. */
export async function confirm({ title, body, confirm: label = "Go on", danger, act }) {
  const outcome = await formDialog({ title, body, confirm: label, tone: danger ? "danger" : "primary", submit: async () => ({ value: await act?.() }) });
  return outcome !== null;
}

/**
 * Asks for the reason of an operation, with further `fields` if need be, and does it: `act(values)`
 * with `values.reason`. Gives what `act` gave, or null.
 */
export function askReason({ title, body, confirm: label = "Do it", danger, fields = [], act }) {
  const reason = { name: "reason", label: "Reason", type: "textarea", required: true, max: 1_000, rows: 2,
    hint: "Kept in the audit trail, with your name.", placeholder: "Why this is right, for whoever reads it later" };
  return formDialog({ title, body, confirm: label, tone: danger ? "danger" : "primary", fields: [...fields, reason], submit: act });
}
