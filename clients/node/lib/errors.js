'use strict';

const { types } = require('node:util');
const { errorKind } = require('./kinds.js');

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

/** The server refused a message or could not serve it. `code` is the server's, in lower case. */
class ServerError extends IPCError {
  /** @param {import('./message.js').Message} response */
  constructor(response) {
    super(response.payload.code, String(response.payload.error));
    this.response = response;
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
errorKind(NotConnectedError, 'NotConnectedError');
errorKind(ConnectionLostError, 'ConnectionLostError');
errorKind(TLSError, 'TLSError');
errorKind(QueueFullError, 'QueueFullError');
errorKind(FrameError, 'FrameError');

const SERVER_CODES = new Set([
  'bad_frame', 'bad_message', 'frame_too_large', 'not_connected', 'auth_failed', 'server_full', 'no_handler',
  'handler_failed', 'worker_lost', 'timeout', 'forbidden', 'limit_exceeded', 'taken_over', 'shutting_down',
]);

/**
 * Returns whether a payload is an error of the server. A handler's answer may also say `status: "error"`, so the shape
 * must match exactly.
 */
function isServerError(payload) {
  return payload !== null && typeof payload === 'object' && payload.status === 'error'
    && SERVER_CODES.has(payload.code) && typeof payload.error === 'string' && Object.keys(payload).length === 3;
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
  textOf,
  warn,
  isOfProgram,
  IPCError, ServerError, TimeoutError, AbortedError, NotConnectedError, ConnectionLostError, TLSError,
  QueueFullError, FrameError, isServerError,
};
