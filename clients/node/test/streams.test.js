'use strict';

// Streams at the requester, and requests that are cancelled, against a server that says what the test wants.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { collected, eventually, joined, sleep, warnings } = require('./support.js');
const { payloadsOf, scripted, sendParts } = require('./scripted.js');
const { IPCPool } = require('../index.js');

test('connect offers the extension, and what is granted can be seen', async (t) => {
  const { client, sides } = await scripted(t);
  assert.deepEqual(sides[0].connect.payload.extensions, ['call', 'binary', 'topic']);
  assert.deepEqual([client.extensions, client.limits],
    [['call'], { maxFrameBytes: 16 << 20, requestTimeout: Infinity }]);
  const pool = await joined(t, new IPCPool('bench', { port: client.port, size: 2 }));
  assert.deepEqual([pool.extensions, pool.limits], [client.extensions, client.limits]);
});

for (const [what, grant] of [
  ['nothing', {}], ['no array', { extensions: 'call' }], ['null', { extensions: null, limits: null }],
  ['others', { extensions: ['colour', 5, null], limits: {} }], ['none', { extensions: [] }],
]) {
  test(`a server that grants ${what} is used as before`, async (t) => {
    const { client, received } = await scripted(t, {
      grant, answer: (request, side) => side.send('response', request.channel_id, 7, request.message_id, { seq: 0 }),
    });
    assert.deepEqual([client.extensions, client.limits], [[], null]);
    assert.equal((await client.sendRequest('x', 1, { timeout: 5_000, idempotent: true, trace: { traceparent: '00' } }))
      .payload, 7);
    assert.equal(received.requests[0].meta, undefined);
    await assert.rejects(payloadsOf(client.stream('x', 1)), { code: 'UNSUPPORTED', message: /streams/ });
    await assert.rejects(client.sendRequest('x', 1, { headers: { a: 'b' } }), { code: 'UNSUPPORTED' });
    const controller = new AbortController();
    const aborted = assert.rejects(client.sendRequest('x', 1, { signal: controller.signal }), { code: 'ABORTED' });
    controller.abort();
    await aborted;
    assert.deepEqual([received.cancels, client.pending.size], [[], 0]);
  });
}

test('limits that make no sense are none', async (t) => {
  for (const limits of [{ max_frame_bytes: -1, request_timeout_ms: 'soon' }, { max_frame_bytes: {} }, [], {}]) {
    const { client } = await scripted(t, { grant: { extensions: ['call'], limits } });
    assert.deepEqual(client.limits, { maxFrameBytes: Infinity, requestTimeout: Infinity });
  }
});

test('parts are messages, in order, until the end', async (t) => {
  const { client, received } = await scripted(t, { answer: (request, side) => sendParts(side, request, ['a', null, 3]) });
  const stream = client.stream('model', { prompt: 'x' });
  const parts = [];
  for await (const part of stream) parts.push(part);
  assert.deepEqual(parts.map(({ payload }) => payload), ['a', null, 3]);
  assert.ok(parts.every((part) => part.isResponse() && part.channelId === 'model'));
  assert.deepEqual(received.requests[0].meta, { stream: 64 });
  assert.deepEqual(await stream.next(), { done: true, value: undefined });
  assert.equal(client.pending.size, 0);
  assert.deepEqual([received.cancels, received.credits], [[], []]);
});

test('an answer without a number is the only part; an error ends the loop by a throw', async (t) => {
  const error = { status: 'error', code: 'app:no_model', error: 'there is none', details: 5 };
  const { client } = await scripted(t, {
    answer(request, side) {
      if (request.payload === 'only') side.send('response', 'x', [1, 2], request.message_id);
      if (request.payload === 'parts, then an error') sendParts(side, request, [1, error], false);
      if (request.payload !== 'only') side.send('response', 'x', error, request.message_id);
    },
  });
  assert.deepEqual(await payloadsOf(client.stream('x', 'only')), [[1, 2]]);
  await assert.rejects(payloadsOf(client.stream('x', 'error')), { code: 'app:no_model', isApplication: true, details: 5 });
  const seen = [];
  await assert.rejects(async () => {
    for await (const { payload } of client.stream('x', 'parts, then an error')) seen.push(payload);
  }, { code: 'app:no_model' });
  assert.deepEqual(seen, [1, error], 'a part is never an error');
});

test('credit is given back in batches as parts are read, and not before', async (t) => {
  const { client, received, sides } = await scripted(t);
  const stream = client.stream('x', 1, { credit: 8 });
  await eventually('asked', () => received.requests.length === 1);
  const [request] = received.requests;
  assert.equal(request.meta.stream, 8);
  sendParts(sides[0], request, [0, 1, 2, 3, 4, 5, 6, 7], false);
  await eventually('buffered', () => stream.parts.length === 8);
  assert.deepEqual(received.credits, []);
  for (let n = 0; n < 7; n += 1) assert.equal((await stream.next()).value.payload, n);
  await client.sendRequest('y', 1, 10).catch(() => {});
  assert.deepEqual(received.credits, [{ action: 'credit', message_id: request.message_id, n: 4 }]);
  await stream.next();
  await eventually('more', () => received.credits.length === 2);
  const one = client.stream('x', 1, { credit: 1 });
  await eventually('asked', () => received.requests.length === 3);
  sides[0].send('response', 'x', 0, received.requests[2].message_id, { seq: 0 });
  await one.next();
  await eventually('credit of one', () => received.credits.length === 3);
  assert.equal(received.credits[2].n, 1);
});

for (const [how, leave] of [
  ['break', async (stream) => { for await (const part of stream) if (part) break; }],
  ['return', async (stream) => { await (async () => { for await (const part of stream) return part; })(); }],
  ['a throw', async (stream) => assert.rejects(async () => { for await (const part of stream) throw new Error(part); })],
  ['return()', async (stream) => { await stream.next(); await stream.return(); }],
]) {
  test(`${how} cancels the request, once`, async (t) => {
    const { client, received } = await scripted(t, { answer: (request, side) => sendParts(side, request, [1, 2], false) });
    const errors = collected(client, 'error');
    const stream = client.stream('x', 1);
    await leave(stream);
    await stream.return();
    await eventually('cancelled', () => received.cancels.length === 1);
    assert.deepEqual(received.cancels, [{ action: 'cancel', message_id: received.requests[0].message_id }]);
    assert.deepEqual(await stream.next(), { done: true, value: undefined });
    assert.deepEqual([client.pending.size, errors], [0, []]);
  });
}

test('a stream that is left while its end is on the way leaves nothing behind', async (t) => {
  const { client, received, sides } = await scripted(t);
  const stream = client.stream('x', 1);
  await eventually('asked', () => received.requests.length === 1);
  await stream.return();
  assert.equal(client.pending.givenUp.size, 1);
  sendParts(sides[0], received.requests[0], [1, 2]);
  await eventually('forgotten', () => client.pending.givenUp.size === 0);
});

test('a signal cancels a stream and ends the loop at once, whatever waits to be read', async (t) => {
  const { client, received } = await scripted(t, { answer: (request, side) => sendParts(side, request, [1, 2, 3], false) });
  const controller = new AbortController();
  const cause = new Error('enough');
  const seen = [];
  const stream = client.stream('x', 1, { signal: controller.signal });
  await assert.rejects(async () => {
    for await (const { payload } of stream) {
      seen.push(payload);
      await eventually('all here', () => stream.received === 3);
      controller.abort(cause);
    }
  }, { code: 'ABORTED', cause });
  assert.deepEqual(seen, [1]);
  await eventually('cancelled', () => received.cancels.length === 1);
  assert.throws(() => client.stream('x', 1, { signal: controller.signal }), { code: 'ABORTED' });
  assert.equal(received.requests.length, 1);
});

test('a given timeout is for the whole and travels; the default one is for each wait, and a cancel goes out', async (t) => {
  const { client, received } = await scripted(t, {
    options: { requestTimeout: 150 }, answer: (request, side) => sendParts(side, request, [1], false),
  });
  await assert.rejects(payloadsOf(client.stream('x', 1, { timeout: 60 })), { code: 'TIMEOUT' });
  const [{ meta }] = received.requests;
  assert.ok(meta.ttl >= 1 && meta.ttl <= 60 && Number.isInteger(meta.ttl), String(meta.ttl));
  assert.deepEqual(received.cancels, [], 'the server knows when the time is up');

  const stream = client.stream('x', 1);
  assert.equal((await stream.next()).value.payload, 1);
  await sleep(250);
  // Nobody has waited so far.
  const late = stream.next();
  const [, { message_id: id }] = received.requests;
  await assert.rejects(late, { code: 'TIMEOUT', message: /no part of the stream of 'x' within 150 ms/ });
  assert.equal(received.requests[1].meta.ttl, undefined);
  await eventually('cancelled', () => received.cancels.length === 1);
  assert.equal(received.cancels[0].message_id, id);
});

test('frames that belong nowhere break nothing', async (t) => {
  const bad = {
    'a part out of order': (side, id) => side.send('response', 'x', 1, id, { seq: 5 }),
    'a part twice': (side, id) => side.send('response', 'x', 1, id, { seq: 0 }),
    'a number that is none': (side, id) => side.send('response', 'x', 1, id, { seq: '1' }),
    'a negative one': (side, id) => side.send('response', 'x', 1, id, { seq: -1 }),
    'null': (side, id) => side.send('response', 'x', 1, id, { seq: null }),
    'an end that is none': (side, id) => side.send('response', 'x', 1, id, { seq: 1, end: 1 }),
    'an end in the wrong place': (side, id) => side.send('response', 'x', 1, id, { seq: 7, end: true }),
    'more than its credit': (side, id) => {
      for (let seq = 1; seq < 9; seq += 1) side.send('response', 'x', seq, id, { seq });
    },
  };
  const { client, received, sides: [side] } = await scripted(t, {
    answer: (request, to) => { if (request.channel_id === 'x') sendParts(to, request, [0], false); },
  });
  const errors = collected(client, 'error');
  for (const [what, send] of Object.entries(bad)) {
    const stream = client.stream('x', 1, { credit: 4 });
    await stream.next();
    const { message_id: id } = received.requests.at(-1);
    const cancels = received.cancels.length;
    send(side, id);
    await assert.rejects(payloadsOf(stream), { code: 'BAD_MESSAGE', message: /the stream was cancelled/ }, what);
    await eventually('cancelled', () => received.cancels.length === cancels + 1);
    assert.equal(received.cancels.at(-1).message_id, id);
    // All that comes for it now, and twice, is for nobody.
    side.send('response', 'x', 1, id, { seq: 1 });
    side.send('response', 'x', null, id, { seq: 2, end: true });
    side.send('response', 'x', null, id, { seq: 2, end: true });
    side.send('response', 'x', { status: 'error', code: 'cancelled', error: 'as you wish' }, id);
    side.send('response', 'x', { status: 'error', code: 'cancelled', error: 'as you wish' }, id);
  }
  const plain = client.sendRequest('plain', 1);
  await eventually('asked', () => received.requests.at(-1).channel_id === 'plain');
  const { message_id: id } = received.requests.at(-1);
  side.send('response', 'plain', 'a part for what is no stream', id, { seq: 0 });
  side.send('response', 'plain', 'part of nothing', 'unknown', { seq: 0, end: true });
  side.send('notification', 'system', { action: 'cancel', message_id: 'unknown', reason: 'gone' });
  side.send('notification', 'system', { action: 'credit', message_id: null, n: -5 });
  side.send('response', 'plain', 'answer', id, { unknown: [1], headers: 5, seq: undefined, trace: null });
  const { payload, headers } = await plain;
  assert.deepEqual([payload, headers], ['answer', 5]);
  for (const meta of [5, 'x', [], null, true]) {
    const odd = client.sendRequest('odd', 1);
    await eventually('asked', () => received.requests.at(-1).channel_id === 'odd');
    side.send('response', 'odd', 'fine', received.requests.pop().message_id, meta);
    assert.equal((await odd).payload, 'fine');
  }
  assert.deepEqual([errors, client.connected, client.pending.size], [[], true, 0]);
});

test('unknown keys of meta beside a part are ignored', async (t) => {
  const { client } = await scripted(t, {
    answer({ message_id: id }, side) {
      side.send('response', 'x', 'a', id, { seq: 0, later: { x: 1 }, headers: { lang: 'en' } });
      side.send('response', 'x', null, id, { seq: 1, end: true, later: [] });
    },
  });
  const parts = [];
  for await (const part of client.stream('x', 1)) parts.push(part);
  assert.deepEqual(parts.map(({ payload, headers }) => [payload, headers]), [['a', { lang: 'en' }]]);
});

test('a stream ends with its connection, and is not resumed', async (t) => {
  const { client, sides, received } = await scripted(t, { answer: (request, side) => sendParts(side, request, [1, 2], false) });
  const stream = client.stream('x', 1);
  await eventually('here', () => stream.parts.length === 2);
  sides[0].socket.destroy();
  const seen = [];
  await assert.rejects(async () => { for await (const { payload } of stream) seen.push(payload); },
    { code: 'CONNECTION_LOST' });
  assert.deepEqual(seen, [1, 2]);
  await eventually('again', () => sides.length === 2 && client.connected);
  assert.deepEqual(received.cancels, []);
  const other = client.stream('x', 1);
  const ended = assert.rejects(payloadsOf(other), { code: 'NOT_CONNECTED' });
  client.disconnect();
  await ended;
});

test('a stream that is asked for without a connection waits for one', async (t) => {
  const { client, sides, received } = await scripted(t, { answer: (request, side) => sendParts(side, request, [1, 2]) });
  sides[0].socket.destroy();
  await eventually('lost', () => client.state === 'reconnecting');
  const left = client.stream('left', 1);
  await left.return();
  assert.deepEqual(await payloadsOf(client.stream('x', 1, 60_000)), [1, 2]);
  assert.deepEqual(received.requests.map(({ channel_id: channel }) => channel), ['x']);
  assert.ok(received.requests[0].meta.ttl > 50_000);
  await client.close();
  await assert.rejects(async () => payloadsOf(client.stream('x', 1)), { code: 'NOT_CONNECTED' });
});

test('several readers of one stream each get their part', async (t) => {
  const { client, received, sides } = await scripted(t);
  const stream = client.stream('x', 1);
  const reads = [stream.next(), stream.next(), stream.next(), stream.next()];
  await eventually('asked', () => received.requests.length === 1);
  sendParts(sides[0], received.requests[0], ['a', 'b']);
  assert.deepEqual((await Promise.all(reads)).map(({ done, value }) => [done, value?.payload]),
    [[false, 'a'], [false, 'b'], [true, undefined], [true, undefined]]);
});

test('a request that is given up is cancelled, and its late answer is no news', async (t) => {
  const cancelled = { status: 'error', code: 'cancelled', error: 'as you wish' };
  const { client, received, sides } = await scripted(t, { options: { requestTimeout: 50 } });
  const errors = [...['error', 'response', 'message']].map((event) => collected(client, event));
  const controller = new AbortController();
  const asked = [client.sendRequest('x', 1, { signal: controller.signal, timeout: 60_000 }), client.sendRequest('x', 2)];
  const given = assert.rejects(client.sendRequest('x', 3, 50), { code: 'TIMEOUT' });
  const [aborted, late] = [assert.rejects(asked[0], { code: 'ABORTED' }), assert.rejects(asked[1], { code: 'TIMEOUT' })];
  await eventually('asked', () => received.requests.length === 3);
  controller.abort();
  await Promise.all([aborted, late, given]);
  await eventually('cancelled', () => received.cancels.length === 2);
  const ids = received.requests.map(({ message_id: id }) => id);
  assert.deepEqual(received.cancels.map(({ message_id: id }) => id), [ids[0], ids[1]], 'the third has taken its time along');
  assert.ok(received.requests[0].meta.ttl > 50_000);
  assert.equal(received.requests[1].meta, undefined, 'a default does not travel');
  for (const id of ids) sides[0].send('response', 'x', cancelled, id);
  sides[0].send('response', 'x', cancelled, 'of long ago');
  await client.sendRequest('x', 4, 10).catch(() => {});
  assert.deepEqual(errors, [[], [], []]);
});

test('the server may be first to say that the time of a request is up', async (t) => {
  const timeout = { status: 'error', code: 'timeout', error: 'nobody answered' };
  const { client } = await scripted(t, {
    answer(request, side) {
      const due = performance.now() + (request.meta.ttl < 100 ? 60 : 0);
      // The client's own timer cannot fire in the meantime.
      while (performance.now() < due) { /* busy */ }
      side.send('response', 'x', timeout, request.message_id);
    },
  });
  await assert.rejects(client.sendRequest('x', 1, 50), { name: 'TimeoutError', code: 'TIMEOUT', message: /within 50 ms/ });
  await assert.rejects(payloadsOf(client.stream('x', 1, 50)), { name: 'TimeoutError', code: 'TIMEOUT' });
  await assert.rejects(client.sendRequest('x', 1, 60_000), { name: 'ServerError', code: 'timeout' },
    'the server\'s own time was shorter');
});

test('what a request has beside its payload', async (t) => {
  const { client, received } = await scripted(t, { answer: (request, side) => side.send('response', 'x', 1, request.message_id) });
  const trace = { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', tracestate: undefined };
  await client.sendRequest('x', 1, { idempotent: true, trace, headers: { tenant: 'ä"\\', empty: '' }, timeout: 2 ** 32 });
  await client.sendRequest('x', 1, { timeout: Infinity, idempotent: false, headers: undefined, trace: undefined });
  await client.sendRequest('x', 1);
  assert.deepEqual(received.requests.map(({ meta }) => meta), [
    { idempotent: true, trace: { traceparent: trace.traceparent }, headers: { tenant: 'ä"\\', empty: '' } },
    undefined, undefined,
  ]);
  for (const [options, name] of [
    [{ headers: 5 }, 'TypeError'], [{ headers: { a: 5 } }, 'TypeError'], [{ headers: null }, 'TypeError'],
    [{ trace: { parent: 'x' } }, 'TypeError'], [{ trace: 'x' }, 'TypeError'],
    [{ headers: { a: 'x'.repeat(4_000) } }, 'FrameError'], [{ credit: 5 }, 'TypeError'],
    [{ idempotent: 'yes' }, 'TypeError'],
  ]) {
    await assert.rejects(client.sendRequest('x', 1, options), { name }, JSON.stringify(options));
  }
  for (const credit of [0, 65_537, 1.5, '5', NaN]) assert.throws(() => client.stream('x', 1, { credit }), TypeError);
  assert.throws(() => client.stream('x', 1, { timeot: 5 }), TypeError);
  assert.throws(() => client.stream('', 1), TypeError);
  assert.throws(() => client.stream('x', NaN), { code: 'BAD_PAYLOAD' });
  const headers = { a: 'x'.repeat(3_900) };
  await client.sendRequest('x', 1, { headers, timeout: 60_000, idempotent: true });
  assert.ok(Buffer.byteLength(JSON.stringify(received.requests.at(-1).meta)) <= 4_096);
  assert.equal(received.requests.length, 4);
});

test('meta is the last key of a frame, and not there without need', async (t) => {
  const { client, received } = await scripted(t, { answer: (request, side) => side.send('response', 'x', 1, request.message_id) });
  const bodies = [];
  const { send } = client.connection;
  client.connection.send = function seen(body, how) {
    bodies.push(body);
    return send.call(this, body, how);
  };
  await client.sendRequest('x', 1, { headers: { a: 'b' } });
  await client.sendRequest('x', 1);
  client.respond(received.requests[0], 5);
  assert.match(bodies[0], /,"timestamp":[\d.]+,"meta":\{"headers":\{"a":"b"\}\}\}$/);
  assert.match(bodies[1], /,"timestamp":[\d.]+\}$/);
  assert.match(bodies[2], /,"timestamp":[\d.]+,"reply_to":"[^"]+"\}$/);
});

test('a program\'s own parser may make objects of all numbers', async (t) => {
  const parse = (text) => JSON.parse(text, (key, value) => (typeof value === 'number' ? BigInt(Math.trunc(value)) : value));
  const { client } = await scripted(t, {
    options: { parse }, answer: (request, side) => sendParts(side, request, [1, 2]),
  });
  assert.deepEqual(client.limits, { maxFrameBytes: 16 << 20, requestTimeout: Infinity });
  assert.deepEqual(await payloadsOf(client.stream('x', 1)), [1n, 2n]);
});

test('whatever a server says, in whichever order, the client goes on and everything ends', async (t) => {
  const { client, received, sides: [side] } = await scripted(t);
  const warned = warnings(t);
  let state = 15;
  const random = (n) => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor(state / 2 ** 31 * n);
  };
  const pick = (values) => values[random(values.length)];
  const served = [];
  await Promise.race([client.serve('work', async function* work({ payload, signal }) {
    served.push(payload);
    signal.addEventListener('abort', () => {});
    for (let n = 0; n < payload; n += 1) yield n;
  }, { concurrency: 4, queueMax: 20 }), eventually('asked', () => received.requests.length === 1)]);
  side.send('response', 'system', { status: 'serving' }, received.requests[0].message_id);
  const METAS = [undefined, null, 5, [], {}, { seq: 0 }, { seq: 1 }, { seq: 2, end: true }, { seq: -1 }, { seq: {} }, { end: true },
    { seq: 0, end: true }, { seq: 0, end: false }, { stream: 3 }, { stream: 0 }, { ttl: 5 }, { ttl: 'x' }, { seq: 1e300 },
    { stream: 2, ttl: 1 }, { headers: 1, trace: [] }];
  const PAYLOADS = [null, 3, 'x', [], { status: 'error', code: 'timeout', error: 'late' }, { status: 'error', code: 'app:', error: '' },
    { status: 'error', code: 'cancelled', error: '' }, { action: 'cancel' }, { action: 'credit', n: 2 }];
  const asked = [];
  const settle = (promise) => asked.push(promise.catch((error) => error));
  for (let round = 0; round < 300; round += 1) {
    const before = received.requests.length;
    const stream = client.stream('x', round, { credit: 1 + random(3), timeout: 10_000 });
    settle(random(3) === 0 ? stream.return() : payloadsOf(stream));
    settle(client.sendRequest('x', round, 10_000));
    await eventually('asked', () => received.requests.length >= before + 2);
    for (let n = 0; n < 10; n += 1) {
      const id = pick(received.requests.slice(-6)).message_id;
      const work = `work ${random(40)}`;
      switch (random(4)) {
        case 0: side.send('response', 'x', pick(PAYLOADS), id, pick(METAS)); break;
        case 1: side.send('request', 'work', random(6), null, pick(METAS), work); break;
        case 2: side.send('notification', 'system', { action: pick(['cancel', 'credit']), message_id: pick([work, id, 5, null]),
          reason: pick(['caller', 7, undefined]), n: pick([1, 0, 'x', 70_000]) }); break;
        default: side.send('notification', pick(['system', 'x', 'work']), pick(PAYLOADS), null, pick(METAS));
      }
    }
  }
  for (const { message_id: id } of received.requests) side.send('response', 'x', 1, id);
  await Promise.all(asked);
  for (let n = 0; n < 40; n += 1) side.send('notification', 'system', { action: 'cancel', message_id: `work ${n}` });
  assert.equal((await client.sendRequest('x', 1, 10).catch(({ code }) => code)), 'TIMEOUT');
  assert.deepEqual([client.connected, client.pending.size], [true, 0]);
  // Of two with the same id the server can cancel one alone, so that some may still wait for credit.
  client.disconnect();
  await eventually('nothing left', () => client.services.unfinished === 0 && client.services.works.size === 0);
  assert.ok(served.length > 50 && received.cancels.length > 50, `${served.length} served, ${received.cancels.length} cancelled`);
  assert.deepEqual(warned, []);
});
