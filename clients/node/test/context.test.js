'use strict';

// Each callback runs in the async context of whoever registered it, and handlers in one of their own for each request.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { AsyncLocalStorage } = require('node:async_hooks');
const diagnostics = require('node:diagnostics_channel');
const events = require('node:events');
const http = require('node:http');
const { eventually, closed, served, once } = require('./support.js');
const { IPCPool, ipcEvents, ipcProxy } = require('../index.js');

const user = new AsyncLocalStorage();
const QUICK = { reconnectDelay: 20, reconnectDelayMax: 100, reconnectAttempts: 500 };

/** A client that alice made and connected, as a web application does in its first request. */
async function alices(t, make) {
  const server = await served(t);
  const client = user.run('alice', () => closed(t, make(server)));
  await user.run('alice', () => client.connect());
  return { server, client };
}

/** Collects who each callback runs as. */
function witnesses() {
  const seen = {};
  const as = (name, f = () => {}) => (...values) => {
    (seen[name] ??= []).push(user.getStore());
    return f(...values);
  };
  const all = (who) => {
    for (const [name, found] of Object.entries(seen)) assert.deepEqual([name, ...new Set(found)], [name, who]);
    return Object.keys(seen).sort();
  };
  return { as, all, seen };
}

test('callbacks, handlers and listeners of a client run as whoever registered them', async (t) => {
  const { server, client } = await alices(t, (one) => one.client('bench', QUICK));
  const other = closed(t, server.client('bench'));
  await other.connect();
  const { as, all, seen } = witnesses();
  let lose;
  const lost = new Promise((resolve) => { lose = resolve; });
  await user.run('bob', async () => {
    await client.sendRequest('echo', 1);
    as('after await')();
    await new Promise((resolve) => { client.sendRequestAsync('echo', 1, as('sendRequestAsync', resolve)); });
    client.subscribe('news', as('subscribe'));
    await client.serve('who', as('serve', async ({ signal, payload }) => {
      await new Promise(setImmediate);
      as('serve, later')();
      if (payload !== 'lose') return;
      signal.addEventListener('abort', as('abort', lose));
      client.connection.socket.destroy();
      await lost;
    }), { onNotification: as('onNotification') });
    for (const event of ['connected', 'disconnected', 'reconnecting', 'error', 'response', 'message']) {
      client.on(event, as(`on ${event}`));
    }
    client.once('response', as('once'));
    client.prependListener('response', as('prependListener'));
    client.prependOnceListener('response', as('prependOnceListener'));
    client.onConnected(as('onConnected'));
    client.onDisconnected(as('onDisconnected'));
    client.onError(as('onError'));
    void events.once(client, 'message').then(as('events.once'));
  });
  other.publish('news', 1);
  other.notify('who', 1);
  client.request('echo', 1);
  await other.sendRequest('who', 1);
  await client.ping();
  client.report(new Error('of alice'));
  const back = once(client, 'connected');
  await other.sendRequest('who', 'lose').catch(() => {});
  await back;
  await eventually('all', () => seen['on connected'] !== undefined);
  assert.deepEqual(all('bob'), ['abort', 'after await', 'events.once', 'on connected', 'on disconnected', 'on error',
    'on message', 'on reconnecting', 'on response', 'onConnected', 'onDisconnected', 'onError', 'onNotification', 'once',
    'prependListener', 'prependOnceListener', 'sendRequestAsync', 'serve', 'serve, later', 'subscribe']);
});

test('a served handler runs as whoever began to serve, whatever it sets for itself', async (t) => {
  const { client } = await alices(t, (server) => server.client('bench'));
  const seen = [];
  const enter = (value) => () => {
    seen.push(user.getStore());
    user.enterWith(value);
    return new Promise((resolve) => { setImmediate(() => resolve(user.getStore())); });
  };
  await user.run('bob', async () => {
    await client.serve('who', enter('mallory'));
    client.subscribe('news', enter('mallory'));
    client.on('response', enter('mallory'));
  });
  for (let n = 0; n < 3; n += 1) {
    assert.equal((await client.sendRequest('who', 1)).payload, 'mallory');
    client.publish('news', 1);
    client.request('echo', 1);
    await client.ping();
  }
  await eventually('all', () => seen.length >= 9);
  assert.deepEqual(new Set(seen), new Set(['bob']));
});

test('the same of a pool', async (t) => {
  const { client: pool } = await alices(t, ({ port }) => new IPCPool('bench', { port, size: 2 }));
  const { as, all } = witnesses();
  await user.run('bob', async () => {
    pool.on('response', as('on response'));
    pool.onError(as('onError'));
    pool.subscribe('news', as('subscribe'));
    await pool.serve('who', as('serve'));
  });
  pool.request('echo', 1);
  pool.publish('news', 1);
  await pool.sendRequest('who', 1);
  await pool.ping();
  pool.report(new Error('x'), null);
  await eventually('all', () => all('bob').length === 4);
});

test('the filter of ipcEvents and the callbacks of ipcProxy run as their request', async (t) => {
  const { client } = await alices(t, (server) => server.client('bench'));
  const { as, seen } = witnesses();
  const events = ipcEvents(client, 'news', { filter: as('filter', () => true) });
  const proxy = ipcProxy(client, 'nobody', { payload: as('payload'), status: as('status') });
  const server = http.createServer((req, res) => user.run(req.url, () => (
    req.url.startsWith('/events') ? events(req, res) : proxy(req, res)))).listen(0, '127.0.0.1');
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  await once(server, 'listening');
  const base = `http://127.0.0.1:${server.address().port}`;
  const readers = await Promise.all(['/events/1', '/events/2'].map(async (path) => {
    const reader = (await fetch(base + path)).body.getReader();
    await reader.read();
    return reader;
  }));
  client.publish('news', 1);
  await Promise.all(readers.map((reader) => reader.read()));
  assert.deepEqual(seen.filter.sort(), ['/events/1', '/events/2']);
  assert.equal((await fetch(`${base}/proxy`, { method: 'POST', body: '1' })).status, 503);
  assert.deepEqual([seen.payload, seen.status], [['/proxy'], ['/proxy']]);
  await Promise.all(readers.map((reader) => reader.cancel()));
});

test('what is traced belongs to whoever asked or serves, and connections to nobody', async (t) => {
  const { server, client } = await alices(t, (one) => one.client('bench', QUICK));
  const { as, seen } = witnesses();
  for (const name of ['connect', 'disconnect', 'request:start', 'request:end', 'request:error', 'serve:start',
    'serve:end', 'publish']) {
    const listener = as(name);
    diagnostics.subscribe(`ipc-framework:${name}`, listener);
    t.after(() => diagnostics.unsubscribe(`ipc-framework:${name}`, listener));
  }
  const worker = closed(t, server.client('bench'));
  await worker.connect();
  await user.run('carol', () => worker.serve('who', () => {}));
  await user.run('bob', async () => {
    await client.sendRequest('who', 1);
    await client.sendRequest('nobody', 1).catch(() => {});
    client.publish('news', 1);
    const back = once(client, 'connected');
    client.connection.socket.destroy();
    await back;
  });
  const of = (name) => [...new Set(seen[name])];
  for (const name of ['request:error', 'publish']) assert.deepEqual(of(name), ['bob'], name);
  for (const name of ['request:start', 'request:end']) assert.ok(of(name).includes('bob') && !of(name).includes('alice'));
  for (const name of ['serve:start', 'serve:end']) assert.deepEqual(of(name), ['carol'], name);
  for (const name of ['connect', 'disconnect']) assert.deepEqual(of(name), [undefined], name);
});

test('listeners are found again by the function that was added', async (t) => {
  const { client } = await alices(t, (server) => server.client('bench'));
  const told = [];
  client.on('newListener', (event, listener) => told.push(['added', event, listener]));
  client.on('removeListener', (event, listener) => told.push(['removed', event, listener]));
  const counted = [];
  const listener = function listener(value) { counted.push([this === client, value]); };
  client.on('custom', listener);
  client.once('custom', listener);
  assert.deepEqual(client.listeners('custom'), [listener, listener]);
  client.emit('custom', 1);
  assert.deepEqual(counted, [[true, 1], [true, 1]]);
  client.emit('custom', 2);
  assert.equal(counted.length, 3);
  client.off('custom', listener);
  client.once('custom', listener);
  client.prependOnceListener('custom', listener);
  client.removeListener('custom', listener);
  client.off('custom', listener);
  assert.equal(client.listenerCount('custom'), 0);
  assert.deepEqual(new Set(told.filter(([, event]) => event === 'custom').map(([, , found]) => found.listener ?? found)),
    new Set([listener]));
  assert.throws(() => client.on('custom', 'no function'), { code: 'ERR_INVALID_ARG_TYPE' });
  assert.throws(() => client.once('custom', null), { code: 'ERR_INVALID_ARG_TYPE' });
});
