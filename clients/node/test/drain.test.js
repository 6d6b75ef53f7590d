'use strict';

// A server that is told to end lets its clients finish.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { connected, eventually, once, joined, served, collected } = require('./support.js');

const QUICK = { reconnectDelay: 20, reconnectDelayMax: 100, reconnectAttempts: 500 };

test('what is in flight at SIGTERM is answered, what comes later refused, and both come back', async (t) => {
  const { server, client } = await connected(t, QUICK);
  const worker = await joined(t, server.client('bench', QUICK));
  const errors = collected(client, 'error');
  let finish;
  await worker.serve('slow', ({ payload }) => (payload === 'later' ? payload
    : new Promise((resolve) => { finish = () => resolve('finished'); })));
  const inFlight = client.sendRequest('slow', 'now', 30_000);
  await eventually('in hand', () => finish !== undefined);
  const news = once(client, 'error');
  const lost = once(client, 'disconnected');
  server.child.kill('SIGTERM');
  assert.equal((await news)[0].code, 'shutting_down');
  assert.equal(client.connected, true, 'it waits for the answer');
  await assert.rejects(client.sendRequest('slow', 'too late', 30_000), { code: 'shutting_down' });
  finish();
  assert.equal((await inFlight).payload, 'finished');
  const [{ cause }] = await lost;
  assert.equal(cause.code, 'shutting_down');
  assert.deepEqual(await server.wait(), { code: 0, signal: null });
  const again = await served(t, { port: server.port });
  await eventually('served again', () => client.sendRequest('slow', 'later', 5_000)
    .then(({ payload }) => payload === 'later', () => false));
  assert.ok(errors.every(({ code }) => code === 'shutting_down' || code === 'no_handler'), errors.join('\n'));
});
