'use strict';

const { CancelledError, IPCError, NotConnectedError, TimeoutError } = require('./errors.js');
const { Answers } = require('./answers.js');
const { checkedOptions } = require('./options.js');
const { failure } = require('./handler_error.js');
const { Service } = require('./service.js');

const OPTIONS = ['concurrency', 'prefetch', 'queueMax', 'queueBytes', 'onNotification'];
const CONCURRENCY = 64;
const QUEUE_MAX = 1_024;
const QUEUE_BYTES = 64 * 1024 * 1024;

/** The channels that a client serves, and their registration at the server. */
class Services {
  /** @param {import('./client.js').IPCClient} client */
  constructor(client) {
    this.client = client;
    this.channels = new Map();
    /** Services that finish what they have while another one serves their channel already. */
    this.retiring = new Set();
    /** What the handlers of all services work on or have before them, by the server's ids. */
    this.works = new Map();
    this.answers = new Answers(client);
  }

  get(channel) {
    return this.channels.get(channel);
  }

  values() {
    return [...this.channels.values(), ...this.retiring];
  }

  /** True while a handler of this client is being called. */
  get isHandling() {
    return this.values().some((service) => service.isCurrent);
  }

  clear() {
    this.channels.clear();
    this.retiring.clear();
  }

  async serve(channel, handler, options = {}) {
    const {
      concurrency = CONCURRENCY, prefetch = null, queueMax = QUEUE_MAX, queueBytes = QUEUE_BYTES, onNotification,
    } = checkedOptions(options, OPTIONS, 'serve');
    if (typeof handler !== 'function') throw new TypeError('serve needs a function that answers');
    if (!(concurrency >= 1)) throw new TypeError('concurrency must be 1 or more');
    if (prefetch !== null && !(Number.isInteger(prefetch) && prefetch >= 0)) {
      throw new TypeError('prefetch must be an integer from 0 on, or null for all requests at once');
    }
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
    const service = new Service(channel, handler, { concurrency, prefetch, queueMax, queueBytes, onNotification }, {
      answers: this.answers,
      works: this.works,
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

  async announce({ channel, announced }) {
    if (!this.client.connection.isOurs) {
      throw new IPCError('UNSUPPORTED', 'the published Python server passes requests to nobody; serve() needs '
        + 'the server of this project');
    }
    const limit = announced === undefined ? {} : { concurrency: announced };
    await this.client.command({ action: 'serve', channel, ...limit });
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

  /**
   * Handles what the server says of a request that it gave to this client: that nobody waits for its answer, or that
   * more parts may be sent. It may come when the work is done.
   */
  control({ action, message_id: id, reason, n }) {
    const work = this.works.get(id);
    if (action === 'cancel') work?.service.lose(work, new CancelledError(reason));
    else work?.addCredit(n);
  }

  /** The server does not know yet that the channel is no longer served, and the requester must not wait in vain. */
  refuse(request) {
    this.answers.refuse(request, failure('no_handler', `this worker serves '${request.channel_id}' no longer`));
  }

  /**
   * Handles a lost connection, whose requests cannot be answered: waiting ones are dropped, and the signals of running
   * ones fire.
   */
  forgetConnection() {
    const reason = new IPCError('CONNECTION_LOST', 'the connection this request came over is gone');
    for (const work of [...this.works.values()]) work.service.lose(work, reason);
  }

  /** Returns the number of messages that handlers are working on or that wait for them. */
  get unfinished() {
    let count = 0;
    for (const { running, waiting } of this.values()) count += running + waiting;
    return count;
  }
}

module.exports = { Services };
