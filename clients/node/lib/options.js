'use strict';

const { checkedTimeout } = require('./timers.js');
const { checkedSignal } = require('./abort.js');
const { callersMeta } = require('./extensions.js');
const { readAddresses } = require('./servers.js');

const REQUEST_OPTIONS = ['timeout', 'signal', 'idempotent', 'trace', 'headers'];
const MIB = 1024 * 1024;

// The default options. Times are milliseconds.
const DEFAULTS = Object.freeze({
  host: 'localhost',
  port: 8888,
  hosts: undefined,
  path: undefined,
  addressOrder: 'listed',
  token: undefined,
  tls: undefined,
  parse: undefined,
  stringify: undefined,
  replacer: undefined,
  connectionTimeout: 10_000,
  requestTimeout: 10_000,
  closeTimeout: 5_000,
  // A service outlives its server's restarts, however long they take, and is back soon after them.
  reconnectAttempts: Infinity,
  reconnectDelay: 50,
  reconnectDelayMax: 5_000,
  heartbeatInterval: 30_000,
  // The same as the server's default.
  maxFrameBytes: 16 * MIB,
  // More unsent bytes for longer than this are reported as `slow`. From sendQueueBytes on sending fails.
  slowBytes: MIB,
  slowAfter: 250,
  sendQueueBytes: 64 * MIB,
  // Limits of messages that wait for the next connection.
  offlineQueueSize: 1_000,
  offlineQueueBytes: 16 * MIB,
  pendingMax: 65_536,
});

/**
 * Returns the given options, or throws a TypeError for a name that is not known: a mistyped option would otherwise be
 * ignored.
 * @template Options
 * @param {Options} given
 * @param {readonly string[]} known
 * @param {string} what takes the options
 * @returns {Options}
 */
function checkedOptions(given, known, what) {
  if (given === null || typeof given !== 'object') {
    throw new TypeError(`the options of ${what} must be an object, not ${given === null ? 'null' : typeof given}`);
  }
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue;
    const [closest] = known.map((other) => [edits(name.toLowerCase(), other.toLowerCase()), other])
      .filter(([distance, other]) => distance <= Math.min(2, other.length / 2)).sort(([a], [b]) => a - b);
    throw new TypeError(`${what} has no option '${name}'; ${closest === undefined ? `it has ${known.join(', ')}`
      : `did you mean '${closest[1]}'?`}`);
  }
  return given;
}

/** Returns the number of letters to add, remove, replace or swap between two words (optimal string alignment). */
function edits(a, b) {
  let before = [];
  let last = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
      const isSwapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwapped) row[j] = Math.min(row[j], before[j - 2] + 1);
    }
    [before, last] = [last, row];
  }
  return last[b.length];
}

/** Returns the given options over the defaults. Old programs pass `undefined` for options that they do not set. */
function resolveOptions(given = {}) {
  const options = { ...DEFAULTS };
  // An empty path is none.
  for (const [name, value] of Object.entries(checkedOptions(given, Object.keys(DEFAULTS), 'IPCClient'))) {
    if (value !== undefined && value !== null && !(name === 'path' && value === '')) options[name] = value;
  }
  // A port from the environment is a string.
  options.port = Number(options.port);
  if (!options.path && !(Number.isInteger(options.port) && options.port > 0 && options.port < 65_536)) {
    throw new TypeError(`port must be a whole number from 1 to 65535, not ${given.port}`);
  }
  for (const name of ['host', 'token']) {
    if (options[name] !== undefined && typeof options[name] !== 'string') {
      throw new TypeError(`${name} must be a string, not ${String(options[name])}`);
    }
  }
  if (options.host === '') throw new TypeError('host must not be empty');
  options.addresses = readAddresses(options, given);
  options.host = options.addresses[0].host ?? options.host;
  if (!['listed', 'random'].includes(options.addressOrder)) {
    throw new TypeError(`addressOrder must be 'listed' or 'random', not ${String(options.addressOrder)}`);
  }
  for (const name of Object.keys(DEFAULTS)) {
    const isNumber = typeof DEFAULTS[name] === 'number';
    if (isNumber && !(typeof options[name] === 'number' && options[name] >= 0)) {
      throw new TypeError(`${name} must be a number that is not negative, not ${options[name]}`);
    }
  }
  for (const name of ['parse', 'stringify']) {
    if (options[name] !== undefined && typeof options[name] !== 'function') {
      throw new TypeError(`${name} must be a function, such as JSON.${name}`);
    }
  }
  if (options.replacer !== undefined && typeof options.replacer !== 'function' && !Array.isArray(options.replacer)) {
    throw new TypeError('replacer must be a function or an array of names, as for JSON.stringify');
  }
  if (options.replacer !== undefined && options.stringify !== undefined) {
    throw new TypeError('give stringify or replacer: a stringify of your own calls its replacer itself');
  }
  if (options.tls && options.path) throw new TypeError('a Unix socket takes no TLS: give path or tls');
  if (options.tls && !['boolean', 'object', 'function'].includes(typeof options.tls)) {
    throw new TypeError('tls must be true, options of node:tls, or a function that returns them');
  }
  return options;
}

/**
 * Reads the last argument of `sendRequest`: milliseconds, as published, or an object. `isGiven` tells whether it has
 * the timeout; `meta` is what the request has for the other side beside its payload.
 */
function requestOptions(given, timeout) {
  if (given === undefined || given === null) return { timeout, isGiven: false, signal: undefined, meta: undefined };
  if (typeof given === 'number') {
    return { timeout: checkedTimeout(given), isGiven: true, signal: undefined, meta: undefined };
  }
  checkedOptions(given, REQUEST_OPTIONS, 'a request');
  const isGiven = given.timeout !== undefined && given.timeout !== null;
  const signal = checkedSignal(given.signal);
  let meta = callersMeta(given);
  if (!['undefined', 'boolean'].includes(typeof given.idempotent)) throw new TypeError('idempotent must be a boolean');
  if (given.idempotent) meta = { idempotent: true, ...meta };
  return { timeout: isGiven ? checkedTimeout(given.timeout) : timeout, isGiven, signal, meta };
}

module.exports = { DEFAULTS, REQUEST_OPTIONS, resolveOptions, checkedOptions, requestOptions };
