// Pictures of the main pages for the documents. They are taken only when LOCKBAY_SCREENSHOTS is 1,
// because they change with every second that goes by.

import assert from 'node:assert/strict';
import { mkdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { closeAll, drawn, eventually, goTo, openPage, startServer } from './harness.mjs';
import { order, seed } from './seed.mjs';

const IMAGES = fileURLToPath(new URL('../../../../docs/images/', import.meta.url));
const LARGEST = 200_000;
/** For so long there is something to do, so that charts have something to show. */
const BUSY_MS = 240_000;

after(closeAll);

async function keepBusy(server) {
  const until = Date.now() + BUSY_MS;
  for (let number = 1; Date.now() < until; number += 1) {
    await server.post('/v1/sagas', order({ lost: number % 40 === 0 }));
    const job = await server.post('/v1/jobs/claim', { job_type: 'mail', job_key: `letter-${number}`, parameters: {}, holder: 'mailer-2' });
    await server.post(`/v1/jobs/${job.job_id}/complete`, { claim_token: job.claim_token, result: null });
    await new Promise((next) => setTimeout(next, 300 + 250 * Math.sin(number / 12)));
  }
}

test('pictures of the main pages', { skip: process.env.LOCKBAY_SCREENSHOTS !== '1' && 'LOCKBAY_SCREENSHOTS is not 1' }, async () => {
  await mkdir(IMAGES, { recursive: true });
  const server = await startServer({ args: ['--instance-name', 'bay-1'], env: { LOCKBAY_ENVIRONMENT: 'staging' } });
  const ids = await seed(server, {}, { markup: false });
  await keepBusy(server);
  await eventually('an alert fires', async () => (await server.get('/v1/alerts?state=firing')).items.length > 0, 60_000);
  const viewport = { width: 1280, height: 800 };
  const page = await openPage(server.url, { viewport });
  await drawn(page);
  const take = async (name, route) => {
    await goTo(page, route);
    await page.evaluate(() => document.activeElement?.blur());
    const file = path.join(IMAGES, `${name}.png`);
    await page.screenshot({ path: file });
    const { size } = await stat(file);
    console.log(`${file}: ${(size / 1024).toFixed(0)} KiB`);
    assert.ok(size <= LARGEST, `${name} has ${size} bytes, ${LARGEST} at most`);
  };
  await take('overview', '#/?minutes=15');
  await take('sagas', '#/sagas');
  await take('saga', `#/sagas/${ids.compensated}`);
  await take('alerts', '#/alerts');
  await take('ledger', '#/ledger?user=ann&currency=USD');
  await page.emulateMedia({ colorScheme: 'dark' });
  await take('saga-dark', `#/sagas/${ids.parked}`);
});
