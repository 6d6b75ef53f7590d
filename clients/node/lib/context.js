'use strict';

const { AsyncResource } = require('node:async_hooks');
const { EventEmitter } = require('node:events');

const TYPE = 'ipc-framework';
// The context in which this package was loaded. Connections are made in it, and not in the context of whichever caller
// happens to need one: it would keep that caller's store alive for as long as the connection lives.
const outside = new AsyncResource(TYPE);

/** Calls a function outside of the caller's async context, which AsyncLocalStorage shows. */
function runOutside(f) {
  return outside.runInAsyncScope(f);
}

/**
 * The async context of the code that makes it. Callbacks run in the context of whoever registered them, and not in that
 * of the connection over which their message came.
 */
class Context {
  /** @param {() => AsyncResource} [fork] makes the resource of a call */
  constructor(fork = () => new AsyncResource(TYPE)) {
    this.origin = new AsyncResource(TYPE);
    this.fork = fork;
  }

  /**
   * Returns a resource of its own for one call. What the call does to its context, such as `enterWith`, does not reach
   * the next call.
   */
  resource() {
    return this.origin.runInAsyncScope(this.fork);
  }

  run(f, ...values) {
    return this.resource().runInAsyncScope(f, undefined, ...values);
  }
}

/** Returns a function that calls `f` in the current context; null and the like are returned as they are. */
function bound(f) {
  if (typeof f !== 'function') return f;
  const context = new Context();
  return function inContext(...values) {
    return context.resource().runInAsyncScope(f, this, ...values);
  };
}

/** An EventEmitter whose listeners run in the async context of whoever added them. */
class ContextEmitter extends EventEmitter {
  on(event, listener) {
    return super.on(event, this.#bind(listener));
  }

  addListener(event, listener) {
    return this.on(event, listener);
  }

  prependListener(event, listener) {
    return super.prependListener(event, this.#bind(listener));
  }

  /** Node's own calls `this.on` with a wrapper that removes itself. */
  once(event, listener) {
    const wrapper = this.#bindOnce(event, listener);
    return super.on(event, wrapper);
  }

  prependOnceListener(event, listener) {
    return super.prependListener(event, this.#bindOnce(event, listener));
  }

  // EventEmitter finds a wrapper by its property `listener`, for `off` and `listeners`.
  #bind(listener) {
    if (typeof listener !== 'function') return listener;
    return Object.assign(bound(listener), { listener });
  }

  #bindOnce(event, listener) {
    if (typeof listener !== 'function') return listener;
    const inContext = bound(listener);
    const wrapper = (...values) => {
      this.removeListener(event, wrapper);
      return inContext.apply(this, values);
    };
    return Object.assign(wrapper, { listener });
  }
}

module.exports = { TYPE, Context, ContextEmitter, bound, runOutside };
