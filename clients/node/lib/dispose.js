'use strict';

// The symbol exists since Node 18.18 and 20.4. Compilers that translate `await using` for older ones use this name.
const asyncDispose = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose');

module.exports = { asyncDispose };
