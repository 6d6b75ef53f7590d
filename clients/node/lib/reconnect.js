'use strict';

const { TIMER_MS_MAX } = require('./timers.js');

const FACTOR = 2;
// Enough for any maximum; infinity times a delay of 0 is no number.
const DOUBLINGS_MAX = 1_000;

/**
 * Delays between attempts: doubling from `delay` to `delayMax`, each between half and the whole of that, so that the
 * clients of a server that came back do not all knock at once.
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

  /** Milliseconds to wait before the next attempt, or null where all are used up. */
  next() {
    if (this.made >= this.attempts) return null;
    // The next attempt does come: without one, who waits for the connection would wait for nothing.
    const whole = Math.min(this.delay * FACTOR ** Math.min(this.made, DOUBLINGS_MAX), this.delayMax, TIMER_MS_MAX);
    this.made += 1;
    return whole * (0.5 + this.random() / 2);
  }

  reset() {
    this.made = 0;
  }
}

module.exports = { Backoff };
