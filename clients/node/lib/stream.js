'use strict';

const { AbortedError, FrameError, TimeoutError } = require('./errors.js');
const { asyncDispose } = require('./dispose.js');
const { checkedCredit } = require('./extensions.js');
const { checkedOptions, requestOptions, REQUEST_OPTIONS } = require('./options.js');
const { TIMER_MS_MAX, after, afterReading, cancel } = require('./timers.js');

const OPTIONS = ['credit', ...REQUEST_OPTIONS];
// Parts that the worker may be ahead of the reader: enough to keep both busy, and little to hold in memory.
const CREDIT = 64;

/**
 * Sends a request whose answer comes in parts.
 * @param {import('./client.js').IPCClient} client
 * @returns {Stream}
 */
function openStream(client, channel, data, given = {}) {
  const { credit = CREDIT, ...options } = checkedOptions(typeof given === 'number' ? { timeout: given } : given ?? {},
    OPTIONS, 'stream');
  checkedCredit(credit);
  const { isGiven } = requestOptions(options);
  let id;
  const stream = new Stream(channel, {
    credit,
    // A timeout that the caller gave is for the whole. The client's own is for the time between two parts.
    pause: isGiven ? Infinity : client.options.requestTimeout,
    bytesRead: () => client.bytesRead,
    grant: (n) => client.control({ action: 'credit', message_id: id, n }),
    leave: () => client.pending.leave(id),
    complete: (message) => client.pending.take(id)?.resolve(message),
    giveUp: (ErrorClass, why) => client.pending.giveUp(id, ErrorClass, why),
  });
  id = client.begin(channel, data, options, (message) => stream.finish(message), (error) => stream.fail(error),
    { stream: credit, onPart: (message) => stream.take(message) });
  return stream;
}

/**
 * The parts of an answer as an async iterable: `for await (const part of client.stream('model', prompt))`. Leaving the
 * loop cancels the request. Each part that is read gives the worker the right to send another one, so that a slow
 * reader holds up its own worker and nothing else.
 */
class Stream {
  /**
   * @param {string} channel
   * @param {{ credit: number, pause: number, bytesRead: () => number, grant: Function, leave: Function,
   *   complete: Function, giveUp: Function }} how
   */
  constructor(channel, { credit, pause, ...hooks }) {
    this.channel = channel;
    this.pause = pause;
    this.hooks = hooks;
    /** Number of parts so far, which is the number of the next one. */
    this.received = 0;
    /** Number of parts that the other side may still send. */
    this.allowed = credit;
    /** Number of parts that were read and not given back as credit. */
    this.owed = 0;
    this.batch = Math.max(1, Math.floor(credit / 2));
    this.parts = [];
    this.first = 0;
    this.readers = [];
    this.isEnded = false;
    this.error = null;
    this.timer = undefined;
  }

  /** Takes a numbered frame of the other side's, which is a part or the end. */
  take(message) {
    const { seq, end } = message.meta;
    const isEnd = end === true;
    if (seq !== this.received || (end !== undefined && typeof end !== 'boolean')) {
      this.refuse(`the frame ${JSON.stringify(message.meta)} in place of part ${this.received}`);
    } else if (isEnd) {
      this.hooks.complete(message);
    } else if (this.allowed === 0) {
      this.refuse(`part ${seq}, for which it had no credit`);
    } else {
      this.received += 1;
      this.allowed -= 1;
      this.add(message);
    }
  }

  /** Takes what ends the stream and is no error. Without a number it is the only part. */
  finish(message) {
    if (this.isEnded) return;
    if (message.meta?.seq === undefined) this.add(message);
    this.end(null);
  }

  /** Ends the stream with an error, which comes after the parts that are here, unless the reader wants no more. */
  fail(error) {
    if (this.isEnded) return;
    if (error instanceof AbortedError) this.clear();
    this.end(error);
  }

  refuse(what) {
    this.hooks.giveUp(BadStream, `the server sent ${what} of the stream of '${this.channel}'; the stream was `
      + 'cancelled and the connection stays open');
  }

  add(message) {
    const reader = this.readers.shift();
    if (reader === undefined) this.parts.push(message);
    else this.hand(message, reader.resolve);
  }

  hand(message, resolve) {
    // Before the reader has it, so that an answer on its way is not held up by what the reader does with this part.
    this.owed += 1;
    if (this.owed >= this.batch && !this.isEnded) {
      this.allowed += this.owed;
      this.hooks.grant(this.owed);
      this.owed = 0;
    }
    resolve({ done: false, value: message });
  }

  next() {
    if (this.first < this.parts.length) return new Promise((resolve) => this.hand(this.shift(), resolve));
    if (this.isEnded) {
      const { error } = this;
      this.error = null;
      return error === null ? Promise.resolve({ done: true, value: undefined }) : Promise.reject(error);
    }
    this.watch();
    return new Promise((resolve, reject) => this.readers.push({ resolve, reject }));
  }

  // Removes parts without moving the others each time.
  shift() {
    const message = this.parts[this.first];
    this.parts[this.first] = undefined;
    this.first += 1;
    if (this.first === this.parts.length) this.clear();
    return message;
  }

  clear() {
    this.parts = [];
    this.first = 0;
  }

  /** Ends the iteration, and cancels the request unless it is done. */
  return() {
    this.clear();
    this.error = null;
    if (!this.isEnded) {
      this.end(null);
      this.hooks.leave();
    }
    return Promise.resolve({ done: true, value: undefined });
  }

  end(error) {
    this.isEnded = true;
    cancel(this.timer);
    const [first, ...others] = this.readers;
    this.readers = [];
    if (first === undefined) this.error = error;
    else if (error === null) first.resolve({ done: true, value: undefined });
    else first.reject(error);
    for (const reader of others) reader.resolve({ done: true, value: undefined });
  }

  /** Begins to wait for a part. A reader that is busy with something else waits for none. */
  watch() {
    if (this.pause > TIMER_MS_MAX) return;
    if (this.timer !== undefined) {
      this.timer.refresh();
      return;
    }
    this.timer = after(this.pause, () => {
      const { received } = this;
      afterReading(this.hooks.bytesRead, () => {
        if (this.isEnded || this.readers.length === 0 || this.received !== received) return;
        this.hooks.giveUp(TimeoutError, `Request timeout: no part of the stream of '${this.channel}' within `
          + `${this.pause} ms`);
      });
    });
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async [asyncDispose]() {
    await this.return();
  }
}

/** A frame of the server's that belongs nowhere in a stream. */
class BadStream extends FrameError {
  constructor(message) {
    super('BAD_MESSAGE', message);
  }
}

module.exports = { openStream };
