'use strict';

const { TIMER_MS_MAX } = require('./timers.js');

const FACTOR = 2;
// Enough doublings for any maximum. Infinity times a delay of 0 would not be a number.
const DOUBLINGS_MAX = 1_000;

/**
 * Delays between attempts. They double from `delay` to `delayMax`, and each is random between half of that and the
 * whole, so that the clients of a restarted server do not all reconnect at once.
 */
class Backoff {
  /** @param {{ attempts: number, delay: number, delayMax: number, random?: () => number }} options */
  constructor({ attempts, delay, delayMax, random = Math.random }) {
    this.attempts = attempts;
    this.delay = delay;
    this.delayMax = Math.max(delay, delayMax);
    this.random = random;
    this.made = 0;
  }

  /** Returns the milliseconds before the next attempt, or null if there are no more. */
  next() {
    if (this.made >= this.attempts) return null;
    // The timer keeps the process alive, because callers wait for the connection.
    const whole = Math.min(this.delay * FACTOR ** Math.min(this.made, DOUBLINGS_MAX), this.delayMax, TIMER_MS_MAX);
    this.made += 1;
    return whole * (0.5 + this.random() / 2);
  }

  reset() {
    this.made = 0;
  }
}

module.exports = { Backoff };
