'use strict';

// What happens to messages and to those who wait when a connection goes, and when no other comes.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { IPCClient } = require('../index.js');
const {
  startServer, startPublished, connected, eventually, once, joined, closed, served, collected,
} = require('./support.js');

const QUICK = { reconnectDelay: 20, reconnectDelayMax: 100, reconnectAttempts: 500 };

for (const start of [startServer, startPublished]) {
  test(`what is sent between the socket's death and its close is sent later, ${start.name}`, async (t) => {
    const server = await start();
    t.after(() => server.kill());
    const client = await joined(t, server.client('shop', QUICK));
    const handled = [];
    client.subscribe('handled', ({ payload }) => handled.push(payload));
    await client.healthCheck();
    await new Promise(setImmediate);
    const errors = collected(client, 'error');
    const back = once(client, 'connected');
    client.connection.socket.destroy();
    assert.equal(client.connected, true, 'nobody has been told');
    client.publish('handled', 'meanwhile');
    const healthy = start === startServer && client.sendRequest('system', { action: 'health_check' });
    assert.equal(client.offline.size, start === startServer ? 2 : 1);
    await back;
    await eventually('handled', () => handled.length === 1);
    assert.deepEqual(handled, ['meanwhile']);
    if (healthy) assert.equal((await healthy).payload.status, 'healthy');
    assert.deepEqual(errors, []);
  });
}

test('a request that is given up while it waits for a connection says that it was not sent', async (t) => {
  const client = closed(t, new IPCClient('bench', { port: 1, ...QUICK, reconnectDelay: 10_000 }));
  void client.connect({ retry: true });
  const message = /waited for a connection and was not sent/;
  await assert.rejects(client.sendRequest('echo', 1, 20), { code: 'TIMEOUT', message });
  await assert.rejects(client.sendRequest('echo', 1, { signal: AbortSignal.timeout(20) }), { code: 'ABORTED', message });
  const controller = new AbortController();
  const aborted = client.sendRequest('echo', 1, { signal: controller.signal });
  controller.abort();
  await assert.rejects(aborted, { code: 'ABORTED', message });
  assert.equal(client.offline.size, 0);
});

test('what is sent when the server has said its last word is sent later', async (t) => {
  const { server, client } = await connected(t, QUICK);
  const { port } = server;
  const handled = [];
  client.subscribe('handled', ({ payload }) => handled.push(payload));
  let isSent = false;
  client.connection.socket.prependOnceListener('end', () => {
    // After Node's own listeners of this event, which end this side, and before `close`.
    process.nextTick(() => {
      client.publish('handled', client.connected);
      isSent = true;
    });
  });
  await server.kill('SIGTERM');
  await eventually('sent', () => isSent);
  const again = await served(t, { port });
  await eventually('handled', () => handled.length === 1);
  assert.deepEqual(handled, [true], 'nobody had been told');
});

test('a subscription made between the socket\'s death and its close is made later', async (t) => {
  const { client } = await connected(t, QUICK);
  const errors = collected(client, 'error');
  const back = once(client, 'connected');
  client.connection.socket.destroy();
  const handled = [];
  client.subscribe('handled', ({ payload }) => handled.push(payload));
  const subscription = client.subscribe('iterated');
  const service = await client.serve('square', ({ payload }) => payload ** 2);
  await back;
  await subscription.ready;
  client.publish('iterated', 1);
  client.publish('handled', 2);
  assert.equal((await subscription.next()).value.payload, 1);
  await eventually('handled', () => handled.length === 1);
  assert.equal((await client.sendRequest('square', 7)).payload, 49);
  await service.close();
  assert.deepEqual(errors, []);
});

test('bytes that the server never took are reported', async (t) => {
  const { server, client } = await connected(t, { ...QUICK, heartbeatInterval: 0 });
  const errors = collected(client, 'error');
  server.child.kill('SIGSTOP');
  client.publish('bulk', 'x'.repeat(12 << 20));
  await new Promise(setImmediate);
  await server.kill();
  await eventually('told', () => errors.some(({ code, message }) => code === 'CONNECTION_LOST'
    && /lost with \d{6,} bytes unsent: the server does not have/.test(message)));
});

for (const [how, options] of [['after its attempts', { ...QUICK, reconnectAttempts: 2 }],
  ['without one', { reconnectAttempts: 0 }]]) {
  test(`an iteration ends with an error when the client gives up ${how}`, async (t) => {
    const { server, client } = await connected(t, options);
    const { port } = server;
    const handled = [];
    client.subscribe('handled', ({ payload }) => handled.push(payload));
    const loop = (async () => {
      for await (const message of client.subscribe('iterated')) assert.fail(message);
    })();
    const subscription = client.subscribe('iterated');
    await subscription.ready;
    const unconfirmed = once(client, 'disconnected').then(() => client.subscribe('later').ready);
    const told = { code: 'NOT_CONNECTED', message: /gave up.*connect\(\) and subscribe again/ };
    const ends = [loop, subscription.next(), ...(options.reconnectAttempts ? [unconfirmed] : [])];
    const all = Promise.all(ends.map((end) => assert.rejects(end, told)));
    unconfirmed.catch(() => {});
    await server.kill();
    await all;
    assert.equal(client.state, 'idle');
    // A handler waits for the next connect.
    const again = await served(t, { port });
    assert.equal(await client.connect(), true);
    client.publish('handled', 'there again');
    await eventually('handled', () => handled.length === 1);
  });
}

test('a first attempt that fails ends no iteration: whoever made it may make another', async (t) => {
  const first = await startServer();
  const { port } = first;
  await first.kill();
  const client = closed(t, first.client('bench', QUICK));
  const subscription = client.subscribe('iterated');
  assert.equal(await client.connect(), false);
  const server = await served(t, { port });
  assert.equal(await client.connect(), true);
  await subscription.ready;
  client.publish('iterated', 1);
  assert.equal((await subscription.next()).value.payload, 1);
});

test('a final refusal ends iterations', async (t) => {
  const server = await served(t, { env: { IPC_TOKEN: 'a long secret' } });
  const stranger = server.client('bench', QUICK);
  const subscription = stranger.subscribe('iterated');
  assert.equal(await stranger.connect({ retry: true }), false);
  await assert.rejects(subscription.next(), { code: 'NOT_CONNECTED', cause: stranger.lastError });
});

test('an id of an earlier connection in a payload becomes that of this one', async (t) => {
  let server = await startPublished();
  const { port } = server;
  t.after(() => server.kill());
  const client = await joined(t, server.client('my_app', QUICK));
  const first = client.connectionId;
  const lost = once(client, 'disconnected');
  await server.kill();
  await lost;
  // As old programs do, who read it once.
  const own = (more) => ({ connection_id: first, action: 'x', ...more });
  const queued = client.sendRequest('api', own(), 20_000);
  const dressed = client.sendRequest('api', { toJSON: () => own({ n: 1 }) }, 20_000);
  const within = client.sendRequest('api', { action: 'x', from: { connection_id: first } }, 20_000);
  server = await startPublished({ port });
  const id = () => client.connectionId;
  assert.deepEqual((await queued).payload.echo, { connection_id: id(), action: 'x' });
  assert.deepEqual((await dressed).payload.echo, { connection_id: id(), action: 'x', n: 1 });
  assert.deepEqual((await within).payload.echo, { connection_id: id(), action: 'x', from: { connection_id: first } });
  const second = id();
  assert.notEqual(second, first);
  const back = once(client, 'connected');
  client.connection.socket.destroy();
  await back;
  for (const former of [first, second]) {
    const { payload } = await client.sendRequest('api', { connection_id: former, action: 'y' });
    assert.deepEqual(payload.echo, { connection_id: id(), action: 'y' });
  }
  assert.equal(client.isFormerId(id()), false);
  for (const other of [`${first}x`, '', null, 5, undefined]) assert.equal(client.isFormerId(other), false);
});
