'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const diagnostics = require('node:diagnostics_channel');
const { startServer } = require('./support.js');

test('diagnostics_channel tells of connections, requests, publications and served requests', async (t) => {
  const server = await startServer();
  t.after(() => server.kill());
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
