'use strict';

const { types } = require('node:util');
const { FrameError, textOf } = require('./errors.js');
const { placeOf } = require('./place.js');
const { replacedBy } = require('./replacer.js');
const { Tensor, arrayName, bytesOf, DTYPE_OF, toWire } = require('./tensor.js');

// No payload that a server accepts is deeper. Circles end here as well.
const DEPTH_MAX = 200;

/**
 * Returns a payload as JSON text, or as an `Encoded` if there are binary values in it; `undefined` becomes null. Throws
 * a FrameError that names the place of the first value that cannot be sent. `JSON.stringify` alone would send many of
 * them as something else, such as NaN as null and a Map as {}.
 * @param {unknown} payload
 * @param {{ stringify?: (value: unknown) => string | undefined, replacer?: Function | readonly (string | number)[] }}
 *   [how] the program's own; `stringify` alone decides what can be sent, `replacer` is that of `JSON.stringify`
 * @returns {string | Encoded}
 */
function encodePayload(payload, { stringify, replacer } = {}) {
  if (stringify !== undefined) return writtenBy(stringify, payload);
  const value = replacer === undefined ? payload : replaced(replacer, payload);
  let found;
  try {
    found = search(value, '', true, 0);
  } catch {
    // It is a circle, too deep, or a method of its own throws: then writing it says what is wrong.
    found = searchWritten(value);
  }
  if (found instanceof Fault) throw refusal(found.text);
  if (found !== null) return new Encoded(JSON.stringify(found.value), found.attachments);
  return written(value) ?? 'null';
}

/** The JSON text of a payload, with null in place of its binary values, and these in the order of the nulls. */
class Encoded {
  constructor(text, attachments) {
    this.text = text;
    this.attachments = attachments;
  }
}

function writtenBy(stringify, payload) {
  let text;
  try {
    text = stringify(payload);
  } catch (cause) {
    throw refusal(textOf(cause), cause);
  }
  if (text === undefined) return 'null';
  if (typeof text !== 'string') throw refusal(`the option stringify returned ${typeof text}, and not a string`);
  return text;
}

function replaced(replacer, payload) {
  try {
    return replacedBy(replacer, payload, (value) => (isPlain(value) ? undefined : foundIn(value, true)));
  } catch (cause) {
    throw refusal(textOf(cause), cause);
  }
}

function isPlain(value) {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === Array.prototype || prototype === null;
}

function written(value) {
  try {
    return JSON.stringify(value);
  } catch (cause) {
    throw refusal(textOf(cause), cause);
  }
}

/** Searches a value of any depth, and otherwise says as `JSON.stringify` does why it cannot be written. */
function searchWritten(value) {
  let found;
  let cause;
  try {
    JSON.stringify(value);
  } catch (thrown) {
    cause = thrown;
  }
  try {
    found = search(value, '', true, -Infinity);
  } catch (thrown) {
    cause ??= thrown;
  }
  if (cause !== undefined && !(found instanceof Fault)) throw refusal(textOf(cause), cause);
  return found;
}

function refusal(why, cause) {
  return new FrameError('BAD_PAYLOAD', `the payload cannot be sent as JSON: ${why}; nothing was sent`, { cause });
}

/** A value that JSON cannot express, and the keys that lead to it, the innermost first. */
class Fault {
  /**
   * @param {string} what the value
   * @param {string} advice how to send it
   */
  constructor(what, advice) {
    this.what = what;
    this.advice = advice;
    this.keys = [];
  }

  /** Returns the fault of a value further out: the first one was found under this key. */
  under(key) {
    this.keys.push(key);
    return this;
  }

  get text() {
    return `${placeOf(this.keys.reverse())} is ${this.what}; ${this.advice}`;
  }
}

/** A value that is written as another one, for there are binary values in it, which are null there. */
class Binary {
  /**
   * @param {unknown} value what is written
   * @param {{ keys: (string | number)[], what: string, dtype: string | null, shape: readonly number[] | null,
   *   data: Uint8Array }[]} attachments the binary values, in the order of their nulls, and the keys that lead to them,
   *   the innermost first
   */
  constructor(value, attachments) {
    this.value = value;
    this.attachments = attachments;
  }

  /** Takes a value further in, which is under this key. */
  take(key, { value, attachments }) {
    this.value[key] = value;
    for (const attachment of attachments) {
      attachment.keys.push(key);
      this.attachments.push(attachment);
    }
  }
}

/**
 * Returns the first fault in a value, a `Binary` if there are binary values in it, or null. `key` is what
 * `JSON.stringify` would pass to a method `toJSON`, which is called once and not on its own result, as there.
 */
function search(value, key, calls, depth) {
  switch (typeof value) {
    case 'string':
    case 'boolean':
    case 'undefined':
      return null;
    case 'number':
      return Number.isFinite(value) ? null : new Fault(String(value), 'send null or a string in its place');
    case 'object':
      return value === null ? null : searchObject(value, key, calls, depth);
    case 'bigint':
      if (calls && typeof value.toJSON === 'function') return search(value.toJSON(String(key)), key, false, depth);
      return new Fault('a BigInt', 'send it as a string, or give the client the option replacer or stringify');
    case 'function':
      if (calls && typeof value.toJSON === 'function') return search(value.toJSON(String(key)), key, false, depth);
      return new Fault('a function', 'send what it returns, or leave it out');
    default:
      return new Fault('a symbol', 'send its description, or leave it out');
  }
}

function searchObject(value, key, calls, depth) {
  if (depth > DEPTH_MAX) throw new RangeError('too deep');
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== Array.prototype && prototype !== null) {
    const found = foundIn(value, calls);
    if (found !== undefined) return found;
    if (calls && typeof value.toJSON === 'function') return search(value.toJSON(String(key)), key, false, depth);
  }
  let binary = null;
  if (prototype === Array.prototype || Array.isArray(value)) {
    for (let at = 0; at < value.length; at += 1) {
      const item = value[at];
      const type = typeof item;
      // Most items are one of these, so a call is saved for each. A number that is not finite gives NaN.
      if (type === 'string' || type === 'boolean' || (type === 'number' && item - item === 0)) continue;
      const found = search(item, at, true, depth + 1);
      if (found === null) continue;
      if (found instanceof Fault) return found.under(at);
      binary ??= new Binary(Array.from(value), []);
      binary.take(at, found);
    }
    return binary;
  }
  // Twice as fast as over `Object.keys`. It also shows what a prototype has, which is not written.
  for (const name in value) {
    const item = value[name];
    const type = typeof item;
    if (type === 'string' || type === 'boolean' || (type === 'number' && item - item === 0)) continue;
    const found = search(item, name, true, depth + 1);
    if (found === null || !Object.hasOwn(value, name)) continue;
    // A plain object seldom has this method, and it is itself a fault: so it need not be looked for in each.
    if (calls && typeof value.toJSON === 'function') return search(value.toJSON(String(key)), key, false, depth);
    if (found instanceof Fault) return found.under(name);
    // Without a prototype, because `__proto__` is a key like any other.
    binary ??= new Binary(Object.assign(Object.create(null), value), []);
    binary.take(name, found);
  }
  return binary;
}

/**
 * Returns the fault of an object itself, or the binary value that it is, null if there is nothing more to look at, and
 * undefined if its properties have to be searched.
 */
function foundIn(value, calls) {
  const toJSON = calls ? value.toJSON : undefined;
  if (Buffer.isBuffer(value) && (!calls || toJSON === Buffer.prototype.toJSON)) return binaryOf(value, 'a Buffer');
  // A date of another realm, such as that of node:vm, has a method `toJSON` of its own, which gives null too.
  if (types.isDate(value) && (toJSON === Date.prototype.toJSON || toJSON?.call?.(value) === null)) {
    return Number.isNaN(Number(value)) ? new Fault('an invalid Date', 'send null in its place') : null;
  }
  if (value instanceof Tensor) return binaryOf(value.data, 'a Tensor', value);
  // The program says how to send it.
  if (typeof toJSON === 'function') return undefined;
  if (types.isBoxedPrimitive(value)) return search(value.valueOf(), '', true, 0);
  if (types.isMap(value)) return new Fault('a Map', 'send Object.fromEntries(map) or [...map]');
  if (types.isSet(value)) return new Fault('a Set', 'send [...set]');
  const name = arrayName(value);
  if (name === 'Uint8Array') return binaryOf(value, 'a Uint8Array');
  if (name !== undefined) {
    return binaryOf(value, `a typed array (${name})`, { dtype: DTYPE_OF.get(name), shape: [value.length] });
  }
  if (types.isDataView(value)) return binaryOf(value, 'a DataView');
  if (types.isAnyArrayBuffer(value)) return binaryOf(value, 'an ArrayBuffer');
  if (types.isNativeError(value) || value instanceof Error) return new Fault('an Error', 'send its message');
  if (typeof value.then === 'function') return new Fault('a promise that was not awaited', 'await it first');
  if (types.isRegExp(value)) return new Fault('a RegExp', 'send its source');
  // Such as WeakMap, URLSearchParams, Blob and iterators, which keep their contents where JSON does not look.
  const tag = Object.prototype.toString.call(value).slice(8, -1);
  const hides = tag !== 'Object' && tag !== 'Array' && Object.keys(value).length === 0;
  return hides ? new Fault(`of the type ${tag}, which JSON would write as {}`, 'send its contents') : undefined;
}

/** Returns a binary value as what is written in its place. `tensor` has its element type and shape, if it has these. */
function binaryOf(value, what, { dtype = null, shape = null } = {}) {
  let data;
  try {
    data = dtype === null ? viewOf(value) : toWire(value);
  } catch {
    return new Fault(`${what} whose memory was transferred`, 'send it before it is transferred, or send a copy');
  }
  if (shape !== null && data.length !== bytesOf(dtype, shape)) {
    return new Fault(`${what} whose memory was resized`, 'make another one, or send a copy');
  }
  // Another thread may write to shared memory at any time.
  if (types.isSharedArrayBuffer(data.buffer)) data = data.slice();
  return new Binary(null, [{ keys: [], what, dtype, shape, data }]);
}

function viewOf(value) {
  return types.isAnyArrayBuffer(value) ? new Uint8Array(value)
    : new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}

module.exports = { encodePayload, Encoded };
