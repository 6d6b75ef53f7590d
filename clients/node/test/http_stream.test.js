'use strict';

// Streams for browsers: what they are told, that they set the pace, and that leaving cancels.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const http = require('node:http');
const { collected, eventually, once, sleep, web } = require('./support.js');
const { scripted, sendParts } = require('./scripted.js');
const { ipcProxy, ipcStream } = require('../lib/express.js');

const FAILURE = { status: 'error', code: 'app:no_more', error: 'that was all', details: { n: 2 } };

test('Server-Sent Events: a part an event, then `end`', async (t) => {
  const { client } = await scripted(t, { answer: (request, side) => sendParts(side, request, ['a', { b: 1 }]) });
  const response = await fetch(await web(t, ipcStream(client, 'x', { event: 'to\nken' })));
  assert.deepEqual([response.status, response.headers.get('content-type'), response.headers.get('cache-control')],
    [200, 'text/event-stream; charset=utf-8', 'no-cache, no-transform']);
  assert.equal(await response.text(),
    'event: to ken\ndata: "a"\n\nevent: to ken\ndata: {"b":1}\n\nevent: end\ndata: null\n\n');
});

test('NDJSON: a part a line', async (t) => {
  const { client, received } = await scripted(t, { answer: (request, side) => sendParts(side, request, ['a\nb', { b: 1 }]) });
  const base = await web(t, ipcStream(client, 'x', { as: 'ndjson', payload: (req) => req.body, credit: 3, timeout: 9_000 }));
  const response = await fetch(base, { method: 'POST', body: '{"prompt":"hi"}' });
  assert.deepEqual([response.status, response.headers.get('content-type')], [200, 'application/x-ndjson; charset=utf-8']);
  assert.equal(await response.text(), '"a\\nb"\n{"b":1}\n');
  const [{ payload, meta }] = received.requests;
  assert.deepEqual([payload, meta.stream], [{ prompt: 'hi' }, 3]);
  assert.ok(meta.ttl > 8_000 && meta.ttl <= 9_000);
});

test('a stream without a part, and one of a single answer', async (t) => {
  const { client } = await scripted(t, {
    answer(request, side) {
      if (request.channel_id === 'none') sendParts(side, request, []);
      else side.send('response', 'one', 1, request.message_id);
    },
  });
  assert.equal(await (await fetch(await web(t, ipcStream(client, 'none')))).text(), 'event: end\ndata: null\n\n');
  assert.equal(await (await fetch(await web(t, ipcStream(client, 'one', { as: 'ndjson' })))).text(), '1\n');
});

test('each part is there at once', async (t) => {
  const { client, received, sides } = await scripted(t);
  const asked = fetch(await web(t, ipcStream(client, 'x')));
  await eventually('asked', () => received.requests.length === 1);
  const id = received.requests[0].message_id;
  sides[0].send('response', 'x', 1, id, { seq: 0 });
  const reader = (await asked).body.getReader();
  for (let seq = 1; seq < 5; seq += 1) {
    const { value } = await reader.read();
    assert.equal(Buffer.from(value).toString(), `data: ${seq}\n\n`);
    sides[0].send('response', 'x', seq + 1, id, { seq });
  }
  await reader.cancel();
  await eventually('cancelled', () => received.cancels.length === 1);
});

test('a failure before the first part has a status', async (t) => {
  const { client } = await scripted(t, {
    answer: (request, side) => side.send('response', 'x', { ...FAILURE, code: request.channel_id }, request.message_id),
  });
  for (const [code, options, status, error] of [
    ['app:not_found', {}, 404, 'that was all'], ['app:odd', { statuses: { 'app:odd': 418 } }, 418, 'that was all'],
    ['app:odd', { status: async () => 409 }, 409, 'that was all'], ['limit_exceeded', {}, 429, 'that was all'],
    ['handler_failed', {}, 502, 'the request failed'], ['handler_failed', { exposeCrashes: true }, 502, 'that was all'],
  ]) {
    const response = await fetch(await web(t, ipcStream(client, code, options)));
    const body = await response.json();
    assert.deepEqual([response.status, body.error, body.code], [status, error, code]);
    assert.equal(response.headers.get('retry-after'), status === 429 ? '1' : null);
  }
  client.disconnect();
  const response = await fetch(await web(t, ipcStream(client, 'x')));
  assert.deepEqual([response.status, response.headers.get('retry-after')], [503, '1']);
  const broken = await fetch(await web(t, ipcStream(client, 'x')), { method: 'POST', body: 'x' });
  assert.equal(broken.status, 503);
});

test('a server that knows no streams is a failure with a status', async (t) => {
  const { client } = await scripted(t, { grant: {} });
  const response = await fetch(await web(t, ipcStream(client, 'x')));
  assert.deepEqual([response.status, (await response.json()).code], [502, 'UNSUPPORTED']);
});

test('a failure after parts cannot be taken for the end', async (t) => {
  const { client } = await scripted(t, {
    answer(request, side) {
      sendParts(side, request, [1], false);
      const code = request.channel_id === 'crash' ? 'handler_failed' : FAILURE.code;
      side.send('response', 'x', { ...FAILURE, code }, request.message_id);
    },
  });
  assert.equal(await (await fetch(await web(t, ipcStream(client, 'x')))).text(),
    'data: 1\n\nevent: failure\ndata: {"error":"that was all","code":"app:no_more","details":{"n":2}}\n\n');
  assert.equal(await (await fetch(await web(t, ipcStream(client, 'crash')))).text(),
    'data: 1\n\nevent: failure\ndata: {"error":"the request failed","code":"handler_failed"}\n\n');
  const base = await web(t, ipcStream(client, 'x', { as: 'ndjson' }));
  const text = await new Promise((resolve, reject) => {
    http.get(base, (response) => {
      let received = '';
      response.setEncoding('utf8').on('data', (data) => { received += data; });
      response.on('end', () => reject(new Error('complete')));
      response.on('error', () => resolve(received));
    }).on('error', reject);
  });
  assert.equal(text, '1\n{"error":"that was all","code":"app:no_more","details":{"n":2}}\n');
});

test('a browser that leaves cancels, in whichever state', async (t) => {
  const { client, received } = await scripted(t, {
    answer: (request, side) => { if (request.channel_id === 'parts') sendParts(side, request, [1], false); },
  });
  const errors = collected(client, 'error');
  const bases = [await web(t, ipcStream(client, 'parts')), await web(t, ipcStream(client, 'nothing yet')),
    await web(t, ipcProxy(client, 'proxied'))];
  for (const [at, base] of bases.entries()) {
    const controller = new AbortController();
    const asked = fetch(base, { signal: controller.signal }).then(async (response) => {
      if (at === 0) await response.body.getReader().read();
      controller.abort();
    }).catch(() => {});
    await eventually('asked', () => received.requests.length === at + 1);
    if (at > 0) controller.abort();
    await asked;
    await eventually('cancelled', () => received.cancels.length === at + 1);
    assert.equal(received.cancels[at].message_id, received.requests[at].message_id);
  }
  assert.deepEqual([client.pending.size, errors], [0, []]);
});

test('a browser sets the pace of its stream, and of no other', async (t) => {
  const text = 'x'.repeat(100_000);
  const next = new Map();
  const give = (side, { message_id: id, channel_id: channel }, n) => {
    for (let k = 0; k < n; k += 1) {
      const seq = next.get(id) ?? 0;
      next.set(id, seq + 1);
      side.send('response', channel, text, id, { seq });
    }
  };
  const { client, received, sides } = await scripted(t, { answer: (request, side) => give(side, request, request.meta.stream) });
  const credit = (id) => received.credits.filter(({ message_id: of }) => of === id).reduce((sum, { n }) => sum + n, 0);
  const request = http.get(await web(t, ipcStream(client, 'slow', { credit: 16 })));
  request.on('error', () => {});
  const [response] = await once(request, 'response');
  response.pause();
  const [slow] = received.requests;
  // The worker sends as long as it is given credit; the kernels take some megabytes.
  let sent = 16;
  await eventually('stalled', async () => {
    const before = sent;
    for (let n = 0; n < 20; n += 1) {
      const more = credit(slow.message_id) + 16 - sent;
      if (more > 0) give(sides[0], slow, more);
      sent += more;
      await sleep(10);
    }
    return sent === before;
  });
  assert.ok(sent < 200, `${sent} parts of 100 kB`);
  const stream = client.stream('quick', 1, { credit: 4 });
  for (let n = 0; n < 3; n += 1) assert.equal((await stream.next()).value.payload.length, 100_000);
  assert.deepEqual(received.cancels, []);
  request.destroy();
  await eventually('cancelled', () => received.cancels.length === 1);
  await stream.return();
});

test('options of ipcStream', async (t) => {
  const { client } = await scripted(t);
  assert.throws(() => ipcStream(client, 'x', { as: 'xml' }), { name: 'TypeError', message: /'sse' or 'ndjson'/ });
  assert.throws(() => ipcStream(client, 'x', { as: 'constructor' }), TypeError);
  assert.throws(() => ipcStream(client, 'x', { evnt: 'x' }), { name: 'TypeError', message: /did you mean 'event'/ });
  assert.throws(() => ipcStream(client, 'x', { credit: 0 }), { name: 'TypeError', message: /credit must be/ });
  assert.throws(() => ipcStream(client, 'x', { statuses: { x: 7 } }), TypeError);
});
