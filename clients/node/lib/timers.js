'use strict';

// Node fires a timer of more milliseconds at once.
const TIMER_MS_MAX = 2 ** 31 - 1;
// Node reads up to 32 buffers of 64 KiB from a socket in a turn of its loop: a turn that reads less has emptied it.
const TURN_BYTES = 1024 * 1024;
// More than the kernel keeps for one connection. A peer that never stops sending postpones nothing for ever.
const BACKLOG_BYTES = 64 * 1024 * 1024;

/** Starts a timer. Returns undefined if `ms` is more than a timer can count, because that moment does not come. */
function after(ms, f) {
  return ms <= TIMER_MS_MAX ? setTimeout(f, ms) : undefined;
}

/** Starts a repeating timer in the same way. */
function every(ms, f) {
  return ms <= TIMER_MS_MAX ? setInterval(f, ms) : undefined;
}

/**
 * Calls `judge` once the loop has read what has arrived by now. Every timer that decides about a peer uses it: after a
 * long computation or a stopped process the loop runs overdue timers before it reads what came in time.
 * @param {() => number} bytesRead the number of bytes that the connection has read so far
 * @param {() => void} judge
 */
function afterReading(bytesRead, judge) {
  const start = bytesRead();
  let before = start;
  const turn = () => {
    const now = bytesRead();
    if (now - before < TURN_BYTES || now - start > BACKLOG_BYTES) {
      judge();
      return;
    }
    before = now;
    setImmediate(turn);
  };
  setImmediate(turn);
}

/** Checks a timeout that a caller passed, and returns it as a number. */
function checkedTimeout(timeout) {
  if (typeof timeout !== 'number' || !(timeout >= 0)) {
    throw new TypeError(`timeout must be a number of milliseconds that is not negative, not ${String(timeout)}`);
  }
  return timeout;
}

module.exports = { after, every, afterReading, checkedTimeout, TIMER_MS_MAX };
