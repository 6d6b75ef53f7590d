'use strict';

const { AsyncResource } = require('node:async_hooks');
const { IPCError, QueueFullError } = require('./errors.js');
const { failure, failureOf } = require('./handler_error.js');
const { TYPE, Context } = require('./context.js');
const { asyncDispose } = require('./dispose.js');
const { tracing } = require('./tracing.js');

/**
 * A message that a handler is working on, and the async context of that call. Its signal is made when the handler asks
 * for it, which most handlers never do.
 */
class InHand extends AsyncResource {
  constructor() {
    super(TYPE);
    this.controller = null;
    this.lost = null;
  }

  get signal() {
    if (this.controller === null) {
      this.controller = new AbortController();
      if (this.lost !== null) this.controller.abort(this.lost);
    }
    return this.controller.signal;
  }

  lose(reason) {
    this.lost = reason;
    if (this.controller !== null) this.runInAsyncScope(() => this.controller.abort(reason));
  }

  /** Traces in the context of the handler, so that what a tracer sets there is seen by the handler. */
  trace(channel, event) {
    this.runInAsyncScope(() => channel.publish(event));
  }
}

/** The service whose handler is being called. After its first `await` a handler is not known any more. */
let current = null;

/** Calls a handler, and notes that for the time until it returns. */
function call(service, hand, handler, message) {
  const outer = current;
  current = service;
  try {
    return hand.runInAsyncScope(handler, undefined, message);
  } finally {
    current = outer;
  }
}

/** The most requests for which a worker may ask the server at a time. */
const ANNOUNCED_MAX = 65_536;

/** A channel whose requests this process answers. Some are handled at a time, and the others wait in order. */
class Service {
  /**
   * @param {string} channel
   * @param {(request: object) => unknown} handler
   * @param {{ concurrency: number, prefetch: number | null, queueMax: number, queueBytes: number,
   *   onNotification?: Function }} options
   * @param {{ respond: Function, stop: Function, report: Function, onDrop: Function }} hooks
   */
  constructor(channel, handler, { concurrency, prefetch = null, queueMax, queueBytes, onNotification }, hooks) {
    this.channel = channel;
    this.handler = handler;
    this.onNotification = onNotification;
    this.concurrency = concurrency;
    /** The number of unanswered requests that the server hands out at a time; undefined for all at once. */
    this.announced = prefetch === null ? undefined : Math.min(Math.ceil(concurrency) + prefetch, ANNOUNCED_MAX);
    this.queueMax = queueMax;
    this.queueBytesMax = queueBytes;
    this.hooks = hooks;
    this.context = new Context(() => new InHand());
    /** Number of notifications that were dropped because the queue was full; requests are refused instead. */
    this.dropped = 0;
    this.inHand = new Set();
    this.queue = [];
    this.queueBytes = 0;
    this.idle = [];
    this.stopping = null;
  }

  get running() { return this.inHand.size; }
  get isStopped() { return this.stopping !== null; }

  takes(message) {
    return message.isRequest() || (this.onNotification !== undefined && message.isNotification());
  }

  /** True while its handler is being called. What is called by it must not wait for its end. */
  get isCurrent() { return current === this; }

  /** Stops serving. Requests that have begun are finished and answered. Its own handler does not wait for that. */
  close() {
    const finished = this.finish();
    if (!this.isCurrent) return finished;
    finished.catch((error) => this.hooks.report(error));
    return Promise.resolve();
  }

  /** Stops serving, and resolves when that is done. */
  finish() {
    this.stopping ??= this.hooks.stop(this);
    return this.stopping;
  }

  async [asyncDispose]() {
    await this.close();
  }

  /**
   * Handles a lost connection, whose requests cannot be answered: waiting ones are dropped, and the signals of running
   * ones fire.
   */
  forget() {
    this.queue = [];
    this.queueBytes = 0;
    const reason = new IPCError('CONNECTION_LOST', 'the connection this request came over is gone');
    for (const one of this.inHand) one.lose(reason);
    this.wakeIdle();
  }

  /** Accepts a message. `bytes` is its size on the wire. */
  take(message, bytes) {
    if (this.running < this.concurrency) {
      void this.run(message);
    } else if (this.hasRoom(bytes)) {
      this.queue.push({ message, bytes });
      this.queueBytes += bytes;
    } else if (message.isRequest()) {
      this.hooks.respond(message, failure('limit_exceeded',
        new QueueFullError(`${this.queue.length} requests are waiting for this worker; send it again later`)));
    } else {
      this.dropped += 1;
      if (this.dropped === 1) this.hooks.onDrop(this);
    }
  }

  /** A message that is larger than all the room may wait alone, as in the other clients. */
  hasRoom(bytes) {
    const { length } = this.queue;
    return length < this.queueMax && (length === 0 || this.queueBytes + bytes <= this.queueBytesMax);
  }

  async run(message) {
    const hand = this.context.resource();
    this.inHand.add(hand);
    Object.defineProperty(message, 'signal', { get: () => hand.signal });
    if (tracing.serveStart.hasSubscribers) hand.trace(tracing.serveStart, { channel: this.channel, request: message });
    let error = null;
    try {
      error = message.isRequest() ? await this.answer(message, hand) : await this.notice(message, hand);
    } finally {
      if (tracing.serveEnd.hasSubscribers) {
        hand.trace(tracing.serveEnd, { channel: this.channel, request: message, error });
      }
      this.inHand.delete(hand);
      this.next();
      this.wakeIdle();
    }
  }

  /** @returns the error that the handler threw, or null */
  async answer(request, hand) {
    let payload;
    let error = null;
    try {
      payload = await call(this, hand, this.handler, request);
    } catch (thrown) {
      error = thrown;
      payload = failureOf(thrown);
    }
    if (hand.lost === null) this.hooks.respond(request, payload);
    return error;
  }

  /** A notification has no answer, so an error of its handler is reported by this client. */
  async notice(notification, hand) {
    try {
      await call(this, hand, this.onNotification, notification);
      return null;
    } catch (thrown) {
      this.hooks.report(thrown);
      return thrown;
    }
  }

  next() {
    const waiting = this.queue.shift();
    if (waiting === undefined) return;
    this.queueBytes -= waiting.bytes;
    this.take(waiting.message, waiting.bytes);
  }

  wakeIdle() {
    if (this.running > 0 || this.queue.length > 0) return;
    const waiting = this.idle;
    this.idle = [];
    for (const wake of waiting) wake();
  }

  whenIdle() {
    if (this.running === 0 && this.queue.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.idle.push(resolve));
  }
}

module.exports = { Service };
