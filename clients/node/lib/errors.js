'use strict';

/** What all errors of this package are. `code` is for programs, `message` for people. */
class IPCError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{ cause?: unknown }} [options]
   */
  constructor(code, message, options) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The server refused a message or could not serve it; `code` is the server's, in lower case. */
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

/** There is no connection, and nothing is under way that would bring one. */
class NotConnectedError extends IPCError {
  constructor(message, options, code = 'NOT_CONNECTED') {
    super(code, message, options);
  }
}

/** The connection went away while an answer was awaited: it may or may not have been carried out. */
class ConnectionLostError extends NotConnectedError {
  constructor(message, options) {
    super(message, options, 'CONNECTION_LOST');
  }
}

/** No connection came about, for the sake of TLS. `cause` is what Node says. */
class TLSError extends NotConnectedError {
  constructor(message, options) {
    super(message, options, 'TLS_FAILED');
  }
}

/** A bound was reached: the server does not read, or too much is waiting for a connection. */
class QueueFullError extends IPCError {
  constructor(message) {
    super('QUEUE_FULL', message);
  }
}

/**
 * What the server sent, or what was to be sent, is no frame: `FRAME_TOO_LARGE`, `BAD_FRAME`, `BAD_MESSAGE`, or
 * `BAD_PAYLOAD` for a value that JSON cannot express. `fatal` says whether the connection is closed over it.
 */
class FrameError extends IPCError {
  constructor(code, message, { fatal = false, cause } = {}) {
    super(code, message, cause === undefined ? undefined : { cause });
    this.fatal = fatal;
  }
}

const SERVER_CODES = new Set([
  'bad_frame', 'bad_message', 'frame_too_large', 'not_connected', 'auth_failed', 'server_full', 'no_handler',
  'handler_failed', 'worker_lost', 'timeout', 'forbidden', 'limit_exceeded', 'taken_over', 'shutting_down',
]);

/**
 * Whether a payload is the server's own words. A handler's answer may well say `status: "error"`, so it has to have
 * the exact shape.
 */
function isServerError(payload) {
  return payload !== null && typeof payload === 'object' && payload.status === 'error'
    && SERVER_CODES.has(payload.code) && typeof payload.error === 'string' && Object.keys(payload).length === 3;
}

/** What was thrown, in words. Programs may throw anything, even what has none. */
function textOf(thrown) {
  try {
    return String(thrown instanceof Error ? thrown.message : thrown);
  } catch {
    return 'what was thrown cannot be put into words';
  }
}

/** A fault of the program's own callbacks, and no news of the server or the network. */
function isOfProgram(error) {
  return !(error instanceof IPCError) && error?.syscall === undefined;
}

/** Tells of an error that nobody would hear of otherwise. */
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
