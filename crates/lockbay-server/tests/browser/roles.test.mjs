// Who may not: verbs are shown as not theirs, with the reason, and a forced request is refused.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';

import { closeAll, drawn, openPage, startServer } from './harness.mjs';
import { seed } from './seed.mjs';

after(closeAll);

test('a viewer sees everything, may decide nothing, and is told why', async () => {
  const server = await startServer();
  const admin = await server.post('/v1/tokens', { name: 'root', role: 'admin' });
  const bearer = { authorization: `Bearer ${admin.token}` };
  const ids = await seed(server, bearer);
  const viewer = await server.post('/v1/tokens', { name: 'watcher', role: 'viewer' }, bearer);

  const page = await openPage(server.url, { path: `/#/sagas/${ids.parked}` });
  // Who has not logged in yet is asked to, and gets no data.
  await page.getByLabel('Token').fill(viewer.token);
  await page.keyboard.press('Enter');
  await drawn(page);
  page.watched.length = 0;

  const verb = page.locator('main').getByRole('button', { name: 'Abandon…' });
  await verb.waitFor();
  const told = await verb.evaluate((button) => ({
    disabled: button.disabled || button.getAttribute('aria-disabled') === 'true',
    why: document.getElementById(button.getAttribute('aria-describedby'))?.textContent ?? button.title,
  }));
  assert.equal(told.disabled, true, 'the verb is not for a viewer');
  assert.match(told.why, /operator/i);
  // Whoever forces the request is refused by the server.
  const status = await page.evaluate(async (id) => {
    const session = await (await fetch('v1/session')).json();
    const headers = { 'content-type': 'application/json', 'x-csrf-token': session.csrf_token };
    const body = JSON.stringify({ reason: 'forced' });
    return (await fetch(`v1/sagas/${id}/abandon`, { method: 'POST', headers, body })).status;
  }, ids.parked);
  assert.equal(status, 403);
  const saga = await server.ok('GET', `/v1/sagas/${ids.parked}`, undefined, bearer);
  assert.equal(saga.status, 'parked');
});
