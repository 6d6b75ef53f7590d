'use strict';

const { BadAttachments, BinaryFrame } = require('./binary_frame.js');
const { HEADER_BYTES, FrameReader, encodeFrames, decodeBody, tooLarge } = require('./codec.js');
const {
  NotConnectedError, ConnectionLostError, TLSError, QueueFullError, ServerError, FrameError, TimeoutError,
  isServerError,
} = require('./errors.js');
const { Dial } = require('./dial.js');
const { readGrant } = require('./extensions.js');
const { broken, foreign, placeOf } = require('./failures.js');
const { Largest } = require('./oversize.js');
const { after, every, afterReading, cancel, nextTick, now } = require('./timers.js');

// Time in which the server has to take some of the unsent bytes. A server that takes none must not keep the process
// alive.
const LINGER_MS = 2000;
const LINGER_CHECKS = 8;
// A timer that is this late was held up by the process itself.
const LATE_MS = 100;
// The first bytes of a TLS alert, which a TLS server sends to clients that do not speak TLS: the type of a record, and
// a version.
const ALERT = Buffer.from([0x15, 0x03]);
// Frames with attachments up to this size are copied, so that they leave together with others.
const COPIED_BYTES_MAX = 16 * 1024;
// The name that servers of this project give themselves in the answer to connect. The published server gives none.
const SERVER_NAME = /^ipc-framework\//;

/**
 * One connection, from its socket to its end; it never reconnects. Whole messages go in and out, and all messages of
 * one tick leave in one write.
 */
class Connection {
  /**
   * @param {object} options host, port, path, tls, maxFrameBytes, slowBytes, slowAfter, sendQueueBytes
   * @param {Record<'onOpen' | 'onMessage' | 'onBad' | 'onFault' | 'onSlow' | 'onDrain' | 'onClose', Function>} hooks
   *   `onBad` gets a message whose attachments are not valid, and the error
   */
  constructor(options, hooks) {
    this.options = options;
    this.hooks = hooks;
    this.reader = new FrameReader(options.maxFrameBytes);
    this.dial = null;
    this.socket = null;
    this.isUp = false;
    this.isOpen = false;
    this.isEnded = false;
    this.isOurs = false;
    this.server = null;
    /**
     * The extensions that both sides speak, whether each of them is there, and the limits that the server named with
     * them.
     */
    this.extensions = [];
    this.hasCall = false;
    this.hasBinary = false;
    this.hasTopic = false;
    this.limits = null;
    this.isSlow = false;
    this.slowTimer = undefined;
    this.batch = [];
    this.batchBytes = 0;
    this.writingBytes = 0;
    /** The bytes of all messages so far, and of those that the server is known to have read. */
    this.bytesSent = 0;
    this.bytesProven = 0;
    /** True while the answer to a heartbeat is awaited. */
    this.isBeating = false;
    this.largest = new Largest();
    /** Number of messages sent for which no request waits. */
    this.oneWay = 0;
    this.handshake = null;
    this.fault = null;
    this.flushWaiters = [];
    /** Numbers of writes from the program's own memory: begun, and done. */
    this.lent = 0;
    this.returned = 0;
    this.returnWaiters = [];
    this.onBody = this.onBody.bind(this);
    this.bytesReadNow = () => this.bytesRead;
    this.flush = this.flush.bind(this);
  }

  /** True while a message that is sent now can still leave. Between the socket's failure and its `close` it cannot. */
  get isWritable() {
    return this.isOpen && this.socket.writable;
  }

  get bytesRead() {
    return this.socket?.bytesRead ?? 0;
  }

  /** Falls while the kernel takes bytes, also those of a single large message. */
  get unsentBytes() {
    return this.socket === null ? 0 : unsentBytes(this.socket);
  }

  /** Number of bytes that the kernel has not taken yet. */
  get queuedBytes() {
    return this.batchBytes + (this.socket === null ? 0 : this.socket.writableLength);
  }

  /**
   * Connects the socket and completes the handshake. Rejects if either fails, or takes longer than `timeout`.
   * @param {string} connectBody
   * @param {number} timeout
   */
  open(connectBody, timeout) {
    return new Promise((resolve, reject) => {
      const stop = this.expire(timeout, () => this.lateness(timeout));
      this.handshake = (error) => {
        this.handshake = null;
        stop();
        if (error) reject(error);
        else resolve();
      };
      this.dial = new Dial(this.options, (n, buffer) => this.read(n, buffer), {
        onConnected: (socket) => this.attach(socket, connectBody),
        onFailed: (error) => this.destroy(error),
      });
      this.dial.start();
    });
  }

  /** Takes over the socket that was connected. */
  attach(socket, connectBody) {
    this.socket = socket;
    const introduce = () => {
      this.isUp = true;
      try {
        this.send(connectBody);
      } catch (error) {
        this.destroy(error);
      }
    };
    // The server does not read any more either, because a server that ends closes both directions.
    socket.on('end', () => {
      this.isOpen = false;
      // Node ends this side too, but only after the unsent bytes, which may never leave.
      this.linger();
    });
    socket.on('error', (error) => {
      this.fault ??= broken(error, this.options, this.handshake === null);
    });
    socket.on('close', () => this.closed());
    if (this.options.tls) socket.once('secureConnect', introduce);
    else introduce();
  }

  /** Returns the error for a handshake that takes too long, by the step at which it stands. */
  lateness(timeout) {
    const place = placeOf(this.options);
    if (this.socket === null) {
      const why = this.dial.isBusy ? 'its queue of waiting connections is full; see whether it is stopped or overloaded'
        : 'check the address, the network and firewalls';
      return new TimeoutError(`${place} accepted no connection within ${timeout} ms; ${why}`);
    }
    return new TimeoutError(this.options.tls && !this.isUp
      ? `there was no TLS handshake within ${timeout} ms; see that this port speaks TLS`
      : `the server did not answer connect within ${timeout} ms`);
  }

  /**
   * Ends the handshake with an error when its time is up. While the loop is busy with something else, the client cannot
   * take its own steps either: it gets that time back, once. Returns a function that stops the timer.
   */
  expire(timeout, makeError) {
    let isExtended = false;
    let timer;
    const start = (ms) => {
      const due = now() + ms;
      timer = after(ms, () => {
        const late = now() - due;
        afterReading(this.bytesReadNow, () => {
          if (this.handshake === null) return;
          if (late < LATE_MS || isExtended) {
            this.destroy(makeError());
            return;
          }
          isExtended = true;
          start(Math.min(late, timeout));
        });
      });
    };
    start(timeout);
    return () => cancel(timer);
  }

  /**
   * Queues the body of a frame, and returns its bytes. Throws if the server has stopped reading and the limit is
   * reached. Frames that the connection cannot do without are `unbounded`.
   */
  send(body, { unbounded = false } = {}) {
    const bytes = Buffer.byteLength(body);
    this.checkRoom(bytes, unbounded);
    this.enqueue(body, bytes);
    return bytes;
  }

  /**
   * Does the same for a body with attachments. Those of a large one leave from where they are, and at once: they belong
   * to the program, which may do anything with them later.
   * @param {import('./binary_body.js').BinaryBody} body
   */
  sendBinary(body, { unbounded = false } = {}) {
    const { bytes } = body;
    this.checkRoom(bytes, unbounded);
    const { socket } = this;
    if (bytes <= COPIED_BYTES_MAX || !socket.writable) {
      const [frame] = body.pieces(true);
      this.enqueue(frame.subarray(HEADER_BYTES), bytes);
      return bytes;
    }
    this.bytesSent += bytes;
    // While the kernel takes nothing, they would wait in a queue of Node's for as long as the server likes: so they are
    // copied then, and a program that transfers their memory cannot shorten the frame.
    const pieces = body.pieces(socket.writableLength > 0);
    // The attachments that are not copied are pieces of their own.
    const isLent = pieces.length > 1;
    if (isLent) this.lent += 1;
    socket.cork();
    this.flush();
    this.write(pieces, HEADER_BYTES + bytes, isLent);
    socket.uncork();
    return bytes;
  }

  checkRoom(bytes, unbounded) {
    if (bytes > this.options.maxFrameBytes) throw tooLarge('there was', bytes, this.options.maxFrameBytes, false);
    if (!unbounded && this.queuedBytes + bytes > this.options.sendQueueBytes && this.isOpen && this.queuedBytes > 0) {
      throw new QueueFullError(`the server has not read ${this.queuedBytes} bytes yet, and sendQueueBytes is `
        + `${this.options.sendQueueBytes}: the message was not sent`);
    }
  }

  enqueue(body, bytes) {
    if (this.batch.length === 0) nextTick(this.flush);
    this.batch.push(body);
    this.batchBytes += bytes;
    this.bytesSent += bytes;
  }

  flush() {
    const { batch, batchBytes, socket } = this;
    // Messages that can no longer leave are counted when the socket is closed.
    if (batch.length === 0 || socket === null || !socket.writable) return;
    this.batch = [];
    this.batchBytes = 0;
    const frames = encodeFrames(batch, batchBytes);
    this.write([frames], frames.length);
  }

  write(pieces, length, isLent = false) {
    const { socket } = this;
    this.writingBytes += length;
    const last = pieces.length - 1;
    for (let at = 0; at < last; at += 1) socket.write(pieces[at]);
    socket.write(pieces[last], (error) => {
      if (isLent) this.takeBack(this.returned + 1);
      // Node reports the unsent bytes of a destroyed socket as written.
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

  /** Starts the check for a slow server. Any server needs a moment for a large message; a slow one leaves it unread. */
  watchBacklog() {
    if (this.isSlow || this.slowTimer !== undefined) return;
    const timer = after(this.options.slowAfter, () => afterReading(this.bytesReadNow, () => {
      if (this.slowTimer !== timer) return;
      this.slowTimer = undefined;
      this.isSlow = true;
      this.hooks.onSlow(this.queuedBytes);
    }));
    timer?.unref();
    this.slowTimer = timer;
  }

  unwatchBacklog() {
    cancel(this.slowTimer);
    this.slowTimer = undefined;
  }

  wakeFlushed() {
    const waiting = this.flushWaiters;
    this.flushWaiters = [];
    for (const wake of waiting) wake();
  }

  /** Resolves when the kernel has taken all bytes, or never will. */
  whenFlushed() {
    this.flush();
    if (this.isEnded || this.queuedBytes === 0) return Promise.resolve();
    return new Promise((resolve) => this.flushWaiters.push(resolve));
  }

  /** Resolves when the memory of all writes so far is the program's again. Later ones are not awaited. */
  whenReturned() {
    const { lent } = this;
    if (this.returned >= lent) return Promise.resolve();
    return new Promise((resolve) => this.returnWaiters.push({ lent, resolve }));
  }

  takeBack(count) {
    this.returned = count;
    while (this.returnWaiters.length > 0 && this.returnWaiters[0].lent <= count) this.returnWaiters.shift().resolve();
  }

  read(n, buffer) {
    // Bytes after the end are dropped, but unread bytes would turn the close into a reset.
    if (this.isEnded) return true;
    if (this.handshake !== null && !this.options.tls && buffer.subarray(0, Math.min(n, ALERT.length)).equals(ALERT)) {
      this.destroy(new TLSError('this port speaks TLS; give the option tls'));
      return true;
    }
    try {
      this.reader.feed(buffer.subarray(0, n), this.onBody);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.destroy(this.handshake === null ? error : foreign(error, this.options));
    }
    return true;
  }

  /** @returns {boolean} true to read on */
  onBody(buffer, start, end) {
    let message;
    try {
      message = decodeBody(buffer, start, end, this.options.parse);
    } catch (error) {
      if (this.handshake !== null) this.destroy(foreign(error, this.options));
      else this.hooks.onFault(error);
      return !this.isEnded;
    }
    return this.handle(message, end - start);
  }

  /** Takes a frame with attachments. */
  onBinary(frame) {
    let message;
    try {
      message = frame.take();
    } catch (error) {
      if (error instanceof BadAttachments && error.about !== null) this.hooks.onBad(error.about, error);
      else this.hooks.onFault(error);
      return !this.isEnded;
    }
    return this.handle(message, frame.bytes);
  }

  handle(message, bytes) {
    try {
      if (this.handshake !== null) this.answered(message);
      else if (message.meta?.bin === undefined || !this.hasBinary) this.hooks.onMessage(message, bytes);
      else this.hooks.onBad(message, new BadAttachments('their list came without them', message));
    } catch (error) {
      // The fault is not the reader's, and the messages after this one in the chunk are still wanted.
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
      const { granted, limits } = readGrant(payload);
      this.extensions = granted;
      this.hasCall = granted.includes('call');
      this.hasBinary = granted.includes('binary');
      this.hasTopic = granted.includes('topic');
      if (this.hasBinary) {
        this.reader.openBinary = (length) => new BinaryFrame(length, this.options.parse);
        this.reader.onBinary = (frame) => this.onBinary(frame);
      }
      this.limits = limits;
      this.isOpen = true;
      this.handshake(null);
      // Handled at once, not in the promise's turn, because messages may follow in the same chunk.
      this.hooks.onOpen();
    } else {
      this.destroy(foreign(undefined, this.options));
    }
  }

  /** Sends queued messages, then closes. `onClose` is called when that is done. */
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

  /** Closes once the server has taken nothing for a time. What it sends meanwhile does not count. */
  linger() {
    const { socket } = this;
    let unsent = unsentBytes(socket);
    let checks = 0;
    const timer = every(LINGER_MS / LINGER_CHECKS, () => {
      const before = unsent;
      unsent = unsentBytes(socket);
      checks = unsent < before ? 0 : checks + 1;
      if (checks < LINGER_CHECKS) return;
      cancel(timer);
      afterReading(this.bytesReadNow, () => socket.destroy());
    });
    timer.unref();
    socket.on('close', () => cancel(timer));
  }

  /** Closes at once. Unsent messages have been reported. */
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
    if (this.socket !== null) {
      this.socket.destroy();
    } else if (this.dial !== null) {
      this.dial.stop();
      this.closed();
    }
  }

  closed() {
    this.isOpen = false;
    this.isEnded = true;
    this.unwatchBacklog();
    const unsentBytes = this.batchBytes + this.writingBytes;
    this.batch = [];
    this.batchBytes = 0;
    this.wakeFlushed();
    this.takeBack(this.lent);
    const cause = this.fault ?? undefined;
    this.dial = null;
    if (this.handshake !== null) {
      this.handshake(cause ?? new ConnectionLostError('the server closed the connection before it answered connect'));
      return;
    }
    this.hooks.onClose(cause, unsentBytes);
  }
}

/**
 * A number that falls while the kernel takes bytes. `writableLength` counts a write until all of it is taken; the queue
 * of the handle, which Node's own timeouts of sockets use, shows how far it is. With TLS it is that of the handle
 * below.
 */
function unsentBytes(socket) {
  const handle = socket._handle?._parent ?? socket._handle;
  return socket.writableLength + (handle?.writeQueueSize ?? 0);
}

module.exports = { Connection };
