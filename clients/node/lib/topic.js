'use strict';

const { NotConnectedError } = require('./errors.js');
const { counted, readPlace } = require('./extensions.js');
const { unsupported } = require('./patterns.js');
const { MessageType } = require('./message.js');

// Messages that may be published between two frames that leave in one write.
const SLACK = 64;
const COUNT_MAX = Number.MAX_SAFE_INTEGER;

/**
 * A channel or a pattern, the readers that it has in this process, and their one subscription at the server. A reader
 * that wants older messages than the server is asked for already has it subscribed anew, with so many messages that no
 * other reader misses any; those that it has had, a reader knows by their offsets.
 */
class Topic {
  /** @param {import('./client.js').IPCClient} client */
  constructor(client, name, isPattern) {
    this.client = client;
    this.name = name;
    this.isPattern = isPattern;
    /** The Subscriptions, and among them that of the handler, if there is one. */
    this.readers = new Set();
    this.handler = null;
    this.forgetConnection();
  }

  /** Forgets the subscription of the last connection. */
  forgetConnection() {
    this.isAsked = false;
    this.isAwaited = false;
    /** Readers that wait for the answer to what was asked before they ask. */
    this.waiting = [];
    /** The place of the newest message, as the server said it last. */
    this.epoch = undefined;
    this.newest = 0;
  }

  get what() {
    return `the subscription of '${this.name}'`;
  }

  /** True if all readers take the newest message in place of all. */
  get conflates() {
    return [...this.readers].some((reader) => reader.conflate);
  }

  /** Throws if the connection cannot do what a reader needs. */
  checkSupport(reader) {
    if (!reader.needsTopic || this.client.connection.hasTopic) return;
    if (this.isPattern) throw unsupported('patterns', 'subscribe to each channel by its name');
    if (reader.hasWish) throw unsupported('last values and histories', 'subscribe without last and since');
    throw unsupported('conflation', 'subscribe without conflate');
  }

  /** Returns whether the connection can do what a reader needs, who would wait for it for ever otherwise. */
  isSupported(reader) {
    try {
      this.checkSupport(reader);
      return true;
    } catch (error) {
      this.fail(reader, error);
      return false;
    }
  }

  /** Subscribes for one more reader. */
  join(reader, how) {
    const { client } = this;
    this.checkSupport(reader);
    // What comes before the server's answer is for others: by a pattern, or because they want older messages.
    reader.isHeld = !reader.isReady;
    if (!client.connection.hasTopic) this.joinPlain(reader, how);
    else if (!reader.hasWish) this.ask([reader], {}, false, how);
    else if (this.isAwaited) this.waiting.push(reader);
    else if (this.isAsked) this.askAnew();
    else this.ask([reader], { last: reader.last, since: reader.since }, false, how);
  }

  /** Subscribes at a server that keeps nothing; `ready` resolves when it confirms, and at the published one at once. */
  joinPlain(reader, how) {
    const { client } = this;
    reader.isHeld = false;
    if (reader.isReady || reader === this.handler || !client.connection.isOurs) {
      client.dispatch(client.prepareOwn(this.name, MessageType.SUBSCRIBE, { connection_id: client.connectionId }), how);
      if (!reader.isReady) reader.resolveReady();
      return;
    }
    this.send({ ack: true }, how, () => reader.resolveReady(), (error) => reader.end(error));
  }

  /** Subscribes anew for readers, by default for all: for those that had come to a place, from there on. */
  resume(how, among = [...this.readers]) {
    const readers = among.filter((reader) => this.isSupported(reader));
    const known = readers.filter((reader) => reader.isReady);
    const { client } = this;
    if (client.connection.hasTopic && known.length > 0) {
      this.ask(known, this.isPattern ? latest(known) : { ...latest(known), since: earliest(known) }, true, how);
    } else if (known.length > 0) {
      for (const reader of known) {
        this.joinPlain(reader, how);
        reader.tellOfGap(this.name, null, reader.place, null);
      }
    }
    for (const reader of readers) if (!reader.isReady) this.join(reader, how);
  }

  /** Asks for the wishes of readers where the server sends to others already, without a gap for these. */
  askAnew() {
    const { newest, epoch } = this;
    // Both leave, or neither: a full queue must not part them.
    const how = { unbounded: true };
    let last = 0;
    for (const reader of this.readers) {
      if (!reader.isReady) last = Math.max(last, reader.last ?? 0);
      const { place } = reader;
      if (!this.isPattern && place !== null && place.epoch === epoch) last = Math.max(last, newest - place.offset);
    }
    this.waiting = [];
    this.sendUnsubscribe(how);
    this.ask([...this.readers], { last: this.isPattern ? last : last + SLACK }, false, how, true);
  }

  ask(readers, wish, isResumed, how, isAnew = false) {
    const isExclusive = wish.last !== undefined || wish.since !== undefined;
    this.isAsked = true;
    if (isExclusive) this.isAwaited = true;
    const settled = () => {
      if (isExclusive) this.isAwaited = false;
    };
    this.send({ ack: true, ...wish, ...(this.conflates ? { conflate: true } : {}) }, how, ({ payload }) => {
      settled();
      const answer = this.read(payload, wish);
      for (const reader of readers) if (!reader.isEnded) reader.confirm({ ...answer, isResumed });
      this.goOn();
    }, (error) => {
      settled();
      this.refuse(readers, error, isAnew);
      this.goOn();
    });
  }

  /** Reads the server's answer. */
  read(payload, { last, since }) {
    const { recovered, messages } = payload ?? {};
    const { epoch, offset: newest } = readPlace(payload);
    if (epoch === undefined) return { epoch, offset: 0, kept: counted(messages, COUNT_MAX) ?? 0 };
    this.epoch = epoch;
    this.newest = newest;
    let kept = 0;
    if (messages !== undefined) kept = Math.min(counted(messages, COUNT_MAX) ?? 0, newest);
    // A server that does not count them.
    else if (recovered === true) kept = since === undefined ? Math.min(last ?? 0, newest) : newest - since.offset;
    return { epoch, offset: newest, kept };
  }

  refuse(readers, error, isAnew) {
    for (const reader of readers) if (!isAnew || !reader.isReady) this.fail(reader, error);
    // The others had their subscription until it was asked anew.
    const others = [...this.readers].filter((reader) => reader.isReady);
    if (!isAnew || others.length === 0 || !this.client.canSend) return;
    this.isAsked = false;
    this.resume({ unbounded: true }, others);
  }

  /** A handler waits for the next connection, an iteration ends. */
  fail(reader, error) {
    if (reader === this.handler) this.client.report(error);
    else reader.end(error);
  }

  /** Goes on with readers that waited for an answer. */
  goOn() {
    const waiting = this.waiting.filter((reader) => !reader.isEnded);
    this.waiting = [];
    try {
      if (waiting.length > 0 && this.client.canSend) this.askAnew();
    } catch (error) {
      for (const reader of waiting) this.fail(reader, error);
    }
  }

  /** Sends a subscribe that is answered. */
  send(wish, how, resolve, reject) {
    const { client, name, isPattern } = this;
    const payload = { connection_id: client.connectionId, ...(isPattern ? { pattern: true } : {}), ...wish };
    const message = client.prepareOwn(name, MessageType.SUBSCRIBE, payload);
    client.pending.add(message.id, { ...how, timeout: client.options.requestTimeout, what: this.what }, resolve,
      (error) => {
        if (!(error instanceof NotConnectedError)) reject(error);
      });
    try {
      client.transmit(message, how);
    } catch (error) {
      client.pending.take(message.id);
      throw error;
    }
  }

  sendUnsubscribe(how) {
    const { client, name, isPattern } = this;
    if (!client.canSend) return;
    const payload = { connection_id: client.connectionId, ...(isPattern ? { pattern: true } : {}) };
    client.dispatch(client.prepareOwn(name, MessageType.UNSUBSCRIBE, payload), how);
  }
}

/** The most messages that one of the readers wants. */
function latest(readers) {
  const counts = readers.map(({ last }) => last).filter((last) => last !== undefined);
  return counts.length === 0 ? {} : { last: Math.max(...counts) };
}

/** The first place from which one of the readers has to go on. */
function earliest(readers) {
  const places = readers.map(({ place }) => place).filter((place) => place !== null);
  if (places.length === 0) return undefined;
  const [{ epoch }] = places;
  return { epoch, offset: Math.min(...places.filter((place) => place.epoch === epoch).map(({ offset }) => offset)) };
}

module.exports = { Topic };
