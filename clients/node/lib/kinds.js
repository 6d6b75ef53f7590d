'use strict';

/**
 * Gives a class its name and makes `instanceof` hold across copies of this package: a process can hold the CommonJS and
 * the ES modules, two versions, or a bundle beside them, and pass the objects of one to the other. The name is written
 * out, because minifiers rename classes.
 * @param {Function} Class
 * @param {string} name
 */
function kind(Class, name) {
  const brand = Symbol.for(`ipc-framework.${name}`);
  Object.defineProperty(Class.prototype, brand, { value: true });
  Object.defineProperty(Class, 'name', { value: name, configurable: true });
  Object.defineProperty(Class, Symbol.hasInstance, {
    value(object) {
      // A class that extends this one has its own instances only.
      if (this !== Class) return Function.prototype[Symbol.hasInstance].call(this, object);
      return object !== null && typeof object === 'object' && brand in object;
    },
  });
}

/** Does the same for errors, whose `name` says what they are. */
function errorKind(Class, name) {
  kind(Class, name);
  Object.defineProperty(Class.prototype, 'name', { value: name, configurable: true, writable: true });
}

module.exports = { kind, errorKind };
