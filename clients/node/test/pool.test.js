'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const {
  startServer, connected, warnings, sleep, eventually, once, joined, closed, served, servedPublished,
} = require('./support.js');
const { IPCPool } = require('../index.js');

test('requests spread over the connections, publications keep their order', async (t) => {
  const server = await served(t);
  const pool = new IPCPool('bench', { size: 3, port: server.port });
  assert.equal(pool.size, 3);
  assert.equal(pool.connected, false);
  await assert.rejects(pool.sendRequest('echo', 1), { code: 'NOT_CONNECTED' });
  assert.equal(await pool.connect(), true);
  assert.equal(pool.isConnected(), true);

  const service = await pool.serve('slow', async (request) => { await sleep(5); return request.payload; });
  const requests = Array.from({ length: 30 }, (_, n) => pool.sendRequest('slow', n));
  await Promise.resolve();
  assert.deepEqual(pool.clients.map((client) => client.pending.size), [10, 10, 10]);
  const answers = (await Promise.all(requests)).map(({ payload }) => payload);
  assert.deepEqual(answers, Array.from({ length: 30 }, (_, n) => n));
  assert.ok(pool.clients.every((client) => client.services.get('slow').running === 0));
  await service.close();
  await assert.rejects(pool.sendRequest('slow', 1), { code: 'no_handler' });

  for (const channel of ['a', 'b', 'c', 'd']) {
    const subscription = pool.subscribe(channel);
    await subscription.ready;
    for (let n = 0; n < 20; n += 1) pool.publish(channel, n);
    for (let n = 0; n < 20; n += 1) assert.equal((await subscription.next()).value.payload, n);
    pool.unsubscribe(channel);
  }
  pool.notify('nobody', 1);
  await assert.rejects(pool.serve('system', () => 1), { code: 'forbidden' });
  await pool.close();
  assert.equal(pool.connected, false);
});

test('a pool lives on while one of its connections is gone', async (t) => {
  const server = await served(t);
  const pool = new IPCPool('bench', { size: 2, port: server.port, reconnectDelay: 20 });
  t.after(() => pool.close());
  await pool.connect();
  let disconnected = 0;
  pool.on('disconnected', () => { disconnected += 1; });
  pool.clients[0].connection.socket.destroy();
  await eventually('one gone', () => disconnected === 1);
  for (let n = 0; n < 10; n += 1) assert.equal((await pool.sendRequest('echo', n)).payload, n);
  await eventually('back', () => pool.clients.every((client) => client.connected));
});

test('a pool against the published server, and wrong sizes', async (t) => {
  const server = await servedPublished(t);
  const pool = await joined(t, new IPCPool('my_app', { size: 2, port: server.port }));
  assert.equal((await pool.sendRequest('api', { action: 'x' })).payload.action, 'x');
  await assert.rejects(pool.serve('x', () => 1), { code: 'UNSUPPORTED' });
  assert.throws(() => new IPCPool('a', { size: 0 }), TypeError);
});

test('a handler that fails is not swallowed', async (t) => {
  const server = await served(t);
  const warned = warnings(t);
  const pool = await joined(t, new IPCPool('bench', { size: 2, port: server.port }));
  pool.subscribe('a', () => { throw new Error('thrown'); });
  pool.subscribe('b', async () => { throw new Error('rejected'); });
  for (const channel of ['a', 'b']) pool.publish(channel, 1);
  await eventually('warned', () => warned.length === 2);
  assert.deepEqual(warned.sort(), ['rejected', 'thrown']);
  const errors = [];
  pool.onError((error, client) => {
    errors.push([error.message, pool.clients.includes(client)]);
    throw new Error('thrown by onError');
  });
  pool.publish('a', 1);
  await eventually('reported', () => errors.length === 1 && warned.length === 3);
  assert.deepEqual([errors, warned[2]], [[['thrown', true]], 'thrown by onError']);
  assert.equal(pool.lastError.message, 'thrown');
  pool.onError(null);
  assert.equal(pool.listenerCount('error'), 0);
});

test('a pool has what a client has, where that makes sense', async (t) => {
  const server = await served(t);
  const pool = closed(t, new IPCPool('bench', { size: 2, port: server.port }));
  const seen = [];
  pool.onConnected((client) => seen.push(['connected', pool.clients.includes(client)]));
  pool.onDisconnected((client) => seen.push(['disconnected', pool.clients.includes(client)]));
  assert.deepEqual([await pool.ping(), await pool.healthCheck(), pool.server], [false, false, null]);
  await pool.connect();
  assert.deepEqual([await pool.ping(), await pool.healthCheck(), pool.host], [true, true, 'localhost']);
  const called = new Promise((resolve) => pool.sendRequestAsync('echo', 'called', resolve));
  assert.equal((await called).payload, 'called');
  for (const send of [() => pool.request('echo', 'x'), () => pool.sendMessage('echo', 'request', 'x')]) {
    const answered = once(pool, 'response');
    const id = send();
    const [response, client] = await answered;
    assert.deepEqual([response.reply_to, response.payload, pool.clients.includes(client)], [id, 'x', true]);
  }
  const heard = pool.subscribe('heard');
  await heard.ready;
  pool.sendMessage('heard', 'publish', 'by type');
  assert.equal((await heard.next()).value.payload, 'by type');
  assert.throws(() => pool.sendMessage('echo', 'response', 1, 'id'), /respond\(\) of the client/);
  assert.throws(() => pool.publish(undefined, 1), /channelId must be/);
  const { connections, ...info } = pool.getConnectionInfo();
  assert.deepEqual(info, { appId: 'bench', connected: true, host: 'localhost', port: server.port, path: undefined,
    server: pool.server, subscribedPatterns: [], subscribedChannels: ['heard'] });
  assert.deepEqual(connections.map(({ connectionId }) => connectionId),
    pool.clients.map(({ connectionId }) => connectionId));
  pool.disconnect();
  assert.deepEqual(seen, [['connected', true], ['connected', true], ['disconnected', true], ['disconnected', true]]);
  await assert.rejects(pool.sendRequest('echo', 1), { code: 'NOT_CONNECTED' }, 'it is not revived once it is closed');
});

test('a connection that gave up comes back with the work', async (t) => {
  let server = await startServer();
  const { port } = server;
  t.after(() => server.kill());
  const pool = await joined(t, new IPCPool('bench', { size: 2, port, reconnectAttempts: 0, reconnectDelay: 20 }));
  const given = () => pool.clients.filter(({ state }) => state === 'idle').length;
  const handled = [];
  for (const channel of ['a', 'b']) pool.subscribe(channel, ({ payload }) => handled.push(payload));

  pool.clients[0].connection.socket.destroy();
  await eventually('one gave up', () => given() === 1);
  await eventually('and is back', async () => {
    assert.equal((await pool.sendRequest('echo', 1)).payload, 1);
    return given() === 0 && pool.clients.every(({ connected }) => connected);
  });

  await server.kill();
  await eventually('all gave up', () => given() === 2);
  server = await startServer({ port });
  await eventually('answered', () => pool.sendRequest('echo', 2).then(({ payload }) => payload === 2, () => false));
  await eventually('all back', async () => {
    await pool.ping();
    return pool.clients.every(({ connected }) => connected);
  });
  for (const channel of ['a', 'b']) pool.publish(channel, channel);
  await eventually('handled', () => handled.length === 2);
});

test('a clock that is set back keeps no connection from coming back', async (t) => {
  const server = await served(t);
  const options = { size: 1, port: server.port, reconnectAttempts: 0, reconnectDelay: 20 };
  const pool = await joined(t, new IPCPool('bench', options));
  const { now } = Date;
  t.after(() => { Date.now = now; });
  pool.clients[0].connection.socket.destroy();
  await eventually('gave up', () => pool.clients[0].state === 'idle');
  Date.now = () => now() - 3_600_000;
  await eventually('and is back', () => pool.sendRequest('echo', 1).then(({ payload }) => payload === 1, () => false), 10_000);
});

test('durations are taken from the monotonic clock: only timestamps of messages read the wall clock', () => {
  const lib = path.resolve(__dirname, '../lib');
  for (const file of fs.readdirSync(lib)) {
    const source = fs.readFileSync(path.join(lib, file), 'utf8');
    for (const line of source.split('\n').filter((text) => /Date\.now|new Date/.test(text))) {
      assert.match(line, /timestamp/, `${file}: ${line}`);
    }
  }
});

test('a refusal for good is not asked for again and again', async (t) => {
  const server = await served(t, { env: { IPC_TOKEN: 'a long secret' } });
  const pool = closed(t, new IPCPool('bench', { size: 1, port: server.port, reconnectDelay: 1 }));
  assert.equal(await pool.connect(), false);
  await sleep(20);
  const refused = assert.rejects(pool.sendRequest('echo', 1), { code: 'NOT_CONNECTED' });
  assert.equal(pool.clients[0].state, 'idle', 'no attempt is under way');
  await refused;
  assert.equal(pool.lastError.code, 'auth_failed');
});

test('a request that reaches a pool that serves no longer is refused at once, or is for who listens', async (t) => {
  const { server, client } = await connected(t);
  const pool = await joined(t, new IPCPool('bench', { port: server.port, size: 1 }));
  // As after a serve() that was not confirmed in time.
  await pool.clients[0].command({ action: 'serve', channel: 'lost' });
  await assert.rejects(client.sendRequest('lost', 1), { code: 'no_handler' });
  const answer = (message, from) => from.respond(message, 'by hand');
  pool.on('message', answer);
  assert.equal((await client.sendRequest('lost', 1)).payload, 'by hand');
  pool.off('message', answer);
  await assert.rejects(client.sendRequest('lost', 1), { code: 'no_handler' });
});
