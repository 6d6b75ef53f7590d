'use strict';

const { jsonPayloadOf } = require('./base64.js');
const { IPCError } = require('./errors.js');
const { HandlerError } = require('./handler_error.js');
const { checkedCredit } = require('./extensions.js');
const { checkedOptions } = require('./options.js');
const { payloadOf } = require('./http_request.js');
const {
  FAILURE_OPTIONS, checkFailureOptions, described, requireConnection, sendFailure,
} = require('./http_failure.js');
const { cancel, every } = require('./timers.js');

const OPTIONS = ['as', 'event', 'timeout', 'credit', 'payload', 'bodyBytes', ...FAILURE_OPTIONS];
// Proxies close a connection that is silent for a minute.
const KEEP_ALIVE_MS = 15_000;

/** How parts, the end and a failure are written. A failure in the middle cannot have a status any more. */
const FORMATS = {
  sse: {
    type: 'text/event-stream; charset=utf-8',
    part: (json, name) => `${name}data: ${json}\n\n`,
    // The end of the response alone would make an EventSource ask anew.
    end: 'event: end\ndata: null\n\n',
    failure: (json) => `event: failure\ndata: ${json}\n\n`,
    keepAlive: ': still here\n\n',
  },
  ndjson: {
    type: 'application/x-ndjson; charset=utf-8',
    part: (json) => `${json}\n`,
    end: '',
    failure: (json) => `${json}\n`,
    // A line could be a part as well, so that the response has to be cut off behind it.
    isCutOff: true,
  },
};

/**
 * Returns middleware that asks a channel for a stream and sends its parts to the browser as they come, no faster than
 * the browser reads. A browser that leaves cancels the request.
 * @param {import('./client.js').IPCClient} client or a pool
 * @param {string} channel
 * @param {{ as?: 'sse' | 'ndjson', event?: string, timeout?: number, credit?: number,
 *   payload?: (req: object) => unknown, bodyBytes?: number, exposeCrashes?: boolean,
 *   status?: (error: Error) => number | undefined, statuses?: object }} [options] `event` names the events of parts;
 *   the others are those of `ipcProxy` and of `client.stream`
 */
function ipcStream(client, channel, options = {}) {
  const { as = 'sse', event, timeout, credit } = checkedOptions(options, OPTIONS, 'ipcStream');
  checkFailureOptions(options);
  if (credit !== undefined) checkedCredit(credit);
  if (!Object.hasOwn(FORMATS, as)) throw new TypeError(`as must be 'sse' or 'ndjson', not ${String(as)}`);
  const name = event === undefined ? '' : `event: ${String(event).replace(/[\r\n\0]/g, ' ')}\n`;
  return async (req, res, next) => {
    // A browser that has left by now would never be noticed again.
    if (res.destroyed) return;
    const controller = new AbortController();
    const onClose = () => controller.abort();
    res.on('close', onClose);
    const { parse, stringify } = client.options;
    const output = new Output(res, FORMATS[as], { name, stringify });
    try {
      requireConnection(client);
      const payload = await payloadOf(req, options, parse);
      requireConnection(client);
      const stream = client.stream(channel, payload, { timeout, credit, signal: controller.signal });
      for await (const part of stream) await output.part(jsonPayloadOf(part));
      output.end();
    } catch (error) {
      if (controller.signal.aborted) return;
      if (output.isBegun) output.fail(client, error, options);
      else await sendFailure(error, res, { next, options, stringify });
    } finally {
      output.stop();
      res.off('close', onClose);
    }
  };
}

/** The response to a browser, which begins with the first part, so that a failure before it has a status. */
class Output {
  constructor(res, format, { name, stringify = JSON.stringify }) {
    this.res = res;
    this.format = format;
    this.name = name;
    this.stringify = stringify;
    this.isBegun = false;
    this.keepAlive = undefined;
  }

  begin() {
    const { res, format } = this;
    if (this.isBegun) return;
    this.isBegun = true;
    res.writeHead(200, {
      'Content-Type': format.type,
      'Cache-Control': 'no-cache, no-transform',
      'X-Accel-Buffering': 'no',
    });
    if (format.keepAlive === undefined) return;
    this.keepAlive = every(KEEP_ALIVE_MS, () => {
      if (!res.destroyed && res.writableLength === 0) res.write(format.keepAlive);
    });
    this.keepAlive.unref();
  }

  /** Resolves when the browser has room for more, or has left. */
  part(payload) {
    this.begin();
    const { res } = this;
    if (res.destroyed || res.write(this.format.part(this.stringify(payload), this.name))) return undefined;
    return new Promise((resolve) => {
      const done = () => {
        res.off('drain', done);
        res.off('close', done);
        resolve();
      };
      res.on('drain', done);
      res.on('close', done);
    });
  }

  end() {
    this.begin();
    if (!this.res.destroyed) this.res.end(this.format.end);
  }

  /** Ends a response that has begun in a way that cannot be taken for a complete one. */
  fail(client, error, options) {
    const { res, format } = this;
    const isOfRequest = error instanceof IPCError || error instanceof HandlerError;
    if (!isOfRequest) client.report(error);
    if (res.destroyed) return;
    const told = isOfRequest ? described(error, options) : { error: 'internal error', code: 'INTERNAL' };
    const text = format.failure(this.stringify(told));
    if (format.isCutOff) res.write(text, () => res.destroy());
    else res.end(text);
  }

  stop() {
    cancel(this.keepAlive);
  }
}

module.exports = { ipcStream };
