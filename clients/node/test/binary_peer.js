'use strict';

// A server that speaks `binary`, written from PROTOCOL.md and not with the code of this package.

const net = require('node:net');
const { joined, once, unconnected } = require('./support.js');

/** The body of a frame with attachments, by the rules of the wire, or by others where a test breaks them. */
function binaryBody(message, attachments, { padding = 0, length, tail = Buffer.alloc(0), jsonBytes } = {}) {
  const json = Buffer.from(typeof message === 'string' ? message : JSON.stringify(message));
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32BE(jsonBytes ?? json.length);
  const parts = [prefix, json];
  const pad = () => {
    const bytes = parts.reduce((sum, part) => sum + part.length, 0);
    parts.push(Buffer.alloc((64 - (bytes % 64)) % 64, padding));
  };
  pad();
  for (const data of attachments) {
    parts.push(Buffer.from(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength));
    pad();
  }
  const body = Buffer.concat([...parts, tail]);
  return length === undefined ? body : body.subarray(0, length);
}

function framed(body) {
  const header = Buffer.alloc(4);
  header.writeUInt32BE(body.length);
  return Buffer.concat([header, body]);
}

/** What is in a body: the message, and the attachments as `meta.bin` lists them with their bytes. */
function opened(body) {
  if (body[0] !== 0) return { message: JSON.parse(body.toString()), attachments: null };
  const jsonBytes = body.readUInt32BE(0);
  const message = JSON.parse(body.subarray(4, 4 + jsonBytes).toString());
  const up = (bytes) => Math.ceil(bytes / 64) * 64;
  let at = up(4 + jsonBytes);
  const attachments = [];
  let zeros = body.subarray(4 + jsonBytes, at);
  for (const [pointer, bytes, dtype, shape] of message.meta.bin) {
    if (zeros.some((byte) => byte !== 0)) throw new Error('padding is not zero');
    attachments.push({ pointer, dtype, shape, data: body.subarray(at, at + bytes) });
    zeros = body.subarray(at + bytes, at + up(bytes));
    at += up(bytes);
  }
  if (at !== body.length) throw new Error(`the frame has ${body.length} bytes, and its parts ${at}`);
  return { message, attachments };
}

/**
 * A server, and a client of it. `received` has the bodies of all frames but the connect, `answer` gets each of them and
 * a function that sends a body.
 */
async function binaryPeer(t, { options, extensions = ['call', 'binary'], answer = () => {} } = {}) {
  const received = [];
  let send;
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    t.after(() => socket.destroy());
    send = (body) => socket.write(framed(body));
    let bytes = Buffer.alloc(0);
    let isOpen = false;
    socket.on('data', (chunk) => {
      bytes = Buffer.concat([bytes, chunk]);
      while (bytes.length >= 4 && bytes.length >= 4 + bytes.readUInt32BE(0)) {
        const body = Buffer.from(bytes.subarray(4, 4 + bytes.readUInt32BE(0)));
        bytes = bytes.subarray(4 + body.length);
        if (isOpen) {
          received.push(body);
          answer(body, send);
          continue;
        }
        isOpen = true;
        server.offered = JSON.parse(body.toString()).payload.extensions;
        const limits = { max_frame_bytes: 16 << 20, request_timeout_ms: null };
        const granted = extensions === null ? {} : { extensions, limits };
        send(Buffer.from(JSON.stringify(message('response', 'system',
          { status: 'connected', server: 'ipc-framework/0', ...granted }))));
      }
    });
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const { port } = server.address();
  const client = await joined(t, unconnected(t, { port, heartbeatInterval: 0, ...options }));
  return { client, received, offered: server.offered, port, send: (body) => send(body) };
}

let count = 0;

/** The fields of a message that a server sends. */
function message(type, channel, payload, { replyTo = null, meta, id = `server-${count += 1}` } = {}) {
  const fields = { message_id: id, app_id: 'bench', channel_id: channel, message_type: type, payload, timestamp: 1.5 };
  return { ...fields, reply_to: replyTo, ...(meta === undefined ? {} : { meta }) };
}

module.exports = { binaryBody, binaryPeer, framed, message, opened };
