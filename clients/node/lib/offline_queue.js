'use strict';

const { QueueFullError } = require('./errors.js');

/** Messages that wait for the next connection, in order and within limits. */
class OfflineQueue {
  /** @param {{ messagesMax: number, bytesMax: number }} bounds */
  constructor({ messagesMax, bytesMax }) {
    this.messagesMax = messagesMax;
    this.bytesMax = bytesMax;
    this.outgoing = new Map();
    this.bytes = 0;
  }

  get size() { return this.outgoing.size; }

  /**
   * @param {{ id: string, channelJson: string, payloadJson: string, attachments?: { data: Uint8Array }[],
   *   replyTo: string | null }} message
   */
  push(message) {
    const { id, channelJson, payloadJson, attachments = [], replyTo } = message;
    let bytes = Buffer.byteLength(payloadJson) + channelJson.length + id.length + (replyTo?.length ?? 0);
    for (const { data } of attachments) bytes += data.length;
    if (this.outgoing.size >= this.messagesMax || this.bytes + bytes > this.bytesMax) {
      throw new QueueFullError(`there is no connection, and ${this.outgoing.size} messages of ${this.bytes} bytes `
        + 'are waiting for one; this one was not taken');
    }
    // Nobody knows how long the message waits, and the program may write to that memory meanwhile.
    for (const attachment of attachments) attachment.data = attachment.data.slice();
    this.outgoing.set(id, { message, bytes });
    this.bytes += bytes;
  }

  has(id) {
    return this.outgoing.has(id);
  }

  /** Removes a request whose caller has stopped waiting. Returns whether it was still here. */
  drop(id) {
    const queued = this.outgoing.get(id);
    if (queued === undefined) return false;
    this.outgoing.delete(id);
    this.bytes -= queued.bytes;
    return true;
  }

  /** Returns how many of them have no caller that waits for an answer. */
  messagesWithout(pending) {
    let count = 0;
    for (const id of this.outgoing.keys()) if (!pending.has(id)) count += 1;
    return count;
  }

  /** Empties the queue. */
  takeAll() {
    const all = [...this.outgoing.values()].map((queued) => queued.message);
    this.outgoing.clear();
    this.bytes = 0;
    return all;
  }
}

module.exports = { OfflineQueue };
