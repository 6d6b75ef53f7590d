'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const codec = require('../lib/codec.js');
const { encodePayload } = require('../lib/payload.js');
const { Message, MessageType } = require('../index.js');

const MAX = 16 << 20;

function frame(payload, id = 'm', channel = 'c') {
  const body = codec.encodeBody(id, '"app"', JSON.stringify(channel), 'publish', encodePayload(payload));
  return codec.encodeFrames([body], Buffer.byteLength(body));
}

function readAll(chunks, max = MAX) {
  const reader = new codec.FrameReader(max);
  const messages = [];
  for (const chunk of chunks) {
    // As the connection does: its read buffer is used again for the next chunk.
    const reused = Buffer.from(chunk);
    reader.feed(reused, (buffer, start, end) => {
      messages.push(codec.decodeBody(buffer, start, end));
      return true;
    });
    reused.fill(0x20);
  }
  return messages;
}

test('a stream of frames reads the same wherever it is split', () => {
  const payloads = ['one', { zwei: 'zwölf ☃ 🦀' }, null, 'x'.repeat(300)];
  const stream = Buffer.concat(payloads.map((payload) => frame(payload)));
  for (let at = 0; at <= stream.length; at += 1) {
    const read = readAll([stream.subarray(0, at), stream.subarray(at)]);
    assert.deepEqual(read.map((message) => message.payload), payloads, `split at ${at}`);
  }
  const bytes = Array.from(stream, (byte) => Buffer.from([byte]));
  assert.deepEqual(readAll(bytes).map((message) => message.payload), payloads);
});

test('several messages leave in one buffer', () => {
  const bodies = ['a', 'ß', '☃'].map((text) => codec.encodeBody(text, '"app"', '"c"', 'publish', JSON.stringify(text)));
  const frames = codec.encodeFrames(bodies, bodies.reduce((sum, body) => sum + Buffer.byteLength(body), 0));
  assert.deepEqual(readAll([frames]).map((message) => message.payload), ['a', 'ß', '☃']);
});

test('16 MB in 64 KB chunks is copied once, into one buffer', (t) => {
  const stream = frame('x'.repeat((16 << 20) - 200));
  // Counted, for a clock would judge the machine as well.
  let copied = 0;
  const { copy } = Buffer.prototype;
  const { concat } = Buffer;
  t.after(() => Object.assign(Buffer.prototype, { copy }) && Object.assign(Buffer, { concat }));
  Buffer.prototype.copy = function counted(...args) {
    const bytes = copy.apply(this, args);
    copied += bytes;
    return bytes;
  };
  Buffer.concat = () => assert.fail('all that came so far is copied again');
  const reader = new codec.FrameReader(MAX);
  const bodies = [];
  for (let at = 0; at < stream.length; at += 65_536) {
    const body = reader.body;
    reader.feed(stream.subarray(at, at + 65_536), (buffer, start, end) => bodies.push(buffer.subarray(start, end)));
    if (body !== null && reader.body !== null) assert.equal(reader.body, body, 'it does not move');
  }
  assert.ok(bodies.length === 1 && bodies[0].equals(stream.subarray(4)));
  assert.equal(copied, stream.length - 4);
});

test('a frame over the limit is refused before anything is allocated for it', () => {
  const reader = new codec.FrameReader(1000);
  assert.throws(() => reader.feed(Buffer.from([0, 0, 3, 233]), () => true),
    { code: 'FRAME_TOO_LARGE', fatal: true, message: /1001 bytes.*the connection is closed/ });
  const exact = new codec.FrameReader(1000);
  exact.feed(Buffer.from([0, 0, 3, 232]), () => true);
});

test('what is not a message is refused and says that the connection stays open', () => {
  const decode = (bytes) => codec.decodeBody(Buffer.from(bytes), 0, Buffer.from(bytes).length);
  const good = { message_id: 'm', app_id: 'a', channel_id: 'c', message_type: 'publish', payload: 1, timestamp: 1 };
  assert.equal(decode(JSON.stringify(good)).payload, 1);
  for (const bytes of ['', '{', 'NaN', '{"a":', [0xff, 0xfe], [...Buffer.from('"'), 0xc3, 0x28, 0x22]]) {
    assert.throws(() => decode(bytes), { code: 'BAD_FRAME', fatal: false, message: /stays open/ });
  }
  const faults = [null, [], 7, {}, { ...good, message_type: 'other' }, { ...good, app_id: 1 },
    { ...good, message_id: undefined }, { ...good, channel_id: null }, { ...good, timestamp: 'now' },
    { ...good, reply_to: 5 }];
  for (const fault of faults) {
    assert.throws(() => decode(JSON.stringify(fault)), { code: 'BAD_MESSAGE' }, JSON.stringify(fault));
  }
  assert.equal(decode(JSON.stringify({ ...good, payload: 'a \ufffd of their own' })).payload, 'a \ufffd of their own');
});

test('payloads that JSON cannot express are the caller\'s fault', () => {
  const circle = {};
  circle.self = circle;
  for (const payload of [circle, 1n]) {
    assert.throws(() => encodePayload(payload), { code: 'BAD_PAYLOAD', name: 'FrameError' });
  }
  assert.equal(encodePayload(undefined), 'null');
});

test('payloads for the published server say whom to answer', () => {
  const isFormer = (id) => id === 'old';
  const addressed = (payload, adds = true) => JSON.parse(
    codec.addressed(JSON.stringify(payload), 'n"w', { adds, isFormer }));
  assert.deepEqual(addressed({}), { connection_id: 'n"w' });
  assert.deepEqual(addressed({ a: {} }), { connection_id: 'n"w', a: {} });
  assert.deepEqual(addressed({ connection_id: 'other' }), { connection_id: 'other' });
  assert.deepEqual(addressed({ x: [1], connection_id: 'old' }), { x: [1], connection_id: 'n"w' });
  assert.deepEqual(addressed({ connection_id: 'old' }, false), { connection_id: 'n"w' });
  assert.deepEqual(addressed({ a: 1 }, false), { a: 1 });
  // Neither a field further in nor a text is the sender's.
  const within = { a: { connection_id: 'old' }, text: '"connection_id":"old"' };
  assert.deepEqual(addressed(within), { connection_id: 'n"w', ...within });
  assert.deepEqual(addressed({ toJSON: () => ({ connection_id: 'old' }) }), { connection_id: 'n"w' });
  assert.deepEqual(addressed({ connection_id: undefined }), { connection_id: 'n"w' });
  for (const payload of [['old'], 'old', null, 5]) assert.deepEqual(addressed(payload), payload);
  const hostile = '{"__proto__":{"connection_id":"old"},"connection_id":"old"}';
  assert.equal(codec.addressed(hostile, 'new', { adds: true, isFormer }), hostile.replace(/old"}$/, 'new"}'));
});

test('a message has both spellings, and answers itself', () => {
  const message = Message.fromJSON(JSON.stringify({
    message_id: 'm', app_id: 'a', channel_id: 'c', message_type: 'request', payload: { x: 1 }, timestamp: 5.5,
  }));
  assert.deepEqual(
    [message.messageId, message.appId, message.channelId, message.messageType, message.replyTo],
    [message.message_id, message.app_id, message.channel_id, message.message_type, message.reply_to]);
  assert.ok(message.isRequest() && !message.isResponse());
  const response = message.createResponse('done');
  assert.ok(response.isResponse() && !response.isRequest());
  assert.equal(response.reply_to, 'm');
  assert.equal(response.channelId, 'c');
  assert.notEqual(response.messageId, 'm');

  assert.equal(typeof message.toJSON(), 'string');
  assert.deepEqual(JSON.parse(message.toJSON()), message.toObject());
  assert.deepEqual(JSON.parse(JSON.stringify({ inside: message })).inside, message.toObject());
  assert.deepEqual(Message.fromJSON(message.toJSON()), message);
  assert.deepEqual(Message.fromObject({
    messageId: 'm', appId: 'a', channelId: 'c', messageType: 'request', payload: { x: 1 }, timestamp: 5.5,
  }), message);
  assert.throws(() => Message.fromJSON('{'), SyntaxError);
  assert.deepEqual(Object.values(MessageType),
    ['request', 'response', 'notification', 'subscribe', 'unsubscribe', 'publish']);
});
