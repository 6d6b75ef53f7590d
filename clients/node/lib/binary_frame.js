'use strict';

// The body of a frame with attachments beside its JSON, as it is read: the extension `binary`.

const { LENGTH_BYTES, ATTACHMENTS_MAX, BIN_BYTES_MAX, paddingOf } = require('./binary_body.js');
const { messageOf, textOf } = require('./codec.js');
const { FrameError, textOf: wordsOf } = require('./errors.js');
const { BINARY } = require('./message.js');
const { Misplaced, checkPlaces, membersOf, tokensOf } = require('./pointers.js');
const { DTYPES, Tensor, fromWire, isShape, sizeOf } = require('./tensor.js');

/** The attachments of a message contradict its JSON or the frame. `about` is the message if that could be read. */
class BadAttachments extends FrameError {
  constructor(what, about = null) {
    super('BAD_MESSAGE', `the attachments of ${about === null ? 'a message' : named(about)} are not valid: ${what}; it `
      + 'was ignored and the connection stays open');
    this.about = about;
  }
}

function named({ message_type: type, channel_id: channel, message_id: id }) {
  return `the ${type} on '${channel}' with the message_id ${id}`;
}

/**
 * A frame that is being read. Once its JSON is here, each attachment gets memory of its own, and what comes for it is
 * copied there and nowhere else.
 */
class BinaryFrame {
  /**
   * @param {number} bytes of the body
   * @param {Function} [parse] the program's own reader of JSON
   */
  constructor(bytes, parse) {
    this.bytes = bytes;
    this.left = bytes;
    this.parse = parse;
    /** What is read now and next, in order. Without any the bytes are skipped. */
    this.parts = [];
    this.part = null;
    this.filled = 0;
    this.message = null;
    this.error = null;
    this.places = [];
    if (bytes < LENGTH_BYTES) this.fail('the frame is shorter than a length');
    else this.expect(Buffer.allocUnsafe(LENGTH_BYTES), (length) => this.begin(length.readUInt32BE(0)));
  }

  /** Reads from a chunk, and returns how far it has got. */
  feed(chunk, begin) {
    let at = begin;
    const end = Math.min(chunk.length, begin + this.left);
    this.left -= end - begin;
    while (at < end) {
      const { part } = this;
      if (part === null) return end;
      const count = Math.min(end - at, part.bytes.length - this.filled);
      chunk.copy(part.bytes, this.filled, at, at + count);
      at += count;
      this.filled += count;
      if (this.filled === part.bytes.length) this.next();
    }
    return at;
  }

  get isComplete() {
    return this.left === 0;
  }

  /** Returns the message of a complete frame. Throws a FrameError if it is not valid. */
  take() {
    if (this.error === null) {
      try {
        for (const place of this.places) place();
      } catch (error) {
        // A parser of the program's own may have frozen the payload.
        this.fail(`they cannot be put into the payload: ${wordsOf(error)}`);
      }
    }
    if (this.error !== null) throw this.error;
    return this.message;
  }

  expect(bytes, onRead) {
    // What has no bytes is never read.
    if (bytes.length === 0) onRead(bytes);
    else this.parts.push({ bytes, onRead });
    this.part ??= this.parts.shift() ?? null;
  }

  next() {
    const { bytes, onRead } = this.part;
    this.filled = 0;
    this.part = null;
    onRead(bytes);
    this.part ??= this.parts.shift() ?? null;
  }

  expectPadding(bytes) {
    this.expect(Buffer.allocUnsafe(paddingOf(bytes)), (padding) => {
      if (padding.some((byte) => byte !== 0)) this.fail('its padding is not zero');
    });
  }

  fail(what) {
    this.stop(new BadAttachments(what, this.message));
  }

  /** Skips the rest of the frame. */
  stop(error) {
    this.error ??= error;
    this.part = null;
    this.parts = [];
  }

  begin(jsonBytes) {
    const head = LENGTH_BYTES + jsonBytes;
    if (head + paddingOf(head) > this.bytes) {
      this.fail(`${jsonBytes} bytes of JSON do not fit into a frame of ${this.bytes}`);
      return;
    }
    this.expect(Buffer.allocUnsafe(jsonBytes), (json) => this.read(json));
  }

  read(json) {
    try {
      const text = textOf(json, 0, json.length);
      this.message = messageOf(text, this.parse);
      this.open(text, this.bytes - LENGTH_BYTES - json.length);
    } catch (error) {
      if (error instanceof FrameError) this.stop(error);
      // A parser of the program's own may show another text than it was given.
      else this.fail(wordsOf(error));
    }
  }

  /** Makes room for all attachments of a message, and puts them into its payload. */
  open(text, bytesLeft) {
    const { message } = this;
    const attachments = readBin(text, message);
    let bytes = paddingOf(this.bytes - bytesLeft);
    this.expectPadding(this.bytes - bytesLeft);
    for (const attachment of attachments) bytes += attachment.bytes + paddingOf(attachment.bytes);
    if (bytes !== bytesLeft) {
      throw new Misplaced(`they take ${bytes} bytes with their padding, and the frame has ${bytesLeft}`);
    }
    for (const { tokens, bytes: length, dtype, shape } of attachments) {
      const memory = Buffer.allocUnsafeSlow(length);
      this.expect(memory, () => {});
      this.expectPadding(length);
      const [holder, key] = placeIn(message, tokens);
      // At the end, because the numbers of a tensor have to be in the order of this machine by then.
      this.places.push(() => {
        holder[key] = dtype === null ? memory
          : new Tensor({ dtype, shape, data: fromWire(memory, DTYPES.get(dtype).Data) });
      });
    }
    delete message.meta.bin;
    Object.defineProperty(message, BINARY, { value: true });
  }
}

/**
 * Returns the attachments that a message lists, after it has checked all that can be checked without them.
 * @returns {{ tokens: string[], bytes: number, dtype: string | null, shape: number[] | null }[]}
 */
function readBin(text, message) {
  const { payload, meta } = membersOf(text, 0, ['payload', 'meta']);
  if (meta === undefined || !Array.isArray(message.meta?.bin)) throw new Misplaced('there is no list of them, `bin`');
  const [begin, end] = membersOf(text, meta[0], ['bin']).bin ?? [0, 0];
  const binText = text.slice(begin, end);
  const { bin } = message.meta;
  if (bin.length === 0 || bin.length > ATTACHMENTS_MAX) throw new Misplaced(`their list has ${bin.length} entries`);
  if (Buffer.byteLength(binText.trimEnd()) > BIN_BYTES_MAX) throw new Misplaced('their list is too long');
  // Numbers are written in digits alone, which a parser does not show.
  if (/[^\s\d,[\]nul]/.test(binText.replace(/"(?:[^"\\]|\\.)*"/g, ''))) {
    throw new Misplaced('their list has what is no text, no null and no number in digits alone');
  }
  const attachments = bin.map(readEntry);
  if (payload === undefined) throw new Misplaced('there is no payload');
  checkPlaces(text, payload[0], attachments.map(({ tokens }) => tokens));
  return attachments;
}

function readEntry(entry) {
  if (!Array.isArray(entry) || entry.length !== 4) throw new Misplaced('an entry of their list has not four items');
  const [pointer, , dtype] = entry;
  const bytes = whole(entry[1]);
  const tokens = typeof pointer === 'string' ? tokensOf(pointer) : undefined;
  if (tokens === undefined) throw new Misplaced('a pointer is none');
  if (bytes === undefined) throw new Misplaced('a number of bytes is none');
  if (dtype === null) {
    if (entry[3] !== null) throw new Misplaced('plain bytes have a shape');
    return { tokens, bytes, dtype, shape: null };
  }
  const type = DTYPES.get(dtype);
  if (type === undefined) throw new Misplaced(`the dtype ${JSON.stringify(dtype)} is not known`);
  const shape = Array.isArray(entry[3]) ? entry[3].map(whole) : null;
  if (!isShape(shape)) throw new Misplaced('a shape is none');
  if (sizeOf(shape) * type.bytes !== bytes) {
    throw new Misplaced(`${bytes} bytes are not those of ${dtype} [${shape.join(', ')}]`);
  }
  return { tokens, bytes, dtype, shape };
}

/** Returns a number from 0, of which a program's own parser may have made something else, or undefined. */
function whole(value) {
  const isObject = value !== null && typeof value === 'object' && !Array.isArray(value);
  const number = isObject || typeof value === 'number' || typeof value === 'bigint' ? Number(value) : undefined;
  return Number.isSafeInteger(number) && number >= 0 ? number : undefined;
}

/** Returns the object that holds a place of a payload, and its key there. */
function placeIn(message, tokens) {
  let holder = message;
  let key = 'payload';
  for (const token of tokens) {
    holder = holder[key];
    key = token;
    if (holder === null || typeof holder !== 'object' || !Object.hasOwn(holder, key)) {
      throw new Misplaced('the option parse has made something else of the payload');
    }
  }
  return [holder, key];
}

module.exports = { BadAttachments, BinaryFrame };
