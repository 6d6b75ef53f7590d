'use strict';

// The option `replacer`, which is that of `JSON.stringify` but for binary values: these stay what they are.

/**
 * Returns a copy of a payload in which the replacer has had its say.
 * @param {Function | readonly (string | number)[]} replacer as for `JSON.stringify`
 * @param {unknown} payload
 * @param {(value: object) => unknown} look returns what an object is found to be as a whole, null for one that JSON
 *   writes by itself, and undefined for one whose properties are written
 */
function replacedBy(replacer, payload, look) {
  const names = Array.isArray(replacer) ? [...new Set(replacer.map(String))] : null;
  const ancestors = new Set();

  const valueOf = (holder, key) => {
    let value = holder[key];
    // A binary value, and one that would be refused, goes to the replacer as it is, and not as its `toJSON`.
    const isWhole = value !== null && typeof value === 'object' && Boolean(look(value));
    if (!isWhole && (typeof value === 'object' || typeof value === 'bigint') && typeof value?.toJSON === 'function') {
      value = value.toJSON(key);
    }
    if (names === null) value = replacer.call(holder, key, value);
    if (value === null || typeof value !== 'object' || look(value) !== undefined || JSON.isRawJSON?.(value)) {
      return value;
    }
    if (ancestors.has(value)) throw new TypeError('it is a circular structure');
    ancestors.add(value);
    const copy = copyOf(value);
    ancestors.delete(value);
    return copy;
  };

  const copyOf = (value) => {
    if (Array.isArray(value)) return Array.from(value, (_, at) => valueOf(value, String(at)));
    const copy = Object.create(null);
    for (const key of names ?? Object.keys(value)) {
      const item = valueOf(value, key);
      // A list also gives members that an object has by its class, whose methods are no faults.
      if (typeof item === 'function' && !Object.hasOwn(value, key)) continue;
      if (names === null || item !== undefined) copy[key] = item;
    }
    return copy;
  };

  return valueOf({ '': payload }, '');
}

module.exports = { replacedBy };
