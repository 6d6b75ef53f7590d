'use strict';

const { QueueFullError } = require('./errors.js');
const { failure, failureOf } = require('./handler_error.js');
const { answerInParts, partsOf } = require('./stream_answer.js');
const { Context } = require('./context.js');
const { Work } = require('./work.js');
const { WORK } = require('./message.js');
const { asyncDispose } = require('./dispose.js');
const { tracing } = require('./tracing.js');
const { now } = require('./timers.js');

/** The service whose handler is being called. After its first `await` a handler is not known any more. */
let current = null;

/** Calls a handler, or goes on with its generator, and notes that for the time until it returns. */
function call(service, work, f, ...values) {
  const outer = current;
  current = service;
  try {
    return work.enter(f, ...values);
  } finally {
    current = outer;
  }
}

// Places of cancelled work in a queue that are given up together.
const QUEUE_GAPS = 64;

/** The most requests for which a worker may ask the server at a time. */
const ANNOUNCED_MAX = 65_536;

/** A channel whose requests this process answers. Some are handled at a time, and the others wait in order. */
class Service {
  /**
   * @param {string} channel
   * @param {(request: object) => unknown} handler
   * @param {{ concurrency: number, prefetch: number | null, queueMax: number, queueBytes: number,
   *   onNotification?: Function }} options
   * @param {{ answers: import('./answers.js').Answers, works?: Map<string, Work>, stop: Function, report: Function,
   *   onDrop: Function }} hooks `works` finds the work that the server speaks of
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
    this.context = new Context(() => new Work());
    this.works = hooks.works ?? new Map();
    /** Number of notifications that were dropped because the queue was full; requests are refused instead. */
    this.dropped = 0;
    /** Number of messages that handlers are working on, and that wait for one. */
    this.running = 0;
    this.waiting = 0;
    /** Those that wait, in order, and among them those that were cancelled. */
    this.queue = [];
    this.queueBytes = 0;
    this.idle = [];
    this.stopping = null;
  }

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

  /** Accepts a message. `bytes` is its size on the wire; `hasCall` tells whether its `meta` is to be believed. */
  take(message, bytes, hasCall = false) {
    const isWaiting = this.running >= this.concurrency;
    if (!isWaiting || this.hasRoom(bytes)) {
      const work = this.context.resource();
      work.begin(message, bytes, this, hasCall);
      this.note(work);
      if (isWaiting) this.enqueue(work);
      else void this.run(work);
    } else if (message.isRequest()) {
      this.hooks.answers.refuse(message, failure('limit_exceeded',
        new QueueFullError(`${this.waiting} requests are waiting for this worker; send it again later`)));
    } else {
      this.dropped += 1;
      if (this.dropped === 1) this.hooks.onDrop(this);
    }
  }

  /** A message that is larger than all the room may wait alone, as in the other clients. */
  hasRoom(bytes) {
    return this.waiting < this.queueMax && (this.waiting === 0 || this.queueBytes + bytes <= this.queueBytesMax);
  }

  /** The server's ids are all different, but a server is not to be believed. */
  note(work) {
    const { message_id: id } = work.message;
    work.key = this.works.has(id) ? work : id;
    this.works.set(work.key, work);
  }

  enqueue(work) {
    this.queue.push(work);
    this.waiting += 1;
    this.queueBytes += work.bytes;
  }

  /** Drops work that waits, or tells the handler that works on it, that nobody waits for the answer any more. */
  lose(work, reason) {
    if (work.isRunning) {
      work.lose(reason);
      return;
    }
    work.lose(reason);
    this.leaveQueue(work);
    this.works.delete(work.key);
    // Its place in the queue is given up now and then, for the work behind it to be moved seldom.
    if (this.queue.length > 2 * this.waiting + QUEUE_GAPS) this.queue = this.queue.filter(({ lost }) => lost === null);
    this.wakeIdle();
  }

  leaveQueue(work) {
    this.waiting -= 1;
    this.queueBytes -= work.bytes;
  }

  async run(work) {
    const { message } = work;
    work.isRunning = true;
    this.running += 1;
    Object.defineProperty(message, WORK, { value: work });
    if (tracing.serveStart.hasSubscribers) work.trace(tracing.serveStart, { channel: this.channel, request: message });
    let error = null;
    try {
      error = message.isRequest() ? await this.answer(message, work) : await this.notice(message, work);
    } finally {
      if (tracing.serveEnd.hasSubscribers) {
        work.trace(tracing.serveEnd, { channel: this.channel, request: message, error });
      }
      work.finish();
      this.works.delete(work.key);
      this.running -= 1;
      this.next();
      this.wakeIdle();
    }
  }

  /** @returns the error that the handler threw, or null */
  async answer(request, work) {
    try {
      const payload = await call(this, work, this.handler, request);
      const parts = partsOf(payload);
      if (parts !== undefined) {
        return await answerInParts(parts, work, { step: (f) => call(this, work, f), answers: this.hooks.answers });
      }
      if (work.lost === null) this.hooks.answers.whole(request, payload);
      return null;
    } catch (thrown) {
      if (work.lost === null) this.hooks.answers.refuse(request, failureOf(thrown));
      return thrown;
    }
  }

  /** A notification has no answer, so an error of its handler is reported by this client. */
  async notice(notification, work) {
    try {
      await call(this, work, this.onNotification, notification);
      return null;
    } catch (thrown) {
      this.hooks.report(thrown);
      return thrown;
    }
  }

  /** Begins with the work that has waited longest, except for what nobody waits for any more. */
  next() {
    for (let work = this.queue.shift(); work !== undefined; work = this.queue.shift()) {
      if (work.lost !== null) continue;
      this.leaveQueue(work);
      if (work.deadline === Infinity || work.deadline > now()) {
        void this.run(work);
        return;
      }
      this.works.delete(work.key);
    }
  }

  wakeIdle() {
    if (this.running > 0 || this.waiting > 0) return;
    const waiting = this.idle;
    this.idle = [];
    for (const wake of waiting) wake();
  }

  whenIdle() {
    if (this.running === 0 && this.waiting === 0) return Promise.resolve();
    return new Promise((resolve) => this.idle.push(resolve));
  }
}

module.exports = { Service };
