'use strict';

const { AsyncLocalStorage } = require('node:async_hooks');

/** The work in whose handler a request is made. */
const current = new AsyncLocalStorage();
// Programs whose requests have no deadlines do not pay for following them through promises.
let isFollowed = false;

/** Calls a function for work with a deadline, which the requests that it makes inherit. */
function runWithin(work, f, values) {
  if (work.deadline === Infinity && !isFollowed) return f(...values);
  isFollowed = true;
  return current.run(work, f, ...values);
}

/**
 * Returns the milliseconds that are left to the handler that runs, and Infinity outside of one. Work that goes on after
 * the answer is bound by no deadline any more.
 */
function timeLeft() {
  if (!isFollowed) return Infinity;
  const work = current.getStore();
  return work === undefined || work.isOver ? Infinity : work.remaining;
}

module.exports = { runWithin, timeLeft };
