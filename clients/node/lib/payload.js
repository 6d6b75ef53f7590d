'use strict';

const { types } = require('node:util');
const { FrameError, textOf } = require('./errors.js');

/**
 * Returns a payload as JSON text; `undefined` becomes null. Throws a FrameError that names the place of the first value
 * that JSON cannot express. `JSON.stringify` alone would send many of them as something else, such as NaN as null and a
 * Map as {}.
 * @param {unknown} payload
 * @param {(value: unknown) => string | undefined} [stringify] the program's own; it alone decides what can be sent
 */
function encodePayload(payload, stringify) {
  let text;
  let fault;
  try {
    text = stringify === undefined ? JSON.stringify(payload) : stringify(payload);
    // Searched after it is written, because writing fails for circles, which a search would never leave.
    fault = stringify === undefined ? search(payload, '') : null;
  } catch (cause) {
    throw refusal(faultIn(payload, stringify)?.text ?? textOf(cause), cause);
  }
  if (fault !== null) throw refusal(fault.text);
  if (text === undefined) return 'null';
  if (typeof text !== 'string') throw refusal(`the option stringify returned ${typeof text}, and not a string`);
  return text;
}

function refusal(why, cause) {
  return new FrameError('BAD_PAYLOAD', `the payload cannot be sent as JSON: ${why}; nothing was sent`, { cause });
}

/** Returns the fault of a payload that cannot be written, with its place, or null if the search fails as well. */
function faultIn(payload, stringify) {
  if (stringify !== undefined) return null;
  try {
    return search(payload, '');
  } catch {
    return null;
  }
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
    const steps = this.keys.reverse().map((key) => {
      if (typeof key === 'number') return `[${key}]`;
      return /^[\p{L}_$][\p{L}\p{N}_$]*$/u.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
    });
    return `payload${steps.join('')} is ${this.what}; ${this.advice}`;
  }
}

/**
 * Returns the first fault in a value, or null. `key` is what `JSON.stringify` would pass to a method `toJSON`, which is
 * called once and not on its own result, as there.
 */
function search(value, key, calls = true) {
  switch (typeof value) {
    case 'string':
    case 'boolean':
    case 'undefined':
      return null;
    case 'number':
      return Number.isFinite(value) ? null : new Fault(String(value), 'send null or a string in its place');
    case 'object':
      return value === null ? null : searchObject(value, key, calls);
    case 'bigint':
      if (calls && typeof value.toJSON === 'function') return search(value.toJSON(String(key)), key, false);
      return new Fault('a BigInt', 'send it as a string, or give the client the option stringify');
    case 'function':
      if (calls && typeof value.toJSON === 'function') return search(value.toJSON(String(key)), key, false);
      return new Fault('a function', 'send what it returns, or leave it out');
    default:
      return new Fault('a symbol', 'send its description, or leave it out');
  }
}

function searchObject(value, key, calls) {
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== Array.prototype && prototype !== null) {
    const fault = faultOf(value, calls);
    if (fault !== undefined) return fault;
    if (calls && typeof value.toJSON === 'function') return search(value.toJSON(String(key)), key, false);
  }
  if (prototype === Array.prototype || Array.isArray(value)) {
    for (let at = 0; at < value.length; at += 1) {
      const item = value[at];
      const type = typeof item;
      // Most items are one of these, so a call is saved for each. A number that is not finite gives NaN.
      if (type === 'string' || type === 'boolean' || (type === 'number' && item - item === 0)) continue;
      const fault = search(item, at);
      if (fault !== null) return fault.under(at);
    }
    return null;
  }
  // Twice as fast as over `Object.keys`. It also shows what a prototype has, which is not written.
  for (const name in value) {
    const item = value[name];
    const type = typeof item;
    if (type === 'string' || type === 'boolean' || (type === 'number' && item - item === 0)) continue;
    const fault = search(item, name);
    if (fault === null || !Object.hasOwn(value, name)) continue;
    // A plain object seldom has this method, and it is itself a fault: so it need not be looked for in each.
    if (calls && typeof value.toJSON === 'function') return search(value.toJSON(String(key)), key, false);
    return fault.under(name);
  }
  return null;
}

/**
 * Returns the fault of an object itself, null if there is nothing more to look at, and undefined if its properties have
 * to be searched.
 */
function faultOf(value, calls) {
  const toJSON = calls ? value.toJSON : undefined;
  if (Buffer.isBuffer(value) && (!calls || toJSON === Buffer.prototype.toJSON)) {
    return new Fault('a Buffer', "send buffer.toString('base64')");
  }
  // A date of another realm, such as that of node:vm, has a method `toJSON` of its own, which gives null too.
  if (types.isDate(value) && (toJSON === Date.prototype.toJSON || toJSON?.call?.(value) === null)) {
    return Number.isNaN(Number(value)) ? new Fault('an invalid Date', 'send null in its place') : null;
  }
  // The program says how to send it.
  if (typeof toJSON === 'function') return undefined;
  if (types.isBoxedPrimitive(value)) return search(value.valueOf(), '');
  if (types.isMap(value)) return new Fault('a Map', 'send Object.fromEntries(map) or [...map]');
  if (types.isSet(value)) return new Fault('a Set', 'send [...set]');
  if (types.isTypedArray(value)) {
    return new Fault(`a typed array (${value[Symbol.toStringTag]})`, 'send Array.from(array), or Base64');
  }
  if (types.isAnyArrayBuffer(value) || types.isArrayBufferView(value)) {
    return new Fault('binary data', "send Buffer.from(data).toString('base64')");
  }
  if (types.isNativeError(value) || value instanceof Error) return new Fault('an Error', 'send its message');
  if (typeof value.then === 'function') return new Fault('a promise that was not awaited', 'await it first');
  if (types.isRegExp(value)) return new Fault('a RegExp', 'send its source');
  // Such as WeakMap, URLSearchParams, Blob and iterators, which keep their contents where JSON does not look.
  const tag = Object.prototype.toString.call(value).slice(8, -1);
  const hides = tag !== 'Object' && tag !== 'Array' && Object.keys(value).length === 0;
  return hides ? new Fault(`of the type ${tag}, which JSON would write as {}`, 'send its contents') : undefined;
}

module.exports = { encodePayload };
