'use strict';

const { TIMER_MS_MAX } = require('./timers.js');

const FACTOR = 2;
// Enough doublings for any maximum. Infinity times a delay of 0 would not be a number.
const DOUBLINGS_MAX = 1_000;

/**
 * Delays between attempts. They double from `delay` to `delayMax`, and each is random between half of that and the
 * whole, so that the clients of a restarted server do not all reconnect at once. A connection alone resets nothing: a
 * peer may welcome every client and close. The delays begin anew when a connection has served something.
 */
class Backoff {
  /** @param {{ attempts: number, delay: number, delayMax: number, random?: () => number }} options */
  constructor({ attempts, delay, delayMax, random = Math.random }) {
    this.attempts = attempts;
    this.delay = delay;
    this.delayMax = Math.max(delay, delayMax);
    this.random = random;
    this.made = 0;
    this.rests = 0;
  }

  /** Returns the milliseconds before the next attempt, or null if there are no more. */
  next() {
    if (this.made >= this.attempts) return null;
    const whole = this.doubled(this.made);
    this.made += 1;
    return whole * (0.5 + this.random() / 2);
  }

  /** Notes that there are no more attempts until somebody asks for them, which a pool does by itself. */
  rest() {
    this.rests += 1;
  }

  /** The milliseconds that a pool waits after this client gave up before it asks again. */
  get restMs() {
    return this.doubled(Math.max(0, this.rests - 1));
  }

  doubled(times) {
    return Math.min(this.delay * FACTOR ** Math.min(times, DOUBLINGS_MAX), this.delayMax, TIMER_MS_MAX);
  }

  /** Allows all attempts again, because a caller asked for a connection. */
  restart() {
    this.made = 0;
  }

  /** Begins anew: a connection has served something. */
  reset() {
    this.made = 0;
    this.rests = 0;
  }
}

module.exports = { Backoff };
