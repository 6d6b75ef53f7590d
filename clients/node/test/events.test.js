'use strict';

// Server-Sent Events over interruptions: what a browser missed, and what it is told where that is not known.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const http = require('node:http');
const { connected, web, eventually, once, served } = require('./support.js');
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
