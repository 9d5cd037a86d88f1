// Sagas as an operator has them: followed live, decided upon, and found again in the audit trail.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { closeAll, drawn, eventually, goTo, openPage, Refusal, startServer, startWorker } from './harness.mjs';
import { seed, transfer } from './seed.mjs';

let server;
let ids;

before(async () => {
  server = await startServer();
  ids = await seed(server);
});
after(closeAll);

/** A step that does not go on before the test says so. */
function gate() {
  let go;
  const opened = new Promise((open) => (go = open));
  return { opened, go };
}

const step = (page, name) => page.locator(`main [data-step="${name}"].node`);

test('a saga is followed from its start to its compensation without a reload', async () => {
  const [first, second, undo] = [gate(), gate(), gate()];
  startWorker(server, {
    till: async ({ action }) => {
      await (action === 'execute' ? first : undo).opened;
      return {};
    },
    printer: async () => {
      await second.opened;
      throw new Refusal('the printer is out of paper');
    },
  });
  for (const name of ['till', 'printer']) await server.put(`/v1/handlers/${name}`, { pull: true });
  const page = await openPage(server.url, { path: '/#/sagas?saga_name=receipt' });
  await drawn(page);
  await page.evaluate(() => (window.stayed = true));

  const { saga_id } = await server.post('/v1/sagas', {
    saga_name: 'receipt',
    steps: [
      { name: 'take', handler: 'till', parameters: {} },
      { name: 'print', handler: 'printer', parameters: {} },
    ],
  });
  // It turns up in the list by itself.
  await page.locator(`main a[href^="#/sagas/${saga_id}"]`).first().click();
  await drawn(page);
  await step(page, 'take').and(page.locator('.status-running')).waitFor();
  await step(page, 'print').and(page.locator('.status-pending')).waitFor();
  first.go();
  await step(page, 'take').and(page.locator('.status-completed')).waitFor();
  await step(page, 'print').and(page.locator('.status-running')).waitFor();
  second.go();
  await step(page, 'print').and(page.locator('.status-failed')).waitFor();
  await step(page, 'take').and(page.locator('.status-compensating')).waitFor();
  await page.locator('main').getByText('the printer is out of paper').first().waitFor();
  undo.go();
  await step(page, 'take').and(page.locator('.status-compensated')).waitFor();
  await page.locator('main header').getByText('compensated').first().waitFor();
  // Its history came along, too.
  await page.locator('main').getByText('step_compensated').first().waitFor();
  assert.equal(await page.evaluate(() => window.stayed), true, 'nothing was loaded anew');
  assert.deepEqual(page.watched, []);
  await page.leave();
});

test('a parked step that is skipped goes on, and the audit trail says who and why', async () => {
  const page = await openPage(server.url, { path: `/#/sagas/${ids.parked}` });
  await drawn(page);
  await page.locator('main').getByRole('button', { name: 'Skip…' }).first().click();
  const dialog = page.getByRole('dialog');
  // Without a reason nothing is decided.
  await dialog.getByRole('button', { name: 'Skip step' }).click();
  assert.equal((await server.get(`/v1/sagas/${ids.parked}`)).status, 'parked');
  await dialog.getByLabel('Reason').fill('the customer keeps the money');
  await dialog.getByRole('button', { name: 'Skip step' }).click();
  await server.sagaIs(ids.parked, 'compensated');
  await page.locator('main header').getByText('compensated').first().waitFor();
  await page.locator('main').getByText('the customer keeps the money').first().waitFor();
  await goTo(page, `#/audit?entity=saga/${ids.parked}`);
  const row = page.locator('main tr', { hasText: 'step_skipped' });
  await row.getByText('the customer keeps the money').first().waitFor();
  assert.deepEqual(page.watched, []);
  await page.leave();
});

test('the keyboard alone reaches a verb and uses it', async () => {
  const { saga_id } = await server.post('/v1/sagas', transfer());
  await server.sagaIs(saga_id, 'parked');
  const page = await openPage(server.url, { path: `/#/sagas/${saga_id}` });
  await drawn(page);
  const focused = () => page.evaluate(() => document.activeElement.textContent.trim());
  await eventually('the tab key comes to the verb', async () => {
    await page.keyboard.press('Tab');
    return (await focused()) === 'Abandon…';
  });
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.type('typed without a mouse');
  await eventually('the tab key comes to the button', async () => {
    await page.keyboard.press('Tab');
    return (await focused()) === 'Abandon saga';
  });
  await page.keyboard.press('Enter');
  await server.sagaIs(saga_id, 'abandoned');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  // A dialog that is left by Escape decides nothing, and gives the focus back.
  await goTo(page, `#/sagas/${ids.parkedToo}`);
  const verb = page.locator('main').getByRole('button', { name: 'Abandon…' });
  await verb.focus();
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  assert.equal(await focused(), 'Abandon…');
  assert.equal((await server.get(`/v1/sagas/${ids.parkedToo}`)).status, 'parked');
  await page.leave();
});

test('one decision about many is tried dry before it is taken', async () => {
  const started = [];
  for (let made = 0; made < 3; made += 1) {
    const { saga_id } = await server.post('/v1/sagas', { ...transfer(), saga_name: 'batch' });
    started.push(saga_id);
  }
  for (const id of started) await server.sagaIs(id, 'parked');
  const page = await openPage(server.url, { path: '/#/sagas?status=parked&saga_name=batch' });
  await drawn(page);
  await page.locator('main').getByRole('button', { name: /^Decide on all/ }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Decision').selectOption('abandon');
  await dialog.getByLabel('Reason').fill('the batch was entered twice');
  await dialog.getByRole('button', { name: 'Dry run' }).click();
  await dialog.getByText('3 sagas').first().waitFor();
  for (const id of started) assert.equal((await server.get(`/v1/sagas/${id}`)).status, 'parked', 'nothing was decided');
  await dialog.getByRole('button', { name: /^Abandon/ }).click();
  for (const id of started) await server.sagaIs(id, 'abandoned');
  assert.deepEqual(page.watched, []);
  await page.leave();
});
