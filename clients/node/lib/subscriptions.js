'use strict';

const { bound } = require('./context.js');
const { matcher } = require('./patterns.js');
const { Subscription } = require('./subscription.js');
const { Topic } = require('./topic.js');

// Channels whose patterns are known without matching them again.
const MATCHED_MAX = 4_096;

/** The channels and patterns to which a client has subscribed: each with one handler, and any number of iterations. */
class Subscriptions {
  /** @param {import('./client.js').IPCClient} client */
  constructor(client) {
    this.client = client;
    this.channels = new Map();
    this.patterns = new Map();
    /** The topics of the patterns that a channel matches. */
    this.matched = new Map();
    this.hasWarned = false;
  }

  get(channel) {
    return this.channels.get(channel);
  }

  names() {
    return [...this.channels.keys()];
  }

  /** Calls the handler with every message of the channel or the pattern, in place of an earlier one. */
  handle(name, handler, options) {
    const { client } = this;
    const call = bound(handler);
    const topic = this.topic(name, options.isPattern);
    const earlier = topic.handler;
    const onMessage = (message) => client.callUser(call, message);
    if (earlier?.isReady && (!client.canSend || client.connection.hasTopic) && goesOn(options, earlier)) {
      // The same subscription goes on.
      earlier.onMessage = onMessage;
      return;
    }
    topic.readers.delete(earlier);
    let reader;
    try {
      reader = this.reader(topic, { ...options, onMessage });
      topic.handler = reader;
      if (client.canSend) topic.join(reader);
      if (earlier !== null) earlier.isEnded = true;
    } catch (error) {
      topic.readers.delete(reader);
      topic.handler = earlier;
      if (earlier !== null) topic.readers.add(earlier);
      this.releaseUnused(topic);
      throw error;
    }
  }

  /** @returns {Subscription} one more of the channel's or the pattern's */
  open(name, options) {
    const topic = this.topic(name, options.isPattern);
    let subscription;
    try {
      subscription = this.reader(topic, options);
    } catch (error) {
      this.releaseUnused(topic);
      throw error;
    }
    try {
      if (this.client.canSend) topic.join(subscription);
    } catch (error) {
      subscription.end(error);
      throw error;
    }
    return subscription;
  }

  reader(topic, { onEnd, ...options }) {
    const { client } = this;
    const { name } = topic;
    const reader = new Subscription(name, {
      ...options,
      onEnd: (ended) => {
        topic.readers.delete(ended);
        this.release(topic);
        onEnd?.();
      },
      onDrop: () => client.emitSafely('slow', { channel: name, subscription: reader }),
      onError: (error) => client.report(error),
      onTold: (told, event, what) => {
        const isHandler = told === topic.handler;
        client.emitSafely(event, isHandler ? what : { ...what, subscription: told });
        if (told.listenerCount(event) > 0) client.callUser(() => { told.emit(event, what); });
      },
    });
    for (const other of topic.readers) {
      if (other.conflate !== reader.conflate) {
        throw new TypeError(`'${name}' is subscribed ${other.conflate ? 'with' : 'without'} conflate by this client, `
          + 'which has one subscription of it: do the same, or use another client');
      }
    }
    topic.readers.add(reader);
    return reader;
  }

  /** Removes the handler of the channel or the pattern and ends all its iterations. Returns whether there were any. */
  end(name, isPattern = false) {
    const topic = this.mapOf(isPattern).get(name);
    if (topic === undefined) return false;
    if (topic.handler !== null) topic.handler.isEnded = true;
    topic.readers.delete(topic.handler);
    topic.handler = null;
    for (const subscription of [...topic.readers]) subscription.end(null);
    this.release(topic);
    return true;
  }

  /** Ends all iterations. Handlers wait for the next connection. */
  endIterations(makeError) {
    for (const topic of [...this.channels.values(), ...this.patterns.values()]) {
      for (const reader of [...topic.readers]) if (reader !== topic.handler) reader.end(makeError(reader));
    }
  }

  forgetConnection() {
    for (const topic of this.channels.values()) topic.forgetConnection();
    for (const topic of this.patterns.values()) topic.forgetConnection();
  }

  /** Subscribes to everything on a new connection. */
  restore() {
    for (const topic of [...this.channels.values(), ...this.patterns.values()]) {
      try {
        // Messages that wait for the connection must not delay this.
        topic.resume({ unbounded: true });
      } catch (error) {
        this.client.report(error);
      }
    }
  }

  /** Hands a message to the subscribers of its channel. */
  deliver(message, bytes) {
    const topic = this.channels.get(message.channel_id);
    if (topic !== undefined) for (const reader of topic.readers) reader.deliver(message, bytes);
    if (this.patterns.size === 0 || message.isRequest()) return;
    for (const { readers } of this.matching(message.channel_id)) {
      for (const reader of readers) reader.deliver(message, bytes);
    }
  }

  matching(channel) {
    let found = this.matched.get(channel);
    if (found === undefined) {
      if (this.matched.size >= MATCHED_MAX) this.matched.clear();
      found = [...this.patterns.values()].filter((topic) => topic.matches(channel));
      this.matched.set(channel, found);
    }
    return found;
  }

  mapOf(isPattern) {
    return isPattern ? this.patterns : this.channels;
  }

  topic(name, isPattern = false) {
    const topics = this.mapOf(isPattern);
    let topic = topics.get(name);
    if (topic === undefined) {
      topic = new Topic(this.client, name, isPattern);
      if (isPattern) {
        topic.matches = matcher(name);
        this.matched.clear();
      } else {
        this.warnOfPattern(name);
      }
      topics.set(name, topic);
    }
    return topic;
  }

  /** Says once that a channel is no pattern: nothing would ever be published to it. */
  warnOfPattern(channel) {
    if (this.hasWarned || !/[*>]/.test(channel)) return;
    this.hasWarned = true;
    process.emitWarning(`subscribe('${channel}') is for the channel of exactly that name; for all channels that match `
      + `a pattern use subscribePattern('${channel}')`, { type: 'Warning', code: 'IPC_PATTERN' });
  }

  /** Forgets a topic without readers, and has the server forget it, too. */
  release(topic) {
    if (!this.releaseUnused(topic)) return;
    try {
      topic.sendUnsubscribe();
    } catch (error) {
      this.client.report(error);
    }
  }

  /** Forgets a topic without readers. Returns whether it did. */
  releaseUnused(topic) {
    const topics = this.mapOf(topic.isPattern);
    if (topic.readers.size > 0 || topics.get(topic.name) !== topic) return false;
    topics.delete(topic.name);
    if (topic.isPattern) this.matched.clear();
    return true;
  }
}

/** Returns whether the options of a handler ask for no more than the earlier one has. */
function goesOn({ last, since, conflate = false }, earlier) {
  return last === undefined && since === undefined && conflate === earlier.conflate;
}

module.exports = { Subscriptions };
