'use strict';

const { test, describe } = require('node:test');
const assert = require('node:assert/strict');
const {
  startServer, startPublished, sleep, eventually, once, joined, closed, served, servedPublished, collected,
} = require('./support.js');
const { Backoff } = require('../lib/reconnect.js');

const QUICK = { reconnectDelay: 20, reconnectDelayMax: 100, reconnectAttempts: 500 };

for (const [name, start] of [['this project\'s server', startServer], ['the published server', startPublished]]) {
  test(`${name} is killed and started again`, async (t) => {
    let server = await start();
    const { port } = server;
    t.after(() => server.kill());
    const client = closed(t, server.client('shop', QUICK));
    const events = [];
    for (const event of ['connected', 'disconnected', 'reconnecting']) client.on(event, () => events.push(event));
    await client.connect();
    const handled = [];
    client.subscribe('handled', (message) => handled.push(message.payload));
    const subscription = client.subscribe('iterated');
    await subscription.ready;
    const firstId = client.connectionId;

    const lost = once(client, 'disconnected');
    await server.kill();
    await lost;
    assert.equal(client.connected, false);
    // Kept for the next connection, in order.
    client.publish('handled', 'queued 1');
    client.publish('handled', 'queued 2');
    const request = client.sendRequest('system', { action: 'ping' }, 2_000).catch((error) => error);
    const expired = client.sendRequest('system', { action: 'ping' }, 1);
    await assert.rejects(expired, { code: 'TIMEOUT' });
    assert.equal(client.offline.size, 3, 'what was given up is not sent later');

    const back = once(client, 'connected');
    server = await start({ port });
    const [info] = await back;
    assert.equal(info.isReconnect, true);
    assert.notEqual(client.connectionId, firstId);
    await eventually('the queued messages', () => handled.length === 2);
    assert.deepEqual(handled, ['queued 1', 'queued 2']);
    client.publish('iterated', 'there again');
    assert.equal((await subscription.next()).value.payload, 'there again');
    if (client.server !== null) assert.equal((await request).payload.status, 'pong');
    assert.deepEqual([events[0], events[1], events[2], events.at(-1)],
      ['connected', 'disconnected', 'reconnecting', 'connected']);
    assert.equal(client.offline.size, 0);
    await eventually('nothing pending', () => client.pending.size === 0);
  });
}

describe('reconnecting', () => {
  test('served channels are served again, and what was in flight is lost with a clear error', async (t) => {
    let server = await startServer();
    const { port } = server;
    t.after(() => server.kill());
    const [worker, client] = [server.client('math', QUICK), server.client('math', QUICK)];
    t.after(() => Promise.all([worker.close(), client.close()]));
    await Promise.all([worker.connect(), client.connect()]);
    const never = [];
    await worker.serve('work', (request) => (request.payload === 'stay'
      ? new Promise(() => { never.push(request); })
      : request.payload + 1));
    assert.equal((await client.sendRequest('work', 1)).payload, 2);
    const inFlight = client.sendRequest('work', 'stay');
    inFlight.catch(() => {});
    await eventually('in flight', () => never.length === 1);
    await server.kill();
    await assert.rejects(inFlight, { code: 'CONNECTION_LOST', name: 'ConnectionLostError', message: /may or may not/ });
    await eventually('the handler to be told', () => never[0].signal.aborted);
    const back = Promise.all([once(worker, 'connected'), once(client, 'connected')]);
    server = await startServer({ port });
    await back;
    await eventually('serving again', async () => {
      const answer = await client.sendRequest('work', 41).catch(() => null);
      return answer?.payload === 42;
    });
    // The handler that never returns would hold the close up until its timeout.
    await worker.close({ timeout: 50 });
  });

  test('gives up after reconnectAttempts, and can be connected again by hand', async (t) => {
    let server = await startServer();
    const { port } = server;
    const client = await joined(t, server.client('bench', { ...QUICK, reconnectAttempts: 3 }));
    const errors = [];
    const attempts = [];
    client.on('error', (error) => errors.push(error));
    client.on('reconnecting', ({ attempt, delay }) => attempts.push([attempt, delay]));
    const lost = once(client, 'disconnected');
    await server.kill();
    await lost;
    client.publish('news', 'never sent');
    await assert.rejects(client.sendRequest('echo', 1), { code: 'NOT_CONNECTED' });
    await eventually('to give up', () => client.state === 'idle');
    assert.deepEqual(attempts.map(([attempt]) => attempt), [1, 2, 3]);
    assert.ok(errors.some((error) => /gave up after 3 attempts/.test(error.message)), String(errors));
    assert.ok(errors.some((error) => /dropped, 1 in all/.test(error.message)), String(errors));
    assert.equal(client.pending.size, 0);
    assert.throws(() => client.publish('news', 1), { code: 'NOT_CONNECTED' });
    server = await startServer({ port });
    t.after(() => server.kill());
    assert.equal(await client.connect(), true);
    assert.equal((await client.sendRequest('echo', 1)).payload, 1);
  });

  test('connect with retry waits for a server that is not there yet', async (t) => {
    const first = await startServer();
    const { port } = first;
    await first.kill();
    const client = closed(t, first.client('bench', QUICK));
    assert.equal(await client.connect(), false);
    const connecting = client.connect({ retry: true });
    await once(client, 'reconnecting');
    const queued = client.sendRequest('echo', 'early', 10_000);
    const server = await served(t, { port });
    assert.equal(await connecting, true);
    assert.equal((await queued).payload, 'early');
  });

  test('the offline queue is bounded by number and by bytes', async (t) => {
    const server = await startServer();
    const client = await joined(t, server.client('bench', { ...QUICK, offlineQueueSize: 3, offlineQueueBytes: 1000 }));
    const lost = once(client, 'disconnected');
    await server.kill();
    await lost;
    assert.throws(() => client.publish('c', 'x'.repeat(1001)), { code: 'QUEUE_FULL' });
    for (let n = 0; n < 3; n += 1) client.publish('c', n);
    assert.throws(() => client.publish('c', 3), { code: 'QUEUE_FULL', message: /not taken/ });
    await assert.rejects(client.sendRequest('c', 3), { code: 'QUEUE_FULL' });
    assert.equal(client.pending.size, 0);
  });

  test('delays double up to their maximum, with jitter', () => {
    const low = new Backoff({ attempts: 6, delay: 100, delayMax: 1000, random: () => 0 });
    assert.deepEqual(Array.from({ length: 7 }, () => low.next()), [50, 100, 200, 400, 500, 500, null]);
    const high = new Backoff({ attempts: Infinity, delay: 100, delayMax: 1000, random: () => 1 });
    assert.deepEqual(Array.from({ length: 6 }, () => high.next()), [100, 200, 400, 800, 1000, 1000]);
    high.reset();
    assert.equal(high.next(), 100);
  });

  test('a connection that says nothing is found out by heartbeats', async (t) => {
    const server = await served(t);
    const beating = { ...QUICK, heartbeatInterval: 1_000, connectionTimeout: 1_000 };
    const client = await joined(t, server.client('bench', beating));
    const errors = collected(client, 'error');
    await sleep(3_000);
    assert.equal(client.connected, true, 'a server that answers keeps it');
    assert.equal(server.child.kill('SIGSTOP'), true);
    await once(client, 'disconnected');
    assert.match(errors[0].message, /silent/);
    server.child.kill('SIGCONT');
    await eventually('connected again', () => client.connected);
  });

  test('heartbeats to the published server do no harm', async (t) => {
    const server = await servedPublished(t);
    const client = await joined(t, server.client('my_app', { heartbeatInterval: 20 }));
    await sleep(200);
    assert.equal((await client.sendRequest('api', { action: 'x' })).payload.action, 'x');
  });

  test('a wrong token and a taken id are final', async (t) => {
    const server = await served(t, { env: { IPC_TOKEN: 'a long secret' } });
    const stranger = server.client('bench', QUICK);
    assert.equal(await stranger.connect(), false);
    assert.equal(stranger.lastError.code, 'auth_failed');
    assert.equal(await stranger.connect({ retry: true }), false, 'another attempt would get the same answer');

    const friend = await joined(t, server.client('bench', { ...QUICK, token: 'a long secret' }));
    const thief = closed(t, server.client('bench', { ...QUICK, token: 'a long secret' }));
    thief.connectionId = friend.connectionId;
    const errors = [];
    friend.on('error', (error) => errors.push(error.code));
    const lost = once(friend, 'disconnected');
    assert.equal(await thief.connect(), true);
    await lost;
    await sleep(100);
    assert.deepEqual(errors, ['taken_over']);
    assert.equal(friend.state, 'idle');
    assert.equal(thief.connected, true);
  });

  test('a server that is full or drains is tried again', async (t) => {
    const server = await served(t, { args: ['--max-connections', '1'] });
    const first = await joined(t, server.client('bench', QUICK));
    const second = closed(t, server.client('bench', QUICK));
    assert.equal(await second.connect(), false);
    assert.equal(second.lastError.code, 'server_full');
    const connecting = second.connect({ retry: true });
    await once(second, 'reconnecting');
    first.disconnect();
    assert.equal(await connecting, true);
  });
});
