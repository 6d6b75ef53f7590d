'use strict';

/** Returns a place in a payload as a program would write it. Numbers among the keys are indices of arrays. */
function placeOf(keys) {
  const steps = keys.map((key) => {
    if (typeof key === 'number') return `[${key}]`;
    return /^[\p{L}_$][\p{L}\p{N}_$]*$/u.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
  });
  return `payload${steps.join('')}`;
}

/** Returns a place in a payload as a JSON Pointer (RFC 6901). */
function pointerOf(keys) {
  return keys.map((key) => `/${typeof key === 'number' ? key : key.replace(/~/g, '~0').replace(/\//g, '~1')}`).join('');
}

module.exports = { placeOf, pointerOf };
