'use strict';

// The errors that handlers answer with, in the format of the wire.

const { FrameError, APP_PREFIX, textOf } = require('./errors.js');
const { encodePayload } = require('./payload.js');
const { errorKind } = require('./kinds.js');

const CODE = /^[A-Za-z0-9_.-]{1,64}$/;
// The protocol allows so much for the payload of an error.
const FAILURE_BYTES_MAX = 16 * 1024;

/**
 * An error of the application's own, for a handler to throw: the requester gets its code, text and details as they are.
 * It is no crash. Whatever else a handler throws reaches the requester as `handler_failed`.
 */
class HandlerError extends Error {
  /**
   * @param {string} code such as `not_found`; the prefix `app:`, which it has on the wire, may be left out
   * @param {string} text for people
   * @param {unknown} [details] any value that JSON can express, for programs
   */
  constructor(code, text, details) {
    const name = typeof code === 'string' && code.startsWith(APP_PREFIX) ? code.slice(APP_PREFIX.length) : code;
    if (typeof name !== 'string' || !CODE.test(name)) {
      throw new TypeError('the code of a HandlerError must be 1 to 64 letters, digits, points, hyphens and underscores '
        + `after the optional prefix ${APP_PREFIX}, not ${JSON.stringify(String(code))}`);
    }
    if (typeof text !== 'string') {
      throw new TypeError(`the text of a HandlerError must be a string, not ${typeof text}`);
    }
    super(text);
    this.code = APP_PREFIX + name;
    this.details = details;
    const bytes = bytesOf(applicationFailure(this));
    if (bytes > FAILURE_BYTES_MAX) {
      throw new RangeError(`a HandlerError of ${bytes} bytes, text and details as JSON, is more than the `
        + `${FAILURE_BYTES_MAX} that an error may have; send less with it`);
    }
  }
}

errorKind(HandlerError, 'HandlerError');

/** Returns the payload that tells a requester what its handler threw. */
function failureOf(thrown) {
  if (!(thrown instanceof HandlerError)) return failure('handler_failed', thrown);
  try {
    // Checked once more, because its fields may have changed since it was made.
    return applicationFailure(new HandlerError(thrown.code, thrown.message, thrown.details));
  } catch (invalid) {
    return failure('handler_failed', invalid);
  }
}

function applicationFailure({ code, message, details }) {
  const payload = { status: 'error', code, error: message };
  return details === undefined ? payload : { ...payload, details };
}

/** Returns an error with one of the server's codes, so that the requester's client recognises it. */
function failure(code, thrown) {
  const payload = { status: 'error', code, error: textOf(thrown) || 'the handler failed without a word' };
  while (Buffer.byteLength(JSON.stringify(payload)) > FAILURE_BYTES_MAX) {
    payload.error = `${payload.error.slice(0, payload.error.length / 2)} [shortened]`;
  }
  return payload;
}

/** Returns the bytes of a payload as JSON, or throws a FrameError if it cannot be written. */
function bytesOf(payload) {
  try {
    const encoded = encodePayload(payload);
    if (typeof encoded === 'string') return Buffer.byteLength(encoded);
  } catch (error) {
    if (!(error instanceof FrameError)) throw error;
    throw new TypeError(`the details of a HandlerError: ${error.message}`, { cause: error });
  }
  throw new TypeError('the details of a HandlerError cannot hold binary values; send them as Base64 or in an answer');
}

module.exports = { HandlerError, failure, failureOf };
