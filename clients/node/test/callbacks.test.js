'use strict';

// Callbacks that fail later, as asynchronous ones do. `node --test` fails a test that leaves a rejection unhandled.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const http = require('node:http');
const { connected, web, warnings, eventually, closed } = require('./support.js');
const { IPCPool, ipcEvents, ipcProxy } = require('../index.js');

test('a listener that rejects is reported, and one of `error` is a warning', async (t) => {
  const { client } = await connected(t);
  const warned = warnings(t);
  const errors = [];
  client.onError(({ message }) => { errors.push(message); });
  for (const event of ['response', 'message', 'slow', 'disconnected']) {
    client.on(event, async () => { throw new Error(`rejected ${event}`); });
  }
  client.on('error', async ({ message }) => { throw new Error(`on ${message}`); });
  client.request('echo', 1);
  await eventually('reported', () => errors.length === 1 && warned.length === 1);
  assert.deepEqual([errors, warned], [['rejected response'], ['on rejected response']]);
  assert.equal(await client.ping(), true);
});

test('a listener of a pool that rejects is the pool\'s error', async (t) => {
  const { server } = await connected(t);
  const warned = warnings(t);
  const pool = closed(t, new IPCPool('bench', { size: 1, port: server.port }));
  pool.on('connected', async () => { throw new Error('rejected'); });
  await pool.connect();
  await eventually('a warning where nobody listens', () => warned.length === 1);
  pool.on('error', async (error, client) => {
    assert.equal(client, pool.clients[0]);
    throw new Error(`on ${error.message}`);
  });
  pool.on('response', async () => { throw new Error('again'); });
  pool.request('echo', 1);
  await eventually('the other warning', () => warned.length === 2);
  assert.deepEqual(warned, ['rejected', 'on again']);
});

test('an asynchronous filter shows nothing and is reported', async (t) => {
  const { client } = await connected(t);
  const errors = [];
  client.onError(({ message }) => { errors.push(message); });
  const filter = async ({ payload }) => {
    if (payload === 1) throw new Error('rejected');
    return true;
  };
  const base = await web(t, ipcEvents(client, 'secrets', { filter }));
  const shown = [];
  http.get(base, (response) => {
    response.on('data', (text) => shown.push(String(text)));
    response.on('error', () => {});
  });
  await eventually('subscribed', () => shown.length === 1);
  client.publish('secrets', 1);
  client.publish('secrets', 2);
  await eventually('reported', () => errors.length === 3);
  assert.deepEqual(errors.filter((message) => /has to answer at once/.test(message)).length, 2);
  assert.ok(errors.includes('rejected'));
  assert.equal(shown.length, 1, String(shown));
});

test('payload and status may be asynchronous, and may reject', async (t) => {
  const { client } = await connected(t);
  const fail = async () => { throw new Error('rejected'); };
  const ask = async (options, channel = 'nobody') => {
    const response = await fetch(await web(t, ipcProxy(client, channel, options)));
    return [response.status, await response.json()];
  };
  assert.deepEqual(await ask({ payload: async () => 'later' }, 'echo'), [200, 'later']);
  assert.deepEqual((await ask({ status: async () => 404 }))[0], 404);
  for (const options of [{ status: fail }, { payload: fail }, { payload: async () => { throw undefined; } }]) {
    assert.deepEqual(await ask(options), [500, { error: 'internal error', code: 'INTERNAL' }]);
  }
  const next = [];
  const proxy = ipcProxy(client, 'echo', { payload: () => { throw undefined; } });
  const base = await web(t, (req, res) => proxy(req, res, (error) => {
    next.push(error);
    res.end();
  }));
  await fetch(base);
  assert.ok(next[0] instanceof Error, 'with nothing, Express would go on to the next handler');
});
