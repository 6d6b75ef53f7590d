'use strict';

const { FrameError, ServerError, TimeoutError, isServerError } = require('./errors.js');
const { failure } = require('./handler_error.js');
const { MessageType } = require('./message.js');
const { now } = require('./timers.js');

// Two processes count the same milliseconds a little differently.
const CLOCK_MS = 2;

// Codes after which the server closes the connection.
const CLOSING_CODES = new Set([
  'frame_too_large', 'not_connected', 'auth_failed', 'server_full', 'taken_over', 'shutting_down',
]);

/** All that a client receives: answers for its requests, work for its services, messages for its subscriptions. */
class Incoming {
  /** @param {import('./client.js').IPCClient} client */
  constructor(client) {
    this.client = client;
  }

  /** Handles a message. `bytes` is its size on the wire. */
  receive(message, bytes) {
    const { client } = this;
    if (message.reply_to) {
      if (message.meta?.seq !== undefined && client.connection?.hasCall) this.receivePart(message);
      else this.receiveAnswer(message);
    } else if (message.isResponse() && this.isRefusal(message)) {
      const refusal = new ServerError(message);
      const isTooLarge = refusal.code === 'frame_too_large';
      const error = isTooLarge ? client.connection.largest.explain(refusal) : refusal;
      if (CLOSING_CODES.has(refusal.code)) client.connection.fault ??= error;
      client.report(error);
    } else if (message.channel_id === 'system' && this.isControl(message)) {
      client.services.control(message.payload);
    } else {
      client.prove();
      const service = client.services.get(message.channel_id);
      if (service?.takes(message)) service.take(message, bytes, client.connection?.hasCall);
      else if (this.isForNobody(message)) client.services.refuse(message);
      else this.deliver(message, bytes);
    }
  }

  /** Handles a message whose attachments are not valid: whoever waits for it, on either side, is told. */
  receiveBad(message, error) {
    const { client } = this;
    const { reply_to: id } = message;
    if (id && client.pending.has(id)) {
      // The worker may go on to send parts, so it is told that nobody wants them.
      if (message.meta?.seq !== undefined) client.pending.giveUp(id, BadPart, error.message, error);
      else client.pending.take(id).reject(error);
      return;
    }
    // Nobody waits for it any more.
    if (id && client.pending.givenUp.has(id)) return;
    client.report(error);
    if (message.isRequest() && client.services.get(message.channel_id) !== undefined) {
      client.services.answers.fail(message, failure('handler_failed', error));
    }
  }

  /** A part for nobody is one of a stream that this client has left. */
  receivePart(message) {
    const { pending } = this.client;
    const entry = pending.get(message.reply_to);
    if (entry?.onPart !== undefined) {
      this.client.prove();
      entry.onPart(message);
    } else if (entry === undefined && message.meta.end === true) {
      pending.givenUp.delete(message.reply_to);
    }
  }

  /** Returns whether a message is the server's, about a request that this client answers. */
  isControl({ message_type: type, payload }) {
    return type === MessageType.NOTIFICATION && Boolean(this.client.connection?.hasCall)
      && (payload?.action === 'cancel' || payload?.action === 'credit');
  }

  receiveAnswer(message) {
    const { client } = this;
    const refusal = this.isRefusal(message) ? new ServerError(message) : null;
    const entry = client.pending.take(message.reply_to);
    if (entry !== undefined) {
      if (refusal === null) {
        if (!entry.isOwn) client.prove();
        entry.resolve(message);
      } else {
        entry.reject(this.isLate(entry, refusal) ? new TimeoutError(entry.lateness()) : refusal);
      }
    } else if (!client.pending.givenUp.delete(message.reply_to)) {
      if (refusal === null) {
        client.prove();
        client.emitSafely('response', message);
      } else if (refusal.code !== 'cancelled') {
        // That answers a cancel, whose request was forgotten when it was sent.
        client.report(refusal);
      }
    }
  }

  /** Returns whether the server was a little faster to say that the time is up which a caller gave to its request. */
  isLate({ deadline }, { code }) {
    return code === 'timeout' && deadline !== undefined && now() >= deadline - CLOCK_MS;
  }

  isRefusal(message) {
    const { client } = this;
    return client.connection !== null && client.connection.isOurs && isServerError(message.payload);
  }

  /** Refuses a request on a channel that this client no longer serves. */
  isForNobody(message) {
    const { client } = this;
    return message.isRequest() && client.connection !== null && client.connection.isOurs
      && client.subscriptions.get(message.channel_id) === undefined && client.listenerCount('message') === 0;
  }

  deliver(message, bytes) {
    const { client } = this;
    client.subscriptions.deliver(message, bytes);
    if (client.listenerCount('message') > 0) client.emitSafely('message', message);
  }
}

/** A part of a stream whose attachments are not valid. */
class BadPart extends FrameError {
  constructor(message, options) {
    super('BAD_MESSAGE', message, options);
  }
}

module.exports = { Incoming };
