'use strict';

// Finds places in JSON text that a parser does not show: the order of members, and keys that are given twice.

// No JSON that a server passes on is deeper.
const TOKENS_MAX = 1_000;

/** What is wrong with a text or a pointer. */
class Misplaced extends Error {}

/** Walks over text that a parser has accepted. */
class Walker {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  get code() {
    return this.text.charCodeAt(this.at);
  }

  skipSpace() {
    for (let { code } = this; code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09; { code } = this) {
      this.at += 1;
    }
  }

  /** Skips a character, or fails if there is another one. */
  expect(character) {
    this.skipSpace();
    if (this.text[this.at] !== character) throw new Misplaced('the JSON cannot be followed');
    this.at += 1;
    this.skipSpace();
  }

  skipString() {
    const { text } = this;
    let end = this.at;
    for (;;) {
      end = text.indexOf('"', end + 1);
      if (end === -1) throw new Misplaced('the JSON cannot be followed');
      let before = end;
      while (text.charCodeAt(before - 1) === 0x5c) before -= 1;
      if ((end - before) % 2 === 0) break;
    }
    this.at = end + 1;
  }

  key() {
    const begin = this.at;
    if (this.code !== 0x22) throw new Misplaced('the JSON cannot be followed');
    this.skipString();
    const key = this.text.slice(begin, this.at);
    return key.includes('\\') ? JSON.parse(key) : key.slice(1, -1);
  }

  skipValue() {
    let depth = 0;
    do {
      const { code } = this;
      if (code === 0x22) {
        this.skipString();
      } else if (code === 0x7b || code === 0x5b) {
        depth += 1;
        this.at += 1;
      } else if (code === 0x7d || code === 0x5d) {
        depth -= 1;
        this.at += 1;
      } else {
        this.skipPlain();
      }
    } while (depth > 0);
  }

  /** Skips numbers, words, commas and space up to a string or a bracket. */
  skipPlain() {
    const begin = this.at;
    for (;;) {
      const { code } = this;
      const isPlain = code === code && code !== 0x22 && code !== 0x2c && code !== 0x7b && code !== 0x5b && code !== 0x7d
        && code !== 0x5d;
      if (!isPlain) break;
      this.at += 1;
    }
    // Commas inside a value that is skipped.
    if (this.at === begin) {
      if (this.code !== 0x2c) throw new Misplaced('the JSON cannot be followed');
      this.at += 1;
    }
  }

  /** Calls `onMember` at the value of each member of an object; it has to move on to the end of that value. */
  members(onMember) {
    this.expect('{');
    if (this.code === 0x7d) {
      this.at += 1;
      return;
    }
    for (;;) {
      const key = this.key();
      this.expect(':');
      onMember(key);
      this.skipSpace();
      if (this.code === 0x7d) break;
      this.expect(',');
    }
    this.at += 1;
  }

  /** Does the same for the items of an array. */
  items(onItem) {
    this.expect('[');
    if (this.code === 0x5d) {
      this.at += 1;
      return;
    }
    for (let index = 0; ; index += 1) {
      onItem(index);
      this.skipSpace();
      if (this.code === 0x5d) break;
      this.expect(',');
    }
    this.at += 1;
  }
}

/**
 * Returns where in the text of an object the values of some of its members stand, as [begin, end] by key. Throws if one
 * of them is given twice.
 * @param {string} text
 * @param {number} begin
 * @param {readonly string[]} keys
 */
function membersOf(text, begin, keys) {
  const walker = new Walker(text);
  walker.at = begin;
  walker.skipSpace();
  const found = {};
  walker.members((key) => {
    const from = walker.at;
    walker.skipValue();
    if (!keys.includes(key)) return;
    if (found[key] !== undefined) throw new Misplaced(`'${key}' is given twice`);
    found[key] = [from, walker.at];
  });
  return found;
}

/** Returns the tokens of a JSON Pointer, or undefined if it is none. */
function tokensOf(pointer) {
  if (pointer === '') return [];
  if (!pointer.startsWith('/') || /~(?![01])|\p{Surrogate}/u.test(pointer)) return undefined;
  const tokens = pointer.slice(1).split('/');
  return tokens.length > TOKENS_MAX ? undefined : tokens.map((token) => token.replace(/~1/g, '/').replace(/~0/g, '~'));
}

/**
 * Checks that pointers lead to nulls of a JSON text, in the order in which these stand there, each to one of its own,
 * and over no key that is given twice. Reads the text once.
 * @param {string} text
 * @param {number} begin where the value stands that they lead into
 * @param {string[][]} pointers their tokens
 * @throws {Misplaced}
 */
function checkPlaces(text, begin, pointers) {
  const walker = new Walker(text);
  walker.at = begin;
  walker.skipSpace();
  visit(walker, pointers, 0);
}

/** Walks over a value to which all of the pointers lead, after so many of their tokens. */
function visit(walker, pointers, depth) {
  if (pointers[0].length === depth) {
    if (pointers.length > 1) throw new Misplaced('two pointers lead to the same place');
    if (!walker.text.startsWith('null', walker.at)) throw new Misplaced('a pointer leads to what is no null');
    walker.at += 'null'.length;
    return;
  }
  const groups = groupsOf(pointers, depth);
  let next = 0;
  const enter = (group) => {
    if (group !== groups[next]) throw new Misplaced('the pointers are not in the order of their nulls, or lead over a '
      + 'key that is given twice');
    next += 1;
    visit(walker, group.pointers, depth + 1);
  };
  if (walker.code === 0x7b) {
    const wanted = new Map(groups.map((group) => [group.token, group]));
    walker.members((key) => {
      const group = wanted.get(key);
      if (group === undefined) walker.skipValue();
      else enter(group);
    });
  } else if (walker.code === 0x5b) {
    let wanted = indexOf(groups[0].token);
    walker.items((index) => {
      if (index !== wanted) {
        walker.skipValue();
        return;
      }
      enter(groups[next]);
      wanted = next < groups.length ? indexOf(groups[next].token) : -1;
    });
  }
  if (next < groups.length) throw new Misplaced('a pointer leads nowhere');
}

/** Returns the index that a token names, or -1. */
function indexOf(token) {
  return /^(?:0|[1-9]\d{0,9})$/.test(token) ? Number(token) : -1;
}

/** Returns the pointers by their token at a depth. Those with the same one stand together. */
function groupsOf(pointers, depth) {
  const groups = [];
  for (const pointer of pointers) {
    const token = pointer[depth];
    const last = groups.at(-1);
    if (last !== undefined && last.token === token) last.pointers.push(pointer);
    else groups.push({ token, pointers: [pointer] });
  }
  return groups;
}

module.exports = { Misplaced, checkPlaces, membersOf, tokensOf };
