// One operation as a page: what it needs, takes and answers, and the curl line that asks for it.

import { code, make, prose, words } from "./element.js";
import { example, follow, inside, kind, line } from "./schema.js";

const ROLES = {
  none: "none: nobody has to say who they are",
  viewer: "viewer",
  operator: "operator",
  admin: "admin",
};
const WHERE = { path: "In the path", query: "In the query", header: "Headers" };

/** All operations, in the order of tags and paths. */
export function operationsOf(root) {
  const all = Object.entries(root.paths).flatMap(([path, item]) =>
    ["get", "post", "put", "delete"].filter((method) => item[method]).map((method) => {
      const operation = item[method];
      const id = operation.operationId ?? `${method}_${path}`;
      const tag = operation.tags?.[0] ?? "other";
      return { id, tag, path, method: method.toUpperCase(), operation };
    }));
  const tags = (root.tags ?? []).map((tag) => tag.name);
  const place = (tag) => (tags.includes(tag) ? tags.indexOf(tag) : tags.length);
  return all.sort((a, b) => place(a.tag) - place(b.tag));
}

/** What is shown of an operation. */
export function operationView(root, { id, path, method, operation }) {
  const role = operation["x-required-role"] ?? "admin";
  return [
    make("h1", { tabindex: "-1" }, operation.summary ?? id),
    make("p", {}, make("span", { class: `method ${method}` }, method), " ", make("code", {}, path)),
    ...prose(operation.description),
    make("dl", { class: "facts" },
      make("dt", {}, "Operation"), make("dd", {}, make("code", {}, id)),
      make("dt", {}, "Required role"), make("dd", {}, ROLES[role] ?? role)),
    ...code("With curl", 2, curl(root, path, method, operation)),
    ...parametersView(root, operation),
    ...bodyView(root, operation),
    ...responsesView(root, operation),
  ];
}

function parametersView(root, operation) {
  const all = (operation.parameters ?? []).map((parameter) => follow(root, parameter));
  const groups = Object.entries(WHERE).flatMap(([where, title]) => {
    const those = all.filter((parameter) => parameter.in === where);
    if (!those.length) return [];
    const rows = those.flatMap((parameter) => [
      make("dt", {}, make("code", {}, parameter.name)),
      make("dd", {}, line(root, { ...parameter.schema, description: parameter.description }, parameter.required)),
    ]);
    return [make("h3", {}, title), make("dl", { class: "members" }, rows)];
  });
  return groups.length ? [make("h2", {}, "Parameters"), ...groups] : [];
}

function bodyView(root, operation) {
  const body = follow(root, operation.requestBody);
  const schema = body.content?.["application/json"]?.schema;
  if (!schema) return [];
  return [
    make("h2", {}, "Body"),
    make("p", {}, make("span", { class: "kind" }, kind(root, schema)), body.required ? ", required" : ", may be left out", "."),
    ...inside(root, notNull(schema)),
    ...code("Example of a body", 3, JSON.stringify(example(root, schema), null, 2)),
  ];
}

/** The schema of a body that may be left out, when it is there. */
function notNull(schema) {
  const parts = schema.oneOf?.filter((part) => part.type !== "null");
  return parts?.length === 1 ? parts[0] : schema;
}

function responsesView(root, operation) {
  const all = Object.entries(operation.responses ?? {});
  const views = all.flatMap(([status, reference]) => {
    const response = follow(root, reference);
    const heading = make("h3", {}, make("code", {}, status), " ", words(response.description));
    return status < "400" ? [heading, ...answerView(root, response)] : [heading, ...problemView(root, response)];
  });
  return [make("h2", {}, "Answers"), ...views];
}

function answerView(root, response) {
  return Object.entries(response.content ?? {}).flatMap(([type, { schema }]) => {
    const shown = make("p", {}, make("code", {}, type), " ", make("span", { class: "kind" }, kind(root, schema)));
    if (type !== "application/json") return [shown];
    return [shown, ...inside(root, schema), ...code("Example of an answer", 4, JSON.stringify(example(root, schema), null, 2))];
  });
}

function problemView(root, response) {
  return Object.entries(response.content ?? {}).map(([type, { schema }]) =>
    make("p", {}, make("code", {}, type), " ", make("span", { class: "kind" }, kind(root, schema))));
}

/** For a shell, with the names of parameters where their values go. */
export function curl(root, path, method, operation) {
  const all = (operation.parameters ?? []).map((parameter) => follow(root, parameter));
  const valueOf = (parameter) => parameter.example ?? follow(root, parameter.schema).examples?.[0] ?? parameter.name.toUpperCase();
  const needed = all.filter((parameter) => parameter.required);
  let place = path;
  for (const parameter of needed.filter((one) => one.in === "path")) {
    place = place.replace(`{${parameter.name}}`, encodeURIComponent(valueOf(parameter)));
  }
  const query = needed.filter((one) => one.in === "query")
    .map((one) => `${one.name}=${encodeURIComponent(valueOf(one))}`).join("&");
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const parts = [`curl${method === "GET" ? "" : ` -X ${method}`} ${quoted(base + place + (query ? `?${query}` : ""))}`];
  if ((operation["x-required-role"] ?? "admin") !== "none") parts.push(`-H "Authorization: Bearer $LOCKBAY_TOKEN"`);
  for (const header of needed.filter((one) => one.in === "header")) {
    parts.push(`-H ${quoted(`${header.name}: ${valueOf(header)}`)}`);
  }
  const body = follow(root, operation.requestBody);
  const schema = body.content?.["application/json"]?.schema;
  if (schema && body.required) {
    parts.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(example(root, schema)))}`);
  }
  return parts.join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
