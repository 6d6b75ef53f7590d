'use strict';

// Node fires a timer of more milliseconds at once.
const TIMER_MS_MAX = 2 ** 31 - 1;

/** Starts a timer. Returns undefined if `ms` is more than a timer can count, because that moment does not come. */
function after(ms, f) {
  return ms <= TIMER_MS_MAX ? setTimeout(f, ms) : undefined;
}

/** Starts a repeating timer in the same way. */
function every(ms, f) {
  return ms <= TIMER_MS_MAX ? setInterval(f, ms) : undefined;
}

/** Checks a timeout that a caller passed, and returns it as a number. */
function checkedTimeout(timeout) {
  if (typeof timeout !== 'number' || !(timeout >= 0)) {
    throw new TypeError(`timeout must be a number of milliseconds that is not negative, not ${String(timeout)}`);
  }
  return timeout;
}

module.exports = { TIMER_MS_MAX, after, every, checkedTimeout };
