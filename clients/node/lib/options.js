'use strict';

const { checkedTimeout } = require('./timers.js');
const { checkedSignal } = require('./abort.js');

const MIB = 1024 * 1024;

// The default options. Times are milliseconds.
const DEFAULTS = Object.freeze({
  host: 'localhost',
  port: 8888,
  path: undefined,
  token: undefined,
  tls: undefined,
  parse: undefined,
  stringify: undefined,
  connectionTimeout: 10_000,
  requestTimeout: 10_000,
  closeTimeout: 5_000,
  reconnectAttempts: 5,
  reconnectDelay: 2_000,
  reconnectDelayMax: 30_000,
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

/** Returns the given options over the defaults. Old programs pass `undefined` for options that they do not set. */
function resolveOptions(given = {}) {
  const options = { ...DEFAULTS };
  for (const [name, value] of Object.entries(given)) {
    if (value !== undefined && value !== null) options[name] = value;
  }
  // A port from the environment is a string.
  options.port = Number(options.port);
  if (!options.path && !(Number.isInteger(options.port) && options.port > 0 && options.port < 65_536)) {
    throw new TypeError(`port must be a whole number from 1 to 65535, not ${given.port}`);
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
  if (options.tls && options.path) throw new TypeError('a Unix socket takes no TLS: give path or tls');
  if (options.tls && !['boolean', 'object', 'function'].includes(typeof options.tls)) {
    throw new TypeError('tls must be true, options of node:tls, or a function that returns them');
  }
  return options;
}

/** Reads the last argument of `sendRequest`: milliseconds, as published, or `{ timeout, signal }`. */
function requestOptions(given, timeout) {
  if (given === undefined || given === null) return { timeout, signal: undefined };
  if (typeof given === 'number') return { timeout: checkedTimeout(given), signal: undefined };
  return { timeout: checkedTimeout(given.timeout ?? timeout), signal: checkedSignal(given.signal) };
}

module.exports = { DEFAULTS, resolveOptions, requestOptions };
