'use strict';

const { EventEmitter } = require('node:events');
const { AbortedError, NotConnectedError } = require('./errors.js');
const { onAbort, offAbort, checkedSignal } = require('./abort.js');
const { ContextEmitter } = require('./context.js');
const { MessageType } = require('./message.js');
const { checkedWish } = require('./patterns.js');
const { nextTick } = require('./timers.js');

const BUFFER_MESSAGES = 1_024;
const BUFFER_BYTES = 16 * 1024 * 1024;
// Channels of a pattern whose places are known; the oldest are forgotten first.
const PLACES_MAX = 65_536;

/**
 * The messages of a channel, or of the channels of a pattern, as an async iterable: `for await (const message of
 * client.subscribe('news'))`. It survives reconnects. It ends when the loop is left, by `unsubscribe()`, by its signal
 * or by the client's `close()`, and with an error if the client gives up. Its events `gap` and `resumed` say what it
 * missed.
 */
class Subscription extends ContextEmitter {
  /**
   * @param {string} name the channel or the pattern
   * @param {object} options what callers give, and `isPattern`, `isLenient`, `onMessage`, `onStart`, `onGap`, `onEnd`,
   *   `onDrop`, `onError`, `onTold`. A lenient one takes what a server without the extension `topic` has; `onStart`
   *   gets the place from which it begins, and the number of kept messages that follow
   */
  constructor(name, options) {
    super({ captureRejections: true });
    const { buffer = BUFFER_MESSAGES, bufferBytes = BUFFER_BYTES, onMessage } = options;
    const { isPattern = false, isLenient = false } = options;
    const signal = checkedSignal(options.signal);
    const { onStart, onGap, onEnd, onDrop, onError, onTold } = options;
    if (!(buffer >= 1 && bufferBytes >= 0)) throw new TypeError('buffer must be 1 or more, bufferBytes 0 or more');
    this.channel = name;
    /** Number of messages that were dropped because the reader was too slow; the oldest go first. */
    this.dropped = 0;
    this.isPattern = isPattern;
    Object.assign(this, checkedWish(options, isPattern));
    this.needsTopic = isPattern || (!isLenient && (this.hasWish || this.conflate));
    /**
     * How far it has come in the history of each channel: `{ epoch, offset, turn, id }`. A channel without a history
     * has no epoch, and `id` is that of its last value.
     */
    this.places = new Map();
    if (this.since !== undefined) this.places.set(name, { ...this.since, turn: 0, id: null });
    /** Number of times that the server has agreed to send what it keeps. */
    this.turn = 0;
    /** True until the server has said from where on it sends. */
    this.isHeld = this.hasWish;
    this.bufferMax = buffer;
    this.bufferBytesMax = bufferBytes;
    this.onMessage = onMessage;
    this.onStart = onStart;
    this.onGap = onGap;
    this.onEnd = onEnd;
    this.onDrop = onDrop;
    this.onError = onError;
    this.onTold = onTold;
    this.buffered = [];
    this.bufferedBytes = 0;
    this.first = 0;
    /** Of each channel the entry that has not been read yet, where only the newest is wanted. */
    this.unread = new Map();
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
        new AbortedError(`the subscription of '${name}' was aborted`, { cause: signal.reason }));
      if (signal.aborted) nextTick(this.onAbort);
      else onAbort(signal, this.onAbort);
    }
  }

  /** True if it wants messages from before it. */
  get hasWish() {
    return this.last !== undefined || this.since !== undefined;
  }

  /** The place in the channel's history up to which everything has come or is known to be missing; null without one. */
  get place() {
    const place = this.places.get(this.channel);
    return place?.epoch === undefined ? null : { epoch: place.epoch, offset: place.offset };
  }

  placeOf(channel) {
    let place = this.places.get(channel);
    if (place === undefined) {
      if (this.places.size >= PLACES_MAX) this.places.delete(this.places.keys().next().value);
      place = { epoch: undefined, offset: 0, turn: 0, id: null };
      this.places.set(channel, place);
    }
    return place;
  }

  /**
   * Handles the server's answer: the newest message so far is at `offset`, and `kept` ones up to it follow.
   * @param {{ epoch?: string, offset: number, kept: number, isResumed: boolean }} answer `isResumed` if another
   *   connection came before
   */
  confirm(answer) {
    const { isReady: isKnown } = this;
    this.isHeld = false;
    this.turn += 1;
    this.settle(answer, isKnown);
    if (isKnown) return;
    this.onStart?.(this.place, this.place === null ? answer.kept : Math.max(0, answer.offset - this.place.offset));
    this.resolveReady();
  }

  settle({ epoch, offset: newest, kept, isResumed }, isKnown) {
    const { last = 0, channel } = this;
    if (this.isPattern) {
      if (isKnown && isResumed) this.tellOfGap(null, null, null, null);
      return;
    }
    const place = this.placeOf(channel);
    const { epoch: formerEpoch, offset: former } = place;
    const seen = this.place;
    // Whoever is new gets what it asked for, the others whatever comes.
    const from = newest - (isKnown ? kept : Math.min(kept, last));
    place.epoch = epoch;
    const mayMiss = isKnown ? isResumed || formerEpoch !== undefined : this.since !== undefined;
    if (epoch === undefined) {
      if (isKnown ? isResumed : mayMiss) this.tellOfGap(channel, null, seen, null);
    } else if (!mayMiss) {
      place.offset = Math.max(from, formerEpoch === epoch ? former : 0);
    } else if (formerEpoch !== epoch || former > newest) {
      place.offset = from;
      this.tellOfGap(channel, null, seen, this.place);
    } else if (former < newest - kept) {
      place.offset = from;
      this.tellOfGap(channel, from - former, seen, this.place);
    } else if (isResumed || !isKnown) {
      this.onTold(this, 'resumed', { channel, messages: newest - former, epoch, offset: newest });
    }
  }

  /** @param {object | null} from the place behind which it goes on */
  tellOfGap(channel, missed, seen, from) {
    const gap = { channel, pattern: this.isPattern ? this.channel : undefined, missed, seen, from };
    this.onGap?.(gap);
    this.onTold(this, 'gap', gap);
  }

  /** Returns whether it has not had a message yet, and notes how far it has come. */
  isNew(message) {
    const { channel_id: channel, epoch, offset } = message;
    if (offset === undefined) {
      if (!message.retained) return true;
      const place = this.placeOf(channel);
      // The last value, which comes again with each answer.
      const isAgain = place.id === message.message_id && place.turn !== this.turn;
      place.id = message.message_id;
      place.turn = this.turn;
      return !isAgain;
    }
    const place = this.placeOf(channel);
    if (place.epoch === epoch) {
      const { offset: former } = place;
      if (offset <= former) return false;
      place.offset = offset;
      if (offset > former + 1 && !this.conflate) {
        this.tellOfGap(channel, offset - former - 1, { epoch, offset: former }, { epoch, offset: offset - 1 });
      }
    } else {
      place.epoch = epoch;
      place.offset = offset;
    }
    return true;
  }

  /** Accepts a message. `bytes` is its size on the wire. */
  deliver(message, bytes) {
    // Requests and notifications come to whoever serves the channel, and have nothing to do with the subscription.
    if ((this.isHeld && message.message_type === MessageType.PUBLISH) || !this.isNew(message)) return;
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
    if (this.conflate && this.replaces(message, bytes)) return;
    const entry = { message, bytes };
    if (this.conflate) this.unread.set(message.channel_id, entry);
    this.buffered.push(entry);
    this.bufferedBytes += bytes;
    const { dropped } = this;
    while (this.isOverfull()) {
      this.shift();
      this.dropped += 1;
    }
    if (dropped === 0 && this.dropped > 0) this.onDrop(this);
  }

  /** Puts a message in the place of the one of its channel that the program has not read yet, if there is one. */
  replaces(message, bytes) {
    const entry = this.unread.get(message.channel_id);
    if (entry === undefined) return false;
    this.bufferedBytes += bytes - entry.bytes;
    Object.assign(entry, { message, bytes });
    return true;
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
    this.unread.delete(message.channel_id);
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
    this.unread.clear();
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

  [EventEmitter.captureRejectionSymbol](error) {
    this.onError(error);
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

module.exports = { Subscription };
