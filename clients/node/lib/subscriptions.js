'use strict';

const { bound } = require('./context.js');
const { NotConnectedError } = require('./errors.js');
const { MessageType } = require('./message.js');
const { Subscription } = require('./subscription.js');

/** The subscribers of each channel: one handler, as published, and any number of subscriptions. */
class Subscriptions {
  /** @param {import('./client.js').IPCClient} client */
  constructor(client) {
    this.client = client;
    this.channels = new Map();
  }

  get(channel) {
    return this.channels.get(channel);
  }

  names() {
    return [...this.channels.keys()];
  }

  /** Calls the handler with every message of the channel, in place of an earlier one. */
  handle(channel, handler) {
    const entry = this.entry(channel);
    const earlier = entry.handler;
    entry.handler = bound(handler);
    try {
      if (this.client.canSend) this.sendSubscribe(channel);
    } catch (error) {
      entry.handler = earlier;
      this.releaseUnused(channel);
      throw error;
    }
  }

  /** @returns {Subscription} one more of the channel's */
  open(channel, { onEnd, ...options }) {
    const { client } = this;
    const subscription = new Subscription(channel, {
      ...options,
      onEnd: (ended) => {
        this.get(channel)?.subscriptions.delete(ended);
        if (this.releaseUnused(channel)) this.sendUnsubscribe(channel);
        onEnd?.();
      },
      onDrop: () => client.emitSafely('slow', { channel, subscription }),
      onError: (error) => client.report(error),
    });
    this.entry(channel).subscriptions.add(subscription);
    try {
      if (client.canSend) this.confirm(subscription);
    } catch (error) {
      subscription.end(error);
      throw error;
    }
    return subscription;
  }

  /** Removes the handler of the channel and ends all its iterations. Returns whether there were any. */
  end(channel) {
    const entry = this.get(channel);
    if (entry === undefined) return false;
    entry.handler = null;
    for (const subscription of [...entry.subscriptions]) subscription.end(null);
    if (this.releaseUnused(channel)) this.sendUnsubscribe(channel);
    return true;
  }

  /** Ends all iterations. Handlers wait for the next connection. */
  endIterations(makeError) {
    for (const { subscriptions } of [...this.channels.values()]) {
      for (const subscription of [...subscriptions]) subscription.end(makeError(subscription));
    }
  }

  /** Subscribes to all channels on a new connection. */
  restore() {
    // Messages that wait for the connection must not delay this.
    const how = { unbounded: true };
    for (const [channel, { subscriptions }] of [...this.channels]) {
      const restored = [...subscriptions].filter((subscription) => subscription.isReady);
      const unconfirmed = [...subscriptions].filter((subscription) => !subscription.isReady);
      try {
        if (unconfirmed.length === 0) this.sendSubscribe(channel, how);
        for (const subscription of unconfirmed) this.confirm(subscription, how);
        for (const subscription of restored) subscription.onRestored?.();
      } catch (error) {
        this.client.report(error);
      }
    }
  }

  /** Hands a message to the channel's subscribers. */
  deliver(message, bytes) {
    const entry = this.get(message.channel_id);
    if (entry === undefined) return;
    if (entry.handler !== null) this.client.callUser(entry.handler, message);
    for (const subscription of entry.subscriptions) subscription.deliver(message, bytes);
  }

  entry(channel) {
    let entry = this.channels.get(channel);
    if (entry === undefined) {
      entry = { handler: null, subscriptions: new Set() };
      this.channels.set(channel, entry);
    }
    return entry;
  }

  /** Forgets a channel without subscribers. Returns whether this was the last subscriber. */
  releaseUnused(channel) {
    const entry = this.channels.get(channel);
    if (entry === undefined || entry.handler !== null || entry.subscriptions.size > 0) return false;
    return this.channels.delete(channel);
  }

  /** Subscribes, and resolves `ready` when the server confirms. The published server confirms nothing. */
  confirm(subscription, how) {
    const { client } = this;
    const { channel } = subscription;
    if (subscription.isReady || !client.connection.isOurs) {
      this.sendSubscribe(channel, how);
      if (!subscription.isReady) subscription.resolveReady();
      return;
    }
    const payload = { connection_id: client.connectionId, ack: true };
    const message = client.prepareOwn(channel, MessageType.SUBSCRIBE, payload);
    const refused = (error) => {
      // A subscription that is lost with the connection is repeated on the next one.
      if (!(error instanceof NotConnectedError)) subscription.end(error);
    };
    const { requestTimeout: timeout } = client.options;
    client.pending.add(message.id, { ...how, timeout, what: `the subscription of '${channel}'` },
      () => subscription.resolveReady(), refused);
    try {
      client.transmit(message, how);
    } catch (error) {
      client.pending.take(message.id);
      throw error;
    }
  }

  sendSubscribe(channel, how) {
    const { client } = this;
    client.dispatch(client.prepareOwn(channel, MessageType.SUBSCRIBE, { connection_id: client.connectionId }), how);
  }

  sendUnsubscribe(channel) {
    const { client } = this;
    if (!client.canSend) return;
    try {
      client.dispatch(client.prepareOwn(channel, MessageType.UNSUBSCRIBE, { connection_id: client.connectionId }));
    } catch (error) {
      client.report(error);
    }
  }
}

module.exports = { Subscriptions };
