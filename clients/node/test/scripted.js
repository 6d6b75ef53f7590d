'use strict';

// Servers that say what a test wants, for both sides of requests that are cancelled, have deadlines, or stream.

const assert = require('node:assert/strict');
const { joined, peer, unconnected } = require('./support.js');

const GRANT = { extensions: ['call'], limits: { max_frame_bytes: 16 << 20, request_timeout_ms: null } };

/** A server that collects what a client sends, and the client. `answer` gets each request. */
async function scripted(t, { options, answer = () => {}, grant = GRANT } = {}) {
  const received = { requests: [], cancels: [], credits: [], others: [] };
  const onMessage = (message, side) => {
    const { action } = message.payload ?? {};
    if (message.isRequest()) {
      received.requests.push(message);
      answer(message, side);
    } else if (message.channel_id === 'system' && action === 'cancel') {
      received.cancels.push(message.payload);
    } else if (message.channel_id === 'system' && action === 'credit') {
      received.credits.push(message.payload);
    } else {
      received.others.push(message);
    }
  };
  const { port, sides } = await peer(t, { onMessage, grant });
  const client = await joined(t, unconnected(t, { port, heartbeatInterval: 0, ...options }));
  return { client, received, sides };
}

/** Sends parts to a request, and then its end. */
function sendParts(side, { message_id: id, channel_id: channel }, payloads, isEnded = true) {
  payloads.forEach((payload, seq) => side.send('response', channel, payload, id, { seq }));
  if (isEnded) side.send('response', channel, null, id, { seq: payloads.length, end: true });
}

/** A worker, its server's side, and the frames that it has answered with. */
async function working(t, { grant = GRANT, options, onMessage = () => {} } = {}) {
  const answers = [];
  const { port, sides } = await peer(t, {
    grant,
    onMessage(message, side) {
      if (message.payload?.action === 'serve') side.send('response', 'system', { status: 'serving' }, message.message_id);
      else if (message.isResponse()) answers.push(message);
      else onMessage(message, side);
    },
  });
  const worker = await joined(t, unconnected(t, { port, heartbeatInterval: 0, ...options }));
  const ask = (id, payload, meta, channel = 'x') => sides[0].send('request', channel, payload, null, meta, id);
  const control = (action, id, rest) => sides[0].send('notification', 'system', { action, message_id: id, ...rest });
  const of = (id) => answers.filter(({ reply_to: replyTo }) => replyTo === id);
  /** The answers to a request as [seq, payload], [seq, 'end'] and [payload]. */
  const told = (id) => of(id).map(({ meta, payload }) => {
    if (meta === undefined) return [payload?.code ?? payload];
    assert.deepEqual(Object.keys(meta), meta.end === undefined ? ['seq'] : ['seq', 'end']);
    return [meta.seq, meta.end === true ? 'end' : payload];
  });
  return { worker, ask, control, told, of, answers, sides };
}

async function payloadsOf(stream) {
  const payloads = [];
  for await (const { payload } of stream) payloads.push(payload);
  return payloads;
}

module.exports = { GRANT, scripted, working, sendParts, payloadsOf };
