'use strict';

const { EventEmitter } = require('node:events');
const { IPCClient } = require('./client.js');
const { NotConnectedError } = require('./errors.js');
const { asyncDispose } = require('./dispose.js');

const SIZE = 4;
const FORWARDED = ['connected', 'disconnected', 'reconnecting', 'slow', 'drain', 'response', 'message'];

/**
 * Several connections of one application. A request takes the one with the fewest answers outstanding. What is
 * published keeps its order: a channel always takes the same connection.
 */
class IPCPool extends EventEmitter {
  /**
   * @param {string} appId
   * @param {object} [options] those of IPCClient, and `size`
   */
  constructor(appId, { size = SIZE, ...options } = {}) {
    super();
    if (!Number.isInteger(size) || size < 1) throw new TypeError(`size must be a whole number from 1, not ${size}`);
    this.appId = appId;
    this.clients = Array.from({ length: size }, () => new IPCClient(appId, options));
    this.next = 0;
    for (const client of this.clients) {
      for (const event of FORWARDED) client.on(event, (...values) => this.emit(event, ...values, client));
      // An `error` nobody listens to would end the process.
      client.on('error', (error) => {
        if (this.listenerCount('error') > 0) this.emit('error', error, client);
      });
    }
  }

  get size() { return this.clients.length; }

  /** Whether at least one connection is up. */
  get connected() { return this.clients.some((client) => client.connected); }

  isConnected() {
    return this.connected;
  }

  /** True where all connections are up, false where one could not be made; those that are up stay. */
  async connect(how) {
    const results = await Promise.all(this.clients.map((client) => client.connect(how)));
    return results.every(Boolean);
  }

  /** The connected client with the fewest answers outstanding; of equals, the one whose turn it is. */
  pick() {
    let best = null;
    for (let n = 0; n < this.clients.length; n += 1) {
      const client = this.clients[(this.next + n) % this.clients.length];
      if (client.connected && (best === null || client.pending.size < best.pending.size)) best = client;
    }
    this.next = (this.next + 1) % this.clients.length;
    if (best !== null) return best;
    // One that is on its way keeps the request for later.
    const coming = this.clients.find((client) => client.state === 'reconnecting' || client.state === 'connecting');
    if (coming === undefined) {
      throw new NotConnectedError('Not connected to server: there is no connection, call connect() first; the message '
        + 'was not sent');
    }
    return coming;
  }

  /** The client that a channel's messages take, in both directions. */
  clientOf(channelId) {
    let hash = 0;
    for (let at = 0; at < channelId.length; at += 1) hash = (hash * 31 + channelId.charCodeAt(at)) >>> 0;
    return this.clients[hash % this.clients.length];
  }

  async sendRequest(channelId, data, options) {
    return this.pick().sendRequest(channelId, data, options);
  }

  publish(channelId, data) {
    return this.clientOf(channelId).publish(channelId, data);
  }

  notify(channelId, data) {
    return this.clientOf(channelId).notify(channelId, data);
  }

  subscribe(channelId, handler) {
    return this.clientOf(channelId).subscribe(channelId, handler);
  }

  unsubscribe(channelId) {
    return this.clientOf(channelId).unsubscribe(channelId);
  }

  openSubscription(channelId, options) {
    return this.clientOf(channelId).openSubscription(channelId, options);
  }

  /** Serves the channel on every connection; `concurrency` is that of each. */
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

  disconnect() {
    for (const client of this.clients) client.disconnect();
  }

  async close(options) {
    await Promise.all(this.clients.map((client) => client.close(options)));
  }

  async [asyncDispose]() {
    await this.close();
  }
}

module.exports = { IPCPool };
