'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { collected, eventually, once, joined, unconnected } = require('./support.js');
const { topical } = require('./topic_peer.js');
const { matcher } = require('../lib/patterns.js');
const { IPCPool } = require('../index.js');

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

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

/** Cuts the line, and waits until the client knows. */
async function lose(server, client) {
  const lost = once(client, 'disconnected');
  server.cut();
  await lost;
}

/** Resolves when the client is back and the server has read what it asks for. */
async function back(client) {
  if (!client.connected) await once(client, 'connected');
  await client.ping();
}

/** Cuts the line and waits until the client is back. */
async function blink(server, client) {
  await lose(server, client);
  await back(client);
}

test('which channels a pattern matches', () => {
  const cases = [
    ['a.*', ['a.b', 'a.'], ['a', 'a.b.c', 'b.b', 'A.b']], ['a.>', ['a.b', 'a.b.c', 'a.', 'a..'], ['a', 'ab']],
    ['>', ['a', 'a.b', '', '.'], ['system', '$x', '$x.y', 'system.a'].slice(0, 3)],
    ['*', ['a', '', '>', '*'], ['a.b', 'system', '$']], ['a..b', ['a..b'], ['a.b', 'a.x.b']],
    ['a.*.b', ['a.x.b', 'a..b'], ['a.b']], ['pri*', ['pri*'], ['price', 'pri']], ['$x.>', ['$x.y'], ['$y.y', '$x']],
    ['$*', ['$*'], ['$x']], ['a', ['a'], ['a.a']], ['*.*', ['a.b', '.'], ['a', '$x.y']],
  ];
  for (const [pattern, matched, others] of cases) {
    for (const channel of matched) assert.ok(matcher(pattern)(channel), `${pattern} and ${channel}`);
    for (const channel of others) assert.ok(!matcher(pattern)(channel), `${pattern} and ${channel}`);
  }
});

test('a pattern, by a handler and by iterations, beside a channel that it matches', async (t) => {
  const { channels, client: connect } = await topical(t);
  const client = await connect();
  const handled = [];
  assert.equal(client.subscribePattern('prices.>', (message) => handled.push([message.channelId, message.payload])), true);
  const wide = client.subscribePattern('prices.>');
  const narrow = client.subscribePattern('prices.*.usd', { buffer: 10 });
  const channel = client.subscribe('prices.eur.usd');
  await Promise.all([wide.ready, narrow.ready, channel.ready]);
  assert.deepEqual(channels.asked.map(([, name, wish]) => [name, wish]), [
    ['prices.>', { pattern: true, ack: true }], ['prices.>', { pattern: true, ack: true }],
    ['prices.*.usd', { pattern: true, ack: true }], ['prices.eur.usd', { ack: true }],
  ]);
  channels.publish('prices.eur.usd', 1);
  channels.publish('prices.eur', 2);
  channels.publish('other', 3);
  channels.publish('prices.yen.usd', 4);
  assert.deepEqual(await until(wide, 4), [1, 2, 4]);
  assert.deepEqual(await until(narrow, 4), [1, 4]);
  assert.deepEqual(await until(channel, 1), [1]);
  assert.deepEqual(handled, [['prices.eur.usd', 1], ['prices.eur', 2], ['prices.yen.usd', 4]]);
  assert.deepEqual(client.getConnectionInfo().subscribedPatterns, ['prices.>', 'prices.*.usd']);
  channels.asked.length = 0;
  assert.equal(client.unsubscribePattern('prices.>'), true);
  assert.equal(client.unsubscribePattern('prices.>'), false);
  narrow.unsubscribe();
  assert.deepEqual(await wide.next(), { done: true, value: undefined });
  assert.equal(client.unsubscribe('prices.*.usd'), false, 'that is a pattern');
  await eventually('unsubscribed', () => channels.asked.length === 2);
  assert.deepEqual(channels.asked, [
    ['unsubscribe', 'prices.>', { pattern: true }], ['unsubscribe', 'prices.*.usd', { pattern: true }],
  ]);
  assert.deepEqual(client.getConnectionInfo().subscribedChannels, ['prices.eur.usd']);
});

test('last and since, and what messages say of their place', async (t) => {
  const { channels, client: connect } = await topical(t);
  const client = await connect();
  const gaps = collected(client, 'gap');
  for (const n of range(1, 5)) channels.publish('log', n);
  const three = client.subscribe('log', { last: 3 });
  assert.deepEqual(await until(three, 5), [3, 4, 5]);
  assert.deepEqual(three.place, { epoch: 'e1', offset: 5 });
  three.unsubscribe();
  const resumed = collected(client, 'resumed');
  const since = client.subscribe('log', { since: { epoch: 'e1', offset: 2 } });
  const { value: message } = await since.next();
  assert.deepEqual([message.payload, message.epoch, message.offset, message.retained], [3, 'e1', 3, false]);
  assert.deepEqual(await until(since, 5), [4, 5]);
  assert.deepEqual(resumed, [{ channel: 'log', messages: 3, epoch: 'e1', offset: 5, subscription: since }]);
  since.unsubscribe();
  // A handler may ask as well, and 0 is before the first.
  const handled = [];
  client.subscribe('log', ({ payload }) => handled.push(payload), { since: { epoch: 'e1', offset: 0 } });
  await eventually('all', () => handled.length === 5);
  client.unsubscribe('log');
  assert.deepEqual(gaps, []);
  // From another epoch, from the future, and from what is gone.
  for (const [place, missed] of [[{ epoch: 'e0', offset: 5 }, null], [{ epoch: 'e1', offset: 9 }, null]]) {
    const foreign = client.subscribe('log', { since: place });
    const [gap] = await once(foreign, 'gap');
    const pattern = undefined;
    assert.deepEqual(gap, { channel: 'log', pattern, missed, seen: place, from: { epoch: 'e1', offset: 5 } });
    assert.deepEqual(gaps.pop(), { ...gap, subscription: foreign });
    foreign.unsubscribe();
  }
  channels.ring('log').kept.splice(0, 3);
  const late = client.subscribe('log', { since: { epoch: 'e1', offset: 1 } });
  const [gap] = await once(late, 'gap');
  assert.deepEqual([gap.missed, gap.from.offset], [4, 5]);
  channels.publish('log', 6);
  assert.deepEqual(await until(late, 6), [6]);
  const both = client.subscribe('log', { since: { epoch: 'e0', offset: 1 }, last: 2 });
  assert.deepEqual(await until(both, 6), [5, 6]);
});

test('a last value, of which a message says that it is one', async (t) => {
  const { channels, client: connect } = await topical(t, { messages: 0 });
  const client = await connect();
  client.publish('state', { on: true }, { retain: true, headers: { a: 'b' } });
  const first = client.subscribe('state', { last: 1 });
  const { value } = await first.next();
  assert.deepEqual([value.payload, value.retained, value.epoch, value.offset, value.headers],
    [{ on: true }, true, undefined, undefined, { a: 'b' }]);
  assert.deepEqual(channels.published[0].meta, { retain: true, headers: { a: 'b' } });
  // A second reader gets the value too, and the first not again.
  const second = client.subscribe('state', { last: 1 });
  assert.deepEqual((await second.next()).value.payload, { on: true });
  channels.publish('state', 'next');
  assert.deepEqual((await first.next()).value.payload, 'next');
  assert.deepEqual((await second.next()).value.payload, 'next');
});

test('a second reader that wants older messages costs the first none, and no double', async (t) => {
  const { channels, client: connect } = await topical(t);
  const client = await connect();
  const gaps = collected(client, 'gap');
  for (const n of range(1, 10)) channels.publish('log', n);
  const plain = client.subscribe('log');
  await plain.ready;
  channels.publish('log', 11);
  assert.deepEqual(await until(plain, 11), [11]);
  const many = client.subscribe('log', { last: 4 });
  const since = client.subscribe('log', { since: { epoch: 'e1', offset: 1 } });
  const one = client.subscribe('log', { last: 1 });
  await Promise.all([many.ready, since.ready, one.ready]);
  channels.publish('log', 12);
  assert.deepEqual(await until(plain, 12), [12]);
  assert.deepEqual(await until(many, 12), range(8, 12));
  assert.deepEqual(await until(since, 12), range(2, 12));
  assert.deepEqual(await until(one, 12), [11, 12]);
  assert.deepEqual(gaps, []);
  assert.deepEqual(channels.asked.map(([type]) => type),
    ['subscribe', ...Array(2).fill(['unsubscribe', 'subscribe']).flat()]);
  // What is no longer kept is missing for whoever wanted it, and only for that one.
  channels.ring('log').kept.splice(0, 8);
  const late = client.subscribe('log', { since: { epoch: 'e1', offset: 2 } });
  const [gap] = await once(late, 'gap');
  assert.deepEqual([gap.missed, gaps.length], [10, 1]);
  channels.publish('log', 13);
  assert.deepEqual(await until(late, 13), [13]);
  for (const reader of [plain, many, since, one]) assert.deepEqual(await until(reader, 13), [13]);
});

test('after a lost connection it goes on where it was: no gap, no double', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  const client = await server.client();
  const [gaps, resumed] = [collected(client, 'gap'), collected(client, 'resumed')];
  const handled = [];
  client.subscribe('log', ({ payload }) => handled.push(payload));
  const news = client.subscribe('log');
  await news.ready;
  const own = collected(news, 'resumed');
  channels.publish('log', 1);
  assert.deepEqual(await until(news, 1), [1]);
  await lose(server, client);
  for (const n of range(2, 6)) channels.publish('log', n);
  await back(client);
  channels.publish('log', 7);
  assert.deepEqual(await until(news, 7), range(2, 7));
  assert.deepEqual(handled, range(1, 7));
  assert.deepEqual(channels.asked.at(-1)[2], { ack: true, since: { epoch: 'e1', offset: 1 } });
  assert.deepEqual(own, [{ channel: 'log', messages: 5, epoch: 'e1', offset: 6 }]);
  assert.deepEqual(resumed, [own[0], { ...own[0], subscription: news }]);
  // Nothing was published before the line broke, and nothing is missed either.
  await blink(server, client);
  await eventually('resumed', () => own.length === 2);
  assert.equal(own[1].messages, 0);
  assert.deepEqual(gaps, []);
});

test('a line that breaks in the middle of what is kept: it goes on behind what has come', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  const client = await server.client();
  for (const n of range(1, 9)) channels.publish('log', n);
  const gaps = collected(client, 'gap');
  channels.cutAfter = 2;
  const log = client.subscribe('log', { last: 7 });
  assert.deepEqual(await until(log, 9), range(3, 9));
  const places = channels.asked.map(([, , wish]) => wish.since?.offset);
  assert.deepEqual(places, [undefined, 4, 6, 8]);
  // Cut off before the answer: as if it had not been asked.
  log.unsubscribe();
  channels.cutAfter = Infinity;
  let isCut = false;
  channels.onSubscribe = (message, side) => {
    if (isCut) return false;
    isCut = true;
    side.socket.destroy();
    return true;
  };
  const again = client.subscribe('log', { last: 2 });
  assert.deepEqual(await until(again, 9), [8, 9]);
  assert.deepEqual(gaps, []);
});

test('readers that come before the connection, and while it is lost', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  for (const n of range(1, 6)) channels.publish('log', n);
  const client = unconnected(t, { port: server.port, heartbeatInterval: 0, reconnectDelay: 5 });
  const gaps = collected(client, 'gap');
  const handled = [];
  client.subscribe('log', ({ payload }) => handled.push(payload), { last: 1 });
  const since = client.subscribe('log', { since: { epoch: 'e1', offset: 2 } });
  const plain = client.subscribe('log', undefined, { buffer: 5 });
  assert.equal(await client.connect(), true);
  await Promise.all([since.ready, plain.ready]);
  channels.publish('log', 7);
  assert.deepEqual([await until(since, 7), await until(plain, 7), handled], [range(3, 7), [7], [6, 7]]);
  await lose(server, client);
  channels.publish('log', 8);
  const late = client.subscribe('log', { last: 3 });
  const other = client.subscribe('other');
  await back(client);
  await Promise.all([late.ready, other.ready]);
  channels.publish('log', 9);
  assert.deepEqual([await until(late, 9), await until(since, 9), await until(plain, 9), handled],
    [range(6, 9), [8, 9], [8, 9], range(6, 9)]);
  assert.deepEqual(gaps, []);
});

test('another handler takes over between two messages', async (t) => {
  const server = await topical(t);
  const client = await server.client();
  const [first, second, third] = [[], [], []];
  client.subscribe('log', ({ payload }) => first.push(payload));
  await client.ping();
  server.channels.publish('log', 1);
  await client.ping();
  // What is on its way is for the new one, and it goes on from the place of the old one.
  server.channels.publish('log', 2);
  client.subscribe('log', ({ payload }) => second.push(payload));
  await client.ping();
  await lose(server, client);
  server.channels.publish('log', 3);
  client.subscribe('log', ({ payload }) => third.push(payload));
  await back(client);
  assert.deepEqual([first, second, third], [[1], [2], [3]]);
  client.subscribe('log', ({ payload }) => first.push(payload), { last: 2 });
  await client.ping();
  assert.deepEqual([first, third], [[1, 2, 3], [3]]);
});

test('a gap says how much is missing, as far as that is known', async (t) => {
  const server = await topical(t, { messages: 3 });
  const { channels } = server;
  const client = await server.client();
  const log = client.subscribe('log');
  await log.ready;
  const [told, gaps] = [collected(log, 'gap'), collected(client, 'gap')];
  channels.publish('log', 1);
  await until(log, 1);
  await lose(server, client);
  for (const n of range(2, 9)) channels.publish('log', n);
  await back(client);
  channels.publish('log', 10);
  assert.deepEqual(await until(log, 10), [10]);
  const pattern = undefined;
  const known = { channel: 'log', pattern, missed: 8, seen: { epoch: 'e1', offset: 1 }, from: { epoch: 'e1', offset: 9 } };
  assert.deepEqual(told.splice(0), [known]);
  assert.deepEqual(gaps.splice(0), [{ ...known, subscription: log }]);
  // A server that was started again does not know what there was.
  await lose(server, client);
  channels.restart('e2');
  for (const n of range(1, 2)) channels.publish('log', n);
  await back(client);
  channels.publish('log', 3);
  assert.deepEqual(await until(log, 3), [3]);
  assert.deepEqual(told.splice(0),
    [{ channel: 'log', pattern, missed: null, seen: { epoch: 'e1', offset: 10 }, from: { epoch: 'e2', offset: 2 } }]);
  // Who asked for the newest gets them again behind a gap.
  const newest = client.subscribe('log', { last: 1 });
  assert.deepEqual(await until(newest, 3), [3]);
  await lose(server, client);
  for (const n of range(4, 9)) channels.publish('log', n);
  await back(client);
  const [{ missed }] = await eventually('a gap', () => told.length > 0 && told);
  assert.deepEqual(await until(newest, 9), [9]);
  assert.deepEqual(await until(log, 9), [9]);
  assert.deepEqual([missed, channels.asked.at(-1)[2].last], [5, 1]);
});

test('offsets that jump while the line holds are a gap, and those that repeat no message', async (t) => {
  const { channels, sides, client: connect } = await topical(t);
  const client = await connect();
  const log = client.subscribe('log');
  await log.ready;
  const gaps = collected(client, 'gap');
  const send = (payload, offset, epoch = 'e1') => sides[0].send('publish', 'log', payload, null, { epoch, offset });
  for (const [payload, offset] of [['a', 1], ['b', 2], ['b', 2], ['a', 1], ['e', 5]]) send(payload, offset);
  send('f', 1, 'e2');
  // Places that are none.
  for (const meta of [{ offset: 7 }, { epoch: 'e2', offset: 1.5 }, { epoch: 3, offset: 9 }, { epoch: 'e2', offset: '9' }]) {
    sides[0].send('publish', 'log', 'odd', null, meta);
  }
  send('g', 2, 'e2');
  assert.deepEqual(await until(log, 'g'), ['a', 'b', 'e', 'f', 'odd', 'odd', 'odd', 'odd', 'g']);
  assert.deepEqual(gaps.map(({ missed, from }) => [missed, from.offset]), [[2, 4]]);
  assert.equal(channels.asked.length, 1);
});

test('without a history a gap is all that is known; a pattern tells of it per channel once it can', async (t) => {
  const server = await topical(t, { messages: 0 });
  const client = await server.client();
  const gaps = collected(client, 'gap');
  client.subscribe('plain', () => {});
  await client.ping();
  await blink(server, client);
  await eventually('a gap', () => gaps.length === 1);
  const nothing = { missed: null, seen: null, from: null };
  assert.deepEqual(gaps.pop(), { channel: 'plain', pattern: undefined, ...nothing });
  client.unsubscribe('plain');

  server.channels.messages = 100;
  const prices = client.subscribePattern('prices.*');
  await prices.ready;
  server.channels.publish('prices.a', 1);
  server.channels.publish('prices.b', 2);
  assert.deepEqual(await until(prices, 2), [1, 2]);
  await lose(server, client);
  for (const n of range(3, 5)) server.channels.publish('prices.a', n);
  await back(client);
  await eventually('a gap', () => gaps.length === 1);
  assert.deepEqual(gaps.pop(), { channel: null, pattern: 'prices.*', ...nothing, subscription: prices });
  server.channels.publish('prices.b', 6);
  server.channels.publish('prices.a', 7);
  assert.deepEqual(await until(prices, 7), [6, 7]);
  assert.deepEqual(gaps.splice(0), [{ channel: 'prices.a', pattern: 'prices.*', missed: 3,
    seen: { epoch: 'e1', offset: 1 }, from: { epoch: 'e1', offset: 4 }, subscription: prices }]);
  prices.unsubscribe();
  // With `last` it gets the newest of each channel again, and none twice.
  const newest = client.subscribePattern('prices.*', { last: 1 });
  assert.deepEqual((await until(newest, 6)).sort(), [6, 7]);
  await lose(server, client);
  server.channels.publish('prices.a', 8);
  assert.deepEqual(await until(newest, 8), [8]);
  server.channels.publish('prices.a', 9);
  assert.deepEqual(await until(newest, 9), [9]);
});

test('conflation is for the whole client, and jumps of its offsets are no gap', async (t) => {
  const { channels, sides, client: connect } = await topical(t);
  const client = await connect();
  const gaps = collected(client, 'gap');
  const board = client.subscribe('board', { conflate: true });
  await board.ready;
  assert.deepEqual(channels.asked, [['subscribe', 'board', { ack: true, conflate: true }]]);
  for (const offset of [1, 5]) sides[0].send('publish', 'board', offset, null, { epoch: 'e1', offset });
  assert.deepEqual(await until(board, 5), [1, 5]);
  assert.deepEqual(gaps, []);
  // The program is slow as well: of each channel it reads the newest.
  const wide = client.subscribePattern('*', { conflate: true, buffer: 2 });
  await wide.ready;
  channels.ring('board').offset = 5;
  for (const [name, payload] of [['board', 'a'], ['other', 'b'], ['board', 'c'], ['board', 'd'], ['other', 'e']]) {
    channels.publish(name, payload);
  }
  await client.ping();
  assert.deepEqual([await until(wide, 'e'), wide.dropped, await until(board, 'd')], [['d', 'e'], 0, ['d']]);
  channels.publish('other', 'f');
  channels.publish('board', 'g');
  assert.deepEqual(await until(wide, 'g'), ['f', 'g']);
  wide.unsubscribe();
  assert.throws(() => client.subscribe('board'), { name: 'TypeError', message: /with conflate by this client/ });
  assert.throws(() => client.subscribe('board', () => {}), TypeError);
  client.subscribe('board', () => {}, { conflate: true });
});

test('a pool: a pattern has one connection, and its gaps are told with the client', async (t) => {
  const server = await topical(t);
  const pool = await joined(t, new IPCPool('bench', { port: server.port, size: 3, heartbeatInterval: 0, reconnectDelay: 5 }));
  const told = [];
  pool.on('gap', (gap, client) => told.push([gap.pattern, client]));
  pool.on('resumed', (what, client) => told.push([what.channel, client]));
  const prices = pool.subscribePattern('prices.*');
  const log = pool.subscribe('log', { last: 1 });
  await Promise.all([prices.ready, log.ready]);
  assert.deepEqual(pool.getConnectionInfo().subscribedPatterns, ['prices.*']);
  assert.equal((await pool.publish('prices.a', 1, { ack: true })).offset, 1);
  assert.deepEqual(await until(prices, 1), [1]);
  server.cut();
  await eventually('told', () => told.length === 2);
  assert.deepEqual(new Set(told.map(([name]) => name)), new Set(['prices.*', 'log']));
  for (const [name, client] of told) assert.equal(client, pool.clientOf(name));
  assert.equal(pool.unsubscribePattern('prices.*'), true);
  assert.deepEqual(await prices.next(), { done: true, value: undefined });
});

test('refused on the next connection, an iteration ends with the error', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  const client = await server.client();
  const log = client.subscribe('log');
  await log.ready;
  channels.onSubscribe = ({ message_id: id }, side) => {
    side.send('response', 'log', { status: 'error', code: 'forbidden', error: 'no longer yours' }, id);
    return true;
  };
  const reported = collected(client, 'error');
  client.subscribe('other', () => {});
  await eventually('refused', () => reported.length === 1);
  const refused = assert.rejects(log.next(), { code: 'forbidden' });
  await blink(server, client);
  await refused;
  assert.equal(client.subscriptions.get('log'), undefined);
  await eventually('again', () => reported.filter(({ code }) => code === 'forbidden').length === 2);
});

test('a second reader that is refused costs the first nothing', async (t) => {
  const { channels, client: connect } = await topical(t);
  const client = await connect();
  const first = client.subscribe('log');
  await first.ready;
  channels.publish('log', 1);
  await until(first, 1);
  const gaps = collected(client, 'gap');
  channels.onSubscribe = ({ payload: { last }, message_id: id }, side) => {
    if (last === undefined) return false;
    side.send('response', 'log', { status: 'error', code: 'limit_exceeded', error: 'too many' }, id);
    channels.publish('log', 2);
    return true;
  };
  const second = client.subscribe('log', { last: 1 });
  await assert.rejects(second.ready, { code: 'limit_exceeded' });
  await eventually('asked again', () => channels.asked.at(-1)[2].since !== undefined);
  channels.publish('log', 3);
  assert.deepEqual(await until(first, 3), [2, 3]);
  // A handler is reported once, and asked for again on the next connection only.
  const reported = collected(client, 'error');
  client.subscribe('log', () => {}, { last: 1 });
  await eventually('refused', () => reported.length === 1);
  channels.publish('log', 4);
  assert.deepEqual(await until(first, 4), [2, 4]);
  await client.ping();
  const asked = channels.asked.length;
  await client.ping();
  assert.deepEqual([channels.asked.length, reported.length], [asked, 1]);
  assert.deepEqual(gaps, []);
});

test('closed, taken over and aborted in the middle of a recovery', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  for (const n of range(1, 3)) channels.publish('log', n);
  const hold = () => true;
  // Closed before the answer: there is nothing to wait for but the answer, and then the end.
  const client = await server.client();
  channels.onSubscribe = hold;
  const waiting = client.subscribe('log', { last: 3 });
  const closing = client.close({ timeout: 20 });
  assert.throws(() => client.subscribe('log', { last: 1 }), { code: 'NOT_CONNECTED' });
  await closing;
  await assert.rejects(waiting.ready, { code: 'NOT_CONNECTED' });
  assert.deepEqual(await waiting.next(), { done: true, value: undefined });
  assert.equal(client.pending.size, 0);
  // Aborted before the answer: what comes is nobody's.
  const second = await server.client();
  const controller = new AbortController();
  const aborted = second.subscribe('log', { last: 3, signal: controller.signal });
  const next = second.subscribe('log', { last: 1 });
  controller.abort();
  await assert.rejects(aborted.next(), { code: 'ABORTED' });
  channels.onSubscribe = () => false;
  next.unsubscribe();
  // Taken over in the middle: the client does not come back, and says so.
  const third = await server.client({ reconnectDelay: 5 });
  channels.onSubscribe = ({ message_id: id }, side) => {
    side.send('response', 'log', { status: 'subscribed', epoch: 'e1', offset: 3, recovered: true, messages: 3 }, id);
    side.send('publish', 'log', 1, null, { epoch: 'e1', offset: 1 });
    side.send('response', 'system', { status: 'error', code: 'taken_over', error: 'a newer connection came' });
    side.socket.end();
    return true;
  };
  const taken = third.subscribe('log', { last: 3 });
  assert.equal((await taken.next()).value.payload, 1);
  await assert.rejects(taken.next(), { code: 'NOT_CONNECTED', message: /newer connection/ });
});

test('a drain in between: the next server has another epoch, and what waits is sent there', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  const client = await server.client();
  const log = client.subscribe('log');
  await log.ready;
  const gap = once(log, 'gap');
  for (const { socket } of server.sides) socket.end();
  await once(client, 'disconnected');
  channels.restart('e2');
  const published = client.publish('log', 'kept', { ack: true });
  assert.deepEqual(await until(log, 'kept'), ['kept']);
  assert.equal((await published).epoch, 'e2');
  assert.deepEqual((await gap)[0].from.epoch, 'e2');
});

test('a listener of a subscription that fails is reported, and the messages go on', async (t) => {
  const server = await topical(t, { messages: 1 });
  const client = await server.client();
  const log = client.subscribe('log');
  await log.ready;
  const reported = collected(client, 'error');
  log.on('gap', () => { throw new Error('thrown by gap'); });
  log.on('gap', async () => { throw new Error('rejected by gap'); });
  client.on('gap', () => { throw new Error('thrown by the client'); });
  server.channels.publish('log', 1);
  await until(log, 1);
  await lose(server, client);
  for (const n of range(2, 5)) server.channels.publish('log', n);
  await back(client);
  server.channels.publish('log', 6);
  assert.deepEqual(await until(log, 6), [6]);
  const messages = reported.map(({ message }) => message);
  assert.ok(messages.includes('thrown by gap') && messages.includes('thrown by the client'), String(messages));
});
