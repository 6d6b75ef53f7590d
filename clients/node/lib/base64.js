'use strict';

// Binary values in plain JSON, as peers get them that know JSON alone: `{ "$base64", "dtype", "shape" }`.

const { FrameError } = require('./errors.js');
const { BINARY } = require('./message.js');
const { placeOf } = require('./place.js');
const { DTYPES, Tensor, fromWire, isShape, sizeOf } = require('./tensor.js');

const MEMBERS = ['$base64', 'dtype', 'shape'];

/**
 * Returns a payload with the binary values that it holds as Base64: a Buffer or a Tensor for each object that has
 * exactly the members `$base64`, `dtype` and `shape`. All else stays as it is, and the payload itself is not changed.
 * @param {unknown} payload
 * @throws {FrameError} where such an object contradicts itself
 */
function fromBase64(payload) {
  return replaced(payload, [], decoded);
}

/** Returns the payload of a message for what is written as JSON alone: its binary values are Base64. */
function jsonPayloadOf(message) {
  return message[BINARY] === true ? replaced(message.payload, [], encoded) : message.payload;
}

/**
 * Returns a value with those inside it replaced for which `replacement` returns something. Objects on the way to them
 * are copied.
 */
function replaced(value, keys, replacement) {
  if (value === null || typeof value !== 'object') return value;
  const own = replacement(value, keys);
  if (own !== undefined) return own;
  // Their elements are members to `Object.keys`, millions of them.
  if (ArrayBuffer.isView(value) || value instanceof Tensor) return value;
  let copy;
  for (const key of Object.keys(value)) {
    const item = value[key];
    if (item === null || typeof item !== 'object') continue;
    keys.push(Array.isArray(value) ? Number(key) : key);
    const changed = replaced(item, keys, replacement);
    keys.pop();
    if (changed === item) continue;
    copy ??= Array.isArray(value) ? [...value] : copyOf(value);
    set(copy, key, changed);
  }
  return copy ?? value;
}

/** Returns a plain object with the own members of another one, `__proto__` included. */
function copyOf(value) {
  return Object.fromEntries(Object.entries(value));
}

function set(object, key, value) {
  Object.defineProperty(object, key, { value, configurable: true, enumerable: true, writable: true });
}

function encoded(value) {
  if (value instanceof Tensor) return value.toJSON();
  if (!Buffer.isBuffer(value)) return undefined;
  return { $base64: value.toString('base64'), dtype: null, shape: null };
}

function decoded(value, keys) {
  const { $base64: text, dtype, shape } = value;
  if (typeof text !== 'string' || dtype === undefined || shape === undefined) return undefined;
  const names = Object.keys(value);
  if (names.length !== MEMBERS.length || !names.every((name) => MEMBERS.includes(name))) return undefined;
  const bytes = exactly(Buffer.from(text, 'base64'));
  // Node skips what is not of the alphabet.
  if (bytes.toString('base64') !== text) throw bad(keys, 'is not Base64 by RFC 4648');
  if (dtype === null) {
    if (shape !== null) throw bad(keys, 'has a shape and no dtype');
    return bytes;
  }
  const type = DTYPES.get(dtype);
  if (type === undefined) throw bad(keys, `has the dtype ${JSON.stringify(dtype)}, which this version does not know`);
  if (!isShape(shape)) throw bad(keys, 'has a shape that is none');
  if (sizeOf(shape) * type.bytes !== bytes.length) {
    throw bad(keys, `has ${bytes.length} bytes, and not those of ${dtype} [${shape.join(', ')}]`);
  }
  return new Tensor({ dtype, shape, data: fromWire(bytes, type.Data) });
}

/** Returns bytes in memory of their own, which can be transferred to another thread. */
function exactly(bytes) {
  if (bytes.buffer.byteLength === bytes.length) return bytes;
  const own = Buffer.allocUnsafeSlow(bytes.length);
  own.set(bytes);
  return own;
}

function bad(keys, why) {
  return new FrameError('BAD_MESSAGE', `${placeOf(keys)} looks like a binary value in Base64, but ${why}`);
}

module.exports = { fromBase64, jsonPayloadOf };
