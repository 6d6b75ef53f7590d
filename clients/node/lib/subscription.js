'use strict';

const { AbortedError, NotConnectedError } = require('./errors.js');
const { onAbort, offAbort, checkedSignal } = require('./abort.js');
const { nextTick } = require('./timers.js');

const BUFFER_MESSAGES = 1_024;
const BUFFER_BYTES = 16 * 1024 * 1024;

/**
 * The messages of a channel as an async iterable: `for await (const message of client.subscribe('news'))`. It survives
 * reconnects. It ends when the loop is left, by `unsubscribe()`, by its signal or by the client's `close()`, and with
 * an error if the client gives up.
 */
class Subscription {
  constructor(channel, options) {
    const { buffer = BUFFER_MESSAGES, bufferBytes = BUFFER_BYTES, onMessage, onRestored } = options;
    const signal = checkedSignal(options.signal);
    const { onEnd, onDrop, onError } = options;
    if (!(buffer >= 1 && bufferBytes >= 0)) throw new TypeError('buffer must be 1 or more, bufferBytes 0 or more');
    this.channel = channel;
    /** Number of messages that were dropped because the reader was too slow; the oldest go first. */
    this.dropped = 0;
    this.bufferMax = buffer;
    this.bufferBytesMax = bufferBytes;
    this.onRestored = onRestored;
    this.onMessage = onMessage;
    this.onEnd = onEnd;
    this.onDrop = onDrop;
    this.onError = onError;
    this.buffered = [];
    this.bufferedBytes = 0;
    this.first = 0;
    this.waiting = [];
    this.isEnded = false;
    this.error = null;
    this.isReady = false;
    /** Resolves when the server has confirmed. Everything published from then on is received. */
    this.ready = new Promise((resolve, reject) => {
      this.resolveReady = () => { this.isReady = true; resolve(); };
      this.rejectReady = reject;
    });
    // A program need not wait for it.
    this.ready.catch(() => {});
    if (signal) {
      this.signal = signal;
      this.onAbort = () => this.end(
        new AbortedError(`the subscription of '${channel}' was aborted`, { cause: signal.reason }));
      if (signal.aborted) nextTick(this.onAbort);
      else onAbort(signal, this.onAbort);
    }
  }

  /** Accepts a message. `bytes` is its size on the wire. */
  deliver(message, bytes) {
    if (this.onMessage !== undefined) {
      try {
        this.onMessage(message);
      } catch (error) {
        // An error here must affect neither other subscriptions of the channel nor the connection.
        this.onError(error);
      }
      return;
    }
    const reader = this.waiting.shift();
    if (reader !== undefined) {
      reader.resolve({ done: false, value: message });
      return;
    }
    this.buffered.push({ message, bytes });
    this.bufferedBytes += bytes;
    const { dropped } = this;
    while (this.isOverfull()) {
      this.shift();
      this.dropped += 1;
    }
    if (dropped === 0 && this.dropped > 0) this.onDrop(this);
  }

  /** The newest message is kept, regardless of its size. */
  isOverfull() {
    const length = this.buffered.length - this.first;
    return length > 1 && (length > this.bufferMax || this.bufferedBytes > this.bufferBytesMax);
  }

  // Removes messages without moving the others each time, which would take quadratic time for a slow reader.
  shift() {
    const { message, bytes } = this.buffered[this.first];
    this.buffered[this.first] = undefined;
    this.bufferedBytes -= bytes;
    this.first += 1;
    if (this.first * 2 > this.buffered.length) {
      this.buffered = this.buffered.slice(this.first);
      this.first = 0;
    }
    return message;
  }

  next() {
    if (this.first < this.buffered.length) return Promise.resolve({ done: false, value: this.shift() });
    if (this.isEnded) {
      const { error } = this;
      this.error = null;
      return error === null ? Promise.resolve({ done: true, value: undefined }) : Promise.reject(error);
    }
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  return() {
    this.buffered = [];
    this.bufferedBytes = 0;
    this.first = 0;
    this.end(null);
    return Promise.resolve({ done: true, value: undefined });
  }

  unsubscribe() {
    this.end(null);
  }

  end(error) {
    if (this.isEnded) return;
    this.isEnded = true;
    if (this.signal) offAbort(this.signal, this.onAbort);
    if (!this.isReady) {
      this.rejectReady(error ?? new NotConnectedError(
        `the subscription of '${this.channel}' ended before a connection confirmed it`));
    }
    const [first, ...others] = this.waiting;
    this.waiting = [];
    if (first === undefined) this.error = error;
    else if (error === null) first.resolve({ done: true, value: undefined });
    else first.reject(error);
    for (const reader of others) reader.resolve({ done: true, value: undefined });
    this.onEnd(this);
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

module.exports = { Subscription };
