'use strict';

const { types } = require('node:util');
const { errorKind } = require('./kinds.js');

// The codes of errors that applications define begin with this; the server never uses it.
const APP_PREFIX = 'app:';

/** The base of all errors of this package. `code` is for programs, `message` for people. */
class IPCError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{ cause?: unknown }} [options]
   */
  constructor(code, message, options) {
    super(message, options);
    this.code = code;
  }
}

/**
 * The server refused a message or could not serve it, or a handler refused it with an error of the application's own.
 * `code` is the one of the wire: the server's are in lower case, an application's begin with `app:`.
 */
class ServerError extends IPCError {
  /** @param {import('./message.js').Message} response */
  constructor(response) {
    super(response.payload.code, String(response.payload.error));
    // The value that a handler gave with its error. It would be shown of all others, too, if it were always set.
    if (response.payload.details !== undefined) this.details = response.payload.details;
    this.response = response;
  }

  /** True if a handler raised the error on purpose, as a HandlerError, and false if it is the server's. */
  get isApplication() {
    return this.code.startsWith(APP_PREFIX);
  }
}

/** No answer came in time. The request may or may not have been carried out. */
class TimeoutError extends IPCError {
  constructor(message) {
    super('TIMEOUT', message);
  }
}

/** The caller's AbortSignal fired. `cause` is its reason. */
class AbortedError extends IPCError {
  constructor(message, options) {
    super('ABORTED', message, options);
  }
}

const CANCELLED = {
  caller: 'the requester gave this request up',
  deadline: 'the time that this request had is over',
  gone: 'the connection of the requester is gone',
  limit: 'the requester does not read the parts of this answer',
  drain: 'the server is shutting down',
};

/** Nobody waits for the answer of a request any more. `reason` is the server's word for why. */
class CancelledError extends IPCError {
  constructor(reason) {
    const known = Object.hasOwn(CANCELLED, reason) ? reason : 'gone';
    super('CANCELLED', CANCELLED[known]);
    this.reason = known;
  }
}

/** There is no connection. `cause` is the error of the network, if it says why. */
class NotConnectedError extends IPCError {
  constructor(message, options, code = 'NOT_CONNECTED') {
    super(code, message, options);
  }
}

/** The connection was lost before the answer came. The request may or may not have been carried out. */
class ConnectionLostError extends NotConnectedError {
  constructor(message, options) {
    super(message, options, 'CONNECTION_LOST');
  }
}

/** TLS kept the client from connecting. `cause` is Node's error. */
class TLSError extends NotConnectedError {
  constructor(message, options) {
    super(message, options, 'TLS_FAILED');
  }
}

/** A limit was reached: the server does not read, or too many messages wait for a connection. */
class QueueFullError extends IPCError {
  constructor(message) {
    super('QUEUE_FULL', message);
  }
}

/**
 * A received or outgoing frame is invalid: `FRAME_TOO_LARGE`, `BAD_FRAME`, `BAD_MESSAGE`, or `BAD_PAYLOAD` for a value
 * that JSON cannot express. `fatal` tells whether the connection is closed because of it.
 */
class FrameError extends IPCError {
  constructor(code, message, { fatal = false, cause } = {}) {
    super(code, message, cause === undefined ? undefined : { cause });
    this.fatal = fatal;
  }
}

errorKind(IPCError, 'IPCError');
errorKind(ServerError, 'ServerError');
errorKind(TimeoutError, 'TimeoutError');
errorKind(AbortedError, 'AbortedError');
errorKind(CancelledError, 'CancelledError');
errorKind(NotConnectedError, 'NotConnectedError');
errorKind(ConnectionLostError, 'ConnectionLostError');
errorKind(TLSError, 'TLSError');
errorKind(QueueFullError, 'QueueFullError');
errorKind(FrameError, 'FrameError');

const SERVER_CODES = new Set([
  'bad_frame', 'bad_message', 'frame_too_large', 'not_connected', 'auth_failed', 'server_full', 'no_handler',
  'handler_failed', 'worker_lost', 'timeout', 'cancelled', 'forbidden', 'limit_exceeded', 'unsupported', 'taken_over',
  'shutting_down',
]);

/**
 * Returns whether a payload is an error of the server or of an application. A handler's answer may also say
 * `status: "error"`, so the shape must match exactly.
 */
function isServerError(payload) {
  if (payload === null || typeof payload !== 'object' || payload.status !== 'error') return false;
  const { code, error } = payload;
  if (typeof error !== 'string' || typeof code !== 'string') return false;
  if (!SERVER_CODES.has(code) && !code.startsWith(APP_PREFIX)) return false;
  return Object.keys(payload).length === (Object.hasOwn(payload, 'details') ? 4 : 3);
}

/** Returns whether a value is an error, of another realm too, such as that of node:vm or of a test under Jest. */
function isError(value) {
  return value instanceof Error || types.isNativeError(value);
}

/** Returns a thrown value as text. Programs may throw any value, even one that cannot be converted. */
function textOf(thrown) {
  try {
    return String(isError(thrown) ? thrown.message : thrown);
  } catch {
    return 'what was thrown cannot be put into words';
  }
}

/** An error in one of the program's own callbacks, and not an event of the server or the network. */
function isOfProgram(error) {
  return !(error instanceof IPCError);
}

/** Reports an error that would otherwise be lost. */
function warn(thrown) {
  process.emitWarning(thrown instanceof Error ? thrown : textOf(thrown));
}

module.exports = {
  APP_PREFIX,
  textOf,
  warn,
  isOfProgram,
  IPCError, ServerError, TimeoutError, AbortedError, CancelledError, NotConnectedError, ConnectionLostError, TLSError,
  QueueFullError, FrameError, isServerError,
};
