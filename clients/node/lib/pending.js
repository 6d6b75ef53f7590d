'use strict';

const { TimeoutError, AbortedError, QueueFullError } = require('./errors.js');
const { after, afterReading, cancel } = require('./timers.js');
const { onAbort, offAbort } = require('./abort.js');

// Number of given up requests that are remembered, so that their late answers are not reported.
const GIVEN_UP_KEPT = 1024;

/**
 * Requests in flight, by message id. However a request ends, its timer and its listener are removed. No entry holds
 * what it sent, so their number bounds their memory.
 */
class Pending {
  /**
   * @param {number} max
   * @param {() => number} bytesRead the number of bytes that the connection has read so far
   */
  constructor(max, bytesRead) {
    this.max = max;
    this.bytesRead = bytesRead;
    this.entries = new Map();
    /** Number of requests so far. */
    this.begun = 0;
    this.givenUp = new Set();
    this.idle = [];
  }

  get size() { return this.entries.size; }

  /**
   * @param {string} id
   * @param {{ timeout?: number, deadline?: number, signal?: AbortSignal, what: string, unbounded?: boolean,
   *   onGivenUp?: (isTimeout: boolean) => boolean, onPart?: (message: object) => void }} options one without a timeout
   *   waits for as long as the connection lives; `deadline` is the time at which the server gives it up too; requests
   *   of the client itself are `unbounded`; `onGivenUp` returns true if the request had not been sent; `onPart` gets
   *   the parts of a stream
   * @param {(message: import('./message.js').Message) => void} resolve
   * @param {(error: Error) => void} reject
   */
  add(id, { timeout, deadline, signal, what, onGivenUp, onPart, unbounded = false }, resolve, reject) {
    if (!unbounded && this.entries.size >= this.max) {
      throw new QueueFullError(`${this.max} requests are waiting for their answers; wait for some before the next`);
    }
    this.begun += 1;
    const lateness = () => `Request timeout: no answer to ${what} within ${Math.ceil(timeout)} ms`;
    const entry = {
      resolve, reject, timer: undefined, signal, onAbort: null, isOwn: unbounded, number: this.begun, onPart, onGivenUp,
      deadline, lateness,
    };
    entry.timer = after(timeout, () => afterReading(this.bytesRead,
      () => this.giveUp(id, TimeoutError, lateness())));
    if (signal) {
      entry.onAbort = () => {
        const { reason } = signal;
        const abort = () => this.giveUp(id, AbortedError, `${what} was aborted`, reason);
        // AbortSignal.timeout() is a timer too, and fires as late as any other.
        if (reason?.name === 'TimeoutError') afterReading(this.bytesRead, abort);
        else abort();
      };
      onAbort(signal, entry.onAbort);
    }
    this.entries.set(id, entry);
  }

  /** Rejects a request whose caller, or whose time, is over. */
  giveUp(id, ErrorClass, why, cause) {
    const entry = this.take(id);
    if (entry === undefined) return;
    this.remember(id);
    const wasSent = entry.onGivenUp?.(ErrorClass === TimeoutError) !== true;
    const fate = wasSent ? '' : '; it waited for a connection and was not sent';
    entry.reject(new ErrorClass(`${why}${fate}`, { cause }));
  }

  /** Forgets a request without a word to its caller, who has left. */
  leave(id) {
    const entry = this.take(id);
    if (entry === undefined) return;
    this.remember(id);
    entry.onGivenUp?.(false);
  }

  has(id) {
    return this.entries.has(id);
  }

  get(id) {
    return this.entries.get(id);
  }

  /** Removes and returns an entry. */
  take(id) {
    const entry = this.entries.get(id);
    if (entry === undefined) return undefined;
    this.entries.delete(id);
    cancel(entry.timer);
    if (entry.onAbort !== null) offAbort(entry.signal, entry.onAbort);
    if (this.entries.size === 0) this.wakeIdle();
    return entry;
  }

  /**
   * Rejects all requests, or those for which `which` is true.
   * @param {(id: string, number: number) => Error} makeError is given the request's place in the order of all
   * @param {(id: string) => boolean} [which]
   */
  rejectAll(makeError, which = () => true) {
    for (const id of [...this.entries.keys()]) {
      const entry = which(id) ? this.take(id) : undefined;
      if (entry !== undefined) entry.reject(makeError(id, entry.number));
    }
  }

  /** Resolves when no request is in flight. */
  whenIdle() {
    if (this.entries.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.idle.push(resolve));
  }

  wakeIdle() {
    const waiting = this.idle;
    this.idle = [];
    for (const wake of waiting) wake();
  }

  remember(id) {
    this.givenUp.add(id);
    if (this.givenUp.size > GIVEN_UP_KEPT) this.givenUp.delete(this.givenUp.values().next().value);
  }
}

module.exports = { Pending };
