'use strict';

const nodeTimers = require('node:timers');
const { performance } = require('node:perf_hooks');

// Node's own, taken when this package is loaded. The global ones may be a test's fake ones, while sockets go on in real
// time, or those of a browser (jsdom, a window of Electron), which return numbers.
const { setTimeout, setInterval, setImmediate, clearTimeout } = nodeTimers;
const { nextTick } = process;

// Node fires a timer of more milliseconds at once.
const TIMER_MS_MAX = 2 ** 31 - 1;
// Node reads up to 32 buffers of 64 KiB from a socket in a turn of its loop: a turn that reads less has emptied it.
const TURN_BYTES = 1024 * 1024;
// More than the kernel keeps for one connection. A peer that never stops sending postpones nothing for ever.
const BACKLOG_BYTES = 64 * 1024 * 1024;

/** The milliseconds of the monotonic clock. */
const now = performance.now.bind(performance);

/** Starts a timer. Returns undefined if `ms` is more than a timer can count, because that moment does not come. */
function after(ms, f) {
  return ms <= TIMER_MS_MAX ? setTimeout(f, ms) : undefined;
}

/** Starts a repeating timer in the same way. */
function every(ms, f) {
  return ms <= TIMER_MS_MAX ? setInterval(f, ms) : undefined;
}

/** Stops a timer of `after` or `every`, if there is one. */
function cancel(timer) {
  clearTimeout(timer);
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
    const total = bytesRead();
    if (total - before < TURN_BYTES || total - start > BACKLOG_BYTES) {
      judge();
      return;
    }
    before = total;
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

module.exports = {
  after, every, cancel, now, nextTick, setImmediate, afterReading, checkedTimeout, TIMER_MS_MAX,
};
