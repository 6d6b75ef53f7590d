'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const diagnostics = require('node:diagnostics_channel');
const { served } = require('./support.js');

test('diagnostics_channel tells of connections, requests, publications and served requests', async (t) => {
  const server = await served(t);
  const seen = [];
  for (const name of ['connect', 'disconnect', 'request:start', 'request:end', 'request:error', 'serve:start',
    'serve:end', 'publish']) {
    const listener = (context) => seen.push([name, context]);
    diagnostics.subscribe(`ipc-framework:${name}`, listener);
    t.after(() => diagnostics.unsubscribe(`ipc-framework:${name}`, listener));
  }
  const client = server.client('math');
  await client.connect();
  await client.serve('square', (request) => request.payload ** 2);
  await client.sendRequest('square', 3);
  await client.sendRequest('nobody', 3).catch(() => {});
  client.publish('news', 1);
  client.disconnect();
  const of = (name) => seen.filter(([found]) => found === name).map(([, context]) => context);
  assert.deepEqual(of('connect').map(({ isReconnect }) => isReconnect), [false]);
  assert.deepEqual(of('request:start').map(({ channel }) => channel), ['system', 'square', 'nobody']);
  assert.deepEqual(of('request:end').map(({ channel }) => channel), ['system', 'square']);
  assert.equal(of('request:end')[1].response.payload, 9);
  assert.equal(of('request:end')[1].messageId, of('request:start')[1].messageId);
  assert.deepEqual(of('request:error').map(({ error }) => error.code), ['no_handler']);
  assert.deepEqual(of('serve:start').map(({ channel }) => channel), ['square']);
  assert.deepEqual(of('serve:end').map(({ error }) => error), [null]);
  assert.deepEqual(of('publish').map(({ channel }) => channel), ['news']);
  assert.equal(of('disconnect').length, 1);
});

test('every start has an end or an error, whichever way it goes', async (t) => {
  const server = await served(t);
  const started = new Map();
  const ended = [];
  for (const name of ['request:start', 'request:end', 'request:error']) {
    const listener = ({ messageId, error }) => {
      if (name === 'request:start') started.set(messageId, null);
      else {
        assert.ok(started.delete(messageId), 'one of each');
        ended.push(error?.code ?? 'end');
      }
    };
    diagnostics.subscribe(`ipc-framework:${name}`, listener);
    t.after(() => diagnostics.unsubscribe(`ipc-framework:${name}`, listener));
  }
  const expect = async (promise, code) => {
    assert.equal(await promise.then(() => 'end', (error) => error.code), code);
    assert.equal(ended.at(-1), code);
    assert.equal(started.size, 0, code);
  };
  const client = server.client('bench', { pendingMax: 1, maxFrameBytes: 10_000, offlineQueueSize: 0 });
  await expect(client.sendRequest('echo', 1), 'NOT_CONNECTED');
  const connecting = client.connect();
  await expect(client.sendRequest('echo', 1), 'QUEUE_FULL');
  await connecting;
  await expect(client.sendRequest('echo', 'x'.repeat(20_000)), 'FRAME_TOO_LARGE');
  await expect(client.sendRequest('echo', 1), 'end');
  const first = client.sendRequest('echo', 1);
  await assert.rejects(client.sendRequest('echo', 2), { code: 'QUEUE_FULL' });
  assert.equal(ended.at(-1), 'QUEUE_FULL');
  await first;
  // Served by who never answers.
  client.on('message', () => {});
  await client.command({ action: 'serve', channel: 'never' });
  await expect(client.sendRequest('never', 1, 10), 'TIMEOUT');
  const controller = new AbortController();
  const aborted = client.sendRequest('echo', 1, { signal: controller.signal });
  controller.abort();
  await expect(aborted, 'ABORTED');
  await expect(client.sendRequest('nobody', 1), 'no_handler');
  const cut = client.sendRequest('echo', 1);
  client.disconnect();
  await expect(cut, 'NOT_CONNECTED');
  assert.throws(() => client.sendRequestAsync('echo', 1, () => {}), { code: 'NOT_CONNECTED' });
  assert.equal(started.size, 0);
});
