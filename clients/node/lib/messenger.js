'use strict';

const { randomUUID } = require('node:crypto');
const { BinaryBody } = require('./binary_body.js');
const { Lifecycle } = require('./lifecycle.js');
const { encodeBody, addressed } = require('./codec.js');
const { TTL_MS_MAX, encodeMeta, readPlace } = require('./extensions.js');
const { checkedSignal } = require('./abort.js');
const { encodePayload } = require('./payload.js');
const { MessageType, isMessageType } = require('./message.js');
const { requestOptions } = require('./options.js');
const { bound } = require('./context.js');
const { timeLeft } = require('./deadline.js');
const { checkedTimeout, now } = require('./timers.js');
const { tracing } = require('./tracing.js');
const { AbortedError, NotConnectedError, TimeoutError } = require('./errors.js');

const SYSTEM = 'system';
const SYSTEM_JSON = JSON.stringify(SYSTEM);

// Message types that a client refuses while it is being closed, once its handlers have finished: until then they may
// ask and publish. Their answers are sent in any case.
const WORK = new Set([MessageType.REQUEST, MessageType.PUBLISH, MessageType.NOTIFICATION]);
// Message types in whose payload the sender's `connection_id` has a meaning.
const NAMES_SENDER = new Set([
  MessageType.REQUEST, MessageType.NOTIFICATION, MessageType.SUBSCRIBE, MessageType.UNSUBSCRIBE,
]);
// Message types for whose fate no request waits.
const ONE_WAY = new Set([MessageType.PUBLISH, MessageType.NOTIFICATION, MessageType.RESPONSE]);

/** All that a client sends: a message is prepared, then sent or kept for the next connection; a request also waits. */
class Messenger extends Lifecycle {
  /** Sends any message, and returns its id. The other methods use this. */
  sendMessage(channelId, messageType, payload, replyTo = null, how = undefined) {
    const message = this.prepare(channelId, messageType, payload, replyTo);
    message.meta = how?.meta;
    this.dispatch(message, how);
    return message.id;
  }

  prepare(channelId, type, payload, replyTo = null, id = randomUUID()) {
    return this.prepareEncoded(channelId, type, encodePayload(payload, this.options), replyTo, id);
  }

  /** Prepares a message of the client's own. The program's `replacer` and `stringify` are for its own payloads only. */
  prepareOwn(channelId, type, payload) {
    return this.prepareEncoded(channelId, type, JSON.stringify(payload));
  }

  /**
   * Prepares a message whose payload is encoded already.
   * @param {string | import('./payload.js').Encoded} encoded
   */
  prepareEncoded(channelId, type, encoded, replyTo = null, id = randomUUID()) {
    const channelJson = JSON.stringify(checkedChannel(channelId));
    if (!isMessageType(type)) throw new TypeError(`messageType must be one of MessageType, not ${String(type)}`);
    if (replyTo !== null && typeof replyTo !== 'string') throw new TypeError('replyTo must be a string or null');
    if (typeof encoded === 'string') {
      return { id, channelJson, type, payloadJson: encoded, attachments: undefined, replyTo, meta: undefined };
    }
    const { text: payloadJson, attachments } = encoded;
    return { id, channelJson, type, payloadJson, attachments, replyTo, meta: undefined };
  }

  /** Sends a message now, or keeps it for the connection that is being made. */
  dispatch(message, how) {
    if (this.isClosing && WORK.has(message.type) && !how?.unbounded && this.services.unfinished === 0) {
      throw new NotConnectedError('the client is being closed, and its connection with it; the message was not sent');
    }
    if (this.canSend) {
      this.transmit(message, how);
    } else if (how?.unbounded) {
      // This message concerns the current connection only.
      throw new NotConnectedError('the connection is gone; the message was not sent');
    } else if (this.connected || this.state === 'connecting' || this.state === 'reconnecting') {
      this.offline.push(message);
    } else {
      throw new NotConnectedError('Not connected to server: there is no connection, call connect() first; the message '
        + 'was not sent');
    }
  }

  transmit({ id, channelJson, type, payloadJson, attachments, replyTo, meta }, how) {
    let payload = payloadJson;
    const metaJson = meta === undefined && attachments === undefined ? undefined
      : encodeMeta(meta ?? {}, this.connection, attachments);
    if (!this.connection.isOurs && NAMES_SENDER.has(type)) {
      const adds = type === MessageType.REQUEST;
      const { parse, stringify } = this.options;
      const isFormer = (given) => this.isFormerId(given);
      payload = addressed(payloadJson, this.connectionId, { adds, isFormer, parse, stringify });
    }
    const { connection } = this;
    const body = encodeBody(id, this.appJson, channelJson, type, payload, replyTo, metaJson);
    const bytes = attachments === undefined ? connection.send(body, how)
      : connection.sendBinary(new BinaryBody(body, attachments), how);
    if (ONE_WAY.has(type)) connection.oneWay += 1;
    if (bytes > connection.largest.bytes) {
      connection.largest.add({ bytes, id, type, channelJson, begun: this.pending.begun, oneWay: connection.oneWay });
    }
  }

  /**
   * Sends a request, and calls back with its answer or its error. Returns its id.
   * @param {{ unbounded?: boolean, isOwn?: boolean, stream?: number, onPart?: Function }} [how] `isOwn` says that the
   *   client itself asks, and `stream` is the credit of a request whose answer comes in parts
   */
  begin(channelId, data, options, resolve, reject, how) {
    const given = requestOptions(options, this.options.requestTimeout);
    const { signal } = given;
    const what = `the request on '${channelId}'`;
    if (signal?.aborted) throw new AbortedError(`${what} was aborted before it was sent`, { cause: signal.reason });
    // The server answers these itself and at once, and what a client asks it on its own account belongs to no handler.
    const isForServer = channelId === SYSTEM;
    const left = isForServer ? Infinity : timeLeft();
    if (left <= 0) throw new TimeoutError(`the time of the request in hand is over; ${what} was not sent`);
    // The time that travels with the request. A default of this client's own does not, and is not for a whole stream.
    const time = Math.min(given.isGiven ? given.timeout : Infinity, left);
    const timeout = given.isGiven || how?.stream !== undefined ? time : Math.min(given.timeout, left);
    const message = how?.isOwn ? this.prepareOwn(channelId, MessageType.REQUEST, data)
      : this.prepare(channelId, MessageType.REQUEST, data);
    const { id } = message;
    const hasTtl = time <= TTL_MS_MAX && !isForServer;
    if (hasTtl || given.meta !== undefined || how?.stream !== undefined) {
      message.meta = { ...given.meta };
      if (how?.stream !== undefined) message.meta.stream = how.stream;
      if (hasTtl) message.meta.deadline = now() + time;
    }
    let done = resolve;
    let fail = reject;
    if (tracing.requestStart.hasSubscribers || tracing.requestEnd.hasSubscribers
      || tracing.requestError.hasSubscribers) {
      const context = { client: this, channel: channelId, messageId: id };
      tracing.requestStart.publish(context);
      done = bound((response) => {
        tracing.requestEnd.publish({ ...context, response });
        resolve(response);
      });
      fail = bound((error) => {
        tracing.requestError.publish({ ...context, error });
        reject(error);
      });
    }
    try {
      // The server knows when the time is up that a request has taken along.
      const isKnown = hasTtl && timeout === time;
      const onGivenUp = (isTimeout) => this.withdraw(id, !isForServer && !(isTimeout && isKnown));
      const deadline = message.meta?.deadline;
      this.pending.add(id, { ...how, timeout, deadline, signal, what, onGivenUp }, done, fail);
      this.dispatch(message, how);
    } catch (error) {
      this.pending.take(id);
      fail(error);
    }
    return id;
  }

  /** Sends a publication, and resolves with the place in its channel's history when the server has it. */
  publishAcknowledged(channelId, data, { timeout = this.options.requestTimeout, signal: given, meta }) {
    return new Promise((resolve, reject) => {
      const signal = checkedSignal(given);
      const what = `the publication on '${channelId}'`;
      if (signal?.aborted) throw new AbortedError(`${what} was aborted before it was sent`, { cause: signal.reason });
      const message = this.prepare(channelId, MessageType.PUBLISH, data);
      message.meta = meta;
      const { id } = message;
      const done = ({ payload }) => resolve({ messageId: id, ...readPlace(payload) });
      const options = { timeout: checkedTimeout(timeout), signal, what, onGivenUp: () => this.withdraw(id, false) };
      this.pending.add(id, options, done, reject);
      try {
        this.dispatch(message);
      } catch (error) {
        this.pending.take(id);
        throw error;
      }
      if (tracing.publish.hasSubscribers) tracing.publish.publish({ client: this, channel: channelId, messageId: id });
    });
  }

  /** Returns true if a request had not been sent. If it had, the server is told that nobody waits for its answer. */
  withdraw(id, isTold) {
    if (this.offline.drop(id)) return true;
    if (isTold) this.control({ action: 'cancel', message_id: id });
    return false;
  }

  /** Tells the server something about a request of the current connection. Older servers would not understand. */
  control(payload) {
    if (!this.canSend || !this.connection.hasCall) return;
    const payloadJson = JSON.stringify(payload);
    const body = encodeBody(randomUUID(), this.appJson, SYSTEM_JSON, MessageType.NOTIFICATION, payloadJson);
    this.connection.send(body, { unbounded: true });
  }

  /**
   * Sends a request of the client itself, by default by the current connection and exempt from the limits on the
   * program's requests.
   */
  command(payload, timeout, { unbounded = true } = {}) {
    return new Promise((resolve, reject) => {
      this.begin(SYSTEM, payload, timeout, resolve, reject, { unbounded, isOwn: true });
    });
  }
}

/** Checks a channel's name that a caller passed. */
function checkedChannel(channelId) {
  if (typeof channelId !== 'string' || channelId === '') {
    throw new TypeError('channelId must be a string that is not empty');
  }
  return channelId;
}

module.exports = { Messenger, checkedChannel };
