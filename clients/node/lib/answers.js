'use strict';

const { randomUUID } = require('node:crypto');
const { failure } = require('./handler_error.js');
const { MessageType } = require('./message.js');

// The server and the requester give the answer other ids, and there are the envelope's keys.
const ENVELOPE_BYTES = 2_048;

/** Sends the answers of services: whole, or part by part. */
class Answers {
  /** @param {import('./client.js').IPCClient} client */
  constructor(client) {
    this.client = client;
  }

  get stringify() {
    return this.client.options.stringify;
  }

  report(error) {
    this.client.report(error);
  }

  /** Sends an answer, or in its place an error if it cannot be sent. */
  whole(request, payload) {
    const { client } = this;
    if (!client.canSend) return;
    try {
      client.respond(request, payload);
    } catch (error) {
      client.report(error);
      this.fail(request, failure('handler_failed', error));
    }
  }

  /** Sends an error. */
  fail(request, payload) {
    const { client } = this;
    if (!client.canSend) return;
    try {
      client.respond(request, payload);
    } catch {
      // The queue is full, and the server answers the requester instead of this worker.
    }
  }

  /** Sends an answer that is JSON text already. */
  text(request, payloadJson) {
    const { client } = this;
    if (!client.canSend) return;
    client.dispatch(client.prepareText(request.channel_id, MessageType.RESPONSE, payloadJson, request.message_id));
  }

  /** Sends one part of an answer, or its end. */
  part(request, payload, meta) {
    const { client } = this;
    if (!client.canSend) return;
    const message = client.prepare(request.channel_id, MessageType.RESPONSE, payload, request.message_id, randomUUID());
    message.meta = meta;
    client.dispatch(message);
  }

  /** Resolves when the server reads what was sent, so that parts wait in their generators and not in memory. */
  async whenRoom() {
    const { connection, options } = this.client;
    if (connection !== null && connection.queuedBytes > options.slowBytes) await connection.whenFlushed();
  }

  /** Returns the bytes that the payload of an answer may have as JSON. */
  payloadBytesMax(request) {
    const { options, limits, appJson } = this.client;
    const frame = Math.min(options.maxFrameBytes, limits?.maxFrameBytes ?? Infinity);
    return Math.max(0, frame - ENVELOPE_BYTES - Buffer.byteLength(appJson) - Buffer.byteLength(request.channel_id));
  }
}

module.exports = { Answers };
