'use strict';

const dns = require('node:dns');
const net = require('node:net');
const tls = require('node:tls');
const { notConnected, tlsFailure } = require('./failures.js');
const { after, cancel } = require('./timers.js');

const READ_BYTES = 64 * 1024;
// The Connection Attempt Delay that RFC 8305 recommends.
const ATTEMPT_DELAY_MS = 250;
// Pause before a Unix socket is tried again whose queue of waiting connections is full.
const BUSY_MS = 20;

/**
 * Connects a socket by Happy Eyeballs (RFC 8305): the addresses of a host are tried in turn, a new one every 250 ms or
 * as soon as one fails, and the first that accepts wins. No address is given up before the caller calls `stop`, so a
 * slow one has all of the caller's time.
 */
class Dial {
  /**
   * @param {{ host: string, port: number, path?: string, tls?: unknown }} options
   * @param {(bytes: number, buffer: Buffer) => boolean} read gets what the socket reads
   * @param {{ onConnected: (socket: import('node:net').Socket) => void, onFailed: (error: Error) => void }} hooks
   */
  constructor(options, read, hooks) {
    this.options = options;
    this.read = read;
    this.hooks = hooks;
    this.addresses = [];
    this.attempts = new Set();
    this.errors = [];
    this.timer = undefined;
    this.isOver = false;
    /** True while a Unix socket has no room for another connection that waits. */
    this.isBusy = false;
  }

  start() {
    const { host, path } = this.options;
    if (path) {
      this.addresses = [{ path }];
      this.next();
    } else if (net.isIP(host) !== 0) {
      this.addresses = [{ host }];
      this.next();
    } else {
      dns.lookup(host, { all: true }, (error, found) => {
        if (this.isOver) return;
        if (error) {
          this.errors.push(error);
          this.fail();
          return;
        }
        this.addresses = alternating(found).map(({ address }) => ({ host: address }));
        this.next();
      });
    }
  }

  /** Ends all attempts. */
  stop() {
    this.isOver = true;
    cancel(this.timer);
    for (const socket of this.attempts) socket.destroy();
    this.attempts.clear();
  }

  /** Tries the next address, if there is one. */
  next() {
    cancel(this.timer);
    const address = this.addresses.shift();
    if (address === undefined) {
      if (this.attempts.size === 0) this.fail();
      return;
    }
    try {
      this.attempt(address);
    } catch (error) {
      this.stop();
      this.hooks.onFailed(this.options.tls ? tlsFailure(error) : notConnected([error], this.options));
      return;
    }
    if (this.addresses.length > 0) this.timer = after(ATTEMPT_DELAY_MS, () => this.next());
  }

  attempt(address) {
    const socket = this.connect(address);
    this.attempts.add(socket);
    const onError = (error) => {
      if (!this.attempts.delete(socket) || this.isOver) return;
      if (error.code === 'EAGAIN' && address.path) {
        this.isBusy = true;
        this.addresses.push(address);
        this.timer = after(BUSY_MS, () => this.next());
        return;
      }
      this.errors.push(error);
      this.next();
    };
    socket.on('error', onError);
    socket.once('connect', () => {
      if (this.isOver) return;
      this.attempts.delete(socket);
      this.stop();
      this.hooks.onConnected(socket);
      // Removed last: an error without a listener would end the process.
      socket.off('error', onError);
    });
  }

  connect(address) {
    const { host, port, tls: given } = this.options;
    const onread = { buffer: Buffer.allocUnsafeSlow(READ_BYTES), callback: this.read };
    const options = { ...(address.path ? {} : { port }), ...address, noDelay: true, onread };
    if (!given) return net.connect(options);
    const wanted = typeof given === 'function' ? given() : given;
    if (wanted !== true && (wanted === null || typeof wanted !== 'object' || typeof wanted.then === 'function')) {
      throw new TypeError('the function tls must return true or options of node:tls, at once and not as a promise');
    }
    // The certificate is for the name, and not for the address that was found for it.
    const name = net.isIP(host) === 0 ? { servername: host } : {};
    const socket = tls.connect({ ...name, ...(wanted === true ? {} : wanted), ...options });
    // `tls.connect` does not accept the option of this name.
    socket.setNoDelay(true);
    return socket;
  }

  fail() {
    this.isOver = true;
    this.hooks.onFailed(notConnected(this.errors, this.options));
  }
}

/** Returns the addresses in the resolver's order, but with the two families by turns. */
function alternating(addresses) {
  const first = addresses.filter(({ family }) => family === addresses[0].family);
  const second = addresses.filter(({ family }) => family !== addresses[0].family);
  return first.flatMap((address, at) => [address, ...second.slice(at, at + 1)]).concat(second.slice(first.length));
}

module.exports = { Dial };
