'use strict';

const { Messenger, checkedChannel } = require('./messenger.js');
const { Message, MessageType } = require('./message.js');
const { Subscription } = require('./subscription.js');
const { Subscriptions } = require('./subscriptions.js');
const { Service } = require('./service.js');
const { Services } = require('./services.js');
const { Incoming } = require('./incoming.js');
const { Closing } = require('./closing.js');
const { openStream } = require('./stream.js');
const { ping, healthCheck } = require('./health.js');
const { checkedOptions } = require('./options.js');
const { callersMeta } = require('./extensions.js');
const { TOPIC_OPTIONS } = require('./patterns.js');
const { bound } = require('./context.js');
const { kind } = require('./kinds.js');
const { asyncDispose } = require('./dispose.js');
const { tracing } = require('./tracing.js');
const { checkedTimeout } = require('./timers.js');
const { NotConnectedError } = require('./errors.js');

const SUBSCRIBE_OPTIONS = ['signal', 'buffer', 'bufferBytes', ...TOPIC_OPTIONS];
const PUBLISH_OPTIONS = ['retain', 'ack', 'timeout', 'signal', 'trace', 'headers'];
const CLOSE_OPTIONS = ['timeout'];
const ONE_WAY_OPTIONS = ['trace', 'headers'];

/** A client of an application: requests, publish/subscribe, notifications, and channels that it serves itself. */
class IPCClient extends Messenger {
  constructor(appId, options = {}) {
    super(appId, options);
    this.subscriptions = new Subscriptions(this);
    this.services = new Services(this);
    this.incoming = new Incoming(this);
    this.closing = new Closing(this);
  }

  // ---- requests

  /**
   * Resolves with the answer's message. Rejects with a ServerError if the server refuses, or with TimeoutError,
   * AbortedError, NotConnectedError or ConnectionLostError.
   * @param {string} channelId
   * @param {unknown} data
   * @param {number | { timeout?: number, signal?: AbortSignal, idempotent?: boolean, trace?: object,
   *   headers?: Record<string, string> }} [options] milliseconds, or an object
   * @returns {Promise<Message>}
   */
  sendRequest(channelId, data, options) {
    return new Promise((resolve, reject) => this.begin(channelId, data, options, resolve, reject));
  }

  /**
   * Sends a request whose answer comes in parts, and returns them as an async iterable of messages. Leaving the loop
   * and aborting the signal cancel the request. An error ends the loop by a throw.
   * @param {string} channelId
   * @param {unknown} data
   * @param {number | { timeout?: number, signal?: AbortSignal, credit?: number, idempotent?: boolean, trace?: object,
   *   headers?: Record<string, string> }} [options] milliseconds for the whole, or an object. `credit` is the number of
   *   parts that the worker may be ahead of the reader
   * @returns {import('./stream.js').Stream}
   */
  stream(channelId, data, options) {
    return openStream(this, channelId, data, options);
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

  /**
   * Sends a value to all subscribers of the channel, and returns the message's id. With `ack` it returns a promise of
   * `{ messageId, epoch, offset }` instead: the place in the channel's history, if it has one.
   * @param {string} channelId
   * @param {unknown} data
   * @param {{ retain?: boolean, ack?: boolean, timeout?: number, signal?: AbortSignal, trace?: object,
   *   headers?: object }} [options] `retain` has the server keep the value for those who come later, and null forgets
   *   it; `timeout` and `signal` are for `ack`
   */
  publish(channelId, data, options) {
    const given = publication(options);
    if (given.ack) return this.publishAcknowledged(channelId, data, given);
    const id = this.sendMessage(channelId, MessageType.PUBLISH, data, null, given);
    if (tracing.publish.hasSubscribers) tracing.publish.publish({ client: this, channel: channelId, messageId: id });
    return id;
  }

  /** Sends a value to the channel's handler in the server, or to a worker. Returns the message's id. */
  notify(channelId, data, options) {
    return this.sendMessage(channelId, MessageType.NOTIFICATION, data, null, besides(options, 'notify'));
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

  // ---- subscriptions

  /**
   * With a handler, calls it with every message of the channel, replaces an earlier handler, and returns true. Without
   * one, returns an async iterable of the messages. Both survive reconnects until they are unsubscribed, and if the
   * server keeps a history of the channel, they go on where they were.
   * @param {string} channelId
   * @param {Function | object} [handler]
   * @param {{ signal?: AbortSignal, buffer?: number, bufferBytes?: number, last?: number,
   *   since?: { epoch: string, offset: number }, conflate?: boolean }} [options] a handler has the last three
   * @returns {true | Subscription}
   */
  subscribe(channelId, handler, options) {
    return this.subscribeTo(checkedChannel(channelId), handler, options, 'subscribe', false);
  }

  /**
   * Does the same for all channels that match a pattern: a token `*` stands for one token between points, and `>` at
   * the end for one or more.
   */
  subscribePattern(pattern, handler, options) {
    return this.subscribeTo(checkedChannel(pattern), handler, options, 'subscribePattern', true);
  }

  subscribeTo(name, handler, options, what, isPattern) {
    if (this.isClosing) throw new NotConnectedError('the client is being closed, and its connection with it');
    if (typeof handler === 'function') {
      const given = checkedOptions(options ?? {}, TOPIC_OPTIONS, `${what} with a handler`);
      this.subscriptions.handle(name, handler, { ...given, isPattern });
      return true;
    }
    const given = checkedOptions(handler ?? options ?? {}, SUBSCRIBE_OPTIONS, what);
    return this.subscriptions.open(name, { ...given, isPattern });
  }

  /** Subscribes with callbacks (`on…`), for helpers of this package that need more than one handler for a channel. */
  openSubscription(channelId, options) {
    if (this.isClosing) throw new NotConnectedError('the client is being closed, and its connection with it');
    return this.subscriptions.open(channelId, options);
  }

  /** Removes the handler of the channel and ends all its iterations. */
  unsubscribe(channelId) {
    return this.subscriptions.end(channelId);
  }

  /** Does the same for a pattern, which is given as it was to `subscribePattern`. */
  unsubscribePattern(pattern) {
    return this.subscriptions.end(pattern, true);
  }

  // ---- serving

  /**
   * Answers the requests of a channel with the return value of `handler`. An error that it throws reaches the requester
   * as `handler_failed`. This survives reconnects, and needs a server of this project. Notifications of the channel go
   * to `onNotification` if there is one.
   * @param {string} channelId
   * @param {(request: Message & { signal: AbortSignal }) => unknown} handler
   * @param {{ concurrency?: number, prefetch?: number | null, queueMax?: number, queueBytes?: number,
   *   onNotification?: Function }} [options]
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
  async ping(timeout) {
    return ping(this, timeout);
  }

  /** Resolves with whether the connection works in both directions. */
  async healthCheck(timeout) {
    return healthCheck(this, timeout);
  }

  getConnectionInfo() {
    return {
      connectionId: this.connectionId,
      appId: this.appId,
      connected: this.connected,
      host: this.host,
      port: this.port,
      path: this.servers.current.path,
      server: this.server,
      subscribedChannels: this.subscriptions.names(),
      subscribedPatterns: [...this.subscriptions.patterns.keys()],
    };
  }

  // ---- over the life of connections

  restore() {
    this.subscriptions.restore();
    this.services.restore();
  }

  forgetConnection() {
    this.subscriptions.forgetConnection();
    this.services.forgetConnection();
  }

  receive(message, bytes) {
    this.incoming.receive(message, bytes);
  }

  receiveBad(message, error) {
    this.incoming.receiveBad(message, error);
  }

  /** Ends iterations, which would otherwise wait forever. Handlers and served channels wait for the next `connect`. */
  gaveUp(cause) {
    this.subscriptions.endIterations(({ channel }) => (this.isClosing ? null : new NotConnectedError(
      `the client gave up its connection${cause ? `: ${cause.message}` : ''}; the iteration of '${channel}' ends here, `
      + 'connect() and subscribe again', { cause })));
  }

  disconnect() {
    const connection = super.disconnect();
    this.subscriptions.endIterations(() => null);
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

/** Reads the options of a one-way message, of which most have none. */
function besides(options, what) {
  return options === undefined ? undefined : { meta: callersMeta(checkedOptions(options, ONE_WAY_OPTIONS, what)) };
}

/** Reads the options of a publication. */
function publication(options) {
  if (options === undefined) return {};
  const { retain = false, ack = false, timeout, signal } = checkedOptions(options, PUBLISH_OPTIONS, 'publish');
  if (typeof retain !== 'boolean' || typeof ack !== 'boolean') throw new TypeError('retain and ack must be booleans');
  if (!ack && (timeout !== undefined || signal !== undefined)) {
    throw new TypeError('a publication has a timeout and a signal only with ack: nothing is awaited otherwise');
  }
  const meta = { ...(retain ? { retain } : {}), ...(ack ? { ack } : {}), ...callersMeta(options) };
  return { ack, timeout, signal, meta: Object.keys(meta).length === 0 ? undefined : meta };
}

module.exports = { IPCClient };
