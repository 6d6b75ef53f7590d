'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { IPCPool } = require('../index.js');
const { startServer, eventually } = require('./support.js');

const QUICK = { reconnectDelay: 20, reconnectDelayMax: 100, reconnectAttempts: 500 };

async function services(client) {
  return (await client.sendRequest('system', { action: 'list_services' })).payload.services;
}

function service(name, workers, kept, concurrency) {
  const limit = concurrency === undefined ? {} : { concurrency };
  return { name, healthy: true, workers, kept_requests: kept, ...limit };
}

async function connected(t) {
  const server = await startServer();
  t.after(() => server.kill());
  const clients = [server.client('models'), server.client('models'), server.client('models')];
  t.after(() => Promise.all(clients.map((client) => client.disconnect())));
  await Promise.all(clients.map((client) => client.connect()));
  return [server, ...clients];
}

test('the server keeps what a slow handler has no hand free for, and a new worker takes it over', async (t) => {
  const [, first, second, asks] = await connected(t);
  let finish;
  const finished = new Promise((resolve) => { finish = resolve; });
  const begun = [];
  await first.serve('model', async ({ payload }) => {
    begun.push(payload);
    await finished;
    return `first ${payload}`;
  }, { concurrency: 1, prefetch: 0 });
  const answers = [0, 1, 2, 3, 4, 5].map((n) => asks.sendRequest('model', n));
  await eventually('kept', async () => (await services(asks))[0].kept_requests === 5);
  assert.deepEqual(await services(asks), [service('model', 1, 5, [1])]);
  await second.serve('model', ({ payload }) => `second ${payload}`, { concurrency: 2, prefetch: 1 });
  const others = await Promise.all(answers.slice(1));
  assert.deepEqual(others.map(({ payload }) => payload), [1, 2, 3, 4, 5].map((n) => `second ${n}`));
  assert.deepEqual(await services(asks), [service('model', 2, 0, [1, 3])]);
  assert.deepEqual(begun, [0]);
  finish();
  assert.equal((await answers[0]).payload, 'first 0');
});

test('without a prefetch all requests are handed out at once', async (t) => {
  const [, worker, other, asks] = await connected(t);
  let finish;
  const finished = new Promise((resolve) => { finish = resolve; });
  for (const [channel, options] of [['one', { concurrency: 1 }], ['two', { concurrency: 1, prefetch: null }]]) {
    await worker.serve(channel, () => finished, options);
    await other.serve(`other ${channel}`, () => 1, options);
    const answers = [1, 2, 3].map(() => asks.sendRequest(channel, null));
    await asks.ping();
    assert.deepEqual((await services(asks)).find(({ name }) => name === channel), service(channel, 1, 0));
    answers.forEach((answer) => answer.catch(() => {}));
  }
  finish(1);
});

test('the number is announced again after a reconnect', async (t) => {
  let server = await startServer();
  t.after(() => server.kill());
  const { port } = server;
  const worker = server.client('models', { ...QUICK });
  t.after(() => worker.disconnect());
  await worker.connect();
  await worker.serve('model', () => 1, { concurrency: 3, prefetch: 4 });
  await server.kill();
  server = await startServer({ port });
  const asks = server.client('models');
  t.after(() => asks.disconnect());
  await asks.connect();
  await eventually('served again', async () => (await services(asks)).length === 1);
  assert.deepEqual(await services(asks), [service('model', 1, 0, [7])]);
});

test('a pool passes it on, and it is at most what the server takes', async (t) => {
  const server = await startServer();
  t.after(() => server.kill());
  const pool = new IPCPool('models', { size: 2, port: server.port });
  t.after(() => pool.close());
  await pool.connect();
  await pool.serve('model', () => 1, { concurrency: Infinity, prefetch: 5 });
  const asks = server.client('models');
  t.after(() => asks.disconnect());
  await asks.connect();
  assert.deepEqual(await services(asks), [service('model', 2, 0, [65_536, 65_536])]);
});

test('what is no prefetch', async (t) => {
  const [, worker] = await connected(t);
  for (const prefetch of [-1, 1.5, '4', true, NaN, Infinity, {}]) {
    await assert.rejects(worker.serve('x', () => 1, { prefetch }), TypeError, String(prefetch));
  }
});
