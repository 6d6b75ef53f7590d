'use strict';

// Patterns of channels, and what a subscription asks of the server beyond what comes.

const { IPCError } = require('./errors.js');
const { counted } = require('./extensions.js');

/** The options of a subscription that only servers with the extension `topic` know. */
const TOPIC_OPTIONS = ['last', 'since', 'conflate'];
const LAST_MAX = 2 ** 31;

/**
 * Returns a function that tells whether a channel matches. A token `*` stands for one token, and `>` at the end for one
 * or more. Channels that begin with `$`, and `system`, are matched only by a pattern whose first token is the same.
 */
function matcher(pattern) {
  const tokens = pattern.split('.');
  const isOpen = tokens.at(-1) === '>';
  if (isOpen) tokens.pop();
  return (channel) => {
    const given = channel.split('.');
    if (isOpen ? given.length <= tokens.length : given.length !== tokens.length) return false;
    if ((channel.startsWith('$') || channel === 'system') && tokens[0] !== given[0]) return false;
    return tokens.every((token, at) => token === '*' || token === given[at]);
  };
}

/** Checks what a caller asks for, and returns it: `last`, `since` and `conflate`. */
function checkedWish({ last, since, conflate = false }, isPattern) {
  if (last !== undefined && (typeof last !== 'number' || counted(last, LAST_MAX) === undefined)) {
    throw new TypeError(`last must be an integer from 1, the number of messages wanted, not ${String(last)}`);
  }
  if (since !== undefined) {
    if (isPattern) throw new TypeError('a pattern has no place in a history: give last, or subscribe to each channel');
    if (since === null || typeof since.epoch !== 'string' || !Number.isSafeInteger(since.offset) || since.offset < 0) {
      throw new TypeError('since must be { epoch, offset }, as a message has them; offset 0 is before the first');
    }
  }
  if (typeof conflate !== 'boolean') throw new TypeError('conflate must be a boolean');
  return { last, since: since && { epoch: since.epoch, offset: since.offset }, conflate };
}

/** Returns the error for what only a server with the extension `topic` can do. */
function unsupported(what, instead) {
  return new IPCError('UNSUPPORTED', `the server does not know ${what}, for it is older than they are or the published `
    + `one: ${instead}, or connect to a server that has the extension 'topic'`);
}

module.exports = { TOPIC_OPTIONS, matcher, checkedWish, unsupported };
