'use strict';

const { FrameReader, encodeFrames, decodeBody, tooLarge } = require('./codec.js');
const {
  NotConnectedError, ConnectionLostError, TLSError, QueueFullError, ServerError, FrameError, TimeoutError,
  isServerError,
} = require('./errors.js');
const { connectSocket, isAlert, explain } = require('./tls.js');
const { after } = require('./timers.js');

const READ_BYTES = 64 * 1024;
// Enough for the server to take what is unsent; one that does not read must not keep the process alive.
const LINGER_MS = 2000;
// What a server of this project calls itself in its answer to connect. The published server says nothing there.
const SERVER_NAME = /^ipc-framework\//;

/**
 * One connection from its socket to its end; it never comes back. Whole messages go in and out. All that one tick
 * sends leaves in one write.
 */
class Connection {
  /**
   * @param {object} options host, port, path, tls, maxFrameBytes, slowBytes, slowAfter, sendQueueBytes
   * @param {Record<'onOpen' | 'onMessage' | 'onFault' | 'onSlow' | 'onDrain' | 'onClose', Function>} hooks
   */
  constructor(options, hooks) {
    this.options = options;
    this.hooks = hooks;
    this.reader = new FrameReader(options.maxFrameBytes);
    this.socket = null;
    this.isOpen = false;
    this.isEnded = false;
    this.isOurs = false;
    this.server = null;
    this.isSlow = false;
    this.slowTimer = undefined;
    this.batch = [];
    this.batchBytes = 0;
    this.writingBytes = 0;
    this.handshake = null;
    this.fault = null;
    this.flushWaiters = [];
    this.onBody = this.onBody.bind(this);
    this.flush = this.flush.bind(this);
  }

  /** Whether what is sent now can still leave; between a socket's death and its `close` it cannot. */
  get isWritable() {
    return this.isOpen && this.socket.writable;
  }

  /** Bytes that the kernel has not taken yet. */
  get queuedBytes() {
    return this.batchBytes + (this.socket === null ? 0 : this.socket.writableLength);
  }

  /**
   * Connects the socket and introduces the client; rejects where either fails or takes longer than `timeout`.
   * @param {string} connectBody
   * @param {number} timeout
   */
  open(connectBody, timeout) {
    return new Promise((resolve, reject) => {
      const { host, port, path, tls } = this.options;
      let isUp = false;
      const timer = after(timeout, () => {
        this.destroy(new TimeoutError(tls && !isUp
          ? `there was no TLS handshake within ${timeout} ms; see that this port speaks TLS`
          : `the server did not answer connect within ${timeout} ms`));
      });
      const settle = (error) => {
        if (this.handshake === null) return;
        this.handshake = null;
        clearTimeout(timer);
        if (error) reject(error);
        else resolve();
      };
      this.handshake = settle;
      const introduce = () => {
        isUp = true;
        try {
          this.send(connectBody);
        } catch (error) {
          this.destroy(error);
        }
      };
      const onread = { buffer: Buffer.allocUnsafeSlow(READ_BYTES), callback: (n, buffer) => this.read(n, buffer) };
      // The published server listens on IPv4 alone, and `localhost` may be an IPv6 address first.
      const address = path ? { path } : { host, port, autoSelectFamily: true };
      try {
        const { socket, opened } = connectSocket({ ...address, noDelay: true, onread }, tls);
        this.socket = socket;
        socket.on(opened, introduce);
      } catch (error) {
        this.isEnded = true;
        settle(tls ? explain(error) : error);
        return;
      }
      // It reads no more either: a server that is done closes both ways.
      this.socket.on('end', () => {
        this.isOpen = false;
        // Node ends this side too, but behind what is unsent, which may never go.
        this.linger();
      });
      this.socket.on('error', (error) => {
        this.fault ??= tls ? explain(error) : error;
      });
      this.socket.on('close', () => this.closed());
    });
  }

  /**
   * Queues the body of a frame; throws where the server has stopped reading and the bound is reached. Frames without
   * which the connection is of no use are `unbounded`.
   */
  send(body, { unbounded = false } = {}) {
    const bytes = Buffer.byteLength(body);
    if (bytes > this.options.maxFrameBytes) throw tooLarge('there was', bytes, this.options.maxFrameBytes, false);
    if (!unbounded && this.queuedBytes + bytes > this.options.sendQueueBytes && this.isOpen && this.queuedBytes > 0) {
      throw new QueueFullError(`the server has not read ${this.queuedBytes} bytes yet, and sendQueueBytes is `
        + `${this.options.sendQueueBytes}: the message was not sent`);
    }
    if (this.batch.length === 0) process.nextTick(this.flush);
    this.batch.push(body);
    this.batchBytes += bytes;
  }

  flush() {
    const { batch, batchBytes, socket } = this;
    // What can leave no more is counted when the socket is closed.
    if (batch.length === 0 || socket === null || !socket.writable) return;
    this.batch = [];
    this.batchBytes = 0;
    const frames = encodeFrames(batch, batchBytes);
    const { length } = frames;
    this.writingBytes += length;
    socket.write(frames, (error) => {
      // Node says of what a destroyed socket had left that it was written.
      if (!error && !socket.destroyed) this.written(length);
    });
    if (socket.writableLength > this.options.slowBytes) this.watchBacklog();
  }

  written(bytes) {
    this.writingBytes -= bytes;
    const { queuedBytes } = this;
    if (queuedBytes <= this.options.slowBytes) this.unwatchBacklog();
    if (queuedBytes > 0) return;
    if (this.flushWaiters.length > 0) this.wakeFlushed();
    if (this.isSlow) {
      this.isSlow = false;
      this.hooks.onDrain();
    }
  }

  /** Any server takes a moment for a large message; slow is one that leaves it lying. */
  watchBacklog() {
    if (this.isSlow || this.slowTimer !== undefined) return;
    this.slowTimer = after(this.options.slowAfter, () => {
      this.slowTimer = undefined;
      this.isSlow = true;
      this.hooks.onSlow(this.queuedBytes);
    });
    this.slowTimer?.unref();
  }

  unwatchBacklog() {
    clearTimeout(this.slowTimer);
    this.slowTimer = undefined;
  }

  wakeFlushed() {
    const waiting = this.flushWaiters;
    this.flushWaiters = [];
    for (const wake of waiting) wake();
  }

  /** Resolves when the kernel has taken all there is, or never will. */
  whenFlushed() {
    this.flush();
    if (this.isEnded || this.queuedBytes === 0) return Promise.resolve();
    return new Promise((resolve) => this.flushWaiters.push(resolve));
  }

  read(n, buffer) {
    // After the end nobody wants it, but unread bytes would turn the close into a reset.
    if (this.isEnded) return true;
    if (this.handshake !== null && !this.options.tls && isAlert(buffer.subarray(0, n))) {
      this.destroy(new TLSError('this port speaks TLS; give the option tls'));
      return true;
    }
    try {
      this.reader.feed(buffer.subarray(0, n), this.onBody);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.destroy(error);
    }
    return true;
  }

  /** @returns {boolean} whether to read on */
  onBody(buffer, start, end) {
    let message;
    try {
      message = decodeBody(buffer, start, end);
    } catch (error) {
      if (this.handshake !== null) this.destroy(error);
      else this.hooks.onFault(error);
      return !this.isEnded;
    }
    try {
      if (this.handshake === null) this.hooks.onMessage(message, end - start);
      else this.answered(message);
    } catch (error) {
      // Not the reader's fault: what lies behind this message in the chunk is still wanted.
      this.hooks.onFault(error);
    }
    return !this.isEnded;
  }

  answered(message) {
    const { payload } = message;
    if (isServerError(payload)) {
      this.destroy(new ServerError(message));
    } else if (message.isResponse() && payload !== null && payload.status === 'connected') {
      this.server = typeof payload.server === 'string' ? payload.server : null;
      this.isOurs = this.server !== null && SERVER_NAME.test(this.server);
      this.isOpen = true;
      this.handshake(null);
      // At once, not when the promise's reader gets its turn: messages may lie behind this one.
      this.hooks.onOpen();
    } else {
      this.destroy(new FrameError('BAD_MESSAGE', 'the server answered connect with something else; the connection '
        + 'is closed', { fatal: true }));
    }
  }

  /** Sends what is queued, then closes. `onClose` comes when that is done. */
  end() {
    if (this.isEnded) return;
    this.flush();
    this.unwatchBacklog();
    this.isEnded = true;
    this.isOpen = false;
    if (this.handshake !== null) {
      this.destroy(new NotConnectedError('the client was closed while its connection was made'));
      return;
    }
    this.socket.end();
    this.linger();
  }

  /** Closes soon, whatever the server does. */
  linger() {
    const timer = after(LINGER_MS, () => this.socket.destroy());
    timer.unref();
    this.socket.on('close', () => clearTimeout(timer));
  }

  /** Closes at once. What is unsent has been told of. */
  abandon() {
    this.batch = [];
    this.batchBytes = 0;
    this.writingBytes = 0;
    this.destroy();
  }

  /** Closes at once. */
  destroy(error) {
    this.fault ??= error;
    this.isEnded = true;
    this.isOpen = false;
    if (this.socket !== null) this.socket.destroy();
  }

  closed() {
    this.isOpen = false;
    this.isEnded = true;
    this.unwatchBacklog();
    const unsentBytes = this.batchBytes + this.writingBytes;
    this.batch = [];
    this.batchBytes = 0;
    this.wakeFlushed();
    const cause = this.fault ?? undefined;
    if (this.handshake !== null) {
      this.handshake(cause ?? new ConnectionLostError('the server closed the connection before it answered connect'));
      return;
    }
    this.hooks.onClose(cause, unsentBytes);
  }
}

module.exports = { Connection };
