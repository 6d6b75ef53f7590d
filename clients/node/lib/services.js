'use strict';

const { IPCError, NotConnectedError, QueueFullError, TimeoutError, textOf } = require('./errors.js');
const { asyncDispose } = require('./dispose.js');
const { tracing } = require('./tracing.js');

const CONCURRENCY = 64;
const QUEUE_MAX = 1_024;
const QUEUE_BYTES = 64 * 1024 * 1024;

/** A message that a handler has in hand. Its signal is made when the handler asks for it, which most never do. */
class InHand {
  constructor() {
    this.controller = null;
    this.lost = null;
  }

  get signal() {
    if (this.controller === null) {
      this.controller = new AbortController();
      if (this.lost !== null) this.controller.abort(this.lost);
    }
    return this.controller.signal;
  }

  lose(reason) {
    this.lost = reason;
    this.controller?.abort(reason);
  }
}

/** A channel whose requests this process answers, some at a time and the others in order behind them. */
class Service {
  /**
   * @param {string} channel
   * @param {(request: object) => unknown} handler
   * @param {{ concurrency: number, queueMax: number, queueBytes: number, onNotification?: Function }} options
   * @param {{ respond: Function, stop: Function, report: Function, onDrop: Function }} hooks
   */
  constructor(channel, handler, { concurrency, queueMax, queueBytes, onNotification }, hooks) {
    this.channel = channel;
    this.handler = handler;
    this.onNotification = onNotification;
    this.concurrency = concurrency;
    this.queueMax = queueMax;
    this.queueBytesMax = queueBytes;
    this.hooks = hooks;
    /** Notifications that were dropped because the queue was full; a request would have been told. */
    this.dropped = 0;
    this.inHand = new Set();
    this.queue = [];
    this.queueBytes = 0;
    this.idle = [];
    this.stopping = null;
  }

  get running() { return this.inHand.size; }
  get isStopped() { return this.stopping !== null; }

  takes(message) {
    return message.isRequest() || (this.onNotification !== undefined && message.isNotification());
  }

  /** Serves no longer. What has begun is finished and answered. */
  close() {
    this.stopping ??= this.hooks.stop(this);
    return this.stopping;
  }

  async [asyncDispose]() {
    await this.close();
  }

  /** Answers to requests of a lost connection have nowhere to go: who waits is dropped, who runs is told. */
  forget() {
    this.queue = [];
    this.queueBytes = 0;
    const reason = new IPCError('CONNECTION_LOST', 'the connection this request came over is gone');
    for (const one of this.inHand) one.lose(reason);
    this.wakeIdle();
  }

  /** `bytes` are those of the message on the wire. */
  take(message, bytes) {
    if (this.running < this.concurrency) {
      void this.run(message);
    } else if (this.queue.length < this.queueMax && this.queueBytes + bytes <= this.queueBytesMax) {
      this.queue.push({ message, bytes });
      this.queueBytes += bytes;
    } else if (message.isRequest()) {
      this.hooks.respond(message, failure('limit_exceeded',
        new QueueFullError(`${this.queue.length} requests are waiting for this worker; send it again later`)));
    } else {
      this.dropped += 1;
      if (this.dropped === 1) this.hooks.onDrop(this);
    }
  }

  async run(message) {
    const hand = new InHand();
    this.inHand.add(hand);
    Object.defineProperty(message, 'signal', { get: () => hand.signal });
    if (tracing.serveStart.hasSubscribers) tracing.serveStart.publish({ channel: this.channel, request: message });
    let error = null;
    try {
      if (message.isRequest()) error = await this.answer(message, hand);
      else error = await this.notice(message);
    } finally {
      if (tracing.serveEnd.hasSubscribers) {
        tracing.serveEnd.publish({ channel: this.channel, request: message, error });
      }
      this.inHand.delete(hand);
      this.next();
      this.wakeIdle();
    }
  }

  /** @returns what the handler threw, or null */
  async answer(request, hand) {
    let payload;
    let error = null;
    try {
      payload = await this.handler(request);
    } catch (thrown) {
      error = thrown;
      payload = failure('handler_failed', thrown);
    }
    if (hand.lost === null) this.hooks.respond(request, payload);
    return error;
  }

  /** Nobody is told of what becomes of a notification, so its error is this client's. */
  async notice(notification) {
    try {
      await this.onNotification(notification);
      return null;
    } catch (thrown) {
      this.hooks.report(thrown);
      return thrown;
    }
  }

  next() {
    const waiting = this.queue.shift();
    if (waiting === undefined) return;
    this.queueBytes -= waiting.bytes;
    this.take(waiting.message, waiting.bytes);
  }

  wakeIdle() {
    if (this.running > 0 || this.queue.length > 0) return;
    const waiting = this.idle;
    this.idle = [];
    for (const wake of waiting) wake();
  }

  whenIdle() {
    if (this.running === 0 && this.queue.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.idle.push(resolve));
  }
}

/** What a client serves, and what the server has to be told of it. */
class Services {
  /** @param {import('./client.js').IPCClient} client */
  constructor(client) {
    this.client = client;
    this.channels = new Map();
  }

  get(channel) {
    return this.channels.get(channel);
  }

  values() {
    return [...this.channels.values()];
  }

  clear() {
    this.channels.clear();
  }

  async serve(channel, handler, options = {}) {
    const { concurrency = CONCURRENCY, queueMax = QUEUE_MAX, queueBytes = QUEUE_BYTES, onNotification } = options;
    if (typeof handler !== 'function') throw new TypeError('serve needs a function that answers');
    if (!(concurrency >= 1)) throw new TypeError('concurrency must be 1 or more');
    if (!(queueMax >= 0 && queueBytes >= 0)) throw new TypeError('queueMax and queueBytes must be 0 or more');
    if (onNotification !== undefined && typeof onNotification !== 'function') {
      throw new TypeError('onNotification must be a function');
    }
    if (this.channels.has(channel)) throw new IPCError('ALREADY_SERVED', `'${channel}' is served already`);
    const { client } = this;
    const service = new Service(channel, handler, { concurrency, queueMax, queueBytes, onNotification }, {
      respond: (request, payload) => this.respond(request, payload),
      stop: (stopped) => this.stop(stopped),
      report: (error) => client.report(error),
      onDrop: (dropping) => client.emitSafely('slow', { channel, service: dropping }),
    });
    this.channels.set(channel, service);
    try {
      if (client.canSend) await this.announce(service);
    } catch (error) {
      // With the connection gone it will be announced to the next, where one is to come.
      if (error instanceof NotConnectedError && client.state !== 'closed') return service;
      this.forgetService(service);
      // The server may get to it yet. It does all in order, so this undoes it whenever that is.
      if (error instanceof TimeoutError) client.command({ action: 'stop_serving', channel }).catch(() => {});
      throw error;
    }
    return service;
  }

  async announce({ channel }) {
    if (!this.client.connection.isOurs) {
      throw new IPCError('UNSUPPORTED', 'the published Python server passes requests to nobody; serve() needs '
        + 'the server of this project');
    }
    await this.client.command({ action: 'serve', channel });
  }

  /** Announces all to a new connection. */
  restore() {
    for (const service of this.channels.values()) {
      if (service.isStopped) continue;
      this.announce(service).catch((error) => {
        if (!(error instanceof NotConnectedError)) this.client.report(error);
      });
    }
  }

  async stop(service) {
    const { channel } = service;
    try {
      if (this.client.canSend) await this.client.command({ action: 'stop_serving', channel });
    } catch (error) {
      if (!(error instanceof NotConnectedError)) {
        this.forgetService(service);
        throw error;
      }
    }
    await service.whenIdle();
    this.forgetService(service);
  }

  forgetService(service) {
    if (this.channels.get(service.channel) === service) this.channels.delete(service.channel);
  }

  respond(request, payload) {
    const { client } = this;
    if (!client.canSend) return;
    try {
      client.respond(request, payload);
    } catch (error) {
      client.report(error);
      try {
        client.respond(request, failure('handler_failed', error));
      } catch {
        // The queue is full; the server will answer the requester in this worker's place.
      }
    }
  }

  /** The server has not heard yet that the channel is served no longer, and the requester is not to wait for it. */
  refuse(request) {
    this.respond(request, failure('no_handler', `this worker serves '${request.channel_id}' no longer`));
  }

  forgetConnection() {
    for (const service of this.channels.values()) service.forget();
  }

  /** How many messages handlers have in hand or before them. */
  get unfinished() {
    let count = 0;
    for (const { running, queue } of this.channels.values()) count += running + queue.length;
    return count;
  }
}

/** In the server's own words, so that the requester's client makes an error of it. */
function failure(code, thrown) {
  return { status: 'error', code, error: textOf(thrown) || 'the handler failed without a word' };
}

module.exports = { Service, Services };
