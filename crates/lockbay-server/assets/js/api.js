// The way to the server: one function per method, addresses relative to where the page was served,
// problems as errors, and nobody's numbers rounded.

/** Where the page was served from, so that a path prefix of a proxy is kept. */
const BASE = new URL(".", document.baseURI.split("#")[0]);
/** How long a call may take that does not say otherwise. */
const PATIENCE_MS = 30_000;

/** What went wrong with a call: a problem of the server, or the lack of an answer. */
export class ApiError extends Error {
  constructor(status, problem, cause) {
    super(problem?.detail || problem?.title || cause || `the server answered ${status}`);
    this.status = status;
    this.problem = problem ?? {};
  }

  /** In a few words, for a heading. */
  get headline() {
    if (this.status === 0) return "The server cannot be reached";
    if (this.status === 403) return "Your role may not do this";
    if (this.status === 404) return "Not found";
    const title = this.problem.title ?? `The server answered ${this.status}`;
    return title.charAt(0).toUpperCase() + title.slice(1);
  }
}

/** A number that JavaScript cannot hold exactly, by its text. */
export class Exact {
  constructor(source) {
    this.source = source;
  }
  toString() {
    return this.source;
  }
  valueOf() {
    return Number(this.source);
  }
  toJSON() {
    return JSON.rawJSON ? JSON.rawJSON(this.source) : Number(this.source);
  }
}

/** Parses JSON and keeps numbers by their text where a double would round them. */
export function parse(text) {
  return JSON.parse(text, (_key, value, context) => {
    const source = typeof value === "number" ? context?.source : undefined;
    return source && digits(source) !== digits(String(value)) ? new Exact(source) : value;
  });
}

/** The significant digits of a number. */
function digits(text) {
  const mantissa = text.split(/[eE]/)[0].replace(/[-+.]/g, "");
  return mantissa.replace(/^0+/, "").replace(/0+$/, "");
}

let csrf = null;
let actor = null;
let onUnauthorized = () => {};

/** What to do when the server wants to know who asks. */
export function whenUnauthorized(act) {
  onUnauthorized = act;
}

/** In whose name changes are asked for, where the server does not know who asks. */
export function actAs(name) {
  // Headers are bytes, one for each character that fetch is given.
  actor = name ? String.fromCharCode(...new TextEncoder().encode(name)) : null;
}

/** The address of a path of the server, with these parameters where they have a value. */
export function address(path, query) {
  const url = new URL(String(path).replace(/^\/+/, ""), BASE);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

/** One segment of a path, whatever characters it has. */
export const segment = (text) => encodeURIComponent(text);

async function call(method, path, { query, body, headers, signal, patience, quiet401 } = {}) {
  const sent = { accept: "application/json", ...headers };
  if (body !== undefined) sent["content-type"] = "application/json";
  if (actor && method !== "GET") sent["x-actor"] = actor;
  if (csrf && method !== "GET") sent["x-csrf-token"] = csrf;
  const signals = [AbortSignal.timeout(patience ?? PATIENCE_MS), ...(signal ? [signal] : [])];
  let response, text;
  try {
    response = await fetch(address(path, query), {
      method,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.any(signals),
      credentials: "same-origin",
      cache: "no-store",
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    const late = error.name === "TimeoutError";
    throw new ApiError(0, null, late ? "No answer in time." : "No answer: is it running, and is this machine on the network?");
  }
  const answer = read(response, text);
  // Health says 503 with a whole document when something is wrong, and that is no failed call.
  const told = response.status === 503 && answer && !answer.type;
  if (response.ok || told) return answer;
  if (response.status === 401 && !quiet401) onUnauthorized();
  throw new ApiError(response.status, typeof answer === "object" ? answer : null);
}

function read(response, text) {
  if (!(response.headers.get("content-type") ?? "").includes("json")) return text;
  try {
    return parse(text);
  } catch {
    return text;
  }
}

export const api = {
  get: (path, options) => call("GET", path, options),
  post: (path, body = {}, options) => call("POST", path, { ...options, body }),
  put: (path, body, options) => call("PUT", path, { ...options, body }),
  delete: (path, options) => call("DELETE", path, options),
  /** The same, and nothing where the server has no such path: a part that it may not have yet. */
  maybe: async (path, options) => {
    try {
      return await call("GET", path, options);
    } catch (error) {
      if (error instanceof ApiError && (error.status === 404 || error.status === 405)) return null;
      throw error;
    }
  },
};

/** Who asks, as the server knows them; nothing if it does not. */
export async function whoAmI() {
  const options = { quiet401: true };
  try {
    return remember(await call("GET", "v1/session", options));
  } catch (error) {
    if (error.status === 401) return null;
    // A server without tokens has no sessions either: everybody is an admin there.
    if (error.status === 404) return { actor: null, role: "admin", authentication: "none" };
    throw error;
  }
}

export async function logIn(token) {
  return remember(await call("POST", "v1/session", { body: { token }, quiet401: true }));
}

export async function logOut() {
  await call("DELETE", "v1/session", { quiet401: true });
  csrf = null;
}

function remember(session) {
  csrf = session.csrf_token ?? null;
  return session;
}
