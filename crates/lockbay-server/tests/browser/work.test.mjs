// Jobs, schedules, money and the audit trail, as somebody uses them with a mouse.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { closeAll, drawn, eventually, goTo, openPage, startServer } from './harness.mjs';
import { seed } from './seed.mjs';

let server;
let ids;
let page;

before(async () => {
  server = await startServer();
  ids = await seed(server);
  page = await openPage(server.url);
  await drawn(page);
});
after(closeAll);

const main = () => page.locator('main');
const dialog = () => page.getByRole('dialog');

test('a deposit is made once, and shown to the last digit', async () => {
  await goTo(page, '#/ledger');
  await main().getByRole('button', { name: 'Deposit…' }).click();
  await dialog().getByLabel('User').fill('zoe');
  await dialog().getByLabel('Amount').fill('9007199254740993.000000000000000001');
  await dialog().getByLabel('Currency').fill('ETH');
  await dialog().getByLabel('Idempotency key').fill('bank-77');
  await dialog().getByRole('button', { name: 'Make deposit' }).click();
  // More than the ledger takes: the form stays, says why, and loses nothing.
  await dialog().getByRole('alert').getByText(/./).waitFor();
  await dialog().getByLabel('Amount').fill('900719925.000000000000000001');
  await dialog().getByRole('button', { name: 'Make deposit' }).click();
  await main().getByText('900\u202f719\u202f925.000000000000000001').first().waitFor();
  const { available } = await server.get('/v1/ledger/accounts/zoe?currency=ETH');
  assert.equal(available, '900719925.000000000000000001');
  await server.post('/v1/ledger/deposits', { user_id: 'zoe', amount: '900719925.000000000000000001', currency: 'ETH' }, { 'idempotency-key': 'bank-77' });
  assert.equal((await server.get('/v1/ledger/accounts/zoe?currency=ETH')).available, available, 'the key names the same deposit');
  // The refused amount is the one answer that may say 4xx.
  page.watched.splice(0, page.watched.length, ...page.watched.filter((told) => !told.includes('/v1/ledger/deposits: 4')));
});

test('a schedule is put with its next times in sight, then paused and run', async () => {
  await goTo(page, '#/schedules');
  await main().getByRole('button', { name: 'New schedule…' }).click();
  await dialog().getByLabel('Name').fill('statements');
  await dialog().getByLabel('When it is due').fill('0 9 * * MON#1');
  await dialog().getByLabel('Time zone').fill('Europe/Berlin');
  await dialog().getByText(/^Mon, .* 09:00:00 CES?T$/).first().waitFor();
  await dialog().getByLabel('Type of its jobs').fill('statement');
  await dialog().getByLabel('Handler').fill('books');
  await dialog().getByRole('button', { name: 'Create' }).click();
  await main().getByRole('heading', { name: 'statements' }).waitFor();
  await main().getByRole('button', { name: 'Run…' }).click();
  await dialog().getByRole('button', { name: 'Run now' }).click();
  await eventually('the tick is done', async () => (await server.get('/v1/schedules/statements')).counts.completed === 1);
  await main().getByRole('link', { name: /^statements@now:/ }).waitFor();
  await main().getByRole('button', { name: 'Pause' }).click();
  await main().getByRole('button', { name: 'Resume…' }).waitFor();
  assert.equal((await server.get('/v1/schedules/statements')).status, 'paused');
});

test('a failed job is retried with a reason that the audit trail keeps', async () => {
  await goTo(page, `#/jobs/${ids.failedJob}`);
  await main().getByText('the mailbox is full').first().waitFor();
  await main().getByRole('button', { name: 'Retry…' }).click();
  await dialog().getByLabel('Reason').fill('the mailbox was emptied');
  await dialog().getByRole('button', { name: 'Retry job' }).click();
  await dialog().waitFor({ state: 'detached' });
  await main().getByText('retried').first().waitFor();
});

test('filters stand in the address, and survive a reload', async () => {
  await goTo(page, '#/jobs');
  await main().getByLabel('Status').selectOption('failed');
  await main().getByText('welcome-9').first().waitFor();
  await main().getByText('welcome-8').first().waitFor({ state: 'detached' });
  assert.match(page.url(), /#\/jobs\?status=failed$/);
  await page.reload();
  await drawn(page);
  assert.equal(await main().getByLabel('Status').inputValue(), 'failed');
  assert.equal(await main().getByText('welcome-8').count(), 0);
});

test('a job is found by a word in it, and nothing is decided about what a search finds', async () => {
  await eventually('it is indexed', async () => (await server.get('/v1/search?q=user3@example.com')).items.length === 1);
  await goTo(page, '#/jobs?q=user3@example.com');
  await main().getByRole('link', { name: 'welcome-3' }).waitFor();
  assert.equal(await main().locator('tbody tr').count(), 1);
  assert.equal(await main().getByRole('button', { name: /^Decide on all/ }).count(), 0);
  await goTo(page, '#/jobs?job_type=mail&status=failed');
  await main().getByRole('button', { name: /^Decide on all/ }).waitFor();
});

test('many jobs are retried in one go, after a dry run', async () => {
  await goTo(page, '#/jobs?job_type=mail&status=failed');
  await main().getByRole('button', { name: /^Decide on all/ }).click();
  await dialog().getByLabel('Decision').selectOption('retry');
  await dialog().getByLabel('Reason').fill('mail is delivered again');
  await dialog().getByRole('button', { name: 'Dry run' }).click();
  await dialog().getByRole('button', { name: /^Retry \d+ jobs?$/ }).click();
  await dialog().waitFor({ state: 'detached' });
  const { items } = await server.get(`/v1/audit?entity=job/${ids.anotherFailedJob}&action=retried`);
  assert.ok(items.length >= 1, 'it stands in the audit trail');
});

test('the audit trail is verified, proved and exported', async () => {
  await eventually('an entry is sealed', async () => (await server.get('/v1/audit/verify')).sealed > 0, 20_000);
  await goTo(page, '#/audit?action=started');
  await main().getByRole('button', { name: 'Verify' }).click();
  await main().getByText('As it was sealed').waitFor();
  await main().locator('tbody tr').last().locator('td').first().click();
  await dialog().getByRole('button', { name: 'Prove it' }).click();
  await dialog().getByRole('link', { name: 'Download the proof' }).waitFor();
  await dialog().getByRole('button', { name: 'Close' }).click();
  await main().getByRole('button', { name: 'Export…' }).click();
  const [download] = await Promise.all([page.waitForEvent('download'), dialog().getByRole('button', { name: 'Download' }).click()]);
  assert.match(download.suggestedFilename(), /^audit-.*\.jsonl$/);
  const { readFile } = await import('node:fs/promises');
  const lines = (await readFile(await download.path(), 'utf8')).trim().split('\n').map((line) => JSON.parse(line));
  assert.ok(lines.length > 10, 'entries and seals');
  assert.deepEqual(page.watched, [], 'nothing on these pages complained');
});
