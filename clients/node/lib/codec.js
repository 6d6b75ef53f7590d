'use strict';

const { TextDecoder } = require('node:util');
const { Message } = require('./message.js');
const { FrameError } = require('./errors.js');

const HEADER_BYTES = 4;
// Smaller buffers come from Node's shared pool.
const POOLED_BYTES = 2048;

/**
 * Returns the body of a frame. `appJson`, `channelJson`, `payloadJson` and `metaJson` are JSON already; servers expect
 * `meta` last.
 */
function encodeBody(id, appJson, channelJson, type, payloadJson, replyTo, metaJson) {
  let end = replyTo ? `,"reply_to":${JSON.stringify(replyTo)}}` : '}';
  if (metaJson !== undefined) end = `${end.slice(0, -1)},"meta":${metaJson}}`;
  return `{"message_id":${JSON.stringify(id)},"app_id":${appJson},"channel_id":${channelJson},`
    + `"message_type":"${type}","payload":${payloadJson},"timestamp":${Date.now() / 1000}${end}`;
}

/**
 * Returns the payload with the `connection_id` in which handlers of the published server look up the requester: an
 * object gets one if it is in `adds`, and a former id is replaced by the current one. The serialised text decides,
 * because it is what the program sends.
 * @param {string} payloadJson as JSON.stringify wrote it, so that reading and writing it again changes nothing else
 * @param {string} connectionId
 * @param {{ adds: boolean, isFormer: (id: unknown) => boolean, parse?: Function, stringify?: Function }} how
 */
function addressed(payloadJson, connectionId, { adds, isFormer, parse = JSON.parse, stringify = JSON.stringify }) {
  if (payloadJson.charCodeAt(0) !== 0x7b) return payloadJson;
  const object = payloadJson.includes('"connection_id":') ? parse(payloadJson) : null;
  if (object === null || !Object.hasOwn(object, 'connection_id')) {
    return adds ? withConnectionId(payloadJson, connectionId) : payloadJson;
  }
  if (!isFormer(object.connection_id)) return payloadJson;
  object.connection_id = connectionId;
  return stringify(object);
}

/** Adds `connection_id` to the JSON text of an object without one. */
function withConnectionId(payloadJson, connectionId) {
  const rest = payloadJson === '{}' ? '}' : `,${payloadJson.slice(1)}`;
  return `{"connection_id":${JSON.stringify(connectionId)}${rest}`;
}

/**
 * Returns all frames in one buffer, for one write. `bodies` are texts or bytes, `bytes` is the sum of their lengths in
 * UTF-8.
 */
function encodeFrames(bodies, bytes) {
  const frames = Buffer.allocUnsafe(bytes + HEADER_BYTES * bodies.length);
  let at = 0;
  for (const body of bodies) {
    const length = typeof body === 'string' ? frames.utf8Write(body, at + HEADER_BYTES)
      : body.copy(frames, at + HEADER_BYTES);
    frames.writeUInt32BE(length, at);
    at += HEADER_BYTES + length;
  }
  return frames;
}

/**
 * Cuts a stream of bytes into frames. A frame that arrives whole is passed on in place. A frame that is spread over
 * several chunks is copied once, into a buffer that is allocated when its length is known and allowed. A frame with
 * attachments is copied once in any case, because each of these gets memory of its own.
 */
class FrameReader {
  /** @param {number} frameBytesMax */
  constructor(frameBytesMax) {
    this.frameBytesMax = frameBytesMax;
    this.header = Buffer.alloc(HEADER_BYTES);
    this.headerBytes = 0;
    this.body = null;
    this.bodyBytes = 0;
    /** Makes a reader of a frame with attachments, of so many bytes, once the server may send such frames. */
    this.openBinary = null;
    /** Gets a frame with attachments that is complete, as `onBody` of `feed` gets the others. */
    this.onBinary = null;
    this.binary = null;
    /** The length of a frame whose first byte has not come yet. */
    this.awaited = null;
  }

  /**
   * @param {Buffer} chunk may be reused by the caller afterwards
   * @param {(buffer: Buffer, start: number, end: number) => boolean} onBody false: read no further
   * @throws {FrameError} where a frame is too large; nothing can be read after that
   */
  feed(chunk, onBody) {
    let at = 0;
    while (at < chunk.length) {
      if (this.binary !== null) {
        const { binary } = this;
        at = binary.feed(chunk, at);
        if (!binary.isComplete) return;
        this.binary = null;
        if (!this.onBinary(binary)) return;
        continue;
      }
      if (this.body !== null) {
        const copied = chunk.copy(this.body, this.bodyBytes, at);
        at += copied;
        this.bodyBytes += copied;
        if (this.bodyBytes < this.body.length) return;
        const body = this.body;
        this.body = null;
        if (!onBody(body, 0, body.length)) return;
        continue;
      }
      let length;
      if (this.awaited !== null) {
        length = this.awaited;
        this.awaited = null;
      } else if (this.headerBytes === 0 && chunk.length - at >= HEADER_BYTES) {
        length = chunk.readUInt32BE(at);
        at += HEADER_BYTES;
      } else {
        const copied = chunk.copy(this.header, this.headerBytes, at);
        at += copied;
        this.headerBytes += copied;
        if (this.headerBytes < HEADER_BYTES) return;
        this.headerBytes = 0;
        length = this.header.readUInt32BE(0);
      }
      if (length > this.frameBytesMax) throw tooLarge('the server announced', length, this.frameBytesMax, true);
      if (this.openBinary !== null && length > 0) {
        if (at === chunk.length) {
          this.awaited = length;
          return;
        }
        if (chunk[at] === 0) {
          this.binary = this.openBinary(length);
          continue;
        }
      }
      if (chunk.length - at >= length) {
        if (!onBody(chunk, at, at + length)) return;
        at += length;
      } else {
        this.body = length < POOLED_BYTES ? Buffer.allocUnsafe(length) : Buffer.allocUnsafeSlow(length);
        this.bodyBytes = 0;
      }
    }
  }
}

/** @returns {FrameError} */
function tooLarge(who, length, max, fatal) {
  const fate = fatal ? 'the connection is closed' : 'nothing was sent and the connection stays open; send it in parts, '
    + 'by a generator that serves a stream, or raise that limit here and at the server (--max-frame-bytes)';
  return new FrameError('FRAME_TOO_LARGE',
    `${who} a frame of ${length} bytes, more than the ${max} of maxFrameBytes; ${fate}`, { fatal });
}

/**
 * Returns the message in a frame's body. Throws a FrameError, after which the next frame can still be read. `parse` is
 * the program's own reader of JSON.
 */
function decodeBody(buffer, start, end, parse = undefined) {
  return messageOf(textOf(buffer, start, end), parse);
}

/** Returns bytes as text. Throws a FrameError if they are not UTF-8. */
function textOf(buffer, start, end) {
  const text = buffer.utf8Slice(start, end);
  // Node replaces bytes that are not UTF-8 by a character that may also be in valid text, so the bytes decide.
  if (text.includes('\ufffd')) {
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(buffer.subarray(start, end));
    } catch (cause) {
      throw badFrame('not UTF-8', cause);
    }
  }
  return text;
}

/** Returns the message that a text is. Throws a FrameError if it is none. */
function messageOf(text, parse) {
  let object;
  try {
    object = parse === undefined ? JSON.parse(text) : readEnvelope(parse(text));
  } catch (cause) {
    throw badFrame('not JSON', cause);
  }
  return Message.fromObject(object);
}

/** A program's own parser may make objects of all numbers, but those of the envelope are numbers. */
function readEnvelope(object) {
  if (object === null || typeof object !== 'object') return object;
  toNumbers(object, ['timestamp']);
  const { meta } = object;
  if (meta !== null && typeof meta === 'object') toNumbers(meta, ['seq', 'ttl', 'stream', 'offset']);
  return object;
}

function toNumbers(object, keys) {
  for (const key of keys) {
    const type = typeof object[key];
    if (type === 'bigint' || type === 'object') object[key] = Number(object[key]);
  }
}

function badFrame(what, cause) {
  return new FrameError('BAD_FRAME', `the server sent a frame that is ${what}; it was ignored and the connection `
    + 'stays open', { cause });
}

module.exports = {
  HEADER_BYTES, FrameReader, encodeBody, encodeFrames, decodeBody, messageOf, textOf, addressed, tooLarge,
};
