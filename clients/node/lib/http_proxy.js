'use strict';

const { jsonPayloadOf } = require('./base64.js');
const { checkedOptions } = require('./options.js');
const { payloadOf } = require('./http_request.js');
const { FAILURE_OPTIONS, checkFailureOptions, requireConnection, sendFailure, sendJson } = require('./http_failure.js');

const OPTIONS = ['timeout', 'payload', 'bodyBytes', ...FAILURE_OPTIONS];

/**
 * Returns middleware that forwards a request to a channel and answers with the payload of the answer, as JSON.
 * @param {import('./client.js').IPCClient} client or a pool
 * @param {string} channel
 * @param {{ timeout?: number, payload?: (req: object) => unknown, bodyBytes?: number, exposeCrashes?: boolean,
 *   status?: (error: Error) => number | undefined, statuses?: object }} [options] `payload` makes the payload; without
 *   it, method, path, query, params and body. It and `status` may be asynchronous. `statuses` adds codes to the table;
 *   `exposeCrashes` shows browsers the text of a handler's exception
 */
function ipcProxy(client, channel, options = {}) {
  const { timeout } = checkedOptions(options, OPTIONS, 'ipcProxy');
  checkFailureOptions(options);
  return async (req, res, next) => {
    // A browser that has left by now would never be noticed again.
    if (res.destroyed) return;
    const controller = new AbortController();
    // The browser has left, so nobody waits for the answer.
    const onClose = () => controller.abort();
    res.on('close', onClose);
    const { parse, stringify } = client.options;
    try {
      requireConnection(client);
      const payload = await payloadOf(req, options, parse);
      requireConnection(client);
      const answer = await client.sendRequest(channel, payload, { timeout, signal: controller.signal });
      sendJson(res, 200, jsonPayloadOf(answer), stringify);
    } catch (error) {
      if (!controller.signal.aborted) await sendFailure(error, res, { next, options, stringify });
    } finally {
      res.off('close', onClose);
    }
  };
}

module.exports = { ipcProxy };
