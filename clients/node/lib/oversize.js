'use strict';

const { ConnectionLostError, FrameError } = require('./errors.js');

// Each is larger than all before it, so they are few unless a program grows its messages byte by byte.
const RECORDS_MAX = 1_024;

/**
 * The messages of a connection that were the largest so far. The server refuses the first one that exceeds its limit,
 * which is larger than all before it, and reads nothing that was sent after it.
 */
class Largest {
  constructor() {
    this.bytes = 0;
    this.records = [];
  }

  /**
   * @param {{ bytes: number, id: string, type: string, channelJson: string, begun: number, oneWay: number }} record a
   *   message, the number of requests that had begun, and of messages without an answer that had been sent, itself
   *   included
   */
  add(record) {
    this.bytes = record.bytes;
    if (this.records.length === RECORDS_MAX) this.records.shift();
    this.records.push(record);
  }

  /**
   * Explains the server's refusal of a message that was too large. Its sentence says the message's bytes first, then
   * the limit.
   * @param {import('./errors.js').ServerError} refusal
   */
  explain(refusal) {
    const [bytes, limit] = (refusal.message.match(/\d+/g) ?? []).map(Number);
    const record = this.records.find((one) => one.bytes === bytes) ?? this.records.find((one) => one.bytes > limit)
      ?? this.records.at(-1);
    return record === undefined ? refusal : new TooLargeError(record, limit, refusal);
  }
}

/** The server has closed the connection because of one message, which `record` describes. */
class TooLargeError extends FrameError {
  constructor(record, limit, cause) {
    const allowed = limit === undefined ? 'its server allows' : `the ${limit} that its server allows`;
    super('FRAME_TOO_LARGE', `the ${record.type} on ${record.channelJson} with the message_id ${record.id} has `
      + `${record.bytes} bytes, more than ${allowed} (--max-frame-bytes): it was not carried out, and the server `
      + 'closed the connection; send it in parts, by a generator that serves a stream, or raise that limit',
    { fatal: true, cause });
    this.record = record;
  }

  /** Returns the error for a request that was in flight on the same connection. */
  errorFor(id, number) {
    if (id === this.record.id) return this;
    if (number > this.record.begun) {
      return new ConnectionLostError(`the server closed the connection and did not read this request, which was not `
        + `carried out: ${this.message}`, { cause: this });
    }
    return new ConnectionLostError(`the connection was lost before the answer came: ${this.message}; this request was `
      + 'sent before that one, and may or may not have been carried out', { cause: this });
  }

  /** Returns the error for messages that nobody waits for, of which so many were sent on the connection. */
  errorForOthers(sent) {
    return new ConnectionLostError(`the server closed the connection and did not read ${sent - this.record.oneWay} `
      + `publications, notifications and answers that were sent last: ${this.message}`, { cause: this });
  }
}

module.exports = { Largest, TooLargeError };
