'use strict';

// Node's timers fire at once for more.
const TIMER_MS_MAX = 2 ** 31 - 1;

/** A timer, or undefined where `ms` is more than one can count: what is that far off does not happen. */
function after(ms, f) {
  return ms <= TIMER_MS_MAX ? setTimeout(f, ms) : undefined;
}

/** The same for what happens again and again. */
function every(ms, f) {
  return ms <= TIMER_MS_MAX ? setInterval(f, ms) : undefined;
}

/** A timeout that a caller gave, as a number. */
function checkedTimeout(timeout) {
  if (typeof timeout !== 'number' || !(timeout >= 0)) {
    throw new TypeError(`timeout must be a number of milliseconds that is not negative, not ${String(timeout)}`);
  }
  return timeout;
}

module.exports = { TIMER_MS_MAX, after, every, checkedTimeout };
