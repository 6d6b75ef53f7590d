'use strict';

// Node has the symbol since 18.18 and 20.4; compilers that translate `await using` for older ones use this name.
const asyncDispose = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose');

module.exports = { asyncDispose };
