'use strict';

const { EventEmitter } = require('node:events');
const { randomUUID } = require('node:crypto');
const { Connection } = require('./connection.js');
const { ContextEmitter, bound, runOutside } = require('./context.js');
const { Backoff } = require('./reconnect.js');
const { OfflineQueue } = require('./offline_queue.js');
const { Pending } = require('./pending.js');
const { Servers } = require('./servers.js');
const { placeOf } = require('./failures.js');
const { resolveOptions, checkedOptions } = require('./options.js');
const { encodeBody } = require('./codec.js');
const { OFFERED } = require('./extensions.js');
const { MessageType } = require('./message.js');
const { TooLargeError } = require('./oversize.js');
const { tracing } = require('./tracing.js');
const { after, cancel, every, now } = require('./timers.js');
const { NotConnectedError, ConnectionLostError, ServerError, TimeoutError, isOfProgram, warn } = require('./errors.js');

const CONNECT_OPTIONS = ['retry'];
const SYSTEM_JSON = '"system"';
// Another attempt would get the same answer, or start a fight over the id.
const FINAL_CODES = new Set(['auth_failed', 'taken_over']);
const HEARTBEAT_TIMEOUT_MS = 10_000;
// What a server is expected to read in the time of one heartbeat, and what the kernels of both sides hold at most.
const BYTES_PER_HEARTBEAT = 2 * 1024 * 1024;
const KERNEL_BYTES = 8 * 1024 * 1024;
// A connection that stood for this long, or for the longest delay, has served its purpose without a message.
const PROVEN_MS = 30_000;

/**
 * The life of a client: connecting, losing the connection, reconnecting, closing. The class that extends it handles the
 * messages, by `restore`, `forgetConnection`, `gaveUp`, `receive` and `receiveBad`.
 */
class Lifecycle extends ContextEmitter {
  constructor(appId, options) {
    // This catches rejections of asynchronous listeners too, see below.
    super({ captureRejections: true });
    if (typeof appId !== 'string' || appId === '') throw new TypeError('appId must be a string that is not empty');
    this.appId = appId;
    this.options = resolveOptions(options);
    this.options.tls = bound(this.options.tls);
    this.appJson = JSON.stringify(appId);
    this.connectionId = randomUUID();
    this.firstConnectionId = null;
    /** @type {'idle' | 'connecting' | 'connected' | 'reconnecting' | 'closed'} */
    this.state = 'idle';
    this.isClosing = false;
    this.connection = null;
    this.wasConnected = false;
    /**
     * The time at which the client gave up, by the monotonic clock. `isRefused` if another attempt would get the same
     * answer.
     */
    this.gaveUpAt = null;
    this.isRefused = false;
    this.openedAt = 0;
    /** True if the current connection has served something: an answer, a publication or a request to serve. */
    this.isProven = false;
    /** Called when a connection is proven, for a pool. */
    this.onProven = null;
    /** The last error that was reported, for callers that got `false` from `connect`. */
    this.lastError = null;
    this.handlers = { connected: null, disconnected: null, error: null };
    this.waiters = [];
    this.pending = new Pending(this.options.pendingMax, () => this.bytesRead);
    this.offline = new OfflineQueue({
      messagesMax: this.options.offlineQueueSize,
      bytesMax: this.options.offlineQueueBytes,
    });
    this.backoff = new Backoff({
      attempts: this.options.reconnectAttempts,
      delay: this.options.reconnectDelay,
      delayMax: this.options.reconnectDelayMax,
    });
    this.servers = new Servers(this.options.addresses, { isRandom: this.options.addressOrder === 'random' });
    this.retryTimer = null;
    this.heartbeatTimer = null;
  }

  /** Those of the current, or last, connection or attempt. */
  get host() { return this.servers.current.host ?? this.options.host; }
  get port() { return this.servers.current.port ?? this.options.port; }
  get connected() { return this.state === 'connected'; }
  get canSend() { return this.connected && this.connection.isWritable; }
  get bytesRead() { return this.connection?.bytesRead ?? 0; }

  /** True if it gave up long enough ago for another attempt, and for a reason that may have gone. */
  get mayTryAgain() {
    return this.state === 'idle' && !this.isRefused && this.gaveUpAt !== null
      && now() - this.gaveUpAt >= this.backoff.restMs;
  }

  isConnected() {
    return this.connected;
  }

  /** The name that the server gave itself; null for the published server. */
  get server() {
    return this.connection?.server ?? null;
  }

  /** The names of the protocol's extensions that the server agreed to use on this connection. */
  get extensions() {
    return this.connection?.extensions ?? [];
  }

  /** The server's limits, as far as it names them: `maxFrameBytes` and `requestTimeout`. */
  get limits() {
    return this.connection?.limits ?? null;
  }

  onConnected(handler) { this.handlers.connected = bound(handler); }
  onDisconnected(handler) { this.handlers.disconnected = bound(handler); }
  onError(handler) { this.handlers.error = bound(handler); }

  /**
   * Resolves with true once connected, and with false if that failed; the reason is in `lastError` and in the event
   * `error`. It makes one attempt, or with `retry` as many as for a reconnect.
   * @param {{ retry?: boolean }} [how]
   * @returns {Promise<boolean>}
   */
  connect(options = {}) {
    let retry;
    try {
      ({ retry = false } = checkedOptions(options, CONNECT_OPTIONS, 'connect'));
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.isClosing) return Promise.resolve(false);
    if (this.connected) return Promise.resolve(true);
    return new Promise((resolve) => {
      this.waiters.push(resolve);
      if (this.state === 'connecting') return;
      if (this.state === 'reconnecting') {
        if (this.retryTimer !== null) this.attempt();
        return;
      }
      this.backoff.restart();
      this.gaveUpAt = null;
      this.isRefused = false;
      this.servers.restart();
      this.state = retry ? 'reconnecting' : 'connecting';
      this.attempt();
    });
  }

  attempt() {
    cancel(this.retryTimer);
    this.retryTimer = null;
    // Each connection has a new id, because the published server may learn late of an old connection's end and would
    // then close the new one.
    this.firstConnectionId ??= this.connectionId;
    if (this.wasConnected) this.connectionId = `${this.firstConnectionId}.${randomUUID()}`;
    const { token, connectionTimeout } = this.options;
    const { address, timeout } = this.servers.take(connectionTimeout);
    const connection = new Connection({ ...this.options, path: undefined, ...address }, {
      onOpen: () => this.opened(connection),
      onMessage: (message, bytes) => this.receive(message, bytes),
      onBad: (message, error) => this.receiveBad(message, error),
      onFault: (error) => this.report(error),
      onSlow: (queuedBytes) => this.emitSafely('slow', { queuedBytes }),
      onDrain: () => this.emitSafely('drain'),
      onClose: (cause, unsentBytes) => this.lost(connection, cause, unsentBytes),
    });
    this.connection = connection;
    const payload = { action: 'connect', connection_id: this.connectionId, extensions: OFFERED };
    if (token !== undefined) payload.token = token;
    const body = encodeBody(randomUUID(), this.appJson, SYSTEM_JSON, MessageType.REQUEST, JSON.stringify(payload));
    runOutside(() => connection.open(body, timeout)).catch((error) => {
      if (this.connection === connection) this.failed(error);
    });
  }

  /** Returns whether this client had the id on an earlier connection. Programs may keep the first id that they got. */
  isFormerId(id) {
    return typeof id === 'string' && id !== this.connectionId
      && (id === this.firstConnectionId || id.startsWith(`${this.firstConnectionId}.`));
  }

  opened(connection) {
    if (this.connection !== connection) return;
    const isReconnect = this.wasConnected;
    this.state = 'connected';
    this.wasConnected = true;
    this.openedAt = now();
    this.isProven = false;
    this.servers.connected();
    const address = placeOf(this.servers.current);
    this.startHeartbeat();
    try {
      this.restore();
      for (const message of this.offline.takeAll()) {
        try {
          this.transmit(message);
        } catch (error) {
          this.pending.take(message.id)?.reject(error);
          this.report(error);
        }
      }
      if (tracing.connect.hasSubscribers) tracing.connect.publish({ client: this, isReconnect });
    } catch (error) {
      this.report(error);
    } finally {
      this.settle(true);
    }
    this.callUser(this.handlers.connected);
    this.emitSafely('connected', { isReconnect, server: connection.server, address });
  }

  /** Notes that the connection has served something, so that the next attempts begin anew. */
  prove() {
    if (this.isProven) return;
    this.isProven = true;
    this.backoff.reset();
    this.servers.begin();
    this.onProven?.();
  }

  failed(reason) {
    this.connection = null;
    if (!this.servers.failed(reason)) {
      this.attempt();
      return;
    }
    const { errors, error } = this.servers.end();
    this.isRefused = errors.every(isFinal);
    const isFirst = this.state === 'connecting';
    if (!isFirst && !this.isRefused && this.backoff.attempts > 0) {
      // A single failed attempt is reported as `reconnecting` only, and as `error` if it was the last one.
      this.lastError = error;
      this.retryLater(error);
      return;
    }
    this.state = 'idle';
    this.giveUp(error, isFirst);
  }

  /** Handles the end of the connection, whether it was requested or not. */
  lost(connection, cause, unsentBytes) {
    if (this.connection !== connection) {
      if (unsentBytes > 0) {
        this.report(new ConnectionLostError(`the connection ended after disconnect() with ${unsentBytes} bytes unsent: `
          + 'the server does not have what was published or notified last; close() waits for it', { cause }));
      }
      return;
    }
    this.connection = null;
    this.stopHeartbeat();
    this.state = 'reconnecting';
    if (now() - this.openedAt >= Math.min(this.options.reconnectDelayMax, PROVEN_MS)) this.prove();
    // Another server may take a token that this one takes no more.
    this.isRefused = isFinal(cause) && !(this.servers.areSeveral && cause.code === 'auth_failed');
    const address = placeOf(this.servers.current);
    const isRoundOver = this.isProven || this.servers.failed(cause ?? new ConnectionLostError(
      'the server closed the connection before it did anything'));
    const error = new ConnectionLostError(
      `the connection to the server was lost before the answer came${cause ? `: ${cause.message}` : ''}; the request `
      + 'may or may not have been carried out', { cause });
    this.forgetConnection(error);
    // Messages that were sent after the socket failed wait for the next connection.
    const isTooLarge = cause instanceof TooLargeError;
    this.pending.rejectAll((id, number) => (isTooLarge ? cause.errorFor(id, number) : error),
      (id) => !this.offline.has(id));
    if (tracing.disconnect.hasSubscribers) tracing.disconnect.publish({ client: this, cause });
    this.callUser(this.handlers.disconnected);
    this.emitSafely('disconnected', { cause, address });
    if (isTooLarge && connection.oneWay > cause.record.oneWay) {
      this.report(cause.errorForOthers(connection.oneWay));
    } else if (unsentBytes > 0) {
      this.report(new ConnectionLostError(`the connection was lost with ${unsentBytes} bytes unsent: the server does `
        + 'not have what was published or notified last', { cause }));
    }
    if (cause !== undefined && !isTooLarge && cause !== this.lastError) this.report(cause);
    // A listener may have closed the client, or connected it again.
    if (this.state !== 'reconnecting' || this.connection !== null) return;
    if (this.isRefused || this.isClosing) {
      this.state = 'idle';
      this.giveUp(this.isRefused ? null : error);
    } else if (!isRoundOver && this.backoff.attempts > 0) {
      // The others come before a pause.
      this.attempt();
    } else {
      this.servers.begin();
      this.retryLater(cause);
    }
  }

  retryLater(error) {
    const delay = this.backoff.next();
    if (delay === null) {
      this.state = 'idle';
      const { attempts } = this.backoff;
      this.giveUp(attempts === 0 ? null : new NotConnectedError(
        `gave up after ${attempts} attempts to connect again; connect() tries anew`, { cause: this.lastError }));
      return;
    }
    // The timer keeps the process alive, because a program that waits for its connection is not done.
    this.retryTimer = after(delay, () => this.attempt());
    this.emitSafely('reconnecting', { attempt: this.backoff.made, delay, error });
  }

  /**
   * Gives up until `connect` is called again. A caller whose first attempt failed can do that at once; all others would
   * wait forever, so they are told.
   */
  giveUp(error, isFirst = false) {
    this.gaveUpAt = now();
    this.backoff.rest();
    // Requests among them are rejected, which tells their callers.
    const dropped = this.offline.takeAll().filter(({ id }) => !this.pending.has(id)).length;
    const reason = error ?? this.lastError;
    this.pending.rejectAll(() => new NotConnectedError(
      `there is no connection${reason ? `: ${reason.message}` : ''}; the request was not sent`, { cause: reason }));
    if (error !== null) this.report(error);
    if (dropped > 0) {
      this.report(new NotConnectedError(`there is no connection: messages that waited for one were dropped, ${dropped} `
        + 'in all'));
    }
    if (!isFirst) this.gaveUp(reason);
    this.settle(false);
  }

  settle(isConnected) {
    const { waiters } = this;
    this.waiters = [];
    for (const resolve of waiters) resolve(isConnected);
  }

  /**
   * Closes: messages that were sent still arrive, requests in flight are rejected. After that nothing of this client
   * keeps the process alive.
   */
  disconnect() {
    const { connection, connected: wasConnected } = this;
    cancel(this.retryTimer);
    this.retryTimer = null;
    this.stopHeartbeat();
    this.connection = null;
    this.state = 'closed';
    const error = new NotConnectedError('the client closed its connection before the answer came');
    connection?.end();
    this.offline.takeAll();
    this.forgetConnection(error);
    this.pending.rejectAll(() => error);
    this.settle(false);
    if (wasConnected) {
      if (tracing.disconnect.hasSubscribers) tracing.disconnect.publish({ client: this, cause: undefined });
      this.callUser(this.handlers.disconnected);
      this.emitSafely('disconnected', { cause: undefined, address: placeOf(this.servers.current) });
    }
    return connection;
  }

  startHeartbeat() {
    const { heartbeatInterval } = this.options;
    if (heartbeatInterval === 0) return;
    let bytesRead = 0;
    this.heartbeatTimer = every(heartbeatInterval, () => {
      const { connection } = this;
      if (connection === null || !connection.isOpen) return;
      const isQuiet = connection.bytesRead === bytesRead;
      bytesRead = connection.bytesRead;
      // Where much is sent, each answer to a heartbeat proves that it was read.
      if (isQuiet || connection.bytesSent - connection.bytesProven > BYTES_PER_HEARTBEAT) this.beat(connection);
    });
    this.heartbeatTimer?.unref();
  }

  /**
   * A server of this project answers. The published one only receives bytes, which reveal a dead connection. The ping
   * stands behind all that was sent before it. How far the server has read what is in the kernels already cannot be
   * seen, so the ping gets more time for it.
   */
  beat(connection) {
    if (!connection.isOurs) {
      try {
        this.notify('system', { action: 'heartbeat' });
      } catch {
        // A full queue shows the same as a heartbeat would.
      }
      return;
    }
    // A ping that is on its way says the same as another.
    if (connection.isBeating) return;
    connection.isBeating = true;
    const { bytesRead, unsentBytes, bytesSent } = connection;
    const unknownBytes = Math.min(bytesSent - connection.bytesProven, KERNEL_BYTES);
    const timeout = Math.min(this.options.heartbeatInterval, HEARTBEAT_TIMEOUT_MS)
      * (1 + Math.floor(unknownBytes / BYTES_PER_HEARTBEAT));
    const answered = () => { connection.bytesProven = bytesSent; };
    this.command({ action: 'ping' }, timeout).then(answered, (error) => {
      // An error from the server is a sign of life too, and so is anything that it has sent or taken since: the ping
      // may stand behind a large message.
      const isSilent = connection.bytesRead === bytesRead && connection.unsentBytes >= unsentBytes;
      if (error instanceof TimeoutError && isSilent) {
        connection.destroy(new TimeoutError(`the server was silent for ${timeout} ms after a heartbeat`));
      }
    }).finally(() => { connection.isBeating = false; });
  }

  stopHeartbeat() {
    cancel(this.heartbeatTimer);
    this.heartbeatTimer = null;
  }

  /** Reports an error for which no caller waits. An `error` event without a listener must not end the process. */
  report(error) {
    this.lastError = error;
    if (typeof this.handlers.error === 'function') {
      try {
        const result = this.handlers.error(error);
        // This is not reported, because the report would reach the same handler.
        if (typeof result?.then === 'function') result.then(undefined, warn);
      } catch (thrown) {
        warn(thrown);
      }
    }
    if (this.listenerCount('error') > 0) this.emitSafely('error', error);
    // It would be lost otherwise.
    else if (isOfProgram(error) && !this.handlers.error) warn(error);
  }

  /** An error of a listener must not stop the work of the client. */
  emitSafely(event, ...values) {
    try {
      this.emit(event, ...values);
    } catch (thrown) {
      if (event === 'error') warn(thrown);
      else this.report(thrown);
    }
  }

  /** Node calls this when the promise of a listener is rejected. */
  [EventEmitter.captureRejectionSymbol](error, event) {
    // This is not reported, because the report would reach the same listener.
    if (event === 'error') warn(error);
    else this.report(error);
  }

  callUser(handler, ...values) {
    if (typeof handler !== 'function') return;
    try {
      const result = handler(...values);
      if (typeof result?.then === 'function') result.then(undefined, (error) => this.report(error));
    } catch (error) {
      this.report(error);
    }
  }
}

function isFinal(error) {
  return error instanceof ServerError && FINAL_CODES.has(error.code);
}

module.exports = { Lifecycle };
