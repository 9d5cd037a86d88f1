// Real servers and a real browser for tests of the dashboard.
//
// A server is the built binary in a process of its own on a free loopback port, as the Rust tests
// have it. A page is watched from the moment it opens: what it complains of, and whom it asks.
// Nothing here knows what a page shows.

import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import path from 'node:path';

const modules = process.env.LOCKBAY_BROWSER_MODULES;
const binary = process.env.LOCKBAY_BINARY;
if (!modules || !binary) {
  throw new Error(
    'LOCKBAY_BINARY names the binary and LOCKBAY_BROWSER_MODULES the folder of node_modules; ' +
      "'cargo test -p lockbay-server --test system_browser' sets both",
  );
}
const require = createRequire(path.join(modules, 'package.json'));
const { chromium } = require('playwright-core');
const axe = require.resolve('axe-core/axe.min.js');

/** How long a condition may take to come true. */
export const PATIENCE = 10_000;

/** What the tests of one file share: closed in reverse order by `closeAll`. */
const open = [];

export async function closeAll() {
  while (open.length > 0) await open.pop()();
}

/** Starts `lockbay serve` and gives it when it listens. */
export async function startServer({ args = [], env = {} } = {}) {
  const ours = Object.entries(process.env).filter(([name]) => !name.startsWith('LOCKBAY_'));
  const child = spawn(binary, ['serve', '--store', 'memory:', ...args], {
    env: { ...Object.fromEntries(ours), LOCKBAY_LISTEN: '127.0.0.1:0', NO_COLOR: '1', ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  const ended = new Promise((done) => child.once('exit', done));
  open.push(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const url = await new Promise((found, failed) => {
    child.stderr.setEncoding('utf8').on('data', (text) => {
      log += text;
      const line = log.match(/listening on (http:\/\/\S+)/);
      if (line) found(line[1]);
    });
    ended.then((code) => failed(new Error(`the server ended with ${code}; it said:\n${log}`)));
    setTimeout(() => failed(new Error(`the server does not listen; it said:\n${log}`)), PATIENCE).unref();
  });
  return new Server(url, () => log);
}

/** A server, as a client sees it. */
class Server {
  constructor(url, log) {
    this.url = url;
    this.log = log;
  }

  /** The status and the JSON of the answer. */
  async send(method, target, body, headers = {}) {
    const reply = await fetch(this.url + target, {
      method,
      headers: body === undefined ? headers : { 'content-type': 'application/json', ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await reply.text();
    let json = null;
    try {
      json = JSON.parse(text);
    } catch {
      // Not every answer is JSON.
    }
    return { status: reply.status, json, text };
  }

  /** The JSON of an answer that has to be a success. */
  async ok(method, target, body, headers) {
    const reply = await this.send(method, target, body, headers);
    if (reply.status >= 300) {
      throw new Error(`${method} ${target} answered ${reply.status}: ${reply.text}`);
    }
    return reply.json;
  }

  get(target) {
    return this.ok('GET', target);
  }

  post(target, body, headers) {
    return this.ok('POST', target, body, headers);
  }

  put(target, body, headers) {
    return this.ok('PUT', target, body, headers);
  }

  /** Waits until a saga has one of these statuses, and gives it. */
  sagaIs(sagaId, ...statuses) {
    return eventually(`saga ${sagaId} is ${statuses.join(' or ')}`, async () => {
      const saga = await this.get(`/v1/sagas/${sagaId}`);
      return statuses.includes(saga.status) ? saga : null;
    });
  }
}

/** Asks again and again until something is found. */
export async function eventually(what, find, patience = PATIENCE) {
  const until = Date.now() + patience;
  for (;;) {
    const found = await find();
    if (found) return found;
    if (Date.now() > until) throw new Error(`in vain: ${what}`);
    await new Promise((again) => setTimeout(again, 25));
  }
}

/**
 * A worker that polls for these handlers. Each is called with the task and gives the result, or
 * throws a `Refusal` if it had no effect; whatever else it throws leaves the outcome unknown.
 */
export function startWorker(server, handlers, headers = {}) {
  let stopping = false;
  const names = Object.keys(handlers);
  const running = (async () => {
    while (!stopping) {
      const wish = { handlers: names, holder: 'browser-test', wait_seconds: 1, max: 10 };
      const { tasks } = await server.post('/v1/tasks/poll', wish, headers);
      await Promise.all(tasks.map((task) => work(server, handlers, headers, task)));
    }
  })().catch((error) => {
    if (!stopping) throw error;
  });
  const stop = async () => {
    stopping = true;
    await running;
  };
  open.push(stop);
  return stop;
}

async function work(server, handlers, headers, task) {
  const { task_id: id, task_token } = task;
  try {
    const result = (await handlers[task.handler](task)) ?? null;
    await server.post(`/v1/tasks/${id}/complete`, { task_token, result }, headers);
  } catch (error) {
    const { effect = 'unknown', retryable = false } = error;
    const failure = { task_token, error: error.message, effect, retryable };
    await server.send('POST', `/v1/tasks/${id}/fail`, failure, headers);
  }
}

/** A step failed, and nothing was done. */
export class Refusal extends Error {
  effect = 'none';
  constructor(message, { retryable = false } = {}) {
    super(message);
    this.retryable = retryable;
  }
}

let browser;

async function theBrowser() {
  if (!browser) {
    const root = process.getuid?.() === 0;
    browser = await chromium.launch({
      executablePath: process.env.LOCKBAY_CHROMIUM ?? '/usr/bin/chromium',
      args: [...(root ? ['--no-sandbox'] : []), '--disable-dev-shm-usage', '--disable-gpu'],
    });
    open.unshift(async () => {
      await browser.close();
      browser = undefined;
    });
  }
  return browser;
}

/** Opens a watched page; `path` is what stands behind the address of the server. */
export async function openPage(address, { path: target = '/', ...options } = {}) {
  const context = await (await theBrowser()).newContext({
    viewport: { width: 1280, height: 900 },
    reducedMotion: 'reduce',
    timezoneId: 'UTC',
    locale: 'en-GB',
    ...options,
  });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.watched = watch(page, new URL(address).origin);
  const close = () => context.close();
  open.push(close);
  page.leave = async () => {
    open.splice(open.indexOf(close), 1);
    await close();
  };
  await page.goto(address + target);
  return page;
}

/** What goes wrong on a page, as sentences. */
function watch(page, origin) {
  const wrong = [];
  page.on('console', (message) => {
    // What was answered with an error is judged by its status, below.
    const told = message.text().startsWith('Failed to load resource');
    if (message.type() === 'error' && !told) wrong.push(`the console says: ${message.text()}`);
  });
  page.on('pageerror', (error) => wrong.push(`a script threw: ${error.stack ?? error}`));
  page.on('request', (request) => {
    const url = request.url();
    const inside = url.startsWith(`${origin}/`) || url.startsWith('data:') || url.startsWith('blob:');
    if (!inside) wrong.push(`it asked another origin: ${url}`);
  });
  page.on('response', (response) => {
    const expected = response.status() < 400 || response.status() === 404;
    if (!expected) wrong.push(`${response.request().method()} ${response.url()}: ${response.status()}`);
  });
  return wrong;
}

/** Waits until a page has been drawn with its data: a heading, and nothing that still loads. */
export async function drawn(page) {
  const isDrawn = () => {
    const root = document.querySelector('main > .page:not([data-left])');
    return Boolean(root?.querySelector('h1')) && !document.querySelector('main .skeleton');
  };
  await page.waitForFunction(isDrawn);
}

/** Goes to another route of the dashboard without a reload, and waits until it is drawn. */
export async function goTo(page, hash) {
  await page.evaluate((to) => {
    if (location.hash === to) return;
    // The page that is left must not pass for the one that comes.
    document.querySelector('main > .page')?.setAttribute('data-left', '');
    location.hash = to;
  }, hash);
  await drawn(page);
}

const STANDARDS = { type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] };
/** What other colours can change: everything else is the same in the dark. */
const COLOURS = { type: 'rule', values: ['color-contrast'] };

/** What axe finds against WCAG 2 A and AA in a part of the page or all of it, as sentences. */
export async function accessibilityProblems(page, { part = 'document', coloursAlone = false } = {}) {
  if (!(await page.evaluate(() => 'axe' in window))) {
    // The page's policy lets no script in that is not its own, so this one comes by the debugger.
    const { readFile } = await import('node:fs/promises');
    await page.evaluate(await readFile(axe, 'utf8'));
  }
  const found = await page.evaluate(
    ([runOnly, within]) => window.axe.run(within === 'document' ? document : within, { runOnly, resultTypes: ['violations'] }),
    [coloursAlone ? COLOURS : STANDARDS, part],
  );
  return found.violations.map((rule) => {
    const [first] = rule.nodes;
    return `${rule.id} at ${rule.nodes.length} elements, first ${first.target.join(' ')}: ${first.failureSummary}`;
  });
}
