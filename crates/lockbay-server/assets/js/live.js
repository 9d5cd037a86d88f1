// What happens, as it happens: the server's events, from where the last connection broke.
//
// It reads the stream by fetch and not by EventSource, which knows no event of any name and hides
// the status of an answer. A page that nobody sees gives its connection back: browsers open only six
// to one server, and a tab that was forgotten should not take one.

import { address } from "./api.js";

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;
/** The server says something every 15 seconds; so long a silence is a broken connection. */
const SILENCE_MS = 40_000;
/** How long a page may be hidden before its connection is given back. */
const HIDDEN_MS = 20_000;
/** After so many failures pages are asked to poll. */
const FAILURES_UNTIL_POLLING = 2;
const POLL_MS = 10_000;
/** How many events the feed keeps. */
const KEPT = 200;

const listeners = new Map();
const watchers = new Set();
const recent = [];
let state = "connecting";
let lastId = null;
/** What happened before this page began is shown, and is no reason to fetch anything. */
let began = 0;
let failures = 0;
let running = null;
let polling = null;
let hiddenTimer = null;

/** Calls `act(event)` for events of these names, or for all by "*". Gives what ends it. */
export function on(names, act) {
  for (const name of [names].flat()) {
    if (!listeners.has(name)) listeners.set(name, new Set());
    listeners.get(name).add(act);
  }
  return () => [names].flat().forEach((name) => listeners.get(name)?.delete(act));
}

/** Calls `act(state)` now and when it changes: connecting, live, polling, lost, paused, offline. */
export function watch(act) {
  watchers.add(act);
  act(state);
  return () => watchers.delete(act);
}

/** The latest events, the newest first. */
export const latest = () => recent;

/** Begins to listen to this instance, with what it still knows of what happened before. */
export function start(instance) {
  if (running) return;
  began = Date.now();
  lastId ??= instance ? `${instance}:0` : null;
  running = new AbortController();
  document.addEventListener("visibilitychange", visibility);
  loop(running.signal);
}

export function stop() {
  clearTimeout(hiddenTimer);
  running?.abort();
  running = null;
  document.removeEventListener("visibilitychange", visibility);
  clearInterval(polling);
  polling = null;
}

function visibility() {
  clearTimeout(hiddenTimer);
  if (document.hidden) {
    hiddenTimer = setTimeout(() => {
      running?.abort();
      running = null;
      become("paused");
    }, HIDDEN_MS);
  } else if (!running) {
    running = new AbortController();
    loop(running.signal);
    tell({ name: "poll", data: {} });
  }
}

async function loop(signal) {
  while (!signal.aborted) {
    if (state !== "polling" && state !== "lost") become("connecting");
    try {
      await listen(signal);
      failures = 0;
    } catch (error) {
      if (signal.aborted) return;
      failures += 1;
      if (error.status === 401) return become("offline");
      if (failures >= FAILURES_UNTIL_POLLING) poll(error.status ? "polling" : "lost");
    }
    if (signal.aborted) return;
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** failures, LONGEST_PAUSE_MS);
    await new Promise((done) => setTimeout(done, pause * (0.75 + Math.random() / 2)));
  }
}

function poll(next) {
  become(next);
  polling ??= setInterval(() => tell({ name: "poll", data: {} }), POLL_MS);
}

async function listen(signal) {
  const broken = new AbortController();
  const headers = { accept: "text/event-stream" };
  if (lastId) headers["last-event-id"] = lastId;
  let silence = setTimeout(() => broken.abort(), SILENCE_MS);
  try {
    const response = await fetch(address("v1/events"), {
      headers,
      signal: AbortSignal.any([signal, broken.signal]),
      credentials: "same-origin",
      cache: "no-store",
    });
    if (!response.ok || !response.body) {
      throw Object.assign(new Error(`events: ${response.status}`), { status: response.status });
    }
    clearInterval(polling);
    polling = null;
    become("live");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      failures = 0;
      clearTimeout(silence);
      silence = setTimeout(() => broken.abort(), SILENCE_MS);
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      blocks.forEach(receive);
    }
  } finally {
    clearTimeout(silence);
  }
}

/** One message: lines of fields, a blank line behind them. */
function receive(block) {
  let name = "message";
  let data = "";
  for (const line of block.split(/\r?\n/)) {
    const [field, value] = split(line);
    if (field === "id") lastId = value;
    if (field === "event") name = value;
    if (field === "data") data += value;
  }
  if (!data) return;
  let told;
  try {
    told = JSON.parse(data);
  } catch {
    return;
  }
  tell({ name, data: told });
}

function split(line) {
  const at = line.indexOf(":");
  if (at < 0) return [line, ""];
  return [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
}

function tell(event) {
  if (!["listening", "gap", "poll"].includes(event.name)) {
    recent.unshift(event);
    recent.length = Math.min(recent.length, KEPT);
  }
  const old = Date.parse(event.data.at) < began;
  // After a gap pages know as little as after a poll.
  const names = old ? [] : event.name === "gap" ? ["gap", "poll"] : [event.name];
  for (const name of [...names, "*"]) {
    for (const act of [...(listeners.get(name) ?? [])]) act(event);
  }
}

function become(next) {
  if (next === state) return;
  state = next;
  for (const act of watchers) act(state);
}
