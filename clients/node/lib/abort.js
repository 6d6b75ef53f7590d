'use strict';

// Adds one listener to a signal for any number of waiters: Node reports the eleventh listener as a leak, and programs
// do pass one signal to all their requests. The listener is removed with the last waiter.
const waiting = new WeakMap();

/** Calls `f` when the signal fires, until `offAbort`. */
function onAbort(signal, f) {
  let entry = waiting.get(signal);
  if (entry === undefined) {
    const callbacks = new Set();
    const listener = () => {
      waiting.delete(signal);
      for (const callback of callbacks) callback();
    };
    entry = { callbacks, listener };
    waiting.set(signal, entry);
    signal.addEventListener('abort', listener, { once: true });
  }
  entry.callbacks.add(f);
}

function offAbort(signal, f) {
  const entry = waiting.get(signal);
  if (entry === undefined || !entry.callbacks.delete(f) || entry.callbacks.size > 0) return;
  waiting.delete(signal);
  signal.removeEventListener('abort', entry.listener);
}

/** Checks a signal that a caller passed, which may be undefined or of a polyfill. */
function checkedSignal(signal) {
  if (signal === undefined || signal === null) return undefined;
  if (typeof signal.addEventListener !== 'function' || typeof signal.aborted !== 'boolean') {
    throw new TypeError('signal must be an AbortSignal, such as the `signal` of an AbortController');
  }
  return signal;
}

module.exports = { onAbort, offAbort, checkedSignal };
