'use strict';

// A connection proves nothing by itself. The delays begin anew when one has served something.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { closed, collected, eventually, peer, sleep, unconnected } = require('./support.js');
const { IPCPool } = require('../index.js');
const { Backoff } = require('../lib/reconnect.js');

const ENDLESS = { reconnectDelay: 8, reconnectDelayMax: 60_000, reconnectAttempts: Infinity };

test('a peer that welcomes and closes is asked at growing intervals', async (t) => {
  const { port } = await peer(t, { onOpen: ({ socket }) => socket.end() });
  const client = unconnected(t, { port, ...ENDLESS });
  const retries = collected(client, 'reconnecting');
  assert.equal(await client.connect(), true);
  await eventually('six attempts', () => retries.length >= 6);
  assert.deepEqual(retries.slice(0, 6).map(({ attempt }) => attempt), [1, 2, 3, 4, 5, 6]);
  const [first, , , , , sixth] = retries.map(({ delay }) => delay);
  assert.ok(sixth >= first * 16, `${first} ms, then ${sixth} ms`);
});

test('and after the last attempt no more', async (t) => {
  const { port, sides } = await peer(t, { onOpen: ({ socket }) => socket.end() });
  const client = unconnected(t, { port, ...ENDLESS, reconnectAttempts: 3 });
  const errors = collected(client, 'error');
  assert.equal(await client.connect(), true);
  await eventually('given up', () => client.state === 'idle');
  assert.equal(sides.length, 4);
  assert.match(errors.at(-1).message, /gave up after 3 attempts/);
});

test('what is restored on every connection proves nothing either', async (t) => {
  const { port } = await peer(t, {
    onMessage: ({ message_id: id, message_type: type, channel_id: channel, payload }, side) => {
      if (type === 'subscribe' && !payload.ack) return;
      side.send('response', channel, { status: type === 'subscribe' ? 'subscribed' : 'serving' }, id);
      side.socket.end();
    },
  });
  const client = unconnected(t, { port, ...ENDLESS });
  client.subscribe('news');
  await client.serve('square', ({ payload }) => payload ** 2);
  const retries = collected(client, 'reconnecting');
  assert.equal(await client.connect(), true);
  await eventually('four attempts', () => retries.length >= 4);
  assert.deepEqual(retries.slice(0, 4).map(({ attempt }) => attempt), [1, 2, 3, 4]);
});

for (const [what, serve] of [
  ['an answer', (message, side) => side.send('response', message.channel_id, 1, message.message_id)],
  ['a publication', (message, side) => side.send('publish', 'news', 1)],
  ['a request to serve', (message, side) => side.send('request', 'square', 1)],
]) {
  test(`${what} proves a connection`, async (t) => {
    const { port } = await peer(t, {
      onMessage(message, side) {
        if (message.channel_id !== 'ask') return;
        serve(message, side);
        side.socket.end();
      },
    });
    const client = unconnected(t, { port, ...ENDLESS });
    const retries = collected(client, 'reconnecting');
    // From the second connection on nothing is asked, so nothing is served.
    client.once('connected', () => client.sendRequest('ask', 1).catch(() => {}));
    client.backoff.made = 5;
    client.backoff.restart = () => {};
    assert.equal(await client.connect(), true);
    await eventually('an attempt', () => retries.length > 0);
    assert.equal(retries[0].attempt, 1);
  });
}

test('a refusal proves nothing', async (t) => {
  const refusal = { status: 'error', code: 'shutting_down', error: 'the server is shutting down' };
  const { port } = await peer(t, {
    onMessage(message, side) {
      side.send('response', message.channel_id, refusal, message.message_id);
      side.socket.end();
    },
  });
  const client = unconnected(t, { port, ...ENDLESS });
  const retries = collected(client, 'reconnecting');
  client.on('connected', () => client.sendRequest('ask', 1).catch(() => {}));
  assert.equal(await client.connect(), true);
  await eventually('three attempts', () => retries.length >= 3);
  assert.deepEqual(retries.slice(0, 3).map(({ attempt }) => attempt), [1, 2, 3]);
});

test('a quiet connection is proven by its age', async (t) => {
  const { port, sides } = await peer(t);
  const client = unconnected(t, { port, ...ENDLESS, reconnectDelayMax: 100 });
  const retries = collected(client, 'reconnecting');
  assert.equal(await client.connect(), true);
  for (let n = 1; n <= 3; n += 1) {
    await sleep(150);
    sides.at(-1).socket.destroy();
    await eventually('another connection', () => sides.length === n + 1 && client.connected);
  }
  assert.deepEqual(retries.map(({ attempt }) => attempt), [1, 1, 1]);
});

test('a pool asks a peer that welcomes and closes at growing intervals', async (t) => {
  const { port, sides } = await peer(t, { onOpen: ({ socket }) => socket.end() });
  const options = { size: 2, port, reconnectAttempts: 0, reconnectDelay: 10, reconnectDelayMax: 60_000 };
  const pool = closed(t, new IPCPool('bench', options));
  await pool.connect();
  const work = setInterval(() => pool.sendRequest('echo', 1).catch(() => {}), 5);
  t.after(() => clearInterval(work));
  await eventually('five rests', () => pool.clients.every(({ backoff }) => backoff.rests >= 5));
  assert.ok(pool.clients.every(({ backoff }) => backoff.restMs >= 160));
  assert.ok(sides.length >= 10);
});

test('rests double as delays do, until a connection has served something', () => {
  const backoff = new Backoff({ attempts: 1, delay: 100, delayMax: 1_000 });
  const rests = Array.from({ length: 6 }, () => {
    backoff.rest();
    return backoff.restMs;
  });
  assert.deepEqual(rests, [100, 200, 400, 800, 1_000, 1_000]);
  backoff.restart();
  assert.equal(backoff.restMs, 1_000);
  backoff.reset();
  assert.equal(backoff.restMs, 100);
});
