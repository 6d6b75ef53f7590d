'use strict';

// The bodies that all clients and the server read and write alike, tests/binary/vectors.json.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { collected, eventually, once, REPO } = require('./support.js');
const { binaryPeer, framed, message, opened } = require('./binary_peer.js');
const { FrameError, Tensor } = require('../index.js');
const { BinaryBody, encodeBin } = require('../lib/binary_body.js');
const { BinaryFrame } = require('../lib/binary_frame.js');
const { FrameReader, decodeBody } = require('../lib/codec.js');
const { toWire } = require('../lib/tensor.js');

const VECTORS = JSON.parse(fs.readFileSync(path.join(REPO, 'tests/binary/vectors.json'), 'utf8'));

function at(payload, pointer) {
  const tokens = pointer.split('/').slice(1).map((token) => token.replace(/~1/g, '/').replace(/~0/g, '~'));
  return tokens.reduce((value, token) => value[token], payload);
}

test('every body is read as all read it, and a wrong one is the fault of its message', async (t) => {
  const { client, send } = await binaryPeer(t);
  const errors = collected(client, 'error');
  const messages = collected(client, 'message');
  for (const { name, body, expect, attachments } of VECTORS) {
    errors.length = 0;
    messages.length = 0;
    send(Buffer.from(body, 'hex'));
    send(Buffer.from(JSON.stringify(message('publish', 'after', 'still here'))));
    await eventually('the next', () => messages.at(-1)?.channel_id === 'after');
    if (expect !== 'ok') {
      assert.deepEqual([errors.map(({ code }) => code.toLowerCase()), messages.length], [[expect], 1], name);
      continue;
    }
    assert.deepEqual([errors.map(String), messages.length], [[], 2], name);
    for (const { pointer, dtype, shape, data } of attachments) {
      const value = at(messages[0].payload, pointer);
      assert.ok(dtype === null ? Buffer.isBuffer(value) : value instanceof Tensor, name);
      if (dtype !== null) assert.deepEqual([value.dtype, value.shape], [dtype, shape], name);
      assert.equal(Buffer.from(dtype === null ? value : toWire(value.data)).toString('hex'), data, name);
    }
  }
  assert.equal(client.connected, true);
});

/** The messages and the error codes that come of bodies, read in chunks of a size. */
function read(bodies, chunkBytes) {
  const reader = new FrameReader(16 << 20);
  const seen = [];
  const take = (f) => {
    try {
      seen.push(f());
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      seen.push(error.code);
    }
    return true;
  };
  reader.openBinary = (bytes) => new BinaryFrame(bytes);
  reader.onBinary = (frame) => take(() => frame.take());
  const stream = Buffer.concat(bodies.map(framed));
  for (let from = 0; from < stream.length; from += chunkBytes) {
    reader.feed(stream.subarray(from, from + chunkBytes), (buffer, start, end) => (
      take(() => decodeBody(buffer, start, end))));
  }
  return seen;
}

test('bodies that were damaged in any way are the fault of one message, however they arrive', () => {
  const next = Buffer.from(JSON.stringify(message('publish', 'after', 1)));
  // xorshift, so that a failure can be repeated.
  let state = 1;
  const random = (max) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % max;
  };
  const counts = { ok: 0, BAD_MESSAGE: 0, BAD_FRAME: 0 };
  for (let round = 0; round < 20_000; round += 1) {
    const body = Buffer.from(VECTORS[random(VECTORS.length)].body.slice(0, 4_000), 'hex');
    for (let n = random(4); n > 0 && body.length > 0; n -= 1) {
      const place = random(body.length);
      // Also digits by digits and brackets by brackets, which stay JSON.
      if (body[place] >= 0x30 && body[place] <= 0x39) body[place] = 0x30 + random(10);
      else body[place] = random(3) === 0 ? random(256) : body[random(body.length)];
    }
    const damaged = random(3) === 0 ? body.subarray(0, random(body.length + 1)) : body;
    const [one, after] = read([damaged, next], 1 << 20);
    const [other, ...rest] = read([damaged, next], 1 + random(100));
    assert.equal(after?.channel_id, 'after', `round ${round}`);
    assert.deepEqual(rest.map(({ channel_id: channel }) => channel), ['after'], `round ${round}`);
    // One that is missing is the time of arrival.
    if (typeof one === 'object') other.timestamp = one.timestamp;
    assert.deepEqual(other, one, `round ${round}`);
    if (typeof one === 'string') {
      counts[one] += 1;
      continue;
    }
    counts.ok += 1;
    // A naive reader finds the same in what was accepted.
    for (const { pointer, dtype, data } of opened(damaged).attachments ?? []) {
      const value = at(one.payload, pointer);
      assert.deepEqual(Buffer.from(dtype === null ? value : toWire(value.data)), data, `round ${round}`);
    }
  }
  for (const [what, count] of Object.entries(counts)) assert.ok(count > 100, `${count} of ${what}`);
});

test('every body is written as all write it', async (t) => {
  const { client, received, send } = await binaryPeer(t);
  let count = 0;
  for (const { name, body, expect } of VECTORS) {
    if (expect !== 'ok') continue;
    count += 1;
    const bytes = Buffer.from(body, 'hex');
    const { message: sent, attachments } = opened(bytes);
    const json = bytes.subarray(4, 4 + bytes.readUInt32BE(0)).toString();
    for (const isCopied of [true, false]) {
      const written = Buffer.concat(new BinaryBody(json, attachments).pieces(isCopied)).subarray(4);
      assert.equal(written.toString('hex'), body, name);
    }
    // What is read and sent again lists the same, in the order in which this side writes its keys.
    send(bytes);
    const [{ payload }] = await once(client, 'message');
    client.publish('again', payload);
    await eventually('sent', () => received.length === count);
    const again = opened(received.at(-1));
    const sorted = (list) => list.map((item) => [item.pointer, item.dtype, item.shape, item.data.toString('hex')]).sort();
    assert.deepEqual(sorted(again.attachments), sorted(attachments), name);
    assert.deepEqual(again.message.payload, sent.payload, name);
  }
  assert.ok(count > 30);
  assert.throws(() => encodeBin([{ keys: ['\ud800'], what: 'a Buffer', dtype: null, shape: null, data: Buffer.alloc(0) }]),
    { code: 'BAD_PAYLOAD', message: /not Unicode/ });
});
