'use strict';

// Failures of requests, as browsers are told of them.

const { IPCError, NotConnectedError } = require('./errors.js');
const { HandlerError } = require('./handler_error.js');
const { BodyError } = require('./http_request.js');

// Every other code gives 502.
const STATUSES = {
  'app:bad_input': 400, 'app:forbidden': 403, 'app:not_found': 404, FRAME_TOO_LARGE: 413, limit_exceeded: 429,
  no_handler: 503, shutting_down: 503, NOT_CONNECTED: 503, QUEUE_FULL: 503, timeout: 504, TIMEOUT: 504,
};
// With these statuses the answer says when to try again.
const RETRIED = new Set([429, 503]);
// A worker or a server that is restarted is back within this.
const RETRY_AFTER_SECONDS = 1;

/** The options of whoever answers a browser with a failure. */
const FAILURE_OPTIONS = ['status', 'statuses', 'exposeCrashes'];

/** Throws a NotConnectedError while the server is away, because a browser is not made to wait for its return. */
function requireConnection(client) {
  // A connection of a pool that gave up is tried again when there is work.
  client.revive?.();
  // Pools of an older copy of this package lack the first.
  if (!(client.canSend ?? client.connected)) {
    throw new NotConnectedError('there is no connection to the server at the moment; the request was not sent');
  }
}

/** Returns what a browser is told of an error: a code, a text and an application's details. */
function described(error, { exposeCrashes = false }) {
  const { code } = error;
  // The text of an exception may hold anything, such as paths, queries and secrets.
  if (code === 'handler_failed' && !exposeCrashes) return { error: 'the request failed', code };
  return error.details === undefined ? { error: error.message, code }
    : { error: error.message, code, details: error.details };
}

/**
 * Answers with an error as JSON. Whatever is no error of a request goes to `next`, if there is one.
 * @param {unknown} error
 * @param {import('node:http').ServerResponse} res
 * @param {{ next?: Function, options: object, stringify?: Function }} how
 */
async function sendFailure(error, res, { next, options, stringify }) {
  let fault = error;
  if (error instanceof IPCError || error instanceof HandlerError) {
    try {
      const status = await statusOf(error, options);
      if (RETRIED.has(status) && !res.headersSent) res.setHeader('Retry-After', RETRY_AFTER_SECONDS);
      sendJson(res, status, described(error, options), stringify);
      return;
    } catch (thrown) {
      fault = thrown;
    }
  }
  if (fault instanceof BodyError) {
    sendJson(res, fault.status, { error: fault.message, code: 'BAD_REQUEST' });
  } else if (next !== undefined) {
    // Calling `next` without an error would mean that another handler is to answer.
    next(fault ?? new Error('a callback of this handler threw nothing'));
  } else {
    sendJson(res, 500, { error: 'internal error', code: 'INTERNAL' });
  }
}

/** Returns the result of `status` if it is a status that an answer can have, and the table's otherwise. */
async function statusOf(error, { status, statuses }) {
  const given = await status?.(error);
  if (isStatus(given)) return given;
  if (statuses !== undefined && Object.hasOwn(statuses, error.code)) return statuses[error.code];
  return STATUSES[error.code] ?? 502;
}

function isStatus(status) {
  return Number.isInteger(status) && status >= 200 && status <= 599;
}

/** Checks the options about failures when a handler is made. */
function checkFailureOptions({ statuses }) {
  for (const [code, status] of Object.entries(statuses ?? {})) {
    if (!isStatus(status)) throw new TypeError(`statuses['${code}'] must be from 200 to 599, not ${String(status)}`);
  }
}

function sendJson(res, status, body, stringify = JSON.stringify) {
  if (res.destroyed || res.headersSent) return;
  const text = stringify(body);
  res.statusCode = status;
  res.setHeader('Content-Type', 'application/json; charset=utf-8');
  res.end(text);
}

module.exports = { FAILURE_OPTIONS, checkFailureOptions, requireConnection, described, sendFailure, sendJson };
