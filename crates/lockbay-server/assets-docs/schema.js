// Schemas in words, and examples of what they describe. Nothing here knows operations.

import { make, words } from "./element.js";

/** How deep an example goes, and how deep members are shown before they are asked for. */
const DEEPEST = 6;

/** What a reference leads to. */
export function follow(root, part) {
  let found = part;
  for (let steps = 0; found?.$ref && steps < 10; steps += 1) {
    const place = found.$ref.replace(/^#\//, "").split("/");
    found = place.reduce((at, name) => at?.[name.replace(/~1/g, "/").replace(/~0/g, "~")], root);
  }
  return found ?? {};
}

const nameOf = (schema) => schema?.$ref?.split("/").pop();
const isNull = (schema) => schema.type === "null";
const choices = (schema) => schema.oneOf ?? schema.anyOf;

/** What kind of value it is, in a few words. */
export function kind(root, schema) {
  if (schema === undefined || schema === true) return "any JSON";
  if (schema.$ref) {
    const target = follow(root, schema);
    const plain = ["string", "integer", "number", "boolean"].includes(target.type) && !target.enum;
    return plain ? kind(root, target) : nameOf(schema);
  }
  if (choices(schema)) return choices(schema).map((one) => kind(root, one)).join(" or ");
  if (schema.allOf) return schema.allOf.map((one) => kind(root, one)).join(" and ");
  const types = [schema.type ?? []].flat();
  if (types.length === 0) return schema.enum ? "one of these" : "any JSON";
  return types.map((type) => {
    if (type === "array") return `list of ${kind(root, schema.items)}`;
    if (type === "object" && schema.additionalProperties?.type) {
      return `object of ${kind(root, schema.additionalProperties)} by name`;
    }
    return schema.format && type !== "null" ? `${type} (${schema.format})` : type;
  }).join(" or ");
}

/** What it is bounded by, in words. */
export function limits(root, schema) {
  const of = schema?.$ref ? { ...follow(root, schema), ...schema } : schema ?? {};
  const list = [];
  const say = (key, text) => { if (of[key] !== undefined) list.push(`${text} ${of[key]}`); };
  if (of.enum) list.push(of.enum.map((value) => JSON.stringify(value)).join(", "));
  say("minimum", "at least");
  say("exclusiveMinimum", "more than");
  say("maximum", "at most");
  say("exclusiveMaximum", "less than");
  if (of.minLength || of.maxLength) list.push(`${of.minLength ?? 0} to ${of.maxLength ?? "any number of"} characters`);
  if (of.minItems || of.maxItems) list.push(`${of.minItems ?? 0} to ${of.maxItems ?? "any number of"} items`);
  say("pattern", "pattern");
  if (of.default !== undefined) list.push(`without it ${JSON.stringify(of.default)}`);
  return list.join("; ");
}

/** A line for one value: its kind, its limits, what it is. */
export function line(root, schema, needed) {
  const bounds = limits(root, schema);
  const target = follow(root, schema);
  return [
    make("span", { class: "kind" }, kind(root, schema)),
    needed ? make("span", { class: "needed" }, ", required") : "",
    bounds ? make("span", { class: "limits" }, `: ${bounds}`) : "",
    make("div", {}, words(schema?.description ?? target.description)),
  ];
}

/** Everything inside of a schema, as far as it has an inside. */
export function inside(root, schema, seen = []) {
  if (schema === undefined || schema === true) return [];
  const name = nameOf(schema);
  if (name && seen.includes(name)) return [];
  const known = name ? [...seen, name] : seen;
  const target = follow(root, schema);
  const parts = choices(target) ?? target.allOf;
  if (parts) return parts.filter((part) => !isNull(part)).flatMap((part) => unfolded(root, part, known));
  if (target.items) return unfolded(root, target.items, known);
  if (typeof target.additionalProperties === "object") return unfolded(root, target.additionalProperties, known);
  if (!target.properties) return [];
  return [members(root, target, known)];
}

function members(root, target, known) {
  const needed = new Set(target.required ?? []);
  const rows = Object.entries(target.properties).flatMap(([name, schema]) => [
    make("dt", {}, make("code", {}, name)),
    make("dd", {}, line(root, schema, needed.has(name)), inside(root, schema, known)),
  ]);
  return make("dl", { class: "members" }, rows);
}

/** The inside behind a fold. It is made when it is opened, because schemas are deep. */
function unfolded(root, schema, known) {
  const target = follow(root, schema);
  const hasInside = target.properties || target.items || choices(target) || target.allOf;
  if (!hasInside || known.includes(nameOf(schema))) return [];
  const title = nameOf(schema) ?? kind(root, schema);
  const fold = make("details", {}, make("summary", {}, `Members of ${title}`));
  fold.addEventListener("toggle", () => {
    if (fold.open && fold.children.length === 1) fold.append(...inside(root, schema, known));
  });
  return [fold];
}

/** An example: the one that is given, or one that is made. */
export function example(root, schema, depth = 0) {
  if (schema === undefined || schema === true || depth > DEEPEST) return {};
  const target = { ...follow(root, schema), ...schema };
  const given = target.examples?.[0] ?? target.example ?? target.default;
  if (given !== undefined) return given;
  if (target.const !== undefined) return target.const;
  if (target.enum) return target.enum[0];
  const parts = choices(target)?.filter((part) => !isNull(part));
  if (parts?.length) return example(root, parts[0], depth + 1);
  if (target.allOf) return Object.assign({}, ...target.allOf.map((part) => example(root, part, depth + 1)));
  const type = [target.type ?? []].flat().find((one) => one !== "null");
  switch (type) {
    case "object": {
      const names = target.required ?? [];
      const shown = names.length ? names : [];
      return Object.fromEntries(shown.map((name) => [name, example(root, target.properties?.[name], depth + 1)]));
    }
    case "array": return [example(root, target.items, depth + 1)];
    case "integer": return target.minimum ?? 1;
    case "number": return target.minimum ?? (target.exclusiveMinimum !== undefined ? target.exclusiveMinimum + 0.5 : 1);
    case "boolean": return true;
    case "string": return target.format === "date-time" ? "2026-11-30T03:15:00Z" : target.pattern === "^[0-9]+$" ? "1" : "text";
    default: return {};
  }
}
