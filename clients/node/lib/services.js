'use strict';

const { IPCError, NotConnectedError, QueueFullError, TimeoutError, textOf } = require('./errors.js');
const { Context } = require('./context.js');
const { checkedOptions } = require('./options.js');
const { asyncDispose } = require('./dispose.js');
const { tracing } = require('./tracing.js');

const OPTIONS = ['concurrency', 'queueMax', 'queueBytes', 'onNotification'];
const CONCURRENCY = 64;
const QUEUE_MAX = 1_024;
const QUEUE_BYTES = 64 * 1024 * 1024;

/**
 * A message that a handler is working on. Its signal is made when the handler asks for it, which most handlers never
 * do.
 */
class InHand {
  /** @param {import('node:async_hooks').AsyncResource} resource the async context of this call of the handler */
  constructor(resource) {
    this.resource = resource;
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
    if (this.controller !== null) this.resource.runInAsyncScope(() => this.controller.abort(reason));
  }

  /** Traces in the context of the handler, so that what a tracer sets there is seen by the handler. */
  trace(channel, event) {
    this.resource.runInAsyncScope(() => channel.publish(event));
  }
}

/** A channel whose requests this process answers. Some are handled at a time, and the others wait in order. */
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
    this.context = new Context();
    /** Number of notifications that were dropped because the queue was full; requests are refused instead. */
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

  /** Stops serving. Requests that have begun are finished and answered. */
  close() {
    this.stopping ??= this.hooks.stop(this);
    return this.stopping;
  }

  async [asyncDispose]() {
    await this.close();
  }

  /**
   * Handles a lost connection, whose requests cannot be answered: waiting ones are dropped, and the signals of running
   * ones fire.
   */
  forget() {
    this.queue = [];
    this.queueBytes = 0;
    const reason = new IPCError('CONNECTION_LOST', 'the connection this request came over is gone');
    for (const one of this.inHand) one.lose(reason);
    this.wakeIdle();
  }

  /** Accepts a message. `bytes` is its size on the wire. */
  take(message, bytes) {
    if (this.running < this.concurrency) {
      void this.run(message);
    } else if (this.hasRoom(bytes)) {
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

  /** A message that is larger than all the room may wait alone, as in the other clients. */
  hasRoom(bytes) {
    const { length } = this.queue;
    return length < this.queueMax && (length === 0 || this.queueBytes + bytes <= this.queueBytesMax);
  }

  async run(message) {
    const hand = new InHand(this.context.resource());
    this.inHand.add(hand);
    Object.defineProperty(message, 'signal', { get: () => hand.signal });
    if (tracing.serveStart.hasSubscribers) hand.trace(tracing.serveStart, { channel: this.channel, request: message });
    let error = null;
    try {
      error = message.isRequest() ? await this.answer(message, hand) : await this.notice(message, hand);
    } finally {
      if (tracing.serveEnd.hasSubscribers) {
        hand.trace(tracing.serveEnd, { channel: this.channel, request: message, error });
      }
      this.inHand.delete(hand);
      this.next();
      this.wakeIdle();
    }
  }

  /** @returns the error that the handler threw, or null */
  async answer(request, hand) {
    let payload;
    let error = null;
    try {
      payload = await hand.resource.runInAsyncScope(this.handler, undefined, request);
    } catch (thrown) {
      error = thrown;
      payload = failure('handler_failed', thrown);
    }
    if (hand.lost === null) this.hooks.respond(request, payload);
    return error;
  }

  /** A notification has no answer, so an error of its handler is reported by this client. */
  async notice(notification, hand) {
    try {
      await hand.resource.runInAsyncScope(this.onNotification, undefined, notification);
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

/** The channels that a client serves, and their registration at the server. */
class Services {
  /** @param {import('./client.js').IPCClient} client */
  constructor(client) {
    this.client = client;
    this.channels = new Map();
    /** Services that finish what they have while another one serves their channel already. */
    this.retiring = new Set();
  }

  get(channel) {
    return this.channels.get(channel);
  }

  values() {
    return [...this.channels.values(), ...this.retiring];
  }

  clear() {
    this.channels.clear();
    this.retiring.clear();
  }

  async serve(channel, handler, options = {}) {
    const { concurrency = CONCURRENCY, queueMax = QUEUE_MAX, queueBytes = QUEUE_BYTES, onNotification } =
      checkedOptions(options, OPTIONS, 'serve');
    if (typeof handler !== 'function') throw new TypeError('serve needs a function that answers');
    if (!(concurrency >= 1)) throw new TypeError('concurrency must be 1 or more');
    if (!(queueMax >= 0 && queueBytes >= 0)) throw new TypeError('queueMax and queueBytes must be 0 or more');
    if (onNotification !== undefined && typeof onNotification !== 'function') {
      throw new TypeError('onNotification must be a function');
    }
    const former = this.channels.get(channel);
    if (former !== undefined && !former.isStopped) {
      throw new IPCError('ALREADY_SERVED', `'${channel}' is served already; close that service first`);
    }
    if (former !== undefined) this.retiring.add(former);
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
      // If the connection is lost, the channel is registered on the next one, if there will be one.
      if (error instanceof NotConnectedError && client.state !== 'closed') return service;
      this.forgetService(service);
      // The server may still process the registration. It processes messages in order, so this undoes it in any case.
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

  /** Registers all channels on a new connection. */
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
    this.retiring.delete(service);
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
        // The queue is full, and the server answers the requester instead of this worker.
      }
    }
  }

  /** The server does not know yet that the channel is no longer served, and the requester must not wait in vain. */
  refuse(request) {
    this.respond(request, failure('no_handler', `this worker serves '${request.channel_id}' no longer`));
  }

  forgetConnection() {
    for (const service of this.values()) service.forget();
  }

  /** Returns the number of messages that handlers are working on or that wait for them. */
  get unfinished() {
    let count = 0;
    for (const { running, queue } of this.values()) count += running + queue.length;
    return count;
  }
}

/** Returns an error in the server's format, so that the requester's client recognises it. */
function failure(code, thrown) {
  return { status: 'error', code, error: textOf(thrown) || 'the handler failed without a word' };
}

module.exports = { Service, Services };
