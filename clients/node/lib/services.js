'use strict';

const { IPCError, QueueFullError, textOf } = require('./errors.js');
const { asyncDispose } = require('./dispose.js');
const { tracing } = require('./tracing.js');

/** A channel whose requests this process answers, some at a time and the others in order behind them. */
class Service {
  /**
   * @param {string} channel
   * @param {(request: object) => unknown} handler
   * @param {{ concurrency: number, queueMax: number }} bounds
   * @param {{ respond: Function, stop: Function }} hooks
   */
  constructor(channel, handler, { concurrency, queueMax }, hooks) {
    this.channel = channel;
    this.handler = handler;
    this.concurrency = concurrency;
    this.queueMax = queueMax;
    this.hooks = hooks;
    this.running = 0;
    this.queue = [];
    this.idle = [];
    this.isStopped = false;
    this.connectionLost = new AbortController();
  }

  /** Serves no longer. What has begun is finished and answered. */
  close() {
    return this.hooks.stop(this);
  }

  async [asyncDispose]() {
    await this.close();
  }

  /** Answers to requests of a lost connection have nowhere to go: who waits is dropped, who runs is told. */
  forget() {
    this.queue = [];
    this.connectionLost.abort(new IPCError('CONNECTION_LOST', 'the connection this request came over is gone'));
    this.connectionLost = new AbortController();
    this.wakeIdle();
  }

  take(request) {
    if (this.running < this.concurrency) {
      void this.run(request);
    } else if (this.queue.length < this.queueMax) {
      this.queue.push(request);
    } else {
      this.hooks.respond(request, failure('limit_exceeded',
        new QueueFullError(`${this.queueMax} requests are waiting for this worker; send it again later`)));
    }
  }

  async run(request) {
    this.running += 1;
    const { signal } = this.connectionLost;
    Object.defineProperty(request, 'signal', { value: signal });
    if (tracing.serveStart.hasSubscribers) tracing.serveStart.publish({ channel: this.channel, request });
    let payload;
    let error = null;
    try {
      try {
        payload = await this.handler(request);
      } catch (thrown) {
        error = thrown;
        payload = failure('handler_failed', thrown);
      }
      if (!signal.aborted) this.hooks.respond(request, payload);
      if (tracing.serveEnd.hasSubscribers) tracing.serveEnd.publish({ channel: this.channel, request, error });
    } finally {
      this.running -= 1;
      const next = this.queue.shift();
      if (next !== undefined) this.take(next);
      this.wakeIdle();
    }
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

/** In the server's own words, so that the requester's client makes an error of it. */
function failure(code, thrown) {
  return { status: 'error', code, error: textOf(thrown) || 'the handler failed without a word' };
}

module.exports = { Service, failure };
