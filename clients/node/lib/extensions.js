'use strict';

// What client and server agree on at connect beyond the base protocol, and the key `meta` that carries it.

const { FrameError, IPCError } = require('./errors.js');
const { encodeBin, unsupported: unsupportedBinary } = require('./binary_body.js');
const { now } = require('./timers.js');

/** The extensions that this client offers. A server that knows none of them ignores the offer. */
const OFFERED = ['call', 'binary', 'topic'];
const META_BYTES_MAX = 4_096;
// Room for all that a client writes into `meta` beside what its caller gives.
const OWN_BYTES_MAX = 128;
const CREDIT_MAX = 65_536;
const TTL_MS_MAX = 2 ** 31;
const TRACE_KEYS = ['traceparent', 'tracestate'];

/** Returns what the answer to connect grants: the names of extensions, and the server's limits or null. */
function readGrant({ extensions, limits }) {
  const granted = Array.isArray(extensions) ? OFFERED.filter((name) => extensions.includes(name)) : [];
  if (granted.length === 0 || limits === null || typeof limits !== 'object') return { granted, limits: null };
  const maxFrameBytes = positive(limits.max_frame_bytes) ?? Infinity;
  const requestTimeout = positive(limits.request_timeout_ms) ?? Infinity;
  return { granted, limits: { maxFrameBytes, requestTimeout } };
}

/**
 * Returns a number from a frame if it is one above 0. A program's own parser may make objects of all numbers, and of
 * anything else objects that are none.
 */
function positive(value) {
  let number = value;
  try {
    if (typeof value === 'bigint' || typeof value === 'object') number = Number(value);
  } catch {
    return undefined;
  }
  return typeof number === 'number' && number > 0 ? number : undefined;
}

/** Returns an integer from 1 to `max`, and undefined for everything else. */
function counted(value, max = CREDIT_MAX) {
  const number = positive(value);
  return Number.isInteger(number) && number <= max ? number : undefined;
}

/** Checks the number of parts that a caller takes ahead, and returns it. */
function checkedCredit(credit) {
  if (typeof credit !== 'number' || counted(credit) === undefined) {
    throw new TypeError(`credit must be an integer from 1 to ${CREDIT_MAX}, not ${String(credit)}`);
  }
  return credit;
}

/** Checks `trace` and `headers`, which a caller passed, and returns them as members of `meta`, or undefined. */
function callersMeta({ trace, headers }) {
  if (trace === undefined && headers === undefined) return undefined;
  const members = {};
  if (trace !== undefined) members.trace = checkedStrings(trace, 'trace', TRACE_KEYS);
  if (headers !== undefined) members.headers = checkedStrings(headers, 'headers');
  const bytes = Buffer.byteLength(JSON.stringify(members));
  if (bytes > META_BYTES_MAX - OWN_BYTES_MAX) {
    throw new FrameError('BAD_PAYLOAD', `trace and headers have ${bytes} bytes as JSON, more than the `
      + `${META_BYTES_MAX - OWN_BYTES_MAX} that a message may have; nothing was sent`);
  }
  return members;
}

function checkedStrings(given, name, keys) {
  if (given === null || typeof given !== 'object') throw new TypeError(`${name} must be an object of strings`);
  const entries = Object.entries(given).filter(([, value]) => value !== undefined);
  for (const [key, value] of entries) {
    if (typeof value !== 'string') throw new TypeError(`${name}['${key}'] must be a string, not ${typeof value}`);
    if (keys?.includes(key) === false) throw new TypeError(`${name} has ${keys.join(' and ')}, not '${key}'`);
  }
  return Object.fromEntries(entries);
}

/**
 * Returns the JSON text of `meta` for a message, or undefined if nothing is left of it for a server without extensions.
 * What such a server cannot do is refused.
 * @param {{ deadline?: number, stream?: number, seq?: number, end?: boolean, idempotent?: boolean, retain?: boolean,
 *   ack?: boolean, trace?: object, headers?: object }} meta `deadline` is a time of the monotonic clock
 * @param {{ hasCall: boolean, hasBinary: boolean, hasTopic: boolean }} connection
 * @param {object[]} [attachments]
 */
function encodeMeta({ deadline, ...members }, { hasCall, hasBinary, hasTopic }, attachments) {
  if (attachments !== undefined && !hasBinary) throw unsupportedBinary(attachments);
  if (!hasTopic) {
    if (members.retain !== undefined) throw unsupported('last values');
    if (members.ack !== undefined) throw unsupported('acknowledged publications');
  }
  if (!hasCall) {
    if (members.stream !== undefined) throw unsupported('streams');
    if (!hasBinary && !hasTopic) {
      if (members.headers !== undefined) throw unsupported('headers');
      return undefined;
    }
    delete members.idempotent;
  } else if (deadline !== undefined) {
    const left = Math.ceil(deadline - now());
    if (left <= TTL_MS_MAX) members.ttl = Math.max(1, left);
  }
  const text = JSON.stringify(members);
  if (attachments !== undefined) {
    const begin = text === '{}' ? '{' : `${text.slice(0, -1)},`;
    return `${begin}"bin":${encodeBin(attachments)}}`;
  }
  return text === '{}' && !hasCall ? undefined : text;
}

/** Returns the place that the answer to a publication or a subscribe names: `epoch` is undefined without a history. */
function readPlace(payload) {
  const { epoch, offset } = payload ?? {};
  if (typeof epoch !== 'string') return { epoch: undefined, offset: undefined };
  return { epoch, offset: counted(offset, Number.MAX_SAFE_INTEGER) ?? 0 };
}

function unsupported(what) {
  return new IPCError('UNSUPPORTED', `the server does not know ${what}, for it is older than they are or the published `
    + 'one; nothing was sent');
}

module.exports = {
  OFFERED, CREDIT_MAX, TTL_MS_MAX, readGrant, counted, checkedCredit, callersMeta, encodeMeta, readPlace,
};
