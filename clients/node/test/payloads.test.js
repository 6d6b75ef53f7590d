'use strict';

// One rule for what JSON cannot express: it is refused with its place, in every direction, and never changed in silence.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { runInNewContext } = require('node:vm');
const { connected, closed, collected, eventually, joined, web } = require('./support.js');
const { HandlerError, IPCClient, IPCPool, ipcEvents, ipcProxy } = require('../index.js');
const { encodePayload } = require('../lib/payload.js');

class Query {
  then() {}
}

const REFUSED = [
  [NaN, /payload is NaN/],
  [{ price: -Infinity }, /payload\.price is -Infinity/],
  [{ items: [{ n: 1 }, { n: Infinity }] }, /payload\.items\[1\]\.n is Infinity/],
  [{ 'a b': { größe: NaN } }, /payload\["a b"\]\.größe is NaN/],
  [Object(NaN), /payload is NaN/],
  [new Map([['a', 1]]), /payload is a Map; send Object\.fromEntries/],
  [[new Set([1])], /payload\[0\] is a Set/],
  [{ late: Promise.resolve(1) }, /payload\.late is a promise that was not awaited/],
  [{ rows: new Query() }, /payload\.rows is a promise/],
  [{ error: new Error('x') }, /payload\.error is an Error/],
  [Object.assign(new Error('x'), { code: 'ENOENT', errno: -2 }), /payload is an Error/],
  [new (class Own extends Error {})('x'), /payload is an Error/],
  [{ n: 1n }, /payload\.n is a BigInt; .*stringify/],
  [[1, 2, { n: 2n ** 64n }], /payload\[2\]\.n is a BigInt/],
  [() => 1, /payload is a function/],
  [{ method() {} }, /payload\.method is a function/],
  [[Symbol('s')], /payload\[0\] is a symbol/],
  [{ at: new Date(NaN) }, /payload\.at is an invalid Date/],
  [{ at: runInNewContext('new Date(NaN)') }, /payload\.at is an invalid Date/],
  [/x/, /a RegExp/],
  [new URLSearchParams('a=1'), /of the type URLSearchParams, which JSON would write as \{\}/],
  [new Map([[1, 2]]).values(), /Map Iterator/],
  [(function* g() { yield 1; }()), /Generator/],
  [new WeakMap(), /WeakMap/],
  [{ toJSON: () => ({ inside: NaN }) }, /payload\.inside is NaN/],
  [{ toJSON: () => new Date() }, /Date/],
];

// Everything that JSON.stringify expresses as the program means it, or as the object itself says.
const circle = [];
circle.push({ circle });
const own = new (class Own { constructor() { this.n = 1; } toJSON() { return this; } })();
const SENT = [
  undefined, null, true, 0, -1.5, 1e300, '', 'text', [], {}, [undefined], { left: undefined, right: 1 },
  [1, [2, [3, { four: '4' }]]], Object.create(null), Object(1), Object('x'), Object(true),
  new Date(0), { at: new Date(5) }, new URL('http://localhost/'), own, { toJSON: (key) => `at ${key}` },
  new (class Point { constructor() { this.x = 1; } get norm() { return this.x; } })(), new (class Empty {})(),
  { toJSON: () => [1] }, Array.from({ length: 3 }),
];

test('what JSON cannot express is refused with its place', () => {
  for (const [payload, message] of REFUSED) {
    assert.throws(() => encodePayload(payload), { name: 'FrameError', code: 'BAD_PAYLOAD', message, fatal: false });
  }
  assert.throws(() => encodePayload(circle), { code: 'BAD_PAYLOAD', message: /circular/i });
  const deep = {};
  for (let at = deep, n = 0; n < 100_000; n += 1) at = (at.in = {});
  assert.throws(() => encodePayload(deep), { code: 'BAD_PAYLOAD' });
  // A wide circle is left soon, and what is deep and no circle is searched to its end.
  const wide = { numbers: new Array(100_000).fill(1) };
  wide.self = wide;
  const begin = performance.now();
  assert.throws(() => encodePayload({ wide, n: 1n }), { code: 'BAD_PAYLOAD', message: /circular/i });
  assert.ok(performance.now() - begin < 20_000);
  const long = { n: NaN, binary: Buffer.from('x') };
  let outer = long;
  for (let n = 0; n < 300; n += 1) outer = [outer];
  assert.throws(() => encodePayload(outer), { code: 'BAD_PAYLOAD', message: /\]\.n is NaN/ });
  delete long.n;
  assert.deepEqual(encodePayload(outer).attachments[0].keys.length, 301);
});

test('a replacer of the program\'s own has its say about all of them', () => {
  const said = (payload, replacer) => encodePayload(payload, { replacer });
  const replacer = (key, value) => {
    if (value instanceof Map) return [...value];
    if (typeof value === 'bigint') return String(value);
    return typeof value === 'number' && !Number.isFinite(value) ? null : value;
  };
  assert.equal(said({ m: new Map([['a', { n: NaN }]]), n: [1n, -Infinity] }, replacer),
    '{"m":[["a",{"n":null}]],"n":["1",null]}');
  // Otherwise it is called as by JSON.stringify, with the same holders and keys.
  for (const payload of SENT) {
    const calls = [[], []];
    const noted = (into) => function note(key, value) {
      into.push([key, typeof value, Array.isArray(this)]);
      return value;
    };
    assert.equal(said(payload, noted(calls[0])), JSON.stringify(payload, noted(calls[1])) ?? 'null');
    assert.deepEqual(calls[0], calls[1]);
  }
  assert.equal(said({ a: 1, b: { a: 2, c: 3 }, 5: [{ a: 4, d: 0 }] }, ['b', 'a', 5]), '{"5":[{"a":4}],"b":{"a":2},"a":1}');
  // A list names what an object has by its class, too, and what is not enumerable.
  const point = new (class Point { constructor() { this.x = 1; } get norm() { return this.x + 1; } move() {} })();
  Object.defineProperty(point, 'hidden', { value: [{ norm: 3, y: 4 }] });
  for (const names of [['norm', 'x', 'hidden'], ['move', 'toString', 'constructor', 'x'], ['missing']]) {
    assert.equal(said({ point, x: [point] }, ['point', ...names]), JSON.stringify({ point, x: [point] }, ['point', ...names]));
  }
  assert.throws(() => said({ x: () => 1 }, ['x']), { code: 'BAD_PAYLOAD', message: /payload\.x is a function/ });
  assert.equal(said({ a: 1, b: undefined }, (key, value) => (key === 'a' ? undefined : value)), '{}');
  // What it leaves is refused as without it, with the place, and so is a circle.
  assert.throws(() => said({ x: [new Set()] }, (key, value) => value),
    { code: 'BAD_PAYLOAD', message: /payload\.x\[0\] is a Set/ });
  assert.throws(() => said(circle, (key, value) => value), { code: 'BAD_PAYLOAD', message: /circular/ });
  assert.throws(() => said(1, () => { throw new Error('not to my taste'); }), { code: 'BAD_PAYLOAD', message: /to my taste/ });
  // Binary values stay what they are, unless it makes something else of them.
  const sent = said({ m: new Map([[1, Buffer.from('x')]]), f: new Float32Array(2) }, replacer);
  assert.deepEqual([sent.text, sent.attachments.map(({ keys }) => keys)], ['{"m":[[1,null]],"f":null}', [[1, 0, 'm'], ['f']]]);
  assert.equal(said([Buffer.from('x')], (key, value) => (Buffer.isBuffer(value) ? value.toString('hex') : value)), '["78"]');
  for (const bad of [5, 'text', {}]) {
    assert.throws(() => new IPCClient('a', { replacer: bad }), /replacer must be a function or an array/);
  }
  assert.throws(() => new IPCClient('a', { replacer, stringify }), /give stringify or replacer/);
});

test('what the client itself sends is its own, whatever the program has for its payloads', async (t) => {
  const greedy = (value) => JSON.stringify(value, ['name', 'image']);
  for (const options of [{ replacer: ['name', 'image'] }, { stringify: greedy }]) {
    const { server, client } = await connected(t, { ...options, heartbeatInterval: 50 });
    const errors = collected(client, 'error');
    await client.serve('people', async function* people({ payload: { name } }) {
      if (name === 'two') {
        yield { name, age: 7 };
        yield { name, age: 8 };
        return;
      }
      throw name === 'odd' ? new HandlerError('odd', 'is odd', { name, age: 7 }) : new Error('no such person');
    }, { prefetch: 0 });
    await client.serve('plain', ({ payload: { name } }) => {
      if (name === 'odd') throw new HandlerError('odd', 'is odd', { name, age: 7 });
      if (name === 'none') throw new Error('no such person');
      return { name, age: 7 };
    });
    const news = client.subscribe('news');
    await news.ready;
    assert.deepEqual([await client.ping(), await client.healthCheck()], [true, true]);
    const asker = await joined(t, server.client('bench'));
    for (const channel of ['people', 'plain']) {
      await assert.rejects(asker.sendRequest(channel, { name: 'none' }), { code: 'handler_failed', message: /no such/ });
      await assert.rejects(client.sendRequest(channel, { name: 'none' }), { code: 'handler_failed', message: /no such/ });
      // The details are the program's, as payloads are.
      await assert.rejects(asker.sendRequest(channel, { name: 'odd' }), { code: 'app:odd', details: { name: 'odd' } });
    }
    assert.deepEqual((await asker.sendRequest('plain', { name: 'one' })).payload, { name: 'one' });
    const parts = [];
    for await (const { payload } of asker.stream('people', { name: 'two' })) parts.push(payload);
    assert.deepEqual(parts, [{ name: 'two' }, { name: 'two' }]);
    asker.publish('news', 'it works');
    assert.equal((await news.next()).value.payload, 'it works');
    news.unsubscribe();
    assert.deepEqual(errors, []);
    assert.equal(client.connected, true);
  }
});

test('all else is written as JSON.stringify writes it', () => {
  for (const payload of SENT) assert.equal(encodePayload(payload), JSON.stringify(payload) ?? 'null');
  const shared = { a: 1 };
  assert.equal(encodePayload([shared, shared]), '[{"a":1},{"a":1}]');
  // A program that has taught BigInt to be written goes on as it was.
  BigInt.prototype.toJSON = function toJSON() { return String(this); };
  try {
    assert.equal(encodePayload({ n: 1n }), '{"n":"1"}');
  } finally {
    delete BigInt.prototype.toJSON;
  }
});

test('it is refused in every direction', async (t) => {
  const { server, client } = await connected(t);
  const code = { code: 'BAD_PAYLOAD' };
  for (const [payload] of REFUSED) {
    await assert.rejects(client.sendRequest('echo', payload), code);
    assert.throws(() => client.publish('news', payload), code);
  }
  const bad = { list: [NaN] };
  assert.throws(() => client.notify('news', bad), code);
  assert.throws(() => client.request('echo', bad), code);
  assert.throws(() => client.sendRequestAsync('echo', bad, () => {}), code);
  assert.throws(() => client.sendMessage('echo', 'request', bad), code);
  assert.throws(() => client.respond({ channel_id: 'echo', message_id: 'id' }, bad), code);
  const pool = await joined(t, new IPCPool('bench', { size: 1, port: server.port }));
  await assert.rejects(pool.sendRequest('echo', bad), code);
  assert.throws(() => pool.publish('news', bad), code);
  const { payload } = await client.sendRequest('echo', 'fine');
  assert.deepEqual([payload, client.pending.size], ['fine', 0]);
  // While it is offline, too.
  const offline = closed(t, new IPCClient('bench', { port: 1 }));
  void offline.connect({ retry: true });
  assert.throws(() => offline.publish('news', bad), code);

  const errors = collected(client, 'error');
  await client.serve('answers', ({ payload: at }) => [REFUSED[at][0]]);
  const asker = await joined(t, server.client('bench'));
  for (let at = 0; at < REFUSED.length; at += 1) {
    await assert.rejects(asker.sendRequest('answers', at), { code: 'handler_failed', message: /payload\[0\]/ });
  }
  assert.deepEqual(new Set(errors.map((error) => error.code)), new Set(['BAD_PAYLOAD']));
  assert.equal(errors.length, REFUSED.length);
});

// Integers of more digits than a double holds, for Node.js versions whose JSON.parse does not show the source.
const parse = (text) => JSON.parse(
  text.replace(/("(?:[^"\\]|\\.)*")|(-?\d{16,})(?![\d.eE])/g, (all, string) => string ?? `"bigint:${all}"`),
  (key, value) => (typeof value === 'string' && value.startsWith('bigint:') ? BigInt(value.slice(7)) : value));
const stringify = (value) => JSON.stringify(value, (key, inner) => (typeof inner === 'bigint' ? `bigint:${inner}` : inner))
  ?.replace(/"bigint:(-?\d+)"/g, '$1');

test('a parser of the program\'s own reads integers over 2^53, and its writer writes them', async (t) => {
  const exact = { id: 2n ** 63n - 1n, text: '9007199254740993', list: [-(2n ** 60n)] };
  const { server, client } = await connected(t, { parse, stringify });
  assert.deepEqual((await client.sendRequest('echo', exact)).payload, exact);
  const news = client.subscribe('news');
  await news.ready;
  client.publish('news', exact);
  const { value } = await news.next();
  assert.deepEqual(value.payload, exact);
  assert.equal(typeof value.timestamp, 'number');
  const seen = [];
  await client.serve('next', ({ payload }) => {
    seen.push(payload);
    return payload + 1n;
  });
  assert.equal((await client.sendRequest('next', 2n ** 62n)).payload, 2n ** 62n + 1n);
  assert.deepEqual(seen, [2n ** 62n]);
  // Without it they are rounded, as JSON.parse does.
  const plain = await joined(t, server.client('bench'));
  const rounded = plain.subscribe('news');
  await rounded.ready;
  client.publish('news', exact);
  assert.equal((await rounded.next()).value.payload.id, 2 ** 63);

  const proxied = await fetch(await web(t, ipcProxy(client, 'next', { payload: ({ body }) => body.n })), {
    method: 'POST', body: '{"n":9007199254740993}',
  });
  assert.equal(await proxied.text(), '9007199254740994');
  const events = await fetch(await web(t, ipcEvents(client, 'news')));
  const reader = events.body.getReader();
  await reader.read();
  client.publish('news', exact);
  assert.match(Buffer.from((await reader.read()).value).toString(), /data: \{"id":9223372036854775807,/);
  await reader.cancel();
});

test('a parser may make objects of all numbers, and what it throws concerns one message', async (t) => {
  class Digits { constructor(text) { this.text = text; } valueOf() { return Number(this.text); } }
  const wrapping = (text) => JSON.parse(text, (key, value) => {
    if (value === 'poison') throw new Error('not to my taste');
    return typeof value === 'number' ? new Digits(String(value)) : value;
  });
  const { client } = await connected(t, { parse: wrapping });
  const errors = collected(client, 'error');
  const { payload, timestamp } = await client.sendRequest('echo', { n: 7 });
  assert.deepEqual([payload.n.text, typeof timestamp], ['7', 'number']);
  await assert.rejects(client.sendRequest('echo', 'poison', 100), { code: 'TIMEOUT' });
  await eventually('reported', () => errors.length === 1);
  assert.deepEqual([errors[0].code, errors[0].cause.message], ['BAD_FRAME', 'not to my taste']);
  assert.equal((await client.sendRequest('echo', 'ok')).payload, 'ok');
  assert.throws(() => new IPCClient('a', { parse: 5 }), /parse must be a function/);
  assert.throws(() => encodePayload(1, { stringify: () => 5 }), { code: 'BAD_PAYLOAD', message: /stringify returned number/ });
});
