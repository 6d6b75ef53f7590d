'use strict';

// The payload that a request over HTTP makes for a channel.

const BODY_BYTES_MAX = 1024 * 1024;

/** A body that the request's sender has to change. */
class BodyError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Returns the payload that a request over HTTP makes. Reads its body first, unless a parser has done that.
 * @param {import('node:http').IncomingMessage} req
 * @param {{ payload?: (req: object) => unknown, bodyBytes?: number }} options
 * @param {Function} [parse] of the client
 */
async function payloadOf(req, { payload = describe, bodyBytes = BODY_BYTES_MAX }, parse) {
  if (req.body === undefined && !req.readableEnded) req.body = await readBody(req, bodyBytes, parse);
  return payload(req);
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

module.exports = { BodyError, payloadOf };
