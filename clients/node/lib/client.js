'use strict';

const { randomUUID } = require('node:crypto');
const { Lifecycle } = require('./lifecycle.js');
const { encodeBody, addressed } = require('./codec.js');
const { encodePayload } = require('./payload.js');
const { Message, MessageType, isMessageType } = require('./message.js');
const { Subscription, Subscriptions } = require('./subscriptions.js');
const { Service, Services } = require('./services.js');
const { requestOptions, checkedOptions } = require('./options.js');
const { kind } = require('./kinds.js');
const { bound } = require('./context.js');
const { Closing } = require('./closing.js');
const { asyncDispose } = require('./dispose.js');
const { tracing } = require('./tracing.js');
const { after, afterReading, checkedTimeout } = require('./timers.js');
const { IPCError, ServerError, AbortedError, NotConnectedError, isServerError } = require('./errors.js');

const SUBSCRIBE_OPTIONS = ['signal', 'buffer', 'bufferBytes'];
const CLOSE_OPTIONS = ['timeout'];
const PING_TIMEOUT_MS = 2_000;
const HEALTH_TIMEOUT_MS = 5_000;
// Message types that a client refuses while it is being closed, once its handlers have finished: until then they may
// ask and publish. Their answers are sent in any case.
const WORK = new Set([MessageType.REQUEST, MessageType.PUBLISH, MessageType.NOTIFICATION]);
// Message types in whose payload the sender's `connection_id` has a meaning.
const NAMES_SENDER = new Set([
  MessageType.REQUEST, MessageType.NOTIFICATION, MessageType.SUBSCRIBE, MessageType.UNSUBSCRIBE,
]);
// Message types for whose fate no request waits.
const ONE_WAY = new Set([MessageType.PUBLISH, MessageType.NOTIFICATION, MessageType.RESPONSE]);
// Codes after which the server closes the connection.
const CLOSING_CODES = new Set([
  'frame_too_large', 'not_connected', 'auth_failed', 'server_full', 'taken_over', 'shutting_down',
]);

/** A client of an application: requests, publish/subscribe, notifications, and channels that it serves itself. */
class IPCClient extends Lifecycle {
  constructor(appId, options = {}) {
    super(appId, options);
    this.subscriptions = new Subscriptions();
    this.services = new Services(this);
    this.closing = new Closing(this);
  }

  // ---- requests

  /**
   * Resolves with the answer's message. Rejects with a ServerError if the server refuses, or with TimeoutError,
   * AbortedError, NotConnectedError or ConnectionLostError.
   * @param {string} channelId
   * @param {unknown} data
   * @param {number | { timeout?: number, signal?: AbortSignal }} [options] milliseconds, or both
   * @returns {Promise<Message>}
   */
  sendRequest(channelId, data, options) {
    return new Promise((resolve, reject) => this.begin(channelId, data, options, resolve, reject));
  }

  begin(channelId, data, options, resolve, reject, how) {
    const { timeout, signal } = requestOptions(options, this.options.requestTimeout);
    const what = `the request on '${channelId}'`;
    if (signal?.aborted) throw new AbortedError(`${what} was aborted before it was sent`, { cause: signal.reason });
    const message = this.prepare(channelId, MessageType.REQUEST, data);
    const { id } = message;
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
      this.pending.add(id, { ...how, timeout, signal, what, onGivenUp: () => this.offline.drop(id) }, done, fail);
      this.dispatch(message, how);
    } catch (error) {
      this.pending.take(id);
      fail(error);
    }
    return id;
  }

  /**
   * Sends a request of the client itself by the current connection, exempt from the limits on the program's requests.
   */
  command(payload, timeout) {
    return new Promise((resolve, reject) => {
      this.begin('system', payload, timeout, resolve, reject, { unbounded: true });
    });
  }

  /** Sends a request and returns its id. An answer comes as the event `response`. */
  request(channelId, data) {
    return this.sendMessage(channelId, MessageType.REQUEST, data);
  }

  /**
   * Sends a request, returns its id, and calls back with the answer without a timeout. Errors are reported as the event
   * `error`.
   */
  sendRequestAsync(channelId, data, callback, options) {
    let isSending = true;
    let refused = null;
    const fail = (error) => {
      if (isSending) refused = error;
      else this.report(error);
    };
    const answered = bound(callback);
    const given = { timeout: Infinity, ...(typeof options === 'number' ? { timeout: options } : options) };
    const id = this.begin(channelId, data, given, (response) => this.callUser(answered, response), fail);
    isSending = false;
    if (refused !== null) throw refused;
    return id;
  }

  // ---- one-way messages

  /** Sends a value to all subscribers of the channel. Returns the message's id. */
  publish(channelId, data) {
    const id = this.sendMessage(channelId, MessageType.PUBLISH, data);
    if (tracing.publish.hasSubscribers) tracing.publish.publish({ client: this, channel: channelId, messageId: id });
    return id;
  }

  /** Sends a value to the channel's handler in the server, or to a worker. Returns the message's id. */
  notify(channelId, data) {
    return this.sendMessage(channelId, MessageType.NOTIFICATION, data);
  }

  /** Sends any message, and returns its id. The other methods use this. */
  sendMessage(channelId, messageType, payload, replyTo = null, how = undefined) {
    const message = this.prepare(channelId, messageType, payload, replyTo);
    this.dispatch(message, how);
    return message.id;
  }

  /** Sends a Message, such as one of `createResponse`. */
  send({ message_id: id, channel_id: channelId, message_type: type, payload, reply_to: replyTo }) {
    if (typeof id !== 'string' || id === '') throw new TypeError('message_id must be a string that is not empty');
    this.dispatch(this.prepare(channelId, type, payload, replyTo, id));
    return id;
  }

  /** Answers a request that this client received. */
  respond(request, payload) {
    return this.sendMessage(request.channel_id, MessageType.RESPONSE, payload, request.message_id);
  }

  prepare(channelId, type, payload, replyTo = null, id = randomUUID()) {
    const channelJson = JSON.stringify(checkedChannel(channelId));
    if (!isMessageType(type)) throw new TypeError(`messageType must be one of MessageType, not ${String(type)}`);
    if (replyTo !== null && typeof replyTo !== 'string') throw new TypeError('replyTo must be a string or null');
    return { id, channelJson, type, payloadJson: encodePayload(payload, this.options.stringify), replyTo };
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

  transmit({ id, channelJson, type, payloadJson, replyTo }, how) {
    let payload = payloadJson;
    if (!this.connection.isOurs && NAMES_SENDER.has(type)) {
      const adds = type === MessageType.REQUEST;
      const { parse, stringify } = this.options;
      const isFormer = (given) => this.isFormerId(given);
      payload = addressed(payloadJson, this.connectionId, { adds, isFormer, parse, stringify });
    }
    const { connection } = this;
    const bytes = connection.send(encodeBody(id, this.appJson, channelJson, type, payload, replyTo), how);
    if (ONE_WAY.has(type)) connection.oneWay += 1;
    if (bytes > connection.largest.bytes) {
      connection.largest.add({ bytes, id, type, channelJson, begun: this.pending.begun, oneWay: connection.oneWay });
    }
  }

  // ---- subscriptions

  /**
   * With a handler, calls it with every message of the channel, replaces an earlier handler, and returns true. Without
   * one, returns an async iterable of the messages. Both survive reconnects until they are unsubscribed.
   * @param {string} channelId
   * @param {Function | { signal?: AbortSignal, buffer?: number, bufferBytes?: number }} [handler]
   * @returns {true | Subscription}
   */
  subscribe(channelId, handler) {
    if (this.isClosing) throw new NotConnectedError('the client is being closed, and its connection with it');
    checkedChannel(channelId);
    if (typeof handler === 'function') {
      const entry = this.subscriptions.entry(channelId);
      const earlier = entry.handler;
      entry.handler = bound(handler);
      try {
        if (this.canSend) this.sendSubscribe(channelId);
      } catch (error) {
        entry.handler = earlier;
        this.subscriptions.releaseUnused(channelId);
        throw error;
      }
      return true;
    }
    return this.openSubscription(channelId, checkedOptions(handler ?? {}, SUBSCRIBE_OPTIONS, 'subscribe'));
  }

  /** Subscribes with callbacks (`on…`), for helpers of this package that need more than one handler for a channel. */
  openSubscription(channelId, { onEnd, ...options }) {
    if (this.isClosing) throw new NotConnectedError('the client is being closed, and its connection with it');
    const subscription = new Subscription(channelId, {
      ...options,
      onEnd: (ended) => {
        this.subscriptions.get(channelId)?.subscriptions.delete(ended);
        if (this.subscriptions.releaseUnused(channelId)) this.sendUnsubscribe(channelId);
        onEnd?.();
      },
      onDrop: () => this.emitSafely('slow', { channel: channelId, subscription }),
      onError: (error) => this.report(error),
    });
    this.subscriptions.entry(channelId).subscriptions.add(subscription);
    try {
      if (this.canSend) this.confirm(subscription);
    } catch (error) {
      subscription.end(error);
      throw error;
    }
    return subscription;
  }

  /** Removes the handler of the channel and ends all its iterations. */
  unsubscribe(channelId) {
    const entry = this.subscriptions.get(channelId);
    if (entry === undefined) return false;
    entry.handler = null;
    const subscriptions = [...entry.subscriptions];
    for (const subscription of subscriptions) subscription.end(null);
    if (this.subscriptions.releaseUnused(channelId)) this.sendUnsubscribe(channelId);
    return true;
  }

  sendSubscribe(channelId, how) {
    this.sendMessage(channelId, MessageType.SUBSCRIBE, { connection_id: this.connectionId }, null, how);
  }

  sendUnsubscribe(channelId) {
    if (!this.canSend) return;
    try {
      this.sendMessage(channelId, MessageType.UNSUBSCRIBE, { connection_id: this.connectionId });
    } catch (error) {
      this.report(error);
    }
  }

  /** Subscribes, and resolves `ready` when the server confirms. The published server confirms nothing. */
  confirm(subscription, how) {
    const { channel } = subscription;
    if (subscription.isReady || !this.connection.isOurs) {
      this.sendSubscribe(channel, how);
      if (!subscription.isReady) subscription.resolveReady();
      return;
    }
    const payload = { connection_id: this.connectionId, ack: true };
    const message = this.prepare(channel, MessageType.SUBSCRIBE, payload);
    const refused = (error) => {
      // A subscription that is lost with the connection is repeated on the next one.
      if (!(error instanceof NotConnectedError)) subscription.end(error);
    };
    const { requestTimeout: timeout } = this.options;
    this.pending.add(message.id, { ...how, timeout, what: `the subscription of '${channel}'` },
      () => subscription.resolveReady(), refused);
    try {
      this.transmit(message, how);
    } catch (error) {
      this.pending.take(message.id);
      throw error;
    }
  }

  // ---- serving

  /**
   * Answers the requests of a channel with the return value of `handler`. An error that it throws reaches the requester
   * as `handler_failed`. This survives reconnects, and needs a server of this project. Notifications of the channel go
   * to `onNotification` if there is one.
   * @param {string} channelId
   * @param {(request: Message & { signal: AbortSignal }) => unknown} handler
   * @param {{ concurrency?: number, queueMax?: number, queueBytes?: number, onNotification?: Function }} [options]
   * @returns {Promise<Service>} close() ends it
   */
  async serve(channelId, handler, options) {
    if (this.isClosing) throw new NotConnectedError('the client is being closed, and its connection with it');
    return this.services.serve(checkedChannel(channelId), handler, options);
  }

  // ---- the server itself

  /**
   * Resolves with whether the server answers a ping. The published server does only if its program handles `system`.
   */
  async ping(timeout = PING_TIMEOUT_MS) {
    checkedTimeout(timeout);
    try {
      const response = await this.sendRequest('system', { action: 'ping' }, timeout);
      return response.payload?.status === 'pong';
    } catch {
      return false;
    }
  }

  /** Resolves with whether the connection works in both directions. */
  async healthCheck(timeout = HEALTH_TIMEOUT_MS) {
    checkedTimeout(timeout);
    if (!this.connected) return false;
    try {
      if (!this.connection.isOurs) return await this.echoes(timeout);
      const response = await this.sendRequest('system', { action: 'health_check' }, timeout);
      return response.payload?.status === 'healthy';
    } catch {
      return false;
    }
  }

  /** The published server does not answer pings, but a client receives its own publications. */
  async echoes(timeout) {
    const channel = `ipc-framework.health.${this.connectionId}`;
    const subscription = this.openSubscription(channel, {});
    const timer = after(timeout, () => afterReading(() => this.bytesRead, () => subscription.end(null)));
    try {
      this.publish(channel, null);
      const { done } = await subscription.next();
      return !done;
    } finally {
      clearTimeout(timer);
      subscription.unsubscribe();
    }
  }

  getConnectionInfo() {
    return {
      connectionId: this.connectionId,
      appId: this.appId,
      connected: this.connected,
      host: this.host,
      port: this.port,
      path: this.options.path,
      server: this.server,
      subscribedChannels: this.subscriptions.names(),
    };
  }

  // ---- what comes in

  /** Handles a message. `bytes` is its size on the wire. */
  receive(message, bytes) {
    if (message.reply_to) {
      this.receiveAnswer(message);
    } else if (message.isResponse() && this.isRefusal(message)) {
      const refusal = new ServerError(message);
      const isTooLarge = refusal.code === 'frame_too_large';
      const error = isTooLarge ? this.connection.largest.explain(refusal) : refusal;
      if (CLOSING_CODES.has(refusal.code)) this.connection.fault ??= error;
      this.report(error);
    } else {
      this.prove();
      const service = this.services.get(message.channel_id);
      if (service?.takes(message)) service.take(message, bytes);
      else if (this.isForNobody(message)) this.services.refuse(message);
      else this.deliver(message, bytes);
    }
  }

  receiveAnswer(message) {
    const refusal = this.isRefusal(message) ? new ServerError(message) : null;
    const entry = this.pending.take(message.reply_to);
    if (entry !== undefined) {
      if (refusal === null) {
        if (!entry.isOwn) this.prove();
        entry.resolve(message);
      } else {
        entry.reject(refusal);
      }
    } else if (!this.pending.givenUp.delete(message.reply_to)) {
      if (refusal === null) {
        this.prove();
        this.emitSafely('response', message);
      } else {
        this.report(refusal);
      }
    }
  }

  isRefusal(message) {
    return this.connection !== null && this.connection.isOurs && isServerError(message.payload);
  }

  /** Refuses a request on a channel that this client no longer serves. */
  isForNobody(message) {
    return message.isRequest() && this.connection !== null && this.connection.isOurs
      && this.subscriptions.get(message.channel_id) === undefined && this.listenerCount('message') === 0;
  }

  deliver(message, bytes) {
    const entry = this.subscriptions.get(message.channel_id);
    if (entry !== undefined) {
      if (entry.handler !== null) this.callUser(entry.handler, message);
      for (const subscription of entry.subscriptions) subscription.deliver(message, bytes);
    }
    if (this.listenerCount('message') > 0) this.emitSafely('message', message);
  }

  // ---- over the life of connections

  restore() {
    // Messages that wait for the connection must not delay the restoration of subscriptions and services.
    const how = { unbounded: true };
    for (const [channel, { subscriptions }] of [...this.subscriptions.channels]) {
      const restored = [...subscriptions].filter((subscription) => subscription.isReady);
      const unconfirmed = [...subscriptions].filter((subscription) => !subscription.isReady);
      try {
        if (unconfirmed.length === 0) this.sendSubscribe(channel, how);
        for (const subscription of unconfirmed) this.confirm(subscription, how);
        for (const subscription of restored) subscription.onRestored?.();
      } catch (error) {
        this.report(error);
      }
    }
    this.services.restore();
  }

  forgetConnection() {
    this.services.forgetConnection();
  }

  /** Ends iterations, which would otherwise wait forever. Handlers and served channels wait for the next `connect`. */
  gaveUp(cause) {
    for (const subscription of this.subscriptions.iterations()) {
      subscription.end(this.isClosing ? null : new NotConnectedError(
        `the client gave up its connection${cause ? `: ${cause.message}` : ''}; the iteration of `
        + `'${subscription.channel}' ends here, connect() and subscribe again`, { cause }));
    }
  }

  disconnect() {
    const connection = super.disconnect();
    for (const subscription of this.subscriptions.iterations()) subscription.end(null);
    return connection;
  }

  /**
   * Accepts no more work, waits for answers, served requests and unsent bytes, then closes. While a close is under way,
   * another one can only shorten its time.
   * @param {{ timeout?: number }} [options] how long to wait at most
   */
  close(options = {}) {
    let timeout;
    try {
      timeout = checkedTimeout(checkedOptions(options, CLOSE_OPTIONS, 'close').timeout ?? this.options.closeTimeout);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.closing.close(timeout);
  }

  async [asyncDispose]() {
    await this.close();
  }
}

kind(IPCClient, 'IPCClient');

/** Checks a channel's name that a caller passed. */
function checkedChannel(channelId) {
  if (typeof channelId !== 'string' || channelId === '') {
    throw new TypeError('channelId must be a string that is not empty');
  }
  return channelId;
}

module.exports = { IPCClient };
