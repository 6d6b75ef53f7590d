'use strict';

// Binary values on the wire, against a server that is written from the protocol alone.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const net = require('node:net');
const { collected, eventually, once, peer, joined, unconnected } = require('./support.js');
const { binaryBody, binaryPeer, message, opened } = require('./binary_peer.js');
const { Tensor } = require('../index.js');
const { FrameReader } = require('../lib/codec.js');
const { BinaryFrame } = require('../lib/binary_frame.js');

const floats = new Float32Array([1.5, -0, NaN, Infinity, 1e-45]);
const bytesOf = (data) => Buffer.from(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength);

// What a program sends, and how it arrives: pointer, dtype, shape and bytes.
const SENT = [
  [Buffer.from('plain'), [['', null, null, 'plain']]],
  [{ image: new Uint8Array([0x61]) }, [['/image', null, null, 'a']]],
  [{ buffer: new Uint8Array([0x61, 0x62]).buffer, view: new DataView(new Uint8Array([0x63]).buffer) },
    [['/buffer', null, null, 'ab'], ['/view', null, null, 'c']]],
  [[1, [floats]], [['/1/0', 'f32', [5], bytesOf(floats)]]],
  [{ 'a/b': { '~': new Int16Array([1, -2]) }, '': new Float64Array([0.5]) },
    [['/a~1b/~0', 'i16', [2], bytesOf(new Int16Array([1, -2]))], ['/', 'f64', [1], bytesOf(new Float64Array([0.5]))]]],
  // JSON.stringify writes integer keys first.
  [{ b: Buffer.from('b'), 7: Buffer.from('7') }, [['/7', null, null, '7'], ['/b', null, null, 'b']]],
  [new Uint8ClampedArray([255]), [['', 'u8', [1], Buffer.from([255])]]],
  [new BigInt64Array([-1n]), [['', 'i64', [1], Buffer.alloc(8, 255)]]],
  ...(globalThis.Float16Array === undefined ? [] : [[new Float16Array([1]), [['', 'f16', [1], Buffer.from([0, 0x3c])]]]]),
  [new BigUint64Array([258n]), [['', 'u64', [1], Buffer.from([2, 1, 0, 0, 0, 0, 0, 0])]]],
  [new Tensor({ dtype: 'u8', shape: [1, 2], data: new Uint8Array([1, 2]) }), [['', 'u8', [1, 2], Buffer.from([1, 2])]]],
  [{ t: new Tensor({ dtype: 'bool', shape: [], data: new Uint8Array([1]) }) }, [['/t', 'bool', [], Buffer.from([1])]]],
  [new Float32Array(0), [['', 'f32', [0], '']]],
  [Buffer.alloc(0), [['', null, null, '']]],
  // Windows of a larger memory.
  [new Uint16Array(new Uint16Array([1, 2, 3]).buffer, 2, 1), [['', 'u16', [1], Buffer.from([2, 0])]]],
  [new Uint8Array(new SharedArrayBuffer(2)), [['', null, null, Buffer.from([0, 0])]]],
  [{ toJSON: () => ({ inside: Buffer.from('x') }) }, [['/inside', null, null, 'x']]],
  [new (class Photo { constructor() { this.at = new Date(0); this.raw = Buffer.from('y'); } })(),
    [['/raw', null, null, 'y']]],
  [JSON.parse('{"__proto__":{"x":1}}'), null],
];

test('every binary value is an attachment, wherever it is nested', async (t) => {
  const { client, received, offered } = await binaryPeer(t);
  assert.deepEqual(offered, ['call', 'binary', 'topic']);
  for (const [payload, expected] of SENT) client.publish('news', payload);
  await eventually('all', () => received.length === SENT.length);
  received.forEach((body, at) => {
    const [payload, expected] = SENT[at];
    const { message: sent, attachments } = opened(body);
    assert.equal(attachments === null, expected === null);
    if (expected === null) return;
    assert.deepEqual(attachments.map(({ pointer, dtype, shape, data }) => [pointer, dtype, shape, data]),
      expected.map(([pointer, dtype, shape, data]) => [pointer, dtype, shape, Buffer.from(data)]));
    assert.deepEqual(Object.keys(sent).at(-1), 'meta');
    // Null stands in the place of each, and all else is as JSON.stringify writes it.
    const nulled = JSON.stringify(payload, function replacer(key, value) {
      return ArrayBuffer.isView(this[key]) || this[key] instanceof ArrayBuffer || this[key] instanceof Tensor ? null : value;
    });
    assert.equal(JSON.stringify(sent.payload), nulled);
  });
  // A key of this name is a key like any other.
  client.publish('news', JSON.parse('{"__proto__":{"a":null}}', (key, value) => (key === 'a' ? Buffer.from('p') : value)));
  await eventually('sent', () => received.length === SENT.length + 1);
  const { message: odd, attachments: [{ pointer }] } = opened(received.at(-1));
  assert.deepEqual([pointer, JSON.stringify(odd.payload)], ['/__proto__/a', '{"__proto__":{"a":null}}']);
});

test('the bytes of a frame are those of the protocol', async (t) => {
  const { client, received } = await binaryPeer(t);
  const id = client.publish('news', { x: Buffer.from('abc'), y: new Float32Array([1]) }, { headers: { a: 'b' } });
  await eventually('sent', () => received.length === 1);
  const sent = opened(received[0]).message;
  const json = `{"message_id":"${id}","app_id":"bench","channel_id":"news","message_type":"publish","payload":`
    + `{"x":null,"y":null},"timestamp":${sent.timestamp},"meta":{"headers":{"a":"b"},`
    + '"bin":[["/x",3,null,null],["/y",4,"f32",[1]]]}}';
  assert.deepEqual(received[0], binaryBody(json, [Buffer.from('abc'), new Float32Array([1])]));
});

test('small and large attachments of many sizes arrive in order', async (t) => {
  const { client, received } = await binaryPeer(t);
  const sizes = [0, 1, 63, 64, 65, 8_191, 8_192, 8_193, 16_384, 70_000, 300_000];
  const payloads = [...sizes.map((size) => [Buffer.alloc(size, size % 251)]), sizes.map((size) => Buffer.alloc(size, 7))];
  payloads.forEach((payload, at) => {
    client.publish('news', at);
    client.publish('news', payload);
  });
  await eventually('all', () => received.length === 2 * payloads.length);
  payloads.forEach((payload, at) => {
    assert.equal(opened(received[2 * at]).message.payload, at);
    const { attachments } = opened(received[2 * at + 1]);
    assert.deepEqual(attachments.map(({ data }) => data), payload);
  });
});

test('large attachments are not copied, and a frame is whole whatever becomes of their memory', async (t) => {
  const { client, received } = await binaryPeer(t);
  const { socket } = client.connection;
  const pieces = [];
  const { write } = socket;
  socket.write = (piece, ...rest) => {
    pieces.push(piece);
    return write.call(socket, piece, ...rest);
  };
  const tensor = new Float32Array(20_000).fill(1);
  client.publish('news', tensor);
  assert.ok(pieces.some((piece) => piece.buffer === tensor.buffer), 'the memory of the program itself');
  // It left at once: a transfer does not shorten the frame.
  structuredClone(tensor.buffer, { transfer: [tensor.buffer] });
  const small = new Uint8Array([1, 2, 3]);
  client.publish('news', small);
  small.fill(9);
  await eventually('both', () => received.length === 2);
  assert.deepEqual(opened(received[1]).attachments[0].data, Buffer.from([1, 2, 3]));
  assert.equal(opened(received[0]).attachments[0].data.length, 80_000);
  assert.throws(() => client.publish('news', { x: tensor }),
    { code: 'BAD_PAYLOAD', message: /payload\.x is a typed array \(Float32Array\) whose memory was transferred; send/ });
});

test('a tensor whose memory was resized is refused', { skip: ArrayBuffer.prototype.resize === undefined }, async (t) => {
  const { client, received } = await binaryPeer(t);
  for (const [begin, end, length] of [[16, 32], [16, 8], [16, 8, 4]]) {
    const buffer = new ArrayBuffer(begin, { maxByteLength: 64 });
    const data = new Float32Array(buffer, 0, length);
    const tensor = new Tensor({ shape: [2, 2], data });
    client.publish('news', { tensor });
    buffer.resize(end);
    assert.throws(() => client.publish('news', { tensor }), {
      code: 'BAD_PAYLOAD', message: /payload\.tensor is a Tensor whose memory was resized; make another one/,
    });
    // An array has the length that it has by then.
    client.publish('news', data);
  }
  await eventually('sent', () => received.length === 6);
  assert.deepEqual(received.map((body) => opened(body).attachments[0].shape),
    [[2, 2], [8], [2, 2], [2], [2, 2], [0]]);
});

test('while the server reads nothing, attachments wait as copies and keep their order', async (t) => {
  const sockets = [];
  const { port } = await peer(t, { grant: { extensions: ['binary'] }, onOpen: ({ socket }) => sockets.push(socket) });
  const client = await joined(t, unconnected(t, { port, heartbeatInterval: 0 }));
  const [socket] = sockets;
  socket.removeAllListeners('data');
  socket.pause();
  const data = new Uint8Array(1 << 20);
  let waiting = 0;
  for (let n = 0; n < 20; n += 1) {
    // Those before it are on their way from where they are, so their bytes stay.
    const isWaiting = client.connection.socket.writableLength > 0;
    if (isWaiting) waiting += 1;
    client.publish('news', (isWaiting ? data : new Uint8Array(1 << 20)).fill(n));
  }
  assert.ok(waiting > 5);
  structuredClone(data.buffer, { transfer: [data.buffer] });
  const reader = new FrameReader(64 << 20);
  const seen = [];
  reader.openBinary = (bytes) => new BinaryFrame(bytes);
  reader.onBinary = (frame) => seen.push(frame.take().payload);
  socket.on('data', (chunk) => reader.feed(chunk, () => true));
  socket.resume();
  await eventually('all', () => seen.length === 20);
  seen.forEach((bytes, at) => assert.ok(bytes.every((byte) => byte === at), `message ${at}`));
});

test('a generator waits for the memory that it lent, and for nothing else', async (t) => {
  let side;
  const { port } = await peer(t, {
    grant: { extensions: ['call', 'binary'] },
    onMessage({ message_id: id, payload }, opened) {
      side = opened;
      if (payload.action === 'serve') opened.send('response', 'system', {}, id);
    },
  });
  const worker = await joined(t, unconnected(t, { port, heartbeatInterval: 0, slowBytes: 64 << 20 }));
  const yielded = { small: 0, large: 0 };
  await worker.serve('x', async function* parts({ payload: name }) {
    for (let n = 0; n < 5; n += 1) {
      yield Buffer.alloc(name === 'large' ? 12 << 20 : 1_000);
      yielded[name] += 1;
    }
  });
  side.socket.pause();
  const { connection } = worker;
  side.send('request', 'x', 'large', null, { stream: 5 });
  await eventually('lent', () => connection.lent === 1);
  // What is copied waits for nothing, although the kernel takes no more.
  side.send('request', 'x', 'small', null, { stream: 5 });
  await eventually('all small ones', () => yielded.small === 5, 5_000);
  assert.deepEqual([yielded.large, connection.lent, connection.returned], [0, 1, 0]);
  assert.ok(connection.queuedBytes > 0);
  // A connection that is lost holds no memory.
  const returned = connection.whenReturned();
  side.socket.destroy();
  await returned;
  await eventually('closed', () => worker.services.unfinished === 0);
});

test('what arrives is a Buffer or a Tensor with memory of its own', async (t) => {
  const big = new Float32Array(200_000).map((_, at) => at);
  const { client } = await binaryPeer(t, {
    answer(body, send) {
      const { message_id: id, payload } = JSON.parse(body.toString());
      const meta = { bin: [['/0', 3, null, null], ['/1/x', 800_000, 'f32', [2, 100_000]], ['/1/y', 0, 'i64', [0, 3]]] };
      send(binaryBody(message('response', 'x', [null, { x: null, y: null }, payload], { replyTo: id, meta }),
        [Buffer.from('abc'), big, Buffer.alloc(0)]));
    },
  });
  const { payload: [bytes, { x, y }, question], meta } = await client.sendRequest('x', 'question');
  assert.ok(Buffer.isBuffer(bytes) && x instanceof Tensor && y instanceof Tensor);
  assert.deepEqual([bytes.toString(), question, meta], ['abc', 'question', {}]);
  assert.deepEqual([x.dtype, x.shape, x.data], ['f32', [2, 100_000], big]);
  assert.deepEqual([y.dtype, y.shape, y.data, y.toArray()], ['i64', [0, 3], new BigInt64Array(0), []]);
  for (const { buffer, byteOffset, byteLength } of [bytes, x.data]) {
    assert.deepEqual([byteOffset, buffer.byteLength], [0, byteLength], 'nothing else is in that memory');
  }
  const moved = structuredClone(x.data, { transfer: [x.data.buffer] });
  assert.deepEqual([moved.length, bytes.toString()], [200_000, 'abc']);
});

/** Reads bodies in chunks of a size, and returns messages and errors. */
function read(bodies, chunkBytes, parse) {
  const reader = new FrameReader(16 << 20);
  const seen = [];
  const take = (f) => {
    try {
      seen.push(f());
    } catch (error) {
      seen.push(error);
    }
    return true;
  };
  reader.openBinary = (bytes) => new BinaryFrame(bytes, parse);
  reader.onBinary = (frame) => take(() => frame.take());
  const stream = Buffer.concat(bodies.map((body) => {
    const header = Buffer.alloc(4);
    header.writeUInt32BE(body.length);
    return Buffer.concat([header, body]);
  }));
  for (let at = 0; at < stream.length; at += chunkBytes) {
    const chunk = Buffer.from(stream.subarray(at, at + chunkBytes));
    reader.feed(chunk, (buffer, start, end) => take(() => JSON.parse(buffer.toString('utf8', start, end))));
    chunk.fill(0x20);
  }
  return seen;
}

const good = (bin, payload, data, how) => binaryBody(message('publish', 'x', payload, { meta: { bin } }), data, how);

test('frames read the same wherever they are split', () => {
  const bodies = [
    Buffer.from('"json"'), good([['/a', 5, null, null], ['/b', 8, 'f32', [2]]], { a: null, b: null },
      [Buffer.from('12345'), new Float32Array([1, 2])]), Buffer.from('7'),
    good([['', 0, null, null]], null, [Buffer.alloc(0)]),
    good([['', 130, null, null]], null, [Buffer.alloc(130, 9)]), Buffer.from('8'),
  ];
  const bytes = 4 * bodies.length + bodies.reduce((sum, { length }) => sum + length, 0);
  for (let chunkBytes = 1; chunkBytes <= bytes; chunkBytes += 1) {
    const [json, first, seven, empty, full, eight] = read(bodies, chunkBytes);
    assert.deepEqual([json, seven, eight], ['json', 7, 8]);
    assert.deepEqual([first.payload.a.toString(), first.payload.b.toArray()], ['12345', [1, 2]]);
    assert.deepEqual([empty.payload, full.payload], [Buffer.alloc(0), Buffer.alloc(130, 9)]);
  }
});

test('attachments are copied once, into memory that is allocated when they are announced', (t) => {
  const body = good([['', 8 << 20, null, null]], null, [Buffer.alloc(8 << 20)]);
  let copied = 0;
  const { copy } = Buffer.prototype;
  const { concat } = Buffer;
  t.after(() => Object.assign(Buffer.prototype, { copy }) && Object.assign(Buffer, { concat }));
  const reader = new FrameReader(16 << 20);
  reader.openBinary = (bytes) => new BinaryFrame(bytes);
  let taken;
  reader.onBinary = (frame) => { taken = frame.take(); };
  const header = Buffer.alloc(4);
  header.writeUInt32BE(body.length);
  reader.feed(header, () => true);
  Buffer.prototype.copy = function counted(...args) {
    const bytes = copy.apply(this, args);
    copied += bytes;
    return bytes;
  };
  Buffer.concat = () => assert.fail('all that came so far is copied again');
  for (let at = 0; at < body.length; at += 65_536) reader.feed(body.subarray(at, at + 65_536), () => true);
  assert.equal(taken.payload.length, 8 << 20);
  assert.equal(copied, body.length);
});

const data = [Buffer.from('abcd')];
const entry = (fields = {}) => {
  const { pointer = '/a', bytes = 4, dtype = null, shape = null } = fields;
  return [[pointer, bytes, dtype, shape]];
};
const text = (payload, bin) => `{"message_id":"m","app_id":"a","channel_id":"c","message_type":"publish",`
  + `"payload":${payload},"timestamp":1,"meta":{"bin":${bin}}}`;
const FAULTS = {
  'no bin': binaryBody(message('publish', 'x', { a: null }), data),
  'bin of no list': good({ a: 1 }, { a: null }, data),
  'an empty bin': good([], { a: null }, []),
  'an entry of three': good([['/a', 4, null]], { a: null }, data),
  'an entry of five': good([['/a', 4, null, null, null]], { a: null }, data),
  'an entry that is none': good(['/a'], { a: null }, data),
  '1,025 of them': good(Array.from({ length: 1_025 }, (_, at) => [`/${at}`, 0, null, null]), new Array(1_025).fill(null),
    new Array(1_025).fill(Buffer.alloc(0))),
  'a list over 128 KiB': good(entry({ pointer: `/${'k'.repeat(131_072)}` }), { ['k'.repeat(131_072)]: null }, data),
  'a pointer without a slash': good(entry({ pointer: 'a' }), { a: null }, data),
  'a pointer with a bad escape': good(entry({ pointer: '/~2' }), { '~2': null }, data),
  'a pointer of a number': good(entry({ pointer: 5 }), { a: null }, data),
  'a pointer into nothing': good(entry({ pointer: '/b' }), { a: null }, data),
  'a pointer behind an array': good(entry({ pointer: '/1' }), [null], data),
  'a pointer with a leading zero': good(entry({ pointer: '/00' }), [null], data),
  'the pointer of RFC 6901 behind the end': good(entry({ pointer: '/-' }), [null], data),
  'a pointer through a text': good(entry({ pointer: '/a/0' }), { a: 'x' }, data),
  'a pointer through a null': good(entry({ pointer: '/a/0' }), { a: null }, data),
  'a pointer to a text': good(entry(), { a: 'x' }, data),
  'a pointer to an object': good(entry({ pointer: '' }), { a: null }, data),
  'a pointer into the prototype': good(entry({ pointer: '/constructor' }), {}, data),
  'a pointer of 70,000 tokens': good(entry({ pointer: '/'.repeat(70_000) }), { a: null }, data),
  'a key given twice': binaryBody(text('{"a":null,"a":null}', '[["/a",4,null,null]]'), data),
  'a key given twice, once escaped': binaryBody(text('{"\\u0061":null,"a":null}', '[["/a",4,null,null]]'), data),
  'a key given twice on the way': binaryBody(text('{"o":{"a":null},"o":{"a":null}}', '[["/o/a",4,null,null]]'), data),
  'the same place twice': good([...entry(), ...entry()], { a: null }, [...data, ...data]),
  'a place in a place': good([...entry(), ...entry({ pointer: '/a/b' })], { a: null }, [...data, ...data]),
  'the wrong order': good([...entry({ pointer: '/b' }), ...entry()], { a: null, b: null }, [...data, ...data]),
  'the wrong order of items': good([...entry({ pointer: '/1' }), ...entry({ pointer: '/0' })], [null, null],
    [...data, ...data]),
  'an unknown dtype': good(entry({ dtype: 'f8', shape: [4] }), { a: null }, data),
  'a dtype from the prototype': good(entry({ dtype: 'constructor', shape: [4] }), { a: null }, data),
  'a dtype without a shape': good(entry({ dtype: 'u8' }), { a: null }, data),
  'a shape without a dtype': good(entry({ shape: [4] }), { a: null }, data),
  'a shape of 33': good(entry({ dtype: 'u8', shape: [4, ...new Array(32).fill(1)] }), { a: null }, data),
  'a shape of text': good(entry({ dtype: 'u8', shape: ['4'] }), { a: null }, data),
  'a shape of lists': good(entry({ dtype: 'u8', shape: [[4]] }), { a: null }, data),
  'a shape of less': good(entry({ dtype: 'u8', shape: [3] }), { a: null }, data),
  'a shape that wraps': good(entry({ dtype: 'u8', shape: [2 ** 32, 2 ** 32] }), { a: null }, data),
  'a product that wraps': good(entry({ dtype: 'f32', shape: [2 ** 52, 2 ** 52], bytes: 0 }), { a: null }, [Buffer.alloc(0)]),
  'a negative dimension': good(entry({ dtype: 'u8', shape: [-2, -2] }), { a: null }, data),
  'bytes of text': good(entry({ bytes: '4' }), { a: null }, data),
  'negative bytes': good(entry({ bytes: -4 }), { a: null }, data),
  'bytes with an exponent': binaryBody(text('{"a":null}', '[["/a",4e0,null,null]]'), data),
  'bytes with a point': binaryBody(text('{"a":null}', '[["/a",4.0,null,null]]'), data),
  'a shape with an exponent': binaryBody(text('{"a":null}', '[["/a",4,"u8",[4E0]]]'), data),
  'a bin given twice': binaryBody(text('{"a":null}', '[["/a",4,null,null]],"b\\u0069n":[["/a",4,null,null]]'), data),
  'a payload given twice': binaryBody(text('{"a":null},"payload":{"a":null}', '[["/a",4,null,null]]'), data),
  'more bytes than there are': good(entry({ bytes: 100 }), { a: null }, data),
  'huge bytes': good(entry({ bytes: 2 ** 53 - 1 }), { a: null }, data),
  'fewer bytes than there are': good(entry({ bytes: 70 }), { a: null }, [Buffer.alloc(200)]),
  'padding that is not zero': good(entry(), { a: null }, data, { padding: 1 }),
  'a tail': good(entry(), { a: null }, data, { tail: Buffer.alloc(64) }),
  'a frame cut short': good(entry(), { a: null }, data, { length: 200 }),
  'no padding behind the last': good(entry(), { a: null }, data).subarray(0, -1),
  'a JSON length beyond the frame': good(entry(), { a: null }, data, { jsonBytes: 70_000 }),
  'a JSON length of less': good(entry(), { a: null }, data, { jsonBytes: 20 }),
  'a length alone': Buffer.alloc(4),
  'half a length': Buffer.alloc(2),
  'JSON that is none': binaryBody('{', data),
  'bytes that are no text': binaryBody(text('"\xff"', '[]'), data).fill(0xff, 20, 22),
};

test('whatever is wrong with attachments concerns one message', () => {
  const next = good(entry(), { a: null }, data);
  for (const [what, body] of Object.entries(FAULTS)) {
    for (const chunkBytes of [7, 64, 1 << 20]) {
      const seen = read([body, next, Buffer.from('"after"')], chunkBytes);
      assert.equal(seen.length, 3, what);
      assert.match(String(seen[0].code), /^BAD_(MESSAGE|FRAME)$/, `${what}: ${seen[0]}`);
      assert.equal(seen[0].fatal, false, what);
      assert.equal(seen[1].payload?.a.toString(), 'abcd', what);
      assert.equal(seen[2], 'after', what);
    }
  }
});

test('what looks odd and is right is accepted', () => {
  const bodies = {
    spaces: binaryBody(text(' { "x" : [ 1 , { "a" : null } ] } ', ' [ [ "/x/1/a" , 4 , null , null ] ] '), data),
    'keys like others': binaryBody(text('{"\\"a\\\\":[{}],"b":"\\\\","a":null,"c":"]"}', '[["/a",4,null,null]]'), data),
    'other keys given twice': binaryBody(text('{"x":1,"x":2,"a":null}', '[["/a",4,null,null]]'), data),
    'an escaped key': binaryBody(text('{"\\u0061":null}', '[["/\\u0061",4,null,null]]'), data),
    'keys of numbers out of order': binaryBody(text('{"b":null,"1":null}', '[["/b",4,null,null],["/1",4,null,null]]'),
      [...data, ...data]),
    'an empty key': good(entry({ pointer: '/' }), { '': null }, data),
    'no dimensions': good(entry({ dtype: 'f32', shape: [] }), { a: null }, data),
    '32 dimensions': good(entry({ dtype: 'u8', shape: [4, ...new Array(31).fill(1)] }), { a: null }, data),
    '1,024 of them': good(Array.from({ length: 1_024 }, (_, at) => [`/${at}`, 0, null, null]), new Array(1_024).fill(null),
      new Array(1_024).fill(Buffer.alloc(0))),
    'another key of meta': binaryBody(message('publish', 'x', null, { meta: { new: 1, bin: [['', 4, null, null]] } }), data),
    proto: binaryBody(text('{"__proto__":{"a":null}}', '[["/__proto__/a",4,null,null]]'), data),
  };
  for (const [what, body] of Object.entries(bodies)) {
    const [seen] = read([body], 1 << 20);
    assert.equal(seen.message_type, 'publish', `${what}: ${seen}`);
  }
  const [odd] = read([bodies.proto], 1 << 20);
  assert.equal(Object.getPrototypeOf(odd.payload), Object.prototype);
  assert.equal(Object.getOwnPropertyDescriptor(odd.payload, '__proto__').value.a.toString(), 'abcd');
});

test('1,024 deep pointers into a large payload are read in linear time', () => {
  const payload = [];
  const bin = [];
  for (let at = 0; at < 1_024; at += 1) {
    let inner = null;
    for (let depth = 0; depth < 40; depth += 1) inner = [inner];
    payload.push('x'.repeat(4_000), inner);
    bin.push([`/${2 * at + 1}${'/0'.repeat(40)}`, 0, null, null]);
  }
  const body = good(bin, payload, new Array(1_024).fill(Buffer.alloc(0)));
  const begin = performance.now();
  const [seen] = read([body], 65_536);
  assert.equal(seen.message_type, 'publish');
  // Some milliseconds. Reading the text once for each pointer takes minutes.
  assert.ok(performance.now() - begin < 5_000);
});

test('a wrong answer rejects its request, and a wrong request is answered', async (t) => {
  const answers = [];
  const { client, received, send } = await binaryPeer(t, {
    answer(body, reply) {
      const { message_id: id, message_type: type, payload, reply_to: replyTo, meta } = JSON.parse(body.toString());
      if (payload?.action === 'serve') reply(Buffer.from(JSON.stringify(message('response', 'system', {}, { replyTo: id }))));
      else if (type === 'response') answers.push([replyTo, payload]);
      else if (meta?.stream) {
        reply(binaryBody(message('response', 'x', null, { replyTo: id, meta: { seq: 0, bin: [['', 4, null, null]] } }), data));
        reply(binaryBody(message('response', 'x', 7, { replyTo: id, meta: { seq: 1, bin: [['', 4, null, null]] } }), data));
      } else if (type === 'request') {
        const bin = payload === 'json' ? undefined : [['/nowhere', 4, null, null]];
        const fields = message('response', 'x', null, { replyTo: id, meta: { bin: bin ?? [['', 4, null, null]] } });
        reply(payload === 'json' ? Buffer.from(JSON.stringify(fields)) : binaryBody(fields, data));
      }
    },
  });
  const errors = collected(client, 'error');
  for (const payload of ['binary', 'json']) {
    await assert.rejects(client.sendRequest('x', payload), {
      name: 'FrameError', code: 'BAD_MESSAGE', fatal: false, message: /attachments of the response on 'x'.*not valid: /,
    });
  }
  const parts = [];
  await assert.rejects(async () => {
    for await (const { payload } of client.stream('x')) parts.push(payload.toString());
  }, { code: 'BAD_MESSAGE', message: /leads to what is no null/ });
  assert.deepEqual(parts, ['abcd']);
  await eventually('cancelled', () => received.some((body) => body.includes('"action":"cancel"')));
  assert.deepEqual(errors, []);

  await client.serve('y', () => 'never');
  send(binaryBody(message('request', 'y', 7, { id: 'asked', meta: { bin: [['', 4, null, null]] } }), data));
  await eventually('answered', () => answers.length === 1);
  assert.deepEqual([answers[0][0], answers[0][1].code], ['asked', 'handler_failed']);
  assert.match(answers[0][1].error, /attachments of the request on 'y'/);
  send(binaryBody(message('publish', 'z', 7, { meta: { bin: [['', 4, null, null]] } }), data));
  await eventually('reported', () => errors.length === 2);
  assert.deepEqual([errors.map(({ code }) => code), client.connected], [['BAD_MESSAGE', 'BAD_MESSAGE'], true]);
});

test('a parser that freezes what it returns gets an error for each message with attachments', async (t) => {
  const frozen = (value) => {
    if (value !== null && typeof value === 'object') Object.values(Object.freeze(value)).forEach(frozen);
    return value;
  };
  // All, or the payload alone.
  for (const parse of [(json) => frozen(JSON.parse(json)), (json) => {
    const fields = JSON.parse(json);
    frozen(fields.payload);
    return fields;
  }]) {
    const { client } = await binaryPeer(t, {
      options: { parse },
      answer(body, reply) {
        const { message_id: replyTo } = opened(body).message;
        reply(binaryBody(message('response', 'x', { a: null }, { replyTo, meta: { bin: entry() } }), data));
      },
    });
    await assert.rejects(client.sendRequest('x', 1, 5_000), {
      name: 'FrameError', code: 'BAD_MESSAGE', fatal: false, message: /attachments of the response on 'x'.*not valid: /,
    });
    assert.equal(client.connected, true);
  }
});

test('a server without binary gets none, and the error says what to do', async (t) => {
  for (const extensions of [null, [], ['call']]) {
    const { client, received, send } = await binaryPeer(t, { extensions });
    const expected = { name: 'IPCError', code: 'UNSUPPORTED', message: /payload\.image is a Buffer, .*toString\('base64'\)/ };
    assert.throws(() => client.publish('x', { image: Buffer.alloc(5) }), expected);
    await assert.rejects(client.sendRequest('x', { image: Buffer.alloc(5) }), expected);
    assert.throws(() => client.notify('x', [new Float32Array(1)]), /payload\[0\] is a typed array \(Float32Array\)/);
    assert.deepEqual([received.length, client.pending.size], [0, 0]);
    const errors = collected(client, 'error');
    send(good(entry(), { a: null }, data));
    send(Buffer.from(JSON.stringify(message('publish', 'x', 'json'))));
    const [plain] = await once(client, 'message');
    assert.equal(plain.payload, 'json');
    assert.deepEqual(errors.map(({ code }) => code), ['BAD_FRAME']);
  }
});

test('limits are named before anything is sent', async (t) => {
  const { client, received } = await binaryPeer(t, { options: { maxFrameBytes: 2 << 20 } });
  assert.throws(() => client.publish('x', Array.from({ length: 1_025 }, () => Buffer.alloc(0))),
    { code: 'BAD_PAYLOAD', message: /has 1025 binary values, more than the 1024 .*Tensor.*stream/ });
  const wide = Object.fromEntries(Array.from({ length: 200 }, (_, at) => [`${'k'.repeat(1_000)}${at}`, Buffer.alloc(0)]));
  assert.throws(() => client.publish('x', wide), { code: 'BAD_PAYLOAD', message: /places take \d+ bytes, more than/ });
  assert.throws(() => client.publish('x', Buffer.alloc(3 << 20)), { code: 'FRAME_TOO_LARGE', message: /maxFrameBytes/ });
  client.publish('x', 'next');
  await eventually('sent', () => received.length === 1);
});

test('what waits for a connection keeps the bytes that it had, and counts them', async (t) => {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  const client = unconnected(t, { port, heartbeatInterval: 0, offlineQueueBytes: 1_000_000, reconnectDelay: 20 });
  void client.connect({ retry: true });
  const frame = new Uint8Array(50_000).fill(1);
  client.publish('news', frame);
  frame.fill(2);
  assert.throws(() => client.publish('news', new Uint8Array(960_000)), { code: 'QUEUE_FULL' });
  assert.ok(client.offline.bytes > 50_000);
  client.disconnect();
  assert.equal(client.offline.bytes, 0);
  const { client: other, received } = await binaryPeer(t);
  other.state = 'reconnecting';
  other.publish('news', frame);
  frame.fill(3);
  other.opened(other.connection);
  await eventually('sent', () => received.length === 1);
  assert.ok(opened(received[0]).attachments[0].data.every((byte) => byte === 2));
});
