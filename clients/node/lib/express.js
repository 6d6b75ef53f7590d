'use strict';

// For Express and whatever else hands over Node's own request and response.

const { IPCError, NotConnectedError } = require('./errors.js');

const BODY_BYTES_MAX = 1024 * 1024;
// A browser that is this far behind is cut off; it connects again by itself.
const BEHIND_BYTES_MAX = 1024 * 1024;
// Proxies take a connection that is silent for a minute for a dead one.
const KEEP_ALIVE_MS = 15_000;

const STATUS = {
  TIMEOUT: 504, timeout: 504, NOT_CONNECTED: 503, CONNECTION_LOST: 502, QUEUE_FULL: 503, limit_exceeded: 503,
  shutting_down: 503, no_handler: 502, handler_failed: 502, worker_lost: 502, forbidden: 403, FRAME_TOO_LARGE: 413,
};

/**
 * Middleware that passes a request on to a channel and answers with the payload of what comes back, as JSON.
 * @param {import('./client.js').IPCClient} client or a pool
 * @param {string} channel
 * @param {{ timeout?: number, payload?: (req: object) => unknown, status?: (error: Error) => number | undefined,
 *   bodyBytes?: number }} [options] `payload` makes the request's payload; without it, method, path, query, params
 *   and body
 */
function ipcProxy(client, channel, { timeout, payload = describe, status, bodyBytes = BODY_BYTES_MAX } = {}) {
  return async (req, res, next) => {
    const controller = new AbortController();
    // Nobody waits for the answer any more.
    const onClose = () => controller.abort();
    res.on('close', onClose);
    try {
      if (req.body === undefined && !req.readableEnded) req.body = await readBody(req, bodyBytes);
      const answer = await client.sendRequest(channel, payload(req), { timeout, signal: controller.signal });
      sendJson(res, 200, answer.payload);
    } catch (error) {
      if (controller.signal.aborted) return;
      let fault = error;
      if (error instanceof IPCError) {
        try {
          sendJson(res, statusOf(error, status), { error: error.message, code: error.code });
          return;
        } catch (thrown) {
          fault = thrown;
        }
      }
      if (fault instanceof BodyError) {
        sendJson(res, fault.status, { error: fault.message, code: 'BAD_REQUEST' });
      } else if (next !== undefined) {
        next(fault);
      } else {
        sendJson(res, 500, { error: 'internal error', code: 'INTERNAL' });
      }
    } finally {
      res.off('close', onClose);
    }
  };
}

/** What `status` says, where that is a status an answer can have. */
function statusOf(error, status) {
  const given = status?.(error);
  if (Number.isInteger(given) && given >= 200 && given <= 599) return given;
  return STATUS[error.code] ?? 502;
}

function describe(req) {
  // As it is: a parser of URLs would take `//name/path` for a host, which routers and their guards do not.
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

/** The JSON body of a request that no parser has read; undefined where there is none. */
async function readBody(req, bytesMax) {
  const chunks = [];
  let bytes = 0;
  for await (const chunk of req) {
    bytes += chunk.length;
    if (bytes <= bytesMax) chunks.push(chunk);
  }
  if (bytes > bytesMax) throw new BodyError(413, `the body has ${bytes} bytes, more than the ${bytesMax} allowed`);
  if (bytes === 0) return undefined;
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new BodyError(400, 'the body is not JSON');
  }
}

function sendJson(res, status, body) {
  if (res.destroyed || res.headersSent) return;
  const text = JSON.stringify(body);
  res.statusCode = status;
  res.setHeader('Content-Type', 'application/json; charset=utf-8');
  res.end(text);
}

/**
 * Handler that shows the messages of a channel to a browser as Server-Sent Events: the payload as JSON in `data`. All
 * browsers share one subscription.
 * @param {import('./client.js').IPCClient} client or a pool
 * @param {string} channel
 * @param {{ event?: string, retry?: number, filter?: (message: object, req: object) => boolean }} [options] `event`
 *   names the events, `retry` is what the browser waits before it connects again, in milliseconds
 */
function ipcEvents(client, channel, { event, retry, filter } = {}) {
  const name = event === undefined ? '' : `event: ${oneLine(event)}\n`;
  return (req, res) => {
    // Whoever left before it came to this would never be heard of again.
    if (res.destroyed) return;
    let subscription;
    let keepAlive;
    res.on('close', () => {
      clearInterval(keepAlive);
      subscription?.unsubscribe();
    });
    const send = (text) => {
      // Writing to what is destroyed would be an error nobody handles.
      if (res.destroyed || res.writableEnded) return;
      if (res.writableLength > BEHIND_BYTES_MAX) res.destroy();
      else res.write(text);
    };
    try {
      const { state } = client.clientOf?.(channel) ?? client;
      if (state === 'closed') throw new NotConnectedError('the client was closed: there is no connection');
      subscription = client.openSubscription(channel, {
        onMessage: (message) => {
          if (filter !== undefined && !filter(message, req)) return;
          // JSON has no line breaks of its own, so one `data` line holds it.
          send(`id: ${oneLine(message.message_id)}\n${name}data: ${JSON.stringify(message.payload)}\n\n`);
        },
        // One that fails at once is answered below.
        onEnd: () => { if (res.headersSent) res.end(); },
      });
    } catch (error) {
      const { message, code } = error instanceof IPCError ? error : { message: 'internal error', code: 'INTERNAL' };
      sendJson(res, 503, { error: message, code });
      return;
    }
    res.writeHead(200, {
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-cache, no-transform',
      Connection: 'keep-alive',
      'X-Accel-Buffering': 'no',
    });
    res.flushHeaders();
    keepAlive = setInterval(() => send(': still here\n\n'), KEEP_ALIVE_MS);
    keepAlive.unref();
    const greeting = `${retry === undefined ? '' : `retry: ${Math.trunc(retry)}\n`}: subscribed\n\n`;
    // What is published once the browser has read this reaches it.
    subscription.ready.then(() => send(greeting), () => res.end());
  };
}

/** Whoever could put a line break into an id or a name could put an event of their own behind it. */
function oneLine(text) {
  return String(text).replace(/[\r\n\0]/g, ' ');
}

module.exports = { ipcProxy, ipcEvents };
