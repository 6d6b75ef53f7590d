'use strict';

// The body of a frame with attachments beside its JSON, as it is written: the extension `binary`.

const { FrameError, IPCError } = require('./errors.js');
const { placeOf, pointerOf } = require('./place.js');

const LENGTH_BYTES = 4;
/** Attachments begin and end at multiples of this. */
const ALIGNMENT = 64;
const ATTACHMENTS_MAX = 1_024;
const BIN_BYTES_MAX = 128 * 1024;
// The first byte of the body is 0, with which no JSON begins, as long as the JSON is shorter than this.
const JSON_BYTES_MAX = 2 ** 24 - 1;
// A shorter attachment is copied beside what stands before and behind it, which costs less than another piece.
const PIECE_BYTES = 8 * 1024;

/** Returns the padding behind so many bytes. */
function paddingOf(bytes) {
  return (ALIGNMENT - (bytes % ALIGNMENT)) % ALIGNMENT;
}

/**
 * Returns the JSON text of `meta.bin`. Throws if there are too many attachments for one message.
 * @param {{ keys: (string | number)[], dtype: string | null, shape: readonly number[] | null, data: Uint8Array }[]}
 *   attachments
 */
function encodeBin(attachments) {
  if (attachments.length > ATTACHMENTS_MAX) {
    throw tooMany(`has ${attachments.length} binary values, more than the ${ATTACHMENTS_MAX}`);
  }
  const text = JSON.stringify(attachments.map(({ keys, what, dtype, shape, data }) => {
    const pointer = pointerOf(keysOf(keys));
    // A lone surrogate, which no server passes on in a pointer.
    if (/\p{Surrogate}/u.test(pointer)) {
      throw new FrameError('BAD_PAYLOAD', `${placeOf(keysOf(keys))} is ${what}, under a key that is not Unicode; `
        + 'nothing was sent');
    }
    return [pointer, data.length, dtype, shape];
  }));
  const bytes = Buffer.byteLength(text);
  if (bytes > BIN_BYTES_MAX) {
    throw tooMany(`has binary values whose places take ${bytes} bytes, more than the ${BIN_BYTES_MAX}`);
  }
  return text;
}

/** Returns the keys that lead to an attachment, the outermost first. */
function keysOf(keys) {
  return [...keys].reverse();
}

function tooMany(what) {
  return new FrameError('BAD_PAYLOAD', `the payload ${what} that a message may have; nothing was sent: put arrays of `
    + 'one type into one Tensor, or send them in parts by a stream');
}

/** Returns the error for binary values that the server of a connection cannot take. */
function unsupported([{ keys, what }]) {
  return new IPCError('UNSUPPORTED', `${placeOf(keysOf(keys))} is ${what}, and the server takes no binary values, for `
    + "it is older than they are or the published one; nothing was sent: send Buffer.from(bytes).toString('base64') or "
    + 'Array.from(array), or update the server');
}

/** A body: the JSON of the message and its attachments. */
class BinaryBody {
  /**
   * @param {string} json
   * @param {{ data: Uint8Array }[]} attachments
   */
  constructor(json, attachments) {
    this.json = json;
    this.jsonBytes = Buffer.byteLength(json);
    if (this.jsonBytes > JSON_BYTES_MAX) {
      throw new FrameError('FRAME_TOO_LARGE', `beside its binary values the message has ${this.jsonBytes} bytes of `
        + `JSON, more than the ${JSON_BYTES_MAX} allowed; nothing was sent and the connection stays open`);
    }
    this.attachments = attachments;
    const head = LENGTH_BYTES + this.jsonBytes;
    /** The bytes of the body, without the length of the frame. */
    this.bytes = head + paddingOf(head);
    for (const { data } of attachments) this.bytes += data.length + paddingOf(data.length);
  }

  /**
   * Returns the whole frame in pieces, for one write. Large attachments are pieces of their own and not copied, unless
   * `isCopied`: then it is one piece.
   * @returns {Uint8Array[]}
   */
  pieces(isCopied) {
    const isPiece = ({ length }) => !isCopied && length >= PIECE_BYTES;
    let rest = LENGTH_BYTES + this.bytes;
    for (const { data } of this.attachments) if (isPiece(data)) rest -= data.length;
    const buffer = Buffer.allocUnsafe(rest);
    const pieces = [];
    let begun = 0;
    let at = buffer.writeUInt32BE(this.bytes, 0);
    at = buffer.writeUInt32BE(this.jsonBytes, at);
    at += buffer.utf8Write(this.json, at);
    const pad = (bytes) => {
      const end = at + paddingOf(bytes);
      buffer.fill(0, at, end);
      at = end;
    };
    pad(LENGTH_BYTES + this.jsonBytes);
    for (const { data } of this.attachments) {
      if (isPiece(data)) {
        if (begun < at) pieces.push(buffer.subarray(begun, at));
        pieces.push(data);
        begun = at;
      } else {
        buffer.set(data, at);
        at += data.length;
      }
      pad(data.length);
    }
    if (begun < at) pieces.push(buffer.subarray(begun, at));
    return pieces;
  }
}

module.exports = {
  ALIGNMENT, ATTACHMENTS_MAX, BIN_BYTES_MAX, LENGTH_BYTES, PIECE_BYTES, BinaryBody, encodeBin, paddingOf, unsupported,
};
