// Fills a server with what an operator meets on a day: money, sagas that ended well and badly, jobs,
// schedules, alerts, and names that somebody chose with bad intent.

import { eventually, Refusal, startWorker } from './harness.mjs';

/** Markup where a name or a value is expected. It must come out as text. */
export const MARKUP = '<img src=x onerror="window.owned=1">';

/** The handlers of the seeded sagas. */
const HANDLERS = {
  stock: ({ action, parameters }) => ({ [action]: parameters.sku ?? null, reservation: 'r-4711' }),
  card: ({ action, parameters }) => {
    if (action === 'execute' && parameters.amount === '0.00') throw new Refusal('the card was declined');
    return { action, receipt: 'c-88' };
  },
  courier: ({ action, parameters }) => {
    if (action === 'execute' && parameters.lost) throw new Refusal('no courier drives to this address');
    return { tracking: 'LB-1' };
  },
  // It undoes nothing, so whatever stands behind it parks when it has to come back.
  stubborn: ({ action }) => {
    if (action === 'compensate') throw new Refusal('the bank does not take it back');
    return { transfer: 't-9' };
  },
  books: () => ({ checked: 128 }),
};

/** A definition that somebody would write for an order. */
export function order({ amount = '25.00', lost = false, name = 'order', label = 'A1' } = {}) {
  return {
    saga_name: name,
    context: { order_id: 17 },
    metadata: { channel: 'web' },
    timeout_seconds: 600,
    steps: [
      { name: 'reserve', handler: 'stock', parameters: { sku: label } },
      { name: 'charge', handler: 'card', parameters: { amount }, depends_on: ['reserve'] },
      { name: 'notify', handler: 'stock', parameters: {}, depends_on: ['reserve'] },
      { name: 'ship', handler: 'courier', parameters: { lost }, depends_on: ['charge', 'notify'] },
    ],
  };
}

/** One whose last step fails and whose first cannot be undone. */
export function transfer() {
  return {
    saga_name: 'transfer',
    steps: [
      { name: 'send', handler: 'stubborn', parameters: { amount: '310.00', currency: 'EUR' } },
      { name: 'book', handler: 'card', parameters: { amount: '0.00' }, max_retries: 0 },
    ],
  };
}

export const startSeedWorker = (server, headers) => startWorker(server, HANDLERS, headers);

/** Fills the server, and gives the ids of what a test wants to look at. */
export async function seed(server, headers = {}, { markup = true } = {}) {
  const post = (path, body, more = {}) => server.post(path, body, { ...headers, ...more });
  startSeedWorker(server, headers);
  await eventually('the server leads', async () => (await server.send('GET', '/v1/leader', undefined, headers)).status === 200);
  for (const name of Object.keys(HANDLERS)) await server.put(`/v1/handlers/${name}`, { pull: true }, headers);
  const ids = {};

  await deposit(post, 'ann', '1250.00', 'USD');
  await deposit(post, 'ben', '99000.10', 'EUR');
  await deposit(post, 'eve', '0.000000000000000001', 'ETH');
  ids.cashout = (await post('/v1/sagas/cashout',
    { user_id: 'ann', amount: '25.00', currency: 'USD', destination: 'DE89' },
    { 'idempotency-key': 'cashout-1' })).saga_id;
  ids.escrow = (await post('/v1/sagas/escrow',
    { buyer_id: 'ann', seller_id: 'ben', amount: '300.00', currency: 'USD' },
    { 'idempotency-key': 'escrow-1' })).saga_id;

  const start = async (body) => (await post('/v1/sagas', body)).saga_id;
  for (let made = 0; made < 5; made += 1) ids.completed = await start(order());
  ids.compensated = await start(order({ lost: true }));
  ids.parked = await start(transfer());
  ids.parkedToo = await start(transfer());
  ids.markup = await start(markup ? order({ name: MARKUP, label: MARKUP }) : order());
  ids.waiting = await start({
    saga_name: 'import', steps: [{ name: 'fetch', handler: 'nobody', parameters: {}, timeout_seconds: 500 }], defer_handlers: true,
  });

  await seedJobs(post, ids, markup ? MARKUP : 'welcome-10');
  await seedSchedules(server, headers, post);
  await seedAlerts(server, headers);
  await server.put('/v1/state/user:1', { value: { name: 'Ann' }, tags: ['user'], ttl_seconds: 3600 }, headers);
  for (const [id, status] of [['completed', 'completed'], ['compensated', 'compensated'], ['parked', 'parked'], ['parkedToo', 'parked'], ['markup', 'completed']]) {
    await eventually(`the saga ${id} is ${status}`, async () => {
      const saga = await server.ok('GET', `/v1/sagas/${ids[id]}`, undefined, headers);
      return saga.status === status;
    });
  }
  return ids;
}

async function deposit(post, user_id, amount, currency) {
  await post('/v1/ledger/deposits', { user_id, amount, currency }, { 'idempotency-key': `deposit-${user_id}` });
}

async function seedJobs(post, ids, last) {
  const claim = (job_type, job_key, parameters, more = {}) =>
    post('/v1/jobs/claim', { job_type, job_key, parameters, holder: 'mailer-1', ...more });
  for (let number = 1; number <= 8; number += 1) {
    const job = await claim('mail', `welcome-${number}`, { to: `user${number}@example.com` });
    await post(`/v1/jobs/${job.job_id}/complete`, { claim_token: job.claim_token, result: { message: `m-${number}` } });
  }
  const failed = await claim('mail', 'welcome-9', { to: 'nobody' }, { max_retries: 0 });
  await post(`/v1/jobs/${failed.job_id}/fail`, { claim_token: failed.claim_token, error: 'the mailbox is full', retryable: false });
  ids.failedJob = failed.job_id;
  const another = await claim('mail', 'welcome-10', { to: 'nobody either' }, { max_retries: 0 });
  await post(`/v1/jobs/${another.job_id}/fail`, { claim_token: another.claim_token, error: 'the mailbox is full', retryable: false });
  ids.anotherFailedJob = another.job_id;
  const running = await claim('export', 'ledger-2026-11', { month: '2026-11' }, { claim_ttl_seconds: 600 });
  ids.runningJob = running.job_id;
  const markup = await claim('mail', last, { to: last });
  await post(`/v1/jobs/${markup.job_id}/complete`, { claim_token: markup.claim_token, result: last });
  ids.markupJob = markup.job_id;
}

async function seedSchedules(server, headers, post) {
  const put = (name, body) => server.put(`/v1/schedules/${name}`, body, headers);
  await put('nightly', {
    job_type: 'reconcile', schedule_expression: '30 2 * * *', time_zone: 'Europe/Berlin', parameters: { ledger: 'main' }, handler: 'books',
  });
  await put('probe', { job_type: 'probe', schedule_expression: 'every 5m', handler: 'books', misfire: 'skip' });
  await put('monthly', { job_type: 'statement', schedule_expression: '0 0 L * *', handler: 'books' });
  await server.ok('POST', '/v1/schedules/monthly/pause', undefined, headers);
  await server.ok('POST', '/v1/schedules/nightly/run', undefined, headers);
}

async function seedAlerts(server, headers) {
  const rule = {
    metric_path: 'saga_metrics.sagas_parked', operator: '>', threshold: 0, window_minutes: 5, severity: 'critical',
  };
  await server.send('PUT', '/v1/alerts/rules/parked-sagas', rule, headers);
}
