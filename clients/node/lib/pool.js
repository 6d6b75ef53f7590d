'use strict';

const { EventEmitter } = require('node:events');
const { IPCClient } = require('./client.js');
const { ContextEmitter } = require('./context.js');
const { kind } = require('./kinds.js');
const { MessageType } = require('./message.js');
const { DEFAULTS, checkedOptions } = require('./options.js');
const { NotConnectedError, isOfProgram, warn } = require('./errors.js');
const { asyncDispose } = require('./dispose.js');

const SIZE = 4;
const FORWARDED = ['connected', 'disconnected', 'reconnecting', 'slow', 'drain', 'response', 'gap', 'resumed'];

/**
 * Several connections of one application. A request goes to the connection with the fewest requests in flight.
 * Publications keep their order, because a channel always uses the same connection. A connection that gave up is tried
 * again when there is work, or when another one has found the server.
 */
class IPCPool extends ContextEmitter {
  /**
   * @param {string} appId
   * @param {object} [options] those of IPCClient, and `size`
   */
  constructor(appId, given = {}) {
    super({ captureRejections: true });
    const { size = SIZE, ...options } = checkedOptions(given, ['size', ...Object.keys(DEFAULTS)], 'IPCPool');
    if (!Number.isInteger(size) || size < 1) throw new TypeError(`size must be a whole number from 1, not ${size}`);
    this.appId = appId;
    this.clients = Array.from({ length: size }, () => new IPCClient(appId, options));
    this.turn = 0;
    this.isStarted = false;
    this.handlers = {};
    /** The last error that was reported. */
    this.lastError = null;
    for (const client of this.clients) {
      for (const event of FORWARDED) client.on(event, (...values) => this.emit(event, ...values, client));
      forwardWhileHeard(client, this, 'message');
      client.on('connected', () => this.revive());
      client.onProven = () => this.proved(client);
      client.on('error', (error) => this.report(error, client));
    }
  }

  get size() { return this.clients.length; }
  get host() { return this.clients[0].host; }
  get port() { return this.clients[0].port; }
  get options() { return this.clients[0].options; }

  /** The name that the server gave itself; null for the published server. */
  get server() {
    return this.clients.find(({ server }) => server !== null)?.server ?? null;
  }

  get extensions() { return this.clients.find(({ connected }) => connected)?.extensions ?? []; }
  get limits() { return this.clients.find(({ connected }) => connected)?.limits ?? null; }

  /** True while at least one connection is open. */
  get connected() { return this.clients.some((client) => client.connected); }
  get canSend() { return this.clients.some((client) => client.canSend); }

  isConnected() {
    return this.connected;
  }

  /** Adds handlers for events of the clients, which get the client as their last argument. */
  onConnected(handler) { this.handle('connected', handler, (info, client) => [client]); }
  onDisconnected(handler) { this.handle('disconnected', handler, (info, client) => [client]); }
  onError(handler) { this.handle('error', handler, (error, client) => [error, client]); }

  /** Sets the handler for an event, and replaces an earlier one. */
  handle(event, handler, valuesOf) {
    if (this.handlers[event]) this.off(event, this.handlers[event]);
    this.handlers[event] = handler ? (...values) => handler(...valuesOf(...values)) : null;
    if (handler) this.on(event, this.handlers[event]);
  }

  /** Resolves with true if all connections are open, and with false if one failed; the others stay open. */
  async connect(how) {
    this.isStarted = true;
    const results = await Promise.all(this.clients.map((client) => client.connect(how)));
    return results.every(Boolean);
  }

  revive() {
    if (!this.isStarted) return;
    for (const client of this.clients) if (client.mayTryAgain) void client.connect({ retry: true });
  }

  /** One connection has served something, so the others need not rest any longer. */
  proved(client) {
    for (const other of this.clients) if (other !== client) other.backoff.reset();
    this.revive();
  }

  /** Returns the connected client with the fewest requests in flight, and takes turns among equals. */
  pick() {
    this.revive();
    let best = null;
    for (let n = 0; n < this.clients.length; n += 1) {
      const client = this.clients[(this.turn + n) % this.clients.length];
      if (client.canSend && (best === null || client.pending.size < best.pending.size)) best = client;
    }
    this.turn = (this.turn + 1) % this.clients.length;
    if (best !== null) return best;
    // A client that is connecting keeps the request for later.
    const coming = this.clients.find(({ state }) => state !== 'idle' && state !== 'closed');
    if (coming === undefined) {
      throw new NotConnectedError('Not connected to server: there is no connection, call connect() first; the message '
        + 'was not sent');
    }
    return coming;
  }

  /** Returns the client for a channel's messages, in both directions. */
  clientOf(channelId) {
    this.revive();
    let hash = 0;
    const name = String(channelId);
    for (let at = 0; at < name.length; at += 1) hash = (hash * 31 + name.charCodeAt(at)) >>> 0;
    return this.clients[hash % this.clients.length];
  }

  async sendRequest(channelId, data, options) {
    return this.pick().sendRequest(channelId, data, options);
  }

  stream(channelId, data, options) {
    return this.pick().stream(channelId, data, options);
  }

  sendRequestAsync(channelId, data, callback, options) {
    return this.pick().sendRequestAsync(channelId, data, callback, options);
  }

  request(channelId, data) {
    return this.pick().request(channelId, data);
  }

  publish(channelId, data, options) {
    return this.clientOf(channelId).publish(channelId, data, options);
  }

  notify(channelId, data, options) {
    return this.clientOf(channelId).notify(channelId, data, options);
  }

  /** Sends any message except a response, which belongs to the connection of its request. */
  sendMessage(channelId, messageType, payload, replyTo) {
    if (messageType === MessageType.RESPONSE) {
      throw new TypeError('answer with respond() of the client that the request came to: listeners are given it');
    }
    const client = messageType === MessageType.REQUEST ? this.pick() : this.clientOf(channelId);
    return client.sendMessage(channelId, messageType, payload, replyTo);
  }

  subscribe(channelId, handler, options) {
    return this.clientOf(channelId).subscribe(channelId, handler, options);
  }

  subscribePattern(pattern, handler, options) {
    return this.clientOf(pattern).subscribePattern(pattern, handler, options);
  }

  unsubscribePattern(pattern) {
    return this.clientOf(pattern).unsubscribePattern(pattern);
  }

  unsubscribe(channelId) {
    return this.clientOf(channelId).unsubscribe(channelId);
  }

  openSubscription(channelId, options) {
    return this.clientOf(channelId).openSubscription(channelId, options);
  }

  /** Serves the channel on every connection, each with this `concurrency`. */
  async serve(channelId, handler, options) {
    const settled = await Promise.allSettled(this.clients.map((client) => client.serve(channelId, handler, options)));
    const services = settled.filter(({ status }) => status === 'fulfilled').map(({ value }) => value);
    const close = async () => { await Promise.all(services.map((service) => service.close())); };
    const refused = settled.find(({ status }) => status === 'rejected');
    if (refused !== undefined) {
      await close();
      throw refused.reason;
    }
    return { channel: channelId, close, [asyncDispose]: close };
  }

  /** Resolves with whether the server answers a ping, on the connection that a request would use. */
  async ping(timeout) {
    return this.ask((client) => client.ping(timeout));
  }

  async healthCheck(timeout) {
    return this.ask((client) => client.healthCheck(timeout));
  }

  async ask(question) {
    let client;
    try {
      client = this.pick();
    } catch {
      return false;
    }
    return question(client);
  }

  getConnectionInfo() {
    const connections = this.clients.map((client) => client.getConnectionInfo());
    const { appId, connected, host, port, server } = this;
    const subscribedChannels = connections.flatMap((info) => info.subscribedChannels);
    const subscribedPatterns = connections.flatMap((info) => info.subscribedPatterns);
    const { path } = connections[0];
    return { appId, connected, host, port, path, server, subscribedChannels, subscribedPatterns, connections };
  }

  disconnect() {
    this.isStarted = false;
    for (const client of this.clients) client.disconnect();
  }

  async close(options) {
    this.isStarted = false;
    await Promise.all(this.clients.map((client) => client.close(options)));
  }

  async [asyncDispose]() {
    await this.close();
  }

  /**
   * An `error` event without a listener must not end the process, but an error of the program's own must not be lost.
   */
  report(error, client = null) {
    this.lastError = error;
    try {
      if (this.listenerCount('error') > 0) this.emit('error', error, client);
      else if (isOfProgram(error)) warn(error);
    } catch (thrown) {
      warn(thrown);
    }
  }

  [EventEmitter.captureRejectionSymbol](error, event, ...values) {
    if (event === 'error') warn(error);
    else this.report(error, values.at(-1));
  }
}

kind(IPCPool, 'IPCPool');

/** A client refuses requests for which there is no listener, so it must not seem that there is one. */
function forwardWhileHeard(client, pool, event) {
  const forward = (...values) => pool.emit(event, ...values, client);
  pool.on('newListener', (name) => {
    if (name === event && pool.listenerCount(event) === 0) client.on(event, forward);
  });
  pool.on('removeListener', (name) => {
    if (name === event && pool.listenerCount(event) === 0) client.off(event, forward);
  });
}

module.exports = { IPCPool };
