'use strict';

// One listener on a signal, however many wait for it: Node takes the eleventh for a leak and says so, and programs do
// give one signal to all their requests. It goes when nobody waits any more.
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

/** A signal that a caller gave, or undefined. One of a polyfill is one. */
function checkedSignal(signal) {
  if (signal === undefined || signal === null) return undefined;
  if (typeof signal.addEventListener !== 'function' || typeof signal.aborted !== 'boolean') {
    throw new TypeError('signal must be an AbortSignal, such as the `signal` of an AbortController');
  }
  return signal;
}

module.exports = { onAbort, offAbort, checkedSignal };
