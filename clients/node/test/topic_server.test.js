'use strict';

// Patterns, last values and histories with the real server, over lines that break and servers that end.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { collected, eventually, joined, once, served, withHistories } = require('./support.js');

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

/** The payloads that an iteration has, up to and including one. */
async function until(subscription, last) {
  const payloads = [];
  for (;;) {
    const { done, value } = await subscription.next();
    assert.ok(!done, `ended after ${payloads}`);
    payloads.push(value.payload);
    if (value.payload === last) return payloads;
  }
}

/** A server with a history of `log` and of `logs.*`, and a client that publishes there. */
async function started(t, messages = 100, options = {}) {
  const server = await served(t, { ...options, args: withHistories(t, { log: messages, 'logs.*': messages }) });
  const publisher = await joined(t, server.client('bench', { reconnectDelay: 20 }));
  const reader = (more) => joined(t, server.client('bench', { reconnectDelay: 20, ...more }));
  return { server, publisher, reader };
}

/** Breaks the line of a client, and waits until it knows. */
async function lose(client) {
  const lost = once(client, 'disconnected');
  client.connection.socket.destroy();
  await lost;
}

async function back(client) {
  if (!client.connected) await once(client, 'connected');
  await client.ping();
}

test('patterns, with and without a subscriber of the channel', async (t) => {
  const { publisher, reader } = await started(t);
  const client = await reader();
  assert.ok(client.extensions.includes('topic'));
  const open = client.subscribePattern('prices.>');
  const one = client.subscribePattern('prices.*');
  await Promise.all([open.ready, one.ready]);
  publisher.publish('prices', 0);
  publisher.publish('prices.eur', 1);
  publisher.publish('prices.eur.usd', 2);
  const channel = client.subscribe('prices.eur');
  await channel.ready;
  publisher.publish('prices.eur', 3);
  publisher.publish('prices.yen', 4);
  assert.deepEqual(await until(open, 4), [1, 2, 3, 4]);
  assert.deepEqual(await until(one, 4), [1, 3, 4]);
  assert.deepEqual(await until(channel, 3), [3], 'once for the connection, and once for each reader');
  assert.equal(client.unsubscribePattern('prices.>'), true);
  assert.equal(client.unsubscribePattern('prices.*'), true);
  await client.ping();
  publisher.publish('prices.eur', 5);
  assert.deepEqual(await until(channel, 5), [5]);
  for (const bad of ['a.>.b', '>.a', 'a>b.>.', `${'a.'.repeat(40)}>`, 'x'.repeat(300)]) {
    const refused = client.subscribePattern(bad);
    await assert.rejects(refused.ready, { code: 'bad_message' }, bad);
  }
});

test('last values, with a channel and with a pattern, until they are forgotten', async (t) => {
  const { publisher, reader } = await started(t);
  publisher.publish('state.door', 'open', { retain: true });
  await publisher.publish('state.light', 'on', { retain: true, ack: true });
  const client = await reader();
  const door = client.subscribe('state.door', { last: 1 });
  const { value } = await door.next();
  assert.deepEqual([value.payload, value.retained, value.epoch], ['open', true, undefined]);
  const other = await reader();
  const all = other.subscribePattern('state.*', { last: 1 });
  const values = [(await all.next()).value, (await all.next()).value];
  assert.deepEqual(values.map(({ channelId, payload }) => [channelId, payload]).sort(),
    [['state.door', 'open'], ['state.light', 'on']]);
  await publisher.publish('state.door', null, { retain: true, ack: true });
  assert.equal((await door.next()).value.payload, null);
  const late = client.subscribe('state.door', { last: 1 });
  await late.ready;
  publisher.publish('state.door', 'shut');
  assert.deepEqual(await until(late, 'shut'), ['shut']);
});

test('a history from the beginning, its end and a place in it', async (t) => {
  const { publisher, reader } = await started(t, 5);
  const places = [];
  for (const n of range(1, 8)) places.push(await publisher.publish('log', n, { ack: true }));
  assert.deepEqual(places.map(({ offset }) => offset), range(1, 8));
  const [{ epoch }] = places;
  const client = await reader();
  const gaps = collected(client, 'gap');
  const two = client.subscribe('log', { last: 2 });
  assert.deepEqual(await until(two, 8), [7, 8]);
  const since = client.subscribe('log', { since: places[4] });
  assert.deepEqual(await until(since, 8), [6, 7, 8], 'beside the first reader');
  assert.deepEqual(gaps, []);
  const gone = client.subscribe('log', { since: places[0] });
  await gone.ready;
  assert.deepEqual(gaps.pop().missed, 7);
  const foreign = client.subscribe('log', { since: { epoch: 'another', offset: 5 } });
  await foreign.ready;
  assert.deepEqual([gaps.pop().missed, foreign.place], [null, { epoch, offset: 8 }]);
  publisher.publish('log', 9);
  for (const reading of [two, since, gone, foreign]) assert.deepEqual(await until(reading, 9), [9]);
  const fresh = await reader();
  const future = fresh.subscribe('log', { since: { epoch, offset: 50 }, last: 1 });
  assert.deepEqual(await until(future, 9), [9]);
});

test('a line that breaks again and again costs nothing and doubles nothing', { timeout: 120_000 }, async (t) => {
  const { publisher, reader } = await started(t, 100_000);
  const client = await reader({ reconnectDelay: 1, reconnectDelayMax: 5 });
  const [gaps, resumed] = [collected(client, 'gap'), collected(client, 'resumed')];
  const handled = [];
  client.subscribe('log', ({ payload }) => handled.push(payload));
  const log = client.subscribe('log', { buffer: 100_000 });
  await log.ready;
  let n = 0;
  let isDone = false;
  const publishing = (async () => {
    while (!isDone) {
      for (let burst = 0; burst < 50; burst += 1) publisher.publish('log', n += 1);
      await publisher.ping();
    }
  })();
  for (let times = 0; times < 25; times += 1) {
    const before = handled.length;
    await eventually('some more', () => handled.length > before + 20);
    await lose(client);
    await back(client);
  }
  isDone = true;
  await publishing;
  assert.deepEqual(await until(log, n), range(1, n));
  assert.deepEqual(handled, range(1, n));
  assert.deepEqual(gaps, []);
  assert.equal(resumed.length, 2 * 25);
});

test('what a short history no longer has is counted, to the message', { timeout: 120_000 }, async (t) => {
  const { publisher, reader } = await started(t, 10);
  const client = await reader({ reconnectDelay: 1, reconnectDelayMax: 5 });
  const gaps = collected(client, 'gap');
  const seen = [];
  client.subscribe('log', ({ payload }) => seen.push(payload));
  await client.ping();
  let n = 0;
  for (let times = 0; times < 20; times += 1) {
    for (let burst = 0; burst < 5; burst += 1) publisher.publish('log', n += 1);
    await publisher.ping();
    await lose(client);
    // In one turn, so that they are at the server before the reader is: the history keeps ten of them.
    for (let burst = 0; burst < times; burst += 1) publisher.publish('log', n += 1);
    await publisher.ping();
    await back(client);
  }
  await publisher.publish('log', n += 1, { ack: true });
  await eventually('the last', () => seen.at(-1) === n);
  const missed = gaps.reduce((sum, gap) => sum + gap.missed, 0);
  assert.equal(seen.length + missed, n);
  assert.ok(missed > 0);
  assert.deepEqual(seen, [...new Set(seen)].sort((a, b) => a - b));
});

test('a server that is killed and started again has another epoch', async (t) => {
  const { server, publisher, reader } = await started(t);
  const client = await reader();
  const log = client.subscribe('log');
  await log.ready;
  publisher.publish('log', 1);
  assert.deepEqual(await until(log, 1), [1]);
  const { epoch } = log.place;
  const gap = once(log, 'gap');
  await server.kill();
  await started(t, 100, { port: server.port });
  const [{ missed, seen, from }] = await gap;
  assert.deepEqual([missed, seen, from.offset], [null, { epoch, offset: 1 }, 0]);
  assert.notEqual(from.epoch, epoch);
  await back(publisher);
  publisher.publish('log', 2);
  assert.deepEqual(await until(log, 2), [2]);
});

test('a pattern that was cut off is told what it can be', async (t) => {
  const { publisher, reader } = await started(t);
  const client = await reader();
  const gaps = collected(client, 'gap');
  const logs = client.subscribePattern('logs.*');
  await logs.ready;
  for (const name of ['a', 'b']) publisher.publish(`logs.${name}`, name);
  assert.deepEqual(await until(logs, 'b'), ['a', 'b']);
  await lose(client);
  for (const n of range(1, 3)) await publisher.publish('logs.a', n, { ack: true });
  await back(client);
  publisher.publish('logs.b', 4);
  publisher.publish('logs.a', 5);
  assert.deepEqual(await until(logs, 5), [4, 5]);
  assert.deepEqual(gaps.map(({ channel, pattern, missed }) => [channel, pattern, missed]),
    [[null, 'logs.*', null], ['logs.a', 'logs.*', 3]]);
});

test('who conflates holds nobody up while it reads nothing, and reads the newest then', { timeout: 120_000 }, async (t) => {
  const { publisher, reader } = await started(t, 5);
  const client = await reader({ heartbeatInterval: 0 });
  const board = client.subscribe('board', { conflate: true });
  const log = client.subscribe('log', { conflate: true });
  await Promise.all([board.ready, log.ready]);
  const told = [collected(client, 'disconnected'), collected(client, 'gap')];
  client.connection.socket.pause();
  // More than the kernels and the queue of the server take.
  const text = 'x'.repeat(1 << 17);
  const count = 200;
  for (const n of range(1, count)) {
    publisher.publish('board', [n, text]);
    await publisher.publish('log', [n, text], { ack: true });
  }
  client.connection.socket.resume();
  for (const subscription of [board, log]) {
    const seen = [];
    while (seen.at(-1) !== count) seen.push((await subscription.next()).value.payload[0]);
    assert.ok(seen.length < count, `${seen.length} of ${count}`);
    assert.deepEqual(seen, [...seen].sort((a, b) => a - b));
  }
  assert.equal(log.place.offset, count);
  assert.deepEqual(told, [[], []]);
});

test('a page goes on at another front end', async (t) => {
  const { publisher, reader } = await started(t);
  const { ipcEvents } = require('../index.js');
  const { web } = require('./support.js');
  for (const n of range(1, 4)) await publisher.publish('log', n, { ack: true });
  const texts = [];
  const { epoch } = await publisher.publish('log', 5, { ack: true });
  for (const id of [`${epoch}:2`, `${epoch}:5`, 'nowhere:1', undefined]) {
    const base = await web(t, ipcEvents(await reader(), 'log'));
    const controller = new AbortController();
    const { body } = await fetch(base, {
      signal: controller.signal, headers: id === undefined ? {} : { 'Last-Event-ID': id },
    });
    const chunks = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    const marker = `data: ${10 + texts.length}\n`;
    for (let isSent = false; !text.includes(marker);) {
      text += (await chunks.read()).value;
      if (!isSent && text.includes('subscribed')) {
        publisher.publish('log', 10 + texts.length);
        isSent = true;
      }
    }
    controller.abort();
    texts.push([text.includes('event: gap'), [...text.matchAll(/^data: (\d+)$/gm)].map(([, n]) => Number(n))]);
  }
  assert.deepEqual(texts, [
    [false, [3, 4, 5, 10]], [false, [10, 11]], [true, [1, 2, 3, 4, 5, 10, 11, 12]], [false, [13]],
  ]);
});
