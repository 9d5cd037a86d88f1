// Every page, for every eye: drawn without a complaint, from no other origin, in both colours, on a
// phone, and quickly.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { accessibilityProblems, closeAll, drawn, goTo, openPage, startServer } from './harness.mjs';
import { MARKUP, seed } from './seed.mjs';

let server;
let ids;

before(async () => {
  server = await startServer();
  ids = await seed(server);
});
after(closeAll);

/** Every page of the navigation, and one of each kind behind them. */
async function routes(page) {
  const pages = await page.$$eval('#nav a[href^="#"]', (links) => links.map((link) => link.getAttribute('href')));
  assert.ok(pages.length >= 10, `the navigation has all pages: ${pages}`);
  const behind = [
    `#/sagas/${ids.compensated}`,
    `#/sagas/${ids.parked}?step=send`,
    `#/sagas/${ids.cashout}`,
    `#/sagas?status=parked`,
    `#/jobs/${ids.failedJob}`,
    `#/jobs/${ids.runningJob}`,
    `#/schedules/nightly`,
    `#/schedules?new=1`,
    `#/ledger?user=ann&currency=USD`,
    `#/audit?entity=saga/${ids.parked}`,
    '#/there-is-no-such-page',
  ];
  return [...pages, ...behind];
}

/** Goes through all pages and collects what is wrong with each. */
async function walk(options, judge) {
  const page = await openPage(server.url, options);
  await drawn(page);
  const wrong = [];
  for (const route of await routes(page)) {
    await goTo(page, route);
    wrong.push(...(await judge(page, route)).map((problem) => `${route}: ${problem}`));
    wrong.push(...page.watched.splice(0).map((problem) => `${route}: ${problem}`));
  }
  await page.leave();
  assert.deepEqual(wrong, []);
}

test('every page is accessible in light and in dark colours, and complains of nothing', async () => {
  let part = 'document';
  await walk({}, async (page) => {
    const wrong = [];
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      const found = await accessibilityProblems(page, { part, coloursAlone: colorScheme === 'dark' });
      wrong.push(...found.map((problem) => `${colorScheme}: ${problem}`));
    }
    // What stands around the pages is the same on all of them.
    part = 'main';
    return wrong;
  });
});

test('no page has to be moved sideways on a phone', async () => {
  const phone = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
  await walk(phone, async (page) => {
    const wide = await page.evaluate(() => {
      const width = document.documentElement.clientWidth;
      const past = (element) => element.getBoundingClientRect().right > width + 1;
      return {
        scrolls: document.documentElement.scrollWidth > width,
        past: [...document.querySelectorAll('main *')].filter(past).slice(0, 3).map((element) => element.outerHTML.slice(0, 120)),
      };
    });
    return wide.scrolls ? [`it is wider than the phone: ${wide.past.join(' | ')}`] : [];
  });
});

test('what is drawn has the room that it needs', async () => {
  const page = await openPage(server.url);
  await goTo(page, '#/metrics');
  const widths = await page.evaluate(() => ['.picker', '.chart-plot'].map((part) => document.querySelector(`main ${part}`).getBoundingClientRect().width));
  assert.ok(widths[1] > 2 * widths[0], `the chart is wider than the list of metrics: ${widths}`);
  // Its steps have long names.
  await goTo(page, `#/sagas/${ids.cashout}`);
  const outside = await page.evaluate(() => [...document.querySelectorAll('main .graph .node')].flatMap((node) => {
    const { right } = node.querySelector('.box').getBoundingClientRect();
    return [...node.querySelectorAll('text')].filter((text) => text.getBoundingClientRect().right > right).map((text) => text.textContent);
  }));
  assert.deepEqual(outside, [], 'every text is inside of its node');
  await page.leave();
});

test('a saga that waits for a handler says so', async () => {
  const page = await openPage(server.url);
  await goTo(page, `#/sagas/${ids.waiting}`);
  await page.locator('main').getByText('It waits for a handler').waitFor();
  await page.locator('main').getByText('Nothing has happened yet: the first step waits for a handler.').waitFor();
  await page.leave();
});

test('what somebody wrote as markup is shown as text', async () => {
  const page = await openPage(server.url);
  for (const route of ['#/', '#/sagas', `#/sagas/${ids.markup}`, `#/sagas/${ids.markup}?step=reserve`, '#/jobs', `#/jobs/${ids.markupJob}`, '#/audit']) {
    await goTo(page, route);
    const owned = await page.evaluate(() => ({ ran: 'owned' in window, images: document.querySelectorAll('img[src="x"]').length }));
    assert.deepEqual(owned, { ran: false, images: 0 }, route);
  }
  for (const route of ['#/sagas', `#/sagas/${ids.markup}`, '#/jobs', `#/jobs/${ids.markupJob}`]) {
    await goTo(page, route);
    assert.ok((await page.locator('main').innerText()).includes(MARKUP), `${route} shows the text`);
  }
  assert.deepEqual(page.watched, []);
  await page.leave();
});

test('the first contentful paint comes soon', async () => {
  const times = [];
  for (let round = 0; round < 5; round += 1) {
    const page = await openPage(server.url);
    await drawn(page);
    const paint = await page.waitForFunction(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
    times.push(await paint.jsonValue());
    await page.leave();
  }
  times.sort((one, other) => one - other);
  console.log(`first contentful paint: median ${times[2].toFixed(0)} ms of ${times.map((time) => time.toFixed(0)).join(', ')} (budget 300)`);
  assert.ok(times[2] <= 2_000, `the median of ${times} is within 2 s`);
});

test('all that the dashboard loads is small', async () => {
  const page = await openPage(server.url);
  await drawn(page);
  for (const route of await routes(page)) await goTo(page, route);
  const loaded = await page.evaluate(() =>
    performance.getEntriesByType('resource').map((entry) => entry.name).filter((name) => name.includes('/assets/')),
  );
  const { gzipSync } = await import('node:zlib');
  let total = 0;
  for (const url of new Set([server.url, ...loaded])) {
    total += gzipSync(Buffer.from(await (await fetch(url, { headers: { accept: 'text/html' } })).arrayBuffer())).length;
  }
  console.log(`all pages together load ${(total / 1024).toFixed(0)} KiB, gzipped`);
  assert.ok(total <= 250_000, `${total} bytes are within 250 KB`);
  await page.leave();
});
