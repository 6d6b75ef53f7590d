'use strict';

// The bodies that all clients and the server read and write alike, tests/binary/vectors.json.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { collected, eventually, once, REPO } = require('./support.js');
const { binaryPeer, message, opened } = require('./binary_peer.js');
const { Tensor } = require('../index.js');
const { BinaryBody, encodeBin } = require('../lib/binary_body.js');
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
