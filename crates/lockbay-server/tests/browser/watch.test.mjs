// What is wrong and what is kept: the overview, alerts, state, cleanup, metrics, instances, and the
// shell around them, as somebody uses them who was just woken up.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { closeAll, drawn, eventually, goTo, openPage, startServer } from './harness.mjs';
import { startSeedWorker, transfer } from './seed.mjs';

let server;
let page;

before(async () => {
  server = await startServer({ env: { LOCKBAY_ENVIRONMENT: 'production' } });
  await eventually('the server leads', async () => (await server.send('GET', '/v1/leader')).status === 200);
  page = await openPage(server.url);
  await drawn(page);
});
after(closeAll);

const main = () => page.locator('main');
const dialog = () => page.getByRole('dialog');

/** A refusal that a test provoked is no complaint. */
const expected = (part) => {
  page.watched.splice(0, page.watched.length, ...page.watched.filter((told) => !told.includes(part)));
};

/** The newest entry of the trail about something, once it is there. */
const entered = (entity) =>
  eventually(`${entity} is entered`, async () => (await server.get(`/v1/audit?order=newest&entity=${encodeURIComponent(entity)}`)).items[0]);

test('a calm overview says so, and a saga that parks stands first without a reload', async () => {
  await main().getByText('Nothing needs you.').waitFor();
  assert.match(await page.locator('#environment').innerText(), /^production$/);
  startSeedWorker(server);
  for (const name of ['stubborn', 'card']) await server.put(`/v1/handlers/${name}`, { pull: true });
  const { saga_id: saga } = await server.post('/v1/sagas', transfer());
  await server.sagaIs(saga, 'parked');
  const first = main().locator('.attention li').first();
  await first.getByText('cannot go on without a decision').waitFor();
  assert.match(await first.innerText(), /since now|since \d+ s ago/);
  await page.locator('#nav').getByRole('link', { name: /^Sagas\s*1$/ }).waitFor();
  await main().getByText('Saga parked').first().waitFor();
  assert.match(await page.title(), /^\(\d+\) Overview/);
  await first.getByRole('link', { name: 'Decide' }).click();
  await page.waitForURL(`**/#/sagas/${saga}`);
});

test('a rule is put, tested against what was, and taken back', async () => {
  await goTo(page, '#/alerts?tab=rules');
  await main().getByRole('button', { name: 'New rule' }).click();
  await dialog().getByLabel('Name', { exact: true }).fill('many_threads');
  await dialog().getByLabel('Metric').fill('system_metrics.nothing');
  await dialog().getByLabel('Threshold').fill('1');
  await dialog().getByRole('button', { name: 'Put the rule' }).click();
  await dialog().getByRole('alert').getByText('names no metric').waitFor();
  expected('/v1/alerts/rules/many_threads: 400');
  await dialog().getByLabel('Metric').fill('system_metrics.process_threads');
  await dialog().getByRole('button', { name: 'Put the rule' }).click();
  await main().getByRole('heading', { name: 'many_threads' }).waitFor();
  await main().getByText(/It would have fired \d+ times?/).waitFor();
  await main().getByRole('button', { name: 'Delete' }).click();
  await dialog().getByRole('button', { name: 'Delete it' }).click();
  await eventually('the rule is gone', async () => (await server.send('GET', '/v1/alerts/rules/many_threads')).status === 404);
  // The page goes back to the list by itself, and must not do so under the next test.
  await main().getByRole('heading', { name: 'Alerts', exact: true }).waitFor();
});

test('a silence needs a reason, and ends when somebody says so', async () => {
  await goTo(page, '#/alerts?tab=silences');
  await main().getByRole('button', { name: 'New silence' }).click();
  await dialog().getByLabel('Rules').fill('store_*');
  await dialog().getByRole('button', { name: 'Keep quiet' }).click();
  await dialog().getByRole('alert').getByText('Reason is missing.').waitFor();
  assert.equal((await server.get('/v1/alerts/silences')).items.length, 0, 'nothing was asked of the server');
  await dialog().getByLabel('Reason').fill('the disk is exchanged');
  await dialog().getByRole('button', { name: 'Keep quiet' }).click();
  await main().getByRole('cell', { name: 'the disk is exchanged' }).waitFor();
  await main().getByRole('button', { name: 'End' }).click();
  await dialog().getByRole('button', { name: 'End it' }).click();
  await eventually('it has ended', async () => (await server.get('/v1/alerts/silences')).items[0].state === 'ended');
});

test('a value is shown to the last digit, and voided with a reason that the audit trail keeps', async () => {
  const put = await fetch(`${server.url}/v1/state/rate%2FEUR`, { method: 'PUT', headers: { 'content-type': 'application/json' }, body: '{"value":{"n":9007199254740993,"x":0.1},"tags":["rates"]}' });
  assert.equal(put.status, 200);
  await goTo(page, '#/state?prefix=rate');
  await main().getByRole('link', { name: 'rate/EUR' }).click();
  await main().getByText('9007199254740993').waitFor();
  await main().getByRole('button', { name: 'Invalidate', exact: true }).click();
  await dialog().getByLabel('Reason').fill('it was wrong');
  await dialog().getByRole('button', { name: 'Invalidate' }).click();
  await main().getByText('There is no value under this key').waitFor();
  const entry = await entered('state/values');
  assert.equal(entry.reason, 'it was wrong');
});

test('a cleanup is tried before it deletes, and deletes what was shown', async () => {
  await server.put('/v1/state/tmp:1', { value: 1 });
  await server.put('/v1/cleanup/rules/tmp', { pattern: 'tmp:*', ttl_seconds: 0.1, applies_to: ['state_keys'], strategy: 'lazy', interval_seconds: 86_400 });
  await goTo(page, '#/cleanup?tab=run');
  await main().getByLabel('Rule').fill('tmp');
  const wait = async () => {
    await main().getByRole('button', { name: 'Dry run' }).click();
    await main().getByText('Would be deleted').waitFor();
    return main().getByRole('button', { name: 'Delete for good' }).isVisible();
  };
  await eventually('it is due', wait);
  assert.equal((await server.send('GET', '/v1/state/tmp%3A1')).status, 200, 'a dry run deletes nothing');
  await main().getByRole('button', { name: 'Delete for good' }).click();
  await dialog().getByText('Delete 1 thing?').waitFor();
  await dialog().getByRole('button', { name: 'Delete for good' }).click();
  await main().getByText('Deleted', { exact: true }).waitFor();
  assert.equal((await server.send('GET', '/v1/state/tmp%3A1')).status, 404);
});

test('keys lead to pages, through rows and to search, and focus follows', async () => {
  await goTo(page, '#/');
  await page.keyboard.press('g');
  await page.keyboard.press('a');
  await main().getByRole('heading', { name: 'Alerts' }).waitFor();
  await drawn(page);
  await page.waitForFunction(() => document.activeElement.id === 'main');
  await page.getByText('at rest').click();
  await page.keyboard.press('j');
  await page.keyboard.press('Enter');
  await page.waitForURL('**/#/alerts/rules/*');
  await drawn(page);
  await page.keyboard.press('/');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'query');
  await page.keyboard.press('Escape');
  await page.keyboard.press('?');
  await dialog().getByText('Keyboard shortcuts').waitFor();
  await page.keyboard.press('Escape');
  await dialog().waitFor({ state: 'detached' });
});

test('a metric is chosen, drawn, and read as a table', async () => {
  await goTo(page, '#/metrics?path=system_metrics.process_threads');
  await main().locator('canvas').first().waitFor();
  await main().getByText('As a table').click();
  await main().locator('.chart tbody tr').first().waitFor();
  await main().getByLabel('running_sagas').first().click();
  await page.waitForFunction(() => document.querySelectorAll('main canvas').length === 2);
  assert.match(decodeURIComponent(page.url()), /path=system_metrics\.process_threads,saga_metrics\.running_sagas$/);
});

test('who changes something on an open server may say who it was', async () => {
  await goTo(page, '#/instances');
  await main().getByText('Leads').waitFor();
  await page.locator('#who').getByRole('button').click();
  await dialog().getByLabel('Your name').fill('Zoë');
  await dialog().getByRole('button', { name: 'Save' }).click();
  await page.locator('#who').getByText('Zoë').waitFor();
  await main().getByRole('button', { name: 'Resign here' }).click();
  await dialog().getByRole('button', { name: 'Resign' }).click();
  const entry = await eventually('it is entered', async () =>
    (await server.get('/v1/audit?order=newest&entity=leader/lockbay&action=resigned')).items[0]);
  assert.equal(entry.actor, 'Zoë');
});

test('a connection that is lost is told, and comes back by itself', async () => {
  await goTo(page, '#/');
  const connection = page.locator('#connection');
  await connection.getByText('Live').waitFor();
  await page.route('**/v1/events', (route) => route.fulfill({ status: 429, contentType: 'application/problem+json', body: '{}' }));
  await page.reload();
  await connection.getByText('Polling').waitFor();
  await page.unroute('**/v1/events');
  await page.route('**/v1/events', (route) => route.abort());
  await connection.getByText('No connection').waitFor({ timeout: 30_000 });
  await main().getByRole('heading', { name: 'Checks' }).waitFor();
  await page.unroute('**/v1/events');
  await connection.getByText('Live').waitFor({ timeout: 60_000 });
  expected('/v1/events: 429');
  assert.deepEqual(page.watched, [], 'nothing on these pages complained');
});
