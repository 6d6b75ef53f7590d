'use strict';

const { AsyncResource } = require('node:async_hooks');
const { TYPE } = require('./context.js');
const { runWithin } = require('./deadline.js');
const { CancelledError } = require('./errors.js');
const { counted, CREDIT_MAX, TTL_MS_MAX } = require('./extensions.js');
const { after, cancel, now } = require('./timers.js');

/**
 * A message that waits for a handler or that a handler is working on, and the async context of that call. Its signal is
 * made when the handler asks for it, which most handlers never do.
 */
class Work extends AsyncResource {
  constructor() {
    super(TYPE);
    this.message = null;
    this.bytes = 0;
    this.service = null;
    this.key = null;
    this.isRunning = false;
    /** True when the answer was sent or is not wanted any more, and the handler has returned. */
    this.isOver = false;
    /** The time at which the requester gives up, by the monotonic clock. */
    this.deadline = Infinity;
    /** Number of parts that may be sent; null if the requester takes no stream. */
    this.credit = null;
    this.controller = null;
    this.timer = undefined;
    /** The reason for which nobody waits for the answer any more, or null. */
    this.lost = null;
    /** Called when the work is lost, or gets credit. */
    this.onNews = null;
  }

  /** @param {object} message of which `meta` is only believed on a connection with the extension `call` */
  begin(message, bytes, service, hasCall) {
    this.message = message;
    this.bytes = bytes;
    this.service = service;
    if (hasCall && message.meta !== undefined) {
      const { ttl, stream } = message.meta;
      const milliseconds = counted(ttl, TTL_MS_MAX);
      if (milliseconds !== undefined) this.deadline = now() + milliseconds;
      this.credit = counted(stream) ?? null;
    }
  }

  get signal() {
    if (this.controller === null) {
      this.controller = new AbortController();
      if (this.lost !== null) this.controller.abort(this.lost);
      else if (this.deadline !== Infinity && !this.isOver) this.watchDeadline();
    }
    return this.controller.signal;
  }

  get remaining() {
    return this.deadline === Infinity ? Infinity : Math.max(0, this.deadline - now());
  }

  /** The server tells of the deadline too, unless it is late itself. */
  watchDeadline() {
    this.timer = after(this.remaining, () => this.lose(new CancelledError('deadline')));
    this.timer?.unref();
  }

  lose(reason) {
    if (this.lost !== null || this.isOver) return;
    this.lost = reason;
    cancel(this.timer);
    if (this.controller !== null) this.runInAsyncScope(() => this.controller.abort(reason));
    this.onNews?.();
  }

  addCredit(n) {
    const more = counted(n);
    if (this.credit === null || more === undefined) return;
    this.credit = Math.min(this.credit + more, CREDIT_MAX);
    this.onNews?.();
  }

  /** Resolves when parts may be sent, or nobody waits for them any more. */
  whenCredit() {
    if (this.credit > 0 || this.lost !== null) return Promise.resolve();
    return new Promise((resolve) => {
      const { onNews } = this;
      this.onNews = () => {
        if (this.credit > 0 || this.lost !== null) {
          this.onNews = onNews;
          resolve();
        }
        onNews?.();
      };
    });
  }

  /** Calls a function in the context of the handler, with the deadline that it has. */
  enter(f, ...values) {
    return this.runInAsyncScope(runWithin, undefined, this, f, values);
  }

  /** Traces in the context of the handler, so that what a tracer sets there is seen by the handler. */
  trace(channel, event) {
    this.runInAsyncScope(() => channel.publish(event));
  }

  finish() {
    this.isOver = true;
    cancel(this.timer);
  }
}

module.exports = { Work };
