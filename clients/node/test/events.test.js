'use strict';

// Server-Sent Events over interruptions: what a browser missed, and what it is told where that is not known.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const http = require('node:http');
const { connected, web, eventually, once, served, peer, joined, unconnected } = require('./support.js');
const { topical } = require('./topic_peer.js');
const { ipcEvents } = require('../index.js');

/** A page's EventSource, as far as these tests need one. */
function open(t, url, lastEventId) {
  const stream = { text: '', ended: false };
  const headers = lastEventId === undefined ? {} : { 'Last-Event-ID': lastEventId };
  const request = http.get(url, { headers, agent: false }, (response) => {
    response.setEncoding('utf8');
    response.on('data', (text) => { stream.text += text; });
    response.on('end', () => { stream.ended = true; });
    response.on('error', () => {});
  });
  request.on('error', () => {});
  t.after(() => request.destroy());
  return {
    get text() { return stream.text; },
    get data() { return [...stream.text.matchAll(/^data: (.*)$/gm)].map(([, json]) => JSON.parse(json)); },
    get ids() { return [...stream.text.matchAll(/^id: (.*)$/gm)].map(([, id]) => id); },
    get gaps() { return [...stream.text.matchAll(/^event: gap\ndata: null\n\n/gm)].length; },
    get ended() { return stream.ended; },
    begun: () => eventually('begun', () => stream.text.includes(': subscribed\n\n')),
    has: (...data) => eventually(`${JSON.stringify(data)} in ${stream.text}`,
      () => [...stream.text.matchAll(/^data: (.*)$/gm)].length >= data.length),
    close: () => request.destroy(),
  };
}

const listening = (client) => client.getConnectionInfo().subscribedChannels.includes('ticks');

test('a browser that comes back gets what it missed, in order and once', async (t) => {
  const { client } = await connected(t);
  const base = await web(t, ipcEvents(client, 'ticks'));
  const first = open(t, base);
  await first.begun();
  for (const n of [1, 2]) client.publish('ticks', n);
  await first.has(1, 2);
  const [, last] = first.ids;
  first.close();
  // The subscription outlives the last browser.
  for (const n of [3, 4]) client.publish('ticks', n);
  await client.ping();
  const second = open(t, base, last);
  await second.begun();
  client.publish('ticks', 5);
  await second.has(3, 4, 5);
  assert.deepEqual([second.data, second.gaps], [[3, 4, 5], 0]);
  const late = open(t, base, first.ids[0]);
  const fresh = open(t, base);
  await Promise.all([late.begun(), fresh.begun()]);
  client.publish('ticks', 6);
  await late.has(2, 3, 4, 5, 6);
  await fresh.has(6);
  assert.deepEqual([late.data, fresh.data], [[2, 3, 4, 5, 6], [6]]);
});

test('the filter holds for what was missed as well', async (t) => {
  const { client } = await connected(t);
  const filter = ({ payload }, req) => req.url === '/all' || payload % 2 === 1;
  const base = await web(t, ipcEvents(client, 'ticks', { filter }));
  const all = open(t, `${base}/all`);
  await all.begun();
  for (let n = 0; n < 6; n += 1) client.publish('ticks', n);
  await all.has(0, 1, 2, 3, 4, 5);
  const odd = open(t, `${base}/odd`, all.ids[0]);
  await odd.has(1, 3, 5);
  assert.deepEqual(odd.data, [1, 3, 5]);
});

test('ids of any kind are recognised', async (t) => {
  const { client } = await connected(t);
  const base = await web(t, ipcEvents(client, 'ticks'));
  const first = open(t, base);
  await first.begun();
  const { Message } = require('../index.js');
  const id = 'ä☃ id\nevil: 1';
  for (const payload of [1, 2]) {
    client.send(new Message({ message_id: `${id}${payload}`, channel_id: 'ticks', message_type: 'publish', payload }));
  }
  await first.has(1, 2);
  assert.deepEqual(first.ids, ['ä☃ id evil: 11', 'ä☃ id evil: 12']);
  // A browser sends its bytes in UTF-8.
  const second = open(t, base, Buffer.from(first.ids[0]).toString('latin1'));
  await second.has(2);
  assert.deepEqual([second.data, second.gaps], [[2], 0]);
});

test('who comes back too late is told of a gap, and gets what there is', async (t) => {
  const { client } = await connected(t);
  const base = await web(t, ipcEvents(client, 'ticks', { history: 3 }));
  const first = open(t, base);
  await first.begun();
  for (let n = 0; n < 6; n += 1) client.publish('ticks', n);
  await first.has(0, 1, 2, 3, 4, 5);
  const known = open(t, base, first.ids[2]);
  await known.has(null, 3, 4, 5);
  assert.deepEqual([known.gaps, known.data], [1, [null, 3, 4, 5]]);
  const exact = open(t, base, first.ids[3]);
  await exact.has(4, 5);
  assert.deepEqual([exact.gaps, exact.data], [0, [4, 5]]);
  assert.match(known.text, /: subscribed\n\nevent: gap\ndata: null\n\nid: /, 'the gap has no id of its own');
});

test('the history is bounded in bytes, and there need be none', async (t) => {
  const { client } = await connected(t);
  for (const [options, kept] of [[{ historyBytes: 2_500 }, 2], [{ historyBytes: 10 }, 0], [{ history: 0 }, 0]]) {
    const base = await web(t, ipcEvents(client, 'ticks', options));
    const first = open(t, base);
    await first.begun();
    const payloads = [0, 1, 2, 3].map((n) => n + 'x'.repeat(1_000));
    for (const payload of payloads) client.publish('ticks', payload);
    await first.has(...payloads);
    const back = open(t, base, first.ids[0]);
    await back.begun();
    const expected = [null, ...payloads.slice(4 - kept)];
    await back.has(...expected);
    assert.deepEqual(back.data, expected);
    first.close();
    back.close();
  }
});

test('the subscription ends some time after the last browser', async (t) => {
  const { client } = await connected(t);
  const base = await web(t, ipcEvents(client, 'ticks', { linger: 200 }));
  const first = open(t, base);
  await first.begun();
  client.publish('ticks', 1);
  await first.has(1);
  first.close();
  await eventually('unsubscribed', () => !listening(client));
  const back = open(t, base, first.ids[0]);
  await back.begun();
  await back.has(null);
  assert.equal(back.gaps, 1, 'nobody listened meanwhile');
  assert.equal(listening(client), true);
});

test('a lost connection to the server is a gap for all who look on', async (t) => {
  const { server, client } = await connected(t, { reconnectDelay: 20, reconnectAttempts: 500 });
  const base = await web(t, ipcEvents(client, 'ticks'));
  const first = open(t, base);
  await first.begun();
  client.publish('ticks', 1);
  await first.has(1);
  await server.kill();
  const back = once(client, 'connected');
  const again = await served(t, { port: server.port });
  await back;
  client.publish('ticks', 2);
  await first.has(1, null, 2);
  assert.deepEqual([first.data, first.gaps, first.ended], [[1, null, 2], 1, false]);
  const other = open(t, base, first.ids[0]);
  await other.has(null, 2);
  assert.deepEqual(other.data, [null, 2], 'and for who comes back later, in its place');
});

test('browsers are let go when the client gives up, and wait for its next connection', async (t) => {
  const { server, client } = await connected(t, { reconnectAttempts: 0 });
  const base = await web(t, ipcEvents(client, 'ticks'));
  const first = open(t, base);
  await first.begun();
  await server.kill();
  await eventually('ended', () => first.ended);
  const waiting = open(t, base);
  const again = await served(t, { port: server.port });
  assert.equal(await client.connect(), true);
  await waiting.begun();
  client.publish('ticks', 1);
  await waiting.has(1);
});

test('a browser that reads gets all of a burst that comes in one turn', async (t) => {
  let publish;
  const client = {
    state: 'connected',
    options: {},
    report: assert.fail,
    openSubscription(channel, { onMessage }) {
      publish = onMessage;
      return { isReady: true, unsubscribe() {} };
    },
  };
  const browser = open(t, await web(t, ipcEvents(client, 'ticks')));
  await browser.begun();
  // More than the kernels hold for a connection, and than a browser may be behind for long.
  for (let n = 0; n < 12; n += 1) publish({ message_id: `m${n}`, payload: 'x'.repeat(1 << 20) });
  await eventually('all of it', () => browser.ended || browser.ids.includes('m11'));
  assert.deepEqual(browser.ids, Array.from({ length: 12 }, (_, n) => `m${n}`));
  await eventually('all of the last one', () => browser.text.length > 12 << 20);
});

/** A front end of its own process, as far as the server can tell: its own client, and one subscription for all browsers. */
async function frontEnd(t, server, options, channel = 'log') {
  const client = await server.client();
  return { client, base: await web(t, ipcEvents(client, channel, options)) };
}

test('a browser resumes through another front end, from the history of the server', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  const one = await frontEnd(t, server);
  const first = open(t, one.base);
  await first.begun();
  for (const n of [1, 2, 3]) channels.publish('log', n);
  await first.has(1, 2, 3);
  assert.deepEqual(first.ids, ['e1:1', 'e1:2', 'e1:3']);
  first.close();
  for (const n of [4, 5]) channels.publish('log', n);
  // That front end has never heard of the channel.
  const two = await frontEnd(t, server);
  const second = open(t, two.base, 'e1:2');
  await second.has(3, 4, 5);
  const up = open(t, two.base, 'e1:5');
  const fresh = open(t, two.base);
  await Promise.all([up.begun(), fresh.begun()]);
  channels.publish('log', 6);
  await Promise.all([second.has(3, 4, 5, 6), up.has(6), fresh.has(6)]);
  assert.deepEqual([second.data, up.data, fresh.data], [[3, 4, 5, 6], [6], [6]]);
  assert.deepEqual(second.ids, ['e1:3', 'e1:4', 'e1:5', 'e1:6']);
  // From another epoch, from the future, and what is nobody's id.
  for (const id of ['e0:3', 'e1:7', 'e1:99999999999999999999', ':1', 'e1:', 'x'.repeat(500)]) {
    const foreign = open(t, two.base, id);
    await foreign.has(null, 1, 2, 3, 4, 5, 6);
    assert.deepEqual([foreign.gaps, foreign.data], [1, [null, 1, 2, 3, 4, 5, 6]], id);
  }
});

test('it begins anywhere in what is still to come from the server', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  for (const n of [1, 2, 3, 4]) channels.publish('log', n);
  // Of the four that are kept, two come now and two with the next message.
  const send = channels.deliver;
  const held = [];
  channels.deliver = (side, message) => (message.payload > 2 ? held.push([side, message]) : send(side, message));
  const { base } = await frontEnd(t, server);
  const browsers = [open(t, base, 'e1:1'), open(t, base, 'e1:3'), open(t, base), open(t, base, 'e1:4')];
  await Promise.all(browsers.map((browser) => browser.begun()));
  channels.publish('log', 5);
  for (const args of held) send(...args);
  await Promise.all([browsers[0].has(2, 3, 4, 5), browsers[1].has(4, 5), browsers[2].has(5), browsers[3].has(5)]);
  assert.deepEqual(browsers.map(({ data }) => data), [[2, 3, 4, 5], [4, 5], [5], [5]]);
});

test('a history that has grown old, and one that is too long for the front end', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  for (let n = 1; n <= 10; n += 1) channels.publish('log', n);
  const { base } = await frontEnd(t, server, { history: 4 });
  const early = open(t, base, 'e1:3');
  await early.has({ missed: 3 }, 7, 8, 9, 10);
  assert.deepEqual(early.data, [{ missed: 3 }, 7, 8, 9, 10]);
  const exact = open(t, base, 'e1:6');
  await exact.has(7, 8, 9, 10);
  channels.publish('log', 11);
  await exact.has(7, 8, 9, 10, 11);
  const later = open(t, base, 'e1:7');
  await later.has(8, 9, 10, 11);
  assert.deepEqual([exact.data, later.data], [[7, 8, 9, 10, 11], [8, 9, 10, 11]]);
  // Nothing is kept any more: who was up to date has missed nothing.
  channels.ring('log').kept = [];
  const old = await frontEnd(t, server);
  const [current, behind] = [open(t, old.base, 'e1:11'), open(t, old.base, 'e1:9')];
  await Promise.all([current.begun(), behind.begun()]);
  channels.publish('log', 12);
  await Promise.all([current.has(12), behind.has({ missed: 2 }, 12)]);
  assert.deepEqual([current.data, behind.data], [[12], [{ missed: 2 }, 12]]);
});

test('a front end that loses the server resumes, and tells of a gap where it cannot', async (t) => {
  const server = await topical(t, { messages: 3 });
  const { channels } = server;
  const { client, base } = await frontEnd(t, server);
  const browser = open(t, base);
  await browser.begun();
  channels.publish('log', 1);
  await browser.has(1);
  const cut = async (from, to) => {
    const lost = once(client, 'disconnected');
    server.cut();
    await lost;
    for (let n = from; n <= to; n += 1) channels.publish('log', n);
    await once(client, 'connected');
    await client.ping();
  };
  await cut(2, 4);
  await browser.has(1, 2, 3, 4);
  await cut(5, 9);
  await browser.has(1, 2, 3, 4, { missed: 2 }, 7, 8, 9);
  assert.deepEqual(browser.data, [1, 2, 3, 4, { missed: 2 }, 7, 8, 9]);
  const late = open(t, base, 'e1:4');
  await late.has({ missed: 2 }, 7, 8, 9);
  channels.restart('e2');
  await cut(10, 10);
  await browser.has(1, 2, 3, 4, { missed: 2 }, 7, 8, 9, null, 10);
  assert.deepEqual(browser.ids.at(-1), 'e2:1');
  const newer = open(t, base, 'e1:9');
  await newer.has(null, 10);
  assert.deepEqual([browser.data.slice(-2), newer.data], [[null, 10], [null, 10]]);
});

test('a new browser gets the newest, of a history and of a last value', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  for (let n = 1; n <= 5; n += 1) channels.publish('log', n);
  const { base } = await frontEnd(t, server, { last: 2 });
  const first = open(t, base);
  await first.has(4, 5);
  const second = open(t, base);
  await second.has(4, 5);
  const known = open(t, base, 'e1:1');
  await known.has(2, 3, 4, 5);
  assert.deepEqual([first.data, second.data, known.data], [[4, 5], [4, 5], [2, 3, 4, 5]]);

  channels.messages = 0;
  channels.publish('state', 'on', { retain: true });
  const asked = await frontEnd(t, server, { last: 1 }, 'state');
  const unasked = await frontEnd(t, server, {}, 'state');
  const [wants, wantsNot] = [open(t, asked.base), open(t, unasked.base)];
  await Promise.all([wants.has('on'), wantsNot.begun()]);
  channels.publish('state', 'off', { retain: true });
  await Promise.all([wants.has('on', 'off'), wantsNot.has('off')]);
  assert.deepEqual([wants.data, wantsNot.data], [['on', 'off'], ['off']]);
  await assert.rejects(async () => ipcEvents(asked.client, 'x', { last: 0 }), TypeError);
});

test('a pattern, where the program says that it is one', async (t) => {
  const server = await topical(t);
  const { channels } = server;
  channels.publish('prices.a', 0);
  const { client, base } = await frontEnd(t, server, { pattern: true, event: 'price', last: 1 }, 'prices.*');
  const first = open(t, base);
  await first.has({});
  for (const [channel, n] of [['prices.a', 1], ['other', 2], ['prices.b', 3]]) channels.publish(channel, n);
  const data = [{ channel: 'prices.a', payload: 0 }, { channel: 'prices.a', payload: 1 }, { channel: 'prices.b', payload: 3 }];
  await first.has(...data);
  assert.deepEqual(first.data, data);
  const [late, back] = [open(t, base), open(t, base, first.ids[1])];
  await Promise.all([late.has({}, {}), back.has({})]);
  assert.deepEqual([late.data, back.data], [data.slice(1), data.slice(2)]);
  const lost = once(client, 'disconnected');
  server.cut();
  await lost;
  for (const n of [4, 5, 6]) channels.publish('prices.a', n);
  await once(client, 'connected');
  await first.has(...data, null, {}, {});
  assert.deepEqual(first.data.slice(3), [null, { channel: 'prices.a', missed: 2 }, { channel: 'prices.a', payload: 6 }]);
  assert.throws(() => ipcEvents(client, 'a', { pattern: 'yes' }), TypeError);
  // A name with a star that is not said to be a pattern is a name.
  const plain = await frontEnd(t, server, {}, 'prices.*');
  const none = open(t, plain.base);
  await none.begun();
  channels.publish('prices.a', 7);
  channels.publish('prices.*', 8);
  await none.has(8);
  assert.deepEqual(none.data, [8]);
});

test('a pattern at a server that knows none is a 503 that says so', async (t) => {
  const { port } = await peer(t, { grant: { extensions: ['call'] } });
  const client = await joined(t, unconnected(t, { port, heartbeatInterval: 0 }));
  const response = await fetch(await web(t, ipcEvents(client, 'a.*', { pattern: true })));
  const { code, error } = await response.json();
  assert.deepEqual([response.status, code], [503, 'UNSUPPORTED']);
  assert.match(error, /patterns/);
});
