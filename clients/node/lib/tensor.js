'use strict';

// Arrays of numbers beside JSON, and the element types that the wire has names for.

const os = require('node:os');
const { types } = require('node:util');
const { kind } = require('./kinds.js');

/** Missing before Node.js 24. */
const Float16 = globalThis.Float16Array;
const IS_BIG_ENDIAN = os.endianness() === 'BE';
const DIMENSIONS_MAX = 32;
// `toArray` makes an array for each row, and a shape such as [4294967295, 0] has as many rows as one likes.
const EMPTY_ROWS_MAX = 1_000_000;

/**
 * The element types: bytes of an element, the class of `data`, how many of its numbers an element has, and how an
 * element is read where that class does not do it.
 */
const DTYPES = new Map([
  ['bool', { bytes: 1, Data: Uint8Array, read: (data, at) => data[at] !== 0 }],
  ['u8', { bytes: 1, Data: Uint8Array }],
  ['i8', { bytes: 1, Data: Int8Array }],
  ['u16', { bytes: 2, Data: Uint16Array }],
  ['i16', { bytes: 2, Data: Int16Array }],
  ['u32', { bytes: 4, Data: Uint32Array }],
  ['i32', { bytes: 4, Data: Int32Array }],
  ['u64', { bytes: 8, Data: BigUint64Array }],
  ['i64', { bytes: 8, Data: BigInt64Array }],
  ['f16', Float16 === undefined ? { bytes: 2, Data: Uint16Array, read: (data, at) => fromHalf(data[at]) }
    : { bytes: 2, Data: Float16 }],
  ['bf16', { bytes: 2, Data: Uint16Array, read: (data, at) => fromBits(data[at] << 16) }],
  ['f32', { bytes: 4, Data: Float32Array }],
  ['f64', { bytes: 8, Data: Float64Array }],
  ['c64', { bytes: 8, Data: Float32Array, numbers: 2, read: (data, at) => [data[2 * at], data[2 * at + 1]] }],
  ['c128', { bytes: 16, Data: Float64Array, numbers: 2, read: (data, at) => [data[2 * at], data[2 * at + 1]] }],
]);

/** The element type of each class of typed arrays, by its name: a class of another realm has the same. */
const DTYPE_OF = new Map([
  ['Uint8Array', 'u8'], ['Uint8ClampedArray', 'u8'], ['Int8Array', 'i8'], ['Uint16Array', 'u16'], ['Int16Array', 'i16'],
  ['Uint32Array', 'u32'], ['Int32Array', 'i32'], ['BigUint64Array', 'u64'], ['BigInt64Array', 'i64'],
  ['Float16Array', 'f16'], ['Float32Array', 'f32'], ['Float64Array', 'f64'],
]);

const tagOf = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag).get;

/** Returns the name of a typed array's class, whatever its own properties say, and undefined for all other values. */
function arrayName(value) {
  return tagOf.call(value);
}

/** Returns the number of elements of a shape, or undefined if it is too large to be one. */
function sizeOf(shape) {
  let size = 1;
  for (const length of shape) size *= length;
  return Number.isSafeInteger(size) ? size : undefined;
}

/** Returns the bytes that the elements of a shape take. */
function bytesOf(dtype, shape) {
  return sizeOf(shape) * DTYPES.get(dtype).bytes;
}

/** Returns whether a value is a shape: at most 32 whole numbers from 0. */
function isShape(value) {
  if (!Array.isArray(value) || value.length > DIMENSIONS_MAX) return false;
  // Not by `every`, which skips the holes of an array.
  for (let at = 0; at < value.length; at += 1) if (!Number.isSafeInteger(value[at]) || value[at] < 0) return false;
  return sizeOf(value) !== undefined;
}

/** An array of numbers of one type and any number of dimensions, in C order: the last index changes fastest. */
class Tensor {
  /**
   * @param {{ dtype?: string, shape?: readonly number[], data: ArrayBufferView | ArrayBufferLike }} fields `data` is a
   *   typed array of the class that belongs to `dtype`, which is used as it is, or bytes in little-endian order.
   *   `dtype` is by default that of the typed array, and `shape` its length
   */
  constructor(fields) {
    if (fields === null || typeof fields !== 'object' || Array.isArray(fields) || ArrayBuffer.isView(fields)) {
      throw new TypeError('new Tensor takes an object { dtype, shape, data }, such as '
        + "{ dtype: 'f32', shape: [2, 3], data: new Float32Array(6) }");
    }
    const { data: given, dtype = DTYPE_OF.get(arrayName(given)) } = fields;
    const type = DTYPES.get(dtype);
    if (type === undefined) {
      throw new TypeError(`the dtype of a Tensor must be one of ${[...DTYPES.keys()].join(', ')}, not ${shown(dtype)}`);
    }
    const data = dataOf(given, dtype, type);
    const count = data.byteLength / type.bytes;
    const shape = fields.shape ?? [count];
    if (!isShape(shape)) {
      throw new TypeError(`the shape of a Tensor must be an array of at most ${DIMENSIONS_MAX} whole numbers from 0, `
        + `not ${shown(fields.shape)}`);
    }
    if (sizeOf(shape) !== count) {
      throw new RangeError(`a Tensor of the shape [${shape.join(', ')}] has ${sizeOf(shape)} elements of ${dtype}, and `
        + `its data has ${count}; give it a shape whose product is the number of elements`);
    }
    this.dtype = dtype;
    this.shape = Object.freeze([...shape]);
    this.data = data;
    Object.freeze(this);
  }

  /**
   * Returns the elements as arrays in arrays, or as the only element if there are no dimensions. Elements are numbers,
   * BigInts for i64 and u64, booleans, and pairs [real, imaginary].
   */
  toArray() {
    const { shape, data } = this;
    const { read = (numbers, at) => numbers[at] } = DTYPES.get(this.dtype);
    if (data.length === 0 && shape.length > 0) {
      const rows = shape.slice(0, shape.indexOf(0)).reduce((count, length) => count * length, 1);
      if (rows > EMPTY_ROWS_MAX) {
        throw new RangeError(`a Tensor of the shape [${shape.join(', ')}] has no elements, but too many rows for `
          + 'arrays; read its shape and data');
      }
    }
    let at = 0;
    const level = (depth) => {
      if (depth === shape.length) {
        const element = read(data, at);
        at += 1;
        return element;
      }
      const items = new Array(shape[depth]);
      for (let index = 0; index < items.length; index += 1) items[index] = level(depth + 1);
      return items;
    };
    return level(0);
  }

  /** Returns what peers get that know JSON alone: `{ $base64, dtype, shape }`. `JSON.stringify` calls it. */
  toJSON() {
    return { $base64: Buffer.from(toWire(this.data)).toString('base64'), dtype: this.dtype, shape: [...this.shape] };
  }
}

kind(Tensor, 'Tensor');

/** Returns the data of a Tensor: the array itself, or one over the given bytes, which are copied if they must be. */
function dataOf(given, dtype, { bytes, Data, numbers = 1 }) {
  const name = arrayName(given);
  // An element of one byte has no order, and one of two is a half in versions of Node.js that have no class for it.
  const isUsed = name === Data.name || (Data === Uint8Array && name === 'Uint8ClampedArray')
    || (dtype === 'f16' && name === 'Uint16Array');
  if (isUsed) {
    if (given.length % numbers !== 0) {
      throw new RangeError(`the data of a Tensor of ${dtype} has two numbers for each element, and ${given.length} is `
        + 'odd');
    }
    if (name === Data.name && given instanceof Data) return given;
    return new Data(given.buffer, given.byteOffset, given.byteLength / Data.BYTES_PER_ELEMENT);
  }
  if (name !== 'Uint8Array' && !types.isDataView(given) && !types.isAnyArrayBuffer(given)) {
    throw new TypeError(`the data of a Tensor of ${dtype} must be a ${Data.name} or bytes, not `
      + `${name ?? shown(given)}; ${Data.name}.from(values) makes one`);
  }
  const { byteLength } = given;
  if (byteLength % bytes !== 0) {
    throw new RangeError(`an element of ${dtype} has ${bytes} bytes, and ${byteLength} bytes are not a multiple of `
      + 'that');
  }
  const buffer = given.buffer ?? given;
  const offset = given.byteOffset ?? 0;
  const isInPlace = offset % Data.BYTES_PER_ELEMENT === 0 && !IS_BIG_ENDIAN;
  if (isInPlace) return new Data(buffer, offset, byteLength / Data.BYTES_PER_ELEMENT);
  return fromWire(new Uint8Array(buffer, offset, byteLength).slice(), Data);
}

/** Returns the bytes of a typed array in little-endian order: a view, or on a big-endian host a copy. */
function toWire(data, isSwapped = IS_BIG_ENDIAN) {
  const view = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return isSwapped ? swapped(view.slice(), data.BYTES_PER_ELEMENT) : view;
}

/** Returns bytes in little-endian order, which nobody else uses, as an array of the class `Data` over their memory. */
function fromWire(bytes, Data, isSwapped = IS_BIG_ENDIAN) {
  const size = Data.BYTES_PER_ELEMENT;
  if (isSwapped) swapped(bytes, size);
  return new Data(bytes.buffer, bytes.byteOffset, bytes.byteLength / size);
}

/** Turns round the bytes of each number in place. */
function swapped(bytes, size) {
  for (let at = 0; at + size <= bytes.length; at += size) bytes.subarray(at, at + size).reverse();
  return bytes;
}

const BITS = new DataView(new ArrayBuffer(4));

function fromBits(bits) {
  BITS.setInt32(0, bits);
  return BITS.getFloat32(0);
}

/** Returns the number whose half precision, by IEEE 754, has these bits. */
function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Returns a value as text for an error, however long or odd it is. */
function shown(value) {
  if (Array.isArray(value)) return `[${value.slice(0, DIMENSIONS_MAX + 1).map(String).join(', ')}]`;
  if (typeof value === 'string') return `'${value.slice(0, 40)}'`;
  if (value !== null && typeof value === 'object') return Object.prototype.toString.call(value).slice(8, -1);
  return String(value);
}

module.exports = { Tensor, DTYPES, DTYPE_OF, arrayName, bytesOf, isShape, sizeOf, toWire, fromWire, fromHalf };
