'use strict';

const { IPCError } = require('./errors.js');
const { checkedOptions } = require('./options.js');

const OPTIONS = ['timeout', 'payload', 'status', 'bodyBytes'];
const BODY_BYTES_MAX = 1024 * 1024;

const STATUS = {
  TIMEOUT: 504, timeout: 504, NOT_CONNECTED: 503, CONNECTION_LOST: 502, QUEUE_FULL: 503, limit_exceeded: 503,
  shutting_down: 503, no_handler: 502, handler_failed: 502, worker_lost: 502, forbidden: 403, FRAME_TOO_LARGE: 413,
};

/**
 * Returns middleware that forwards a request to a channel and answers with the payload of the answer, as JSON.
 * @param {import('./client.js').IPCClient} client or a pool
 * @param {string} channel
 * @param {{ timeout?: number, payload?: (req: object) => unknown, status?: (error: Error) => number | undefined,
 * bodyBytes?: number }} [options] `payload` makes the request's payload; without it, method, path, query, params and
 * body. It and `status` may be asynchronous
 */
function ipcProxy(client, channel, options = {}) {
  const { timeout, payload = describe, status, bodyBytes = BODY_BYTES_MAX } =
    checkedOptions(options, OPTIONS, 'ipcProxy');
  return async (req, res, next) => {
    const controller = new AbortController();
    // The browser has left, so the answer is dropped.
    const onClose = () => controller.abort();
    res.on('close', onClose);
    try {
      if (req.body === undefined && !req.readableEnded) req.body = await readBody(req, bodyBytes, client.options.parse);
      const body = await payload(req);
      const answer = await client.sendRequest(channel, body, { timeout, signal: controller.signal });
      sendJson(res, 200, answer.payload, client.options.stringify);
    } catch (error) {
      if (controller.signal.aborted) return;
      let fault = error;
      if (error instanceof IPCError) {
        try {
          sendJson(res, await statusOf(error, status), { error: error.message, code: error.code });
          return;
        } catch (thrown) {
          fault = thrown;
        }
      }
      if (fault instanceof BodyError) {
        sendJson(res, fault.status, { error: fault.message, code: 'BAD_REQUEST' });
      } else if (next !== undefined) {
        // Calling `next` without an error would mean that another handler is to answer.
        next(fault ?? new Error('a callback of ipcProxy threw nothing'));
      } else {
        sendJson(res, 500, { error: 'internal error', code: 'INTERNAL' });
      }
    } finally {
      res.off('close', onClose);
    }
  };
}

/** Returns the result of `status`, if it is a status that an answer can have. */
async function statusOf(error, status) {
  const given = await status?.(error);
  if (Number.isInteger(given) && given >= 200 && given <= 599) return given;
  return STATUS[error.code] ?? 502;
}

function describe(req) {
  // The path stays as it is: a URL parser would read `//name/path` as a host, which routers and their guards do not.
  const url = req.originalUrl ?? req.url;
  const mark = url.indexOf('?');
  const [path, query] = mark === -1 ? [url, ''] : [url.slice(0, mark), url.slice(mark + 1)];
  return {
    method: req.method,
    path,
    query: req.query ?? Object.fromEntries(new URLSearchParams(query)),
    params: req.params ?? {},
    body: req.body ?? null,
  };
}

class BodyError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Returns the JSON body of a request that no parser has read, or undefined if there is none. */
async function readBody(req, bytesMax, parse = JSON.parse) {
  const chunks = [];
  let bytes = 0;
  for await (const chunk of req) {
    bytes += chunk.length;
    if (bytes <= bytesMax) chunks.push(chunk);
  }
  if (bytes > bytesMax) throw new BodyError(413, `the body has ${bytes} bytes, more than the ${bytesMax} allowed`);
  if (bytes === 0) return undefined;
  try {
    return parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new BodyError(400, 'the body is not JSON');
  }
}

function sendJson(res, status, body, stringify = JSON.stringify) {
  if (res.destroyed || res.headersSent) return;
  const text = stringify(body);
  res.statusCode = status;
  res.setHeader('Content-Type', 'application/json; charset=utf-8');
  res.end(text);
}

module.exports = { ipcProxy, sendJson };
