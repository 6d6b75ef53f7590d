'use strict';

// Answers that come in parts: what generators yield.

const { setImmediate } = require('./timers.js');
const { ATTACHMENTS_MAX, paddingOf } = require('./binary_body.js');
const { Encoded } = require('./payload.js');
const { failure, failureOf } = require('./handler_error.js');

// After so many parts the event loop gets a turn, for a generator that never waits would let nothing else happen.
const PARTS_PER_TURN = 64;
// A pointer, the bytes, a type and a shape, as a rule.
const BIN_ENTRY_BYTES = 64;

/** The array of all parts fits into no frame. */
class Overflow extends Error {}

/**
 * Returns an iterator over what a handler has returned, if it is one that streams: a generator, or any async iterable.
 * Arrays and the like are values.
 */
function partsOf(returned) {
  if (returned === null || typeof returned !== 'object') return undefined;
  if (typeof returned[Symbol.asyncIterator] === 'function') return returned[Symbol.asyncIterator]();
  const isGenerator = typeof returned.next === 'function' && typeof returned[Symbol.iterator] === 'function';
  return isGenerator ? returned : undefined;
}

/**
 * Answers a request with the parts of an iterator: one by one as far as the requester's credit goes, or in one array to
 * a requester that takes no stream. Resolves with the error that ended it, or null.
 * @param {AsyncIterator<unknown> | Iterator<unknown>} iterator
 * @param {import('./work.js').Work} work
 * @param {{ step: (f: Function) => unknown, answers: object }} how `step` calls into the handler
 */
async function answerInParts(iterator, work, { step, answers }) {
  const parts = work.credit === null ? new Collected(work, answers) : new Streamed(work, answers);
  const { onNews } = work;
  let closing = null;
  const close = () => {
    closing ??= (async () => step(() => iterator.return?.()))().catch((error) => answers.report(error));
    return closing;
  };
  // At once, because an iterator may wait for something that never comes.
  work.onNews = () => {
    if (work.lost !== null) void close();
    onNews?.();
  };
  let error = null;
  // An iterator that has ended, or failed, is not closed.
  let isOpen = true;
  let isFaulty = false;
  try {
    for (let count = 1; ; count += 1) {
      isOpen = false;
      const { done, value } = await step(() => iterator.next());
      isOpen = !done;
      if (done || work.lost !== null) break;
      // Those of a synchronous generator may be promises.
      const part = await value;
      isFaulty = true;
      await parts.add(part);
      isFaulty = false;
      if (count % PARTS_PER_TURN === 0) await new Promise(setImmediate);
      if (work.lost !== null) break;
    }
    isFaulty = true;
    await parts.end();
  } catch (thrown) {
    error = thrown;
    if (work.lost === null) {
      // A value that cannot be sent is a fault on this side, of which its program learns too.
      if (isFaulty && !(thrown instanceof Overflow)) answers.report(thrown);
      answers.fail(work.message, thrown instanceof Overflow ? failure('limit_exceeded', thrown) : failureOf(thrown));
    }
  }
  if (isOpen || closing !== null) await close();
  return error;
}

/** Parts that are sent as they come. */
class Streamed {
  constructor(work, answers) {
    this.work = work;
    this.answers = answers;
    this.sent = 0;
  }

  async add(value) {
    const { work, answers } = this;
    if (work.credit === 0) await work.whenCredit();
    await answers.whenRoom();
    if (work.lost !== null) return;
    const isLent = answers.part(work.message, answers.encode(value), { seq: this.sent });
    work.credit -= 1;
    this.sent += 1;
    // Only then does the generator go on, which may use the memory of this part for the next.
    if (isLent) await answers.whenReturned();
  }

  async end() {
    await this.answers.whenRoom();
    if (this.work.lost === null) this.answers.part(this.work.message, 'null', { seq: this.sent, end: true });
  }
}

/**
 * Parts that are sent together. They are kept as they are sent, so that their number is bounded by what a frame can
 * hold.
 */
class Collected {
  constructor(work, answers) {
    this.work = work;
    this.answers = answers;
    this.texts = [];
    this.attachments = [];
    this.bytes = 0;
    this.bytesMax = answers.payloadBytesMax(work.message);
  }

  async add(value) {
    const encoded = this.answers.encode(value);
    const { text, attachments } = typeof encoded === 'string' ? { text: encoded, attachments: [] } : encoded;
    this.bytes += Buffer.byteLength(text) + 1;
    for (const attachment of attachments) {
      attachment.keys.push(this.texts.length);
      // A generator may use the memory of one part again for the next.
      attachment.data = attachment.data.slice();
      this.attachments.push(attachment);
      this.bytes += attachment.data.length + paddingOf(attachment.data.length) + BIN_ENTRY_BYTES;
    }
    if (this.attachments.length > ATTACHMENTS_MAX) {
      throw new Overflow(`the parts of this answer have more than ${ATTACHMENTS_MAX} binary values together; ask for a `
        + 'stream');
    }
    if (this.bytes > this.bytesMax) {
      throw new Overflow(`the parts of this answer have more than ${this.bytesMax} bytes together; ask for a stream`);
    }
    this.texts.push(text);
  }

  async end() {
    if (this.work.lost !== null) return;
    const text = `[${this.texts.join(',')}]`;
    this.answers.encoded(this.work.message, this.attachments.length === 0 ? text : new Encoded(text, this.attachments));
  }
}

module.exports = { partsOf, answerInParts };
