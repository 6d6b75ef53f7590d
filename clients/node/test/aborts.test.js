'use strict';

// What waits for a signal leaves nothing on it.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { getEventListeners } = require('node:events');
const { connected, warnings, eventually, joined } = require('./support.js');

test('a signal shared by many has one listener, and none when they are done', async (t) => {
  const { server, client } = await connected(t);
  const other = await joined(t, server.client());
  const warned = warnings(t);
  const controller = new AbortController();
  const { signal } = controller;
  const listeners = () => getEventListeners(signal, 'abort').length;
  const answers = [];
  for (let n = 0; n < 50; n += 1) answers.push((n % 2 ? client : other).sendRequest('echo', n, { signal }));
  const subscriptions = [0, 1, 2].map((n) => client.subscribe(`c${n}`, { signal }));
  assert.equal(listeners(), 1);
  await Promise.all(answers);
  assert.equal(listeners(), 1, 'the subscriptions still wait');
  for (const subscription of subscriptions) subscription.unsubscribe();
  assert.equal(listeners(), 0);

  await client.serve('never', () => new Promise(() => {}));
  const aborted = [1, 2, 3].map(() => assert.rejects(other.sendRequest('never', 1, { signal }), { code: 'ABORTED' }));
  const ended = assert.rejects(client.subscribe('c', { signal }).next(), { code: 'ABORTED' });
  await other.ping();
  controller.abort();
  await Promise.all([...aborted, ended]);
  assert.equal(listeners(), 0);
  // What the server has still to confirm is what was subscribed to last.
  await eventually('nothing pending', () => client.pending.size === 0 && other.pending.size === 0);
  assert.deepEqual(warned, []);
});

test('each served request has a signal of its own', async (t) => {
  const { server, client } = await connected(t);
  const worker = await joined(t, server.client());
  const warned = warnings(t);
  const signals = new Set();
  const told = [];
  await worker.serve('signalled', (request) => {
    const { signal } = request;
    assert.equal(request.signal, signal);
    signals.add(signal);
    // As programs do who pass it on to `fetch` and the like, and never take it back.
    signal.addEventListener('abort', () => told.push(request.payload));
    return request.payload < 50 ? null : new Promise(() => {});
  });
  await Promise.all(Array.from({ length: 50 }, (_, n) => client.sendRequest('signalled', n)));
  const stays = [50, 51].map((n) => client.sendRequest('signalled', n).catch((error) => error.code));
  await eventually('in hand', () => worker.services.get('signalled').running === 2);
  assert.equal(signals.size, 52);
  worker.connection.socket.destroy();
  assert.deepEqual(await Promise.all(stays), ['worker_lost', 'worker_lost']);
  await eventually('told', () => told.length === 2);
  assert.deepEqual(told, [50, 51], 'whoever is done is told nothing');
  assert.deepEqual(warned, []);
});

test('a signal that is asked for too late has fired', async (t) => {
  const { server, client } = await connected(t);
  const worker = await joined(t, server.client());
  const requests = [];
  await worker.serve('late', (request) => {
    requests.push(request);
    return new Promise(() => {});
  });
  client.sendRequest('late', 1).catch(() => {});
  await eventually('in hand', () => requests.length === 1);
  worker.disconnect();
  assert.equal(requests[0].signal.aborted, true);
  assert.equal(requests[0].signal.reason.code, 'CONNECTION_LOST');
});

test('what is no signal is a TypeError, and leaves no timer behind', async (t) => {
  const { client } = await connected(t);
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const before = timers();
  for (const signal of [{}, 5, 'soon', new AbortController()]) {
    await assert.rejects(client.sendRequest('echo', 1, { signal, timeout: 60_000 }),
      { name: 'TypeError', message: /AbortSignal/ });
    assert.throws(() => client.subscribe('x', { signal }), { name: 'TypeError', message: /AbortSignal/ });
  }
  assert.deepEqual([timers(), client.pending.size, client.getConnectionInfo().subscribedChannels], [before, 0, []]);
  assert.equal((await client.sendRequest('echo', 1, { signal: null })).payload, 1);
});
