'use strict';

const { EventEmitter } = require('node:events');
const { randomUUID } = require('node:crypto');
const { Connection } = require('./connection.js');
const { Backoff } = require('./reconnect.js');
const { OfflineQueue } = require('./offline_queue.js');
const { Pending } = require('./pending.js');
const { resolveOptions } = require('./options.js');
const { encodeBody } = require('./codec.js');
const { MessageType } = require('./message.js');
const { tracing } = require('./tracing.js');
const { after, every } = require('./timers.js');
const { NotConnectedError, ConnectionLostError, ServerError, TimeoutError, isOfProgram, warn } = require('./errors.js');

const SYSTEM_JSON = '"system"';
// Trying again would get the same answer, or start a fight over the id.
const FINAL_CODES = new Set(['auth_failed', 'taken_over']);
const HEARTBEAT_TIMEOUT_MS = 10_000;

/**
 * The life of a client: connecting, losing the connection, getting it back, closing. What goes over the connection
 * is the business of the class that extends it, by `restore`, `forgetConnection`, `gaveUp` and `receive`.
 */
class Lifecycle extends EventEmitter {
  constructor(appId, options) {
    // Of asynchronous listeners as well: see below.
    super({ captureRejections: true });
    if (typeof appId !== 'string' || appId === '') throw new TypeError('appId must be a string that is not empty');
    this.appId = appId;
    this.options = resolveOptions(options);
    this.appJson = JSON.stringify(appId);
    this.connectionId = randomUUID();
    this.firstConnectionId = null;
    /** @type {'idle' | 'connecting' | 'connected' | 'reconnecting' | 'closed'} */
    this.state = 'idle';
    this.isClosing = false;
    this.closePromise = null;
    this.connection = null;
    this.wasConnected = false;
    /** When the client gave up, in milliseconds; what it would be told again anyway is `isRefused`. */
    this.gaveUpAt = null;
    this.isRefused = false;
    /** The last error that was reported, for whoever got `false` from `connect`. */
    this.lastError = null;
    this.handlers = { connected: null, disconnected: null, error: null };
    this.waiters = [];
    this.pending = new Pending(this.options.pendingMax);
    this.offline = new OfflineQueue({
      messagesMax: this.options.offlineQueueSize,
      bytesMax: this.options.offlineQueueBytes,
    });
    this.backoff = new Backoff({
      attempts: this.options.reconnectAttempts,
      delay: this.options.reconnectDelay,
      delayMax: this.options.reconnectDelayMax,
    });
    this.retryTimer = null;
    this.heartbeatTimer = null;
  }

  get host() { return this.options.host; }
  get port() { return this.options.port; }
  get connected() { return this.state === 'connected'; }
  get canSend() { return this.connected && this.connection.isWritable; }

  /** Whether it gave up, long enough ago for another try, and for a reason that may have gone. */
  get mayTryAgain() {
    return this.state === 'idle' && !this.isRefused && this.gaveUpAt !== null
      && Date.now() - this.gaveUpAt >= this.options.reconnectDelay;
  }

  isConnected() {
    return this.connected;
  }

  /** What the server called itself; null for the published one. */
  get server() {
    return this.connection?.server ?? null;
  }

  onConnected(handler) { this.handlers.connected = handler; }
  onDisconnected(handler) { this.handlers.disconnected = handler; }
  onError(handler) { this.handlers.error = handler; }

  /**
   * Resolves with true once connected, with false where it could not; why is in `lastError` and in the event `error`.
   * One attempt is made, with `retry` as many as for a reconnection.
   * @param {{ retry?: boolean }} [how]
   * @returns {Promise<boolean>}
   */
  connect({ retry = false } = {}) {
    if (this.isClosing) return Promise.resolve(false);
    if (this.connected) return Promise.resolve(true);
    return new Promise((resolve) => {
      this.waiters.push(resolve);
      if (this.state === 'connecting') return;
      if (this.state === 'reconnecting') {
        if (this.retryTimer !== null) this.attempt();
        return;
      }
      this.backoff.reset();
      this.gaveUpAt = null;
      this.isRefused = false;
      this.state = retry ? 'reconnecting' : 'connecting';
      this.attempt();
    });
  }

  attempt() {
    clearTimeout(this.retryTimer);
    this.retryTimer = null;
    // A new id for each connection: the published server, told of the old one's end late, would close the new one.
    this.firstConnectionId ??= this.connectionId;
    if (this.wasConnected) this.connectionId = `${this.firstConnectionId}.${randomUUID()}`;
    const connection = new Connection(this.options, {
      onOpen: () => this.opened(connection),
      onMessage: (message, bytes) => this.receive(message, bytes),
      onFault: (error) => this.report(error),
      onSlow: (queuedBytes) => this.emitSafely('slow', { queuedBytes }),
      onDrain: () => this.emitSafely('drain'),
      onClose: (cause, unsentBytes) => this.lost(connection, cause, unsentBytes),
    });
    this.connection = connection;
    const { token, connectionTimeout } = this.options;
    const payload = { action: 'connect', connection_id: this.connectionId, ...(token === undefined ? {} : { token }) };
    const body = encodeBody(randomUUID(), this.appJson, SYSTEM_JSON, MessageType.REQUEST, JSON.stringify(payload));
    connection.open(body, connectionTimeout).catch((error) => {
      if (this.connection === connection) this.failed(error);
    });
  }

  /** Whether an id was this client's on an earlier connection. Programs keep the first one they were told. */
  isFormerId(id) {
    return typeof id === 'string' && id !== this.connectionId
      && (id === this.firstConnectionId || id.startsWith(`${this.firstConnectionId}.`));
  }

  opened(connection) {
    if (this.connection !== connection) return;
    const isReconnect = this.wasConnected;
    this.state = 'connected';
    this.wasConnected = true;
    this.backoff.reset();
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
    this.emitSafely('connected', { isReconnect, server: connection.server });
  }

  failed(error) {
    this.connection = null;
    this.isRefused = error instanceof ServerError && FINAL_CODES.has(error.code);
    const isFirst = this.state === 'connecting';
    if (!isFirst && !this.isRefused) {
      // One failed attempt is no news by itself: `reconnecting` tells of it, `error` when it was the last.
      this.lastError = error;
      this.retryLater(error);
      return;
    }
    this.state = 'idle';
    this.giveUp(error, isFirst);
  }

  /** The connection ended, asked to or not. */
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
    this.isRefused = cause instanceof ServerError && FINAL_CODES.has(cause.code);
    const error = new ConnectionLostError(
      `the connection to the server was lost before the answer came${cause ? `: ${cause.message}` : ''}; the request `
      + 'may or may not have been carried out', { cause });
    this.forgetConnection(error);
    // What came after the socket's death waits for the next one.
    this.pending.rejectAll(() => error, (id) => !this.offline.has(id));
    if (tracing.disconnect.hasSubscribers) tracing.disconnect.publish({ client: this, cause });
    this.callUser(this.handlers.disconnected);
    this.emitSafely('disconnected', { cause });
    if (unsentBytes > 0) {
      this.report(new ConnectionLostError(`the connection was lost with ${unsentBytes} bytes unsent: the server does `
        + 'not have what was published or notified last', { cause }));
    }
    if (cause !== undefined && cause !== this.lastError) this.report(cause);
    // Whoever was told may have closed the client, or connected it again.
    if (this.state !== 'reconnecting' || this.connection !== null) return;
    if (this.isRefused || this.isClosing) {
      this.state = 'idle';
      this.giveUp(this.isRefused ? null : error);
    } else {
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
    // Not unref'd: a program that waits for its connection is not done.
    this.retryTimer = after(delay, () => this.attempt());
    this.emitSafely('reconnecting', { attempt: this.backoff.made, delay, error });
  }

  /**
   * There will be no connection until somebody calls `connect` again. Whose first attempt failed has that in hand and
   * may well do so at once; whoever else waits would wait for ever.
   */
  giveUp(error, isFirst = false) {
    this.gaveUpAt = Date.now();
    // Requests among them are rejected, which is word enough.
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
   * Closes: what was sent still arrives, what is awaited is rejected. Nothing of this client keeps the process alive
   * afterwards.
   */
  disconnect() {
    const { connection, connected: wasConnected } = this;
    clearTimeout(this.retryTimer);
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
      this.emitSafely('disconnected', { cause: undefined });
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
      const isQuiet = connection.socket.bytesRead === bytesRead;
      bytesRead = connection.socket.bytesRead;
      if (isQuiet) this.beat(connection);
    });
    this.heartbeatTimer?.unref();
  }

  /** A server of ours answers; the published one only gets a byte that finds a dead connection out. */
  beat(connection) {
    if (!connection.isOurs) {
      try {
        this.notify('system', { action: 'heartbeat' });
      } catch {
        // A full queue says the same as a heartbeat would.
      }
      return;
    }
    const timeout = Math.min(this.options.heartbeatInterval, HEARTBEAT_TIMEOUT_MS);
    this.command({ action: 'ping' }, timeout).catch((error) => {
      // An error the server sent is a sign of life as well.
      if (error instanceof TimeoutError) {
        connection.destroy(new TimeoutError(`the server was silent for ${timeout} ms after a heartbeat`));
      }
    });
  }

  stopHeartbeat() {
    clearInterval(this.heartbeatTimer);
    this.heartbeatTimer = null;
  }

  /** Tells whoever listens of an error nobody awaits. An `error` nobody listens to must not end the process. */
  report(error) {
    this.lastError = error;
    if (typeof this.handlers.error === 'function') {
      try {
        const result = this.handlers.error(error);
        // Not reported: the report would come to the same handler.
        if (typeof result?.then === 'function') result.then(undefined, warn);
      } catch (thrown) {
        warn(thrown);
      }
    }
    if (this.listenerCount('error') > 0) this.emitSafely('error', error);
    // It would vanish otherwise.
    else if (isOfProgram(error) && !this.handlers.error) warn(error);
  }

  /** A listener's fault is the listener's: it must not stop what goes on here. */
  emitSafely(event, ...values) {
    try {
      this.emit(event, ...values);
    } catch (thrown) {
      if (event === 'error') warn(thrown);
      else this.report(thrown);
    }
  }

  /** Node calls this where the promise of a listener is rejected. */
  [EventEmitter.captureRejectionSymbol](error, event) {
    // Not reported: the report would come to the same listener.
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

module.exports = { Lifecycle };
