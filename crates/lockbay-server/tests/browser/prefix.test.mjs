// Behind a reverse proxy that puts the dashboard under a path of its own.

import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, test } from 'node:test';

import { closeAll, drawn, goTo, openPage, startServer } from './harness.mjs';
import { seed } from './seed.mjs';

let server;
let proxy;
let outside;
let ids;
const elsewhere = [];

before(async () => {
  server = await startServer();
  ids = await seed(server);
  proxy = http.createServer((request, response) => {
    if (!request.url.startsWith('/lockbay/')) {
      elsewhere.push(request.url);
      response.writeHead(404).end();
      return;
    }
    const to = new URL(request.url.slice('/lockbay'.length), server.url);
    const { host: _, ...headers } = request.headers;
    const passed = http.request(to, { method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    passed.on('error', () => response.destroy());
    response.on('close', () => passed.destroy());
    request.pipe(passed);
  });
  await new Promise((listening) => proxy.listen(0, '127.0.0.1', listening));
  outside = `http://127.0.0.1:${proxy.address().port}`;
});
after(async () => {
  await closeAll();
  proxy.closeAllConnections();
  proxy.close();
});

test('every page works under a path prefix, and asks for nothing outside of it', async () => {
  const page = await openPage(outside, { path: '/lockbay/' });
  await drawn(page);
  for (const route of ['#/sagas', `#/sagas/${ids.parked}`, '#/jobs', '#/schedules', '#/ledger', '#/audit']) {
    await goTo(page, route);
    assert.equal(await page.locator('main h1').count(), 1, route);
  }
  await goTo(page, `#/sagas/${ids.parked}`);
  await page.getByText('the bank does not take it back').first().waitFor();
  // A change goes through as well.
  await page.locator('main').getByRole('button', { name: 'Abandon…' }).click();
  await page.getByRole('dialog').getByLabel('Reason').fill('closed by hand at the bank');
  await page.getByRole('dialog').getByRole('button', { name: 'Abandon saga' }).click();
  await server.sagaIs(ids.parked, 'abandoned');
  await page.locator('main header').getByText('abandoned').first().waitFor();
  assert.deepEqual(page.watched, []);
  assert.deepEqual(elsewhere.filter((url) => url !== '/favicon.ico'), []);
});
