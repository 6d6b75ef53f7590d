'use strict';

// Tensors as a program makes and reads them, and their form in JSON alone.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { runInNewContext } = require('node:vm');
const { Tensor, fromBase64 } = require('../index.js');
const { DTYPES, fromHalf, fromWire, toWire } = require('../lib/tensor.js');
const { jsonPayloadOf } = require('../lib/base64.js');
const { BINARY } = require('../lib/message.js');

const REFUSED = [
  [undefined, /takes an object \{ dtype, shape, data \}/],
  [[1, 2], /takes an object/],
  [new Float32Array(2), /takes an object/],
  [{}, /dtype of a Tensor must be one of bool, u8,.*not undefined/],
  [{ data: [1, 2] }, /must be one of/],
  [{ dtype: 'float32', data: new Float32Array(1) }, /must be one of.*not 'float32'/],
  [{ dtype: 'f32', data: [1, 2] }, /must be a Float32Array or bytes, not \[1, 2\]; Float32Array\.from\(values\) makes one/],
  [{ dtype: 'f32', data: new Float64Array(1) }, /not Float64Array; Float32Array\.from/],
  [{ dtype: 'f32', data: undefined }, /or bytes, not undefined/],
  [{ dtype: 'f32', data: Buffer.alloc(5) }, /has 4 bytes, and 5 bytes are not a multiple/],
  [{ dtype: 'c64', data: new Float32Array(3) }, /two numbers for each element, and 3 is odd/],
  [{ data: new Float32Array(6), shape: [2, 2] }, /of the shape \[2, 2\] has 4 elements of f32, and its data has 6/],
  [{ data: new Float32Array(6), shape: [] }, /of the shape \[\] has 1 elements/],
  [{ data: new Float32Array(6), shape: 6 }, /shape of a Tensor must be an array.*not 6/],
  [{ data: new Float32Array(6), shape: [-2, -3] }, /whole numbers from 0, not \[-2, -3\]/],
  [{ data: new Float32Array(6), shape: [1.5, 4] }, /whole numbers/],
  [{ data: new Float32Array(6), shape: ['2', 3] }, /whole numbers/],
  [{ data: new Float32Array(1), shape: new Array(33).fill(1) }, /at most 32/],
  [{ data: new Float32Array(0), shape: [2 ** 52, 2 ** 52, 2] }, /shape/],
  [{ data: new Float32Array(1), shape: Array(1) }, /whole numbers/],
];

test('what is no tensor is refused, and the error says what to do', () => {
  for (const [fields, message] of REFUSED) {
    assert.throws(() => new Tensor(fields), (error) => (error instanceof TypeError || error instanceof RangeError)
      && message.test(error.message) || assert.fail(String(error)));
  }
});

test('every type is read and shown', () => {
  const buffer = (...bytes) => Buffer.from(bytes);
  const cases = [
    ['bool', buffer(0, 1, 2), [false, true, true]],
    ['u8', buffer(255), [255]],
    ['i8', buffer(255), [-1]],
    ['u16', buffer(1, 2), [513]],
    ['i16', buffer(255, 255), [-1]],
    ['u32', buffer(255, 255, 255, 255), [2 ** 32 - 1]],
    ['i32', buffer(255, 255, 255, 255), [-1]],
    ['u64', buffer(1, 0, 0, 0, 0, 0, 0, 128), [2n ** 63n + 1n]],
    ['i64', buffer(255, 255, 255, 255, 255, 255, 255, 255), [-1n]],
    ['f16', buffer(0x00, 0x3c, 0x00, 0xfc, 0x01, 0x00), [1, -Infinity, 2 ** -24]],
    ['bf16', buffer(0x80, 0x3f, 0xc0, 0x7f), [1, NaN]],
    ['f32', Buffer.from(new Float32Array([0.5, -0]).buffer), [0.5, -0]],
    ['f64', Buffer.from(new Float64Array([0.1, 5e-324]).buffer), [0.1, 5e-324]],
    ['c64', Buffer.from(new Float32Array([1, 2, 3, 4]).buffer), [[1, 2], [3, 4]]],
    ['c128', Buffer.from(new Float64Array([1, -0]).buffer), [[1, -0]]],
  ];
  assert.deepEqual(cases.map(([dtype]) => dtype), [...DTYPES.keys()]);
  for (const [dtype, data, expected] of cases) {
    const tensor = new Tensor({ dtype, data });
    assert.deepEqual(tensor.toArray(), expected, dtype);
    assert.deepEqual(Buffer.from(toWire(tensor.data)), data, dtype);
    const [back] = fromBase64(JSON.parse(JSON.stringify([tensor])));
    assert.deepEqual(back, new Tensor({ dtype, data: fromWire(new Uint8Array(data), DTYPES.get(dtype).Data) }), dtype);
    // Bytes that are not aligned are copied, and the same bits come out.
    const odd = Buffer.concat([Buffer.alloc(1), data]).subarray(1);
    const moved = new Tensor({ dtype, data: new Uint8Array(odd.buffer, odd.byteOffset, odd.length) });
    assert.deepEqual(Buffer.from(toWire(moved.data)), data, dtype);
  }
});

test('the data is what was given, and the shape cannot be changed', () => {
  const data = new Float32Array([1, 2, 3, 4, 5, 6]);
  const shape = [2, 3];
  const tensor = new Tensor({ shape, data });
  shape[0] = 3;
  assert.deepEqual([tensor.dtype, tensor.shape, tensor.toArray()], ['f32', [2, 3], [[1, 2, 3], [4, 5, 6]]]);
  assert.equal(tensor.data, data);
  assert.throws(() => { tensor.shape[0] = 9; }, TypeError);
  assert.throws(() => { tensor.shape = []; }, TypeError);
  assert.deepEqual(new Tensor({ data, shape: [1, 1, 6] }).toArray(), [[[1, 2, 3, 4, 5, 6]]]);
  assert.equal(new Tensor({ dtype: 'i32', shape: [], data: new Int32Array([7]) }).toArray(), 7);
  assert.deepEqual(new Tensor({ data: new Int8Array(0), shape: [2, 0, 3] }).toArray(), [[], []]);
  const same = new Tensor({ dtype: 'f32', data: data.buffer });
  assert.equal(same.data.buffer, data.buffer);
  assert.equal(new Tensor({ data: new Uint8ClampedArray([300]) }).toArray()[0], 255);
  assert.equal(new Tensor({ data: runInNewContext('new Float32Array([5])') }).toArray()[0], 5);
  assert.equal(new Tensor({ dtype: 'f16', data: new Uint16Array([0x3c00]) }).toArray()[0], 1);
});

test('a shape of many rows without elements is no way to fill the memory', () => {
  const tensor = new Tensor({ data: new Float32Array(0), shape: [2 ** 32, 0] });
  assert.throws(() => tensor.toArray(), { name: 'RangeError', message: /too many rows/ });
  assert.deepEqual(new Tensor({ data: new Float32Array(0), shape: [0, 2 ** 32] }).toArray(), []);
  // An ordinary batch of images, of which there are none.
  for (const [shape, empty] of [[[0, 1024, 1024, 3], []], [[2, 0, 2 ** 32], [[], []]], [[1, 2, 0, 0], [[[], []]]]]) {
    assert.deepEqual(new Tensor({ data: new Float32Array(0), shape }).toArray(), empty);
  }
  const deep = new Tensor({ data: new Float32Array(0), shape: [10_000, 10_000, 0] });
  assert.throws(() => deep.toArray(), RangeError);
});

test('halves are read as IEEE 754 has them', () => {
  for (let bits = 0; bits < 65_536; bits += 1) {
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const significand = bits & 1_023;
    let expected = exponent === 0 ? sign * significand / 2 ** 24 : sign * (1_024 + significand) * 2 ** (exponent - 25);
    if (exponent === 31) expected = significand === 0 ? sign * Infinity : NaN;
    assert.ok(Object.is(fromHalf(bits), expected), bits.toString(16));
    if (globalThis.Float16Array !== undefined) {
      assert.ok(Object.is(new Float16Array(new Uint16Array([bits]).buffer)[0], expected), bits.toString(16));
    }
  }
});

test('a big-endian host turns every number round, and a copy of it', () => {
  for (const { Data } of DTYPES.values()) {
    const size = Data.BYTES_PER_ELEMENT;
    const data = new Data(Uint8Array.from({ length: 2 * size }, (_, at) => at).buffer);
    const swapped = toWire(data, true);
    const expected = [0, 1].flatMap((n) => Array.from({ length: size }, (_, at) => n * size + size - 1 - at));
    assert.deepEqual([...swapped], expected);
    assert.deepEqual([...toWire(data)], Array.from({ length: 2 * size }, (_, at) => at));
    assert.deepEqual(Buffer.from(fromWire(swapped, Data, true).buffer), Buffer.from(data.buffer));
  }
});

test('Base64 is turned back where it is asked for, and nowhere else', () => {
  const image = { $base64: 'YWJj', dtype: null, shape: null };
  const payload = { 'a/b': [image, 1, null], f: { $base64: 'AACAPw==', dtype: 'f32', shape: [1, 1] } };
  const before = JSON.stringify(payload);
  const { 'a/b': [bytes, one, nothing], f } = fromBase64(payload);
  assert.ok(Buffer.isBuffer(bytes) && f instanceof Tensor);
  assert.deepEqual([bytes.toString(), one, nothing, f.shape, f.toArray()], ['abc', 1, null, [1, 1], [[1]]]);
  assert.equal(JSON.stringify(payload), before);
  assert.equal(bytes.buffer.byteLength, 3);
  assert.equal(fromBase64({ $base64: '', dtype: 'f32', shape: [0, 5] }).data.length, 0);
  // What is binary already is not looked into, byte by byte.
  const large = { list: [new Uint8Array(4 << 20), new Tensor({ data: new Uint8Array(4 << 20) }), Buffer.alloc(4 << 20)] };
  const begin = performance.now();
  assert.equal(fromBase64(large), large);
  assert.ok(performance.now() - begin < 1_000);
  // What a program calls so is the program's.
  for (const own of [5, null, 'x', { $base64: 'YWJj' }, { ...image, $base64: 5 }, [{ $base64: 'YWJj', dtype: null }],
    { $base64: 'YWJj', dtype: null, shape: null, more: 1 }, { a: { $base64: 'YWJj', dtype: null, other: null } }]) {
    assert.equal(fromBase64(own), own);
  }
  const odd = fromBase64(JSON.parse('{"__proto__":{"$base64":"YWJj","dtype":null,"shape":null}}'));
  assert.equal(Object.getPrototypeOf(odd), Object.prototype);
  assert.equal(Object.getOwnPropertyDescriptor(odd, '__proto__').value.toString(), 'abc');
  for (const [text, dtype, shape, message] of [
    ['YWJ', null, null, /payload\.x looks like.*is not Base64/], ['YW Jj', null, null, /not Base64/],
    ['YWJ_', null, null, /not Base64/],
    ['YWJj', null, [3], /shape and no dtype/], ['YWJj', 'u9', [3], /dtype "u9"/], ['YWJj', 'u8', [4], /has 3 bytes/],
    ['YWJj', 'u8', ['3'], /shape that is none/], ['YWJj', 'u8', null, /shape that is none/], ['YWJj', 5, [3], /dtype 5/],
  ]) {
    assert.throws(() => fromBase64({ x: { $base64: text, dtype, shape } }),
      { name: 'FrameError', code: 'BAD_MESSAGE', message });
  }
});

test('a payload for JSON alone has the same form as at peers that know JSON alone', () => {
  const payload = { image: Buffer.from('abc'), list: [new Tensor({ data: new Float32Array([1]) })], n: 1 };
  const plain = { payload };
  assert.equal(jsonPayloadOf(plain), payload, 'nothing is searched for what is not there');
  const json = jsonPayloadOf({ payload, [BINARY]: true });
  assert.deepEqual(json, { image: { $base64: 'YWJj', dtype: null, shape: null },
    list: [{ $base64: 'AACAPw==', dtype: 'f32', shape: [1] }], n: 1 });
  assert.deepEqual(fromBase64(JSON.parse(JSON.stringify(json))), payload);
});
