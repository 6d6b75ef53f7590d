'use strict';

const { encodePayload } = require('./payload.js');
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

  /** Returns a payload as `encodePayload` does, with the program's own functions. */
  encode(payload) {
    return encodePayload(payload, this.client.options);
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
      this.fail(request, failure(error.code === 'UNSUPPORTED' ? 'unsupported' : 'handler_failed', error));
    }
  }

  /** Sends an error, or reports that it cannot be sent. */
  refuse(request, payload) {
    this.fail(request, payload, (error) => this.report(error));
  }

  /** Sends an error. If the queue is full, the server answers the requester instead of this worker. */
  fail(request, payload, onUnsent = () => {}) {
    try {
      this.encoded(request, this.encodeFailure(payload));
    } catch (error) {
      onUnsent(error);
    }
  }

  /** Returns an error as JSON. Its form is the client's own, and only its details are the program's to write. */
  encodeFailure({ details, ...own }) {
    if (details === undefined) return JSON.stringify(own);
    try {
      const text = this.encode(details);
      if (typeof text !== 'string') throw new TypeError('the details of a HandlerError cannot hold binary values');
      return `${JSON.stringify(own).slice(0, -1)},"details":${text}}`;
    } catch (error) {
      this.report(error);
      return JSON.stringify(failure('handler_failed', error));
    }
  }

  /** Sends an answer that is encoded already. */
  encoded(request, encoded) {
    const { client } = this;
    if (!client.canSend) return;
    client.dispatch(client.prepareEncoded(request.channel_id, MessageType.RESPONSE, encoded, request.message_id));
  }

  /** Sends one part of an answer, or its end. Returns whether memory of the handler's is in use until it has left. */
  part(request, encoded, meta) {
    const { client } = this;
    if (!client.canSend) return false;
    const message = client.prepareEncoded(request.channel_id, MessageType.RESPONSE, encoded, request.message_id);
    message.meta = meta;
    const { connection } = client;
    const { lent } = connection;
    client.dispatch(message);
    return connection.lent > lent;
  }

  /** Resolves when the server reads what was sent, so that parts wait in their generators and not in memory. */
  async whenRoom() {
    const { connection, options } = this.client;
    if (connection !== null && connection.queuedBytes > options.slowBytes) await connection.whenFlushed();
  }

  /** Resolves when no part that was sent uses memory of a handler's. */
  async whenReturned() {
    await this.client.connection?.whenReturned();
  }

  /** Returns the bytes that the payload of an answer may have as JSON. */
  payloadBytesMax(request) {
    const { options, limits, appJson } = this.client;
    const frame = Math.min(options.maxFrameBytes, limits?.maxFrameBytes ?? Infinity);
    return Math.max(0, frame - ENVELOPE_BYTES - Buffer.byteLength(appJson) - Buffer.byteLength(request.channel_id));
  }
}

module.exports = { Answers };
