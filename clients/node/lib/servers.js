'use strict';

// The servers that a client may use, and the turn of each.

const net = require('node:net');
const { notOne, placeOf } = require('./failures.js');
const { now } = require('./timers.js');

/**
 * The servers in the order of their turns. In a round each of them gets one try, and then the client pauses. A
 * connection that has served something begins a new round.
 */
class Servers {
  /**
   * @param {{ host?: string, port?: number, path?: string }[]} addresses
   * @param {{ isRandom?: boolean, random?: () => number }} [how]
   */
  constructor(addresses, { isRandom = false, random = Math.random } = {}) {
    this.ring = isRandom ? shuffled(addresses, random) : [...addresses];
    /** The server of the current try, or of the connection. */
    this.current = this.ring[0];
    this.restart();
  }

  get areSeveral() { return this.ring.length > 1; }

  /** Begins with the first one, because the program asks for a connection. */
  restart() {
    this.next = 0;
    this.begin();
  }

  /** Begins a new round. */
  begin() {
    this.left = this.ring.length;
    this.failures = [];
    this.since = null;
  }

  /** Returns the server whose turn it is, and its share of the time for connecting. */
  take(timeout) {
    this.since ??= now();
    const share = Math.ceil(Math.max(timeout - (now() - this.since), 0) / this.left);
    this.current = this.ring[this.next];
    this.next = (this.next + 1) % this.ring.length;
    this.left -= 1;
    return { address: this.current, timeout: this.areSeveral ? share : timeout };
  }

  /** Notes that the connection stands. If it turns out to be of no use, the others have all the time again. */
  connected() {
    this.since = null;
  }

  /** Notes that the current server could not be used. Returns whether it was the last one of the round. */
  failed(error) {
    this.failures.push({ address: this.current, error });
    return this.left === 0;
  }

  /** Ends a round in which all have failed. Returns the errors of all, and one that names each server. */
  end() {
    const { failures } = this;
    this.begin();
    const errors = failures.map(({ error }) => error);
    return { errors, error: failures.length === 1 ? errors[0] : notOne(failures) };
  }
}

/** Returns the values in a random order (Fisher and Yates). */
function shuffled(values, random) {
  const order = [...values];
  for (let at = order.length - 1; at > 0; at -= 1) {
    const other = Math.floor(random() * (at + 1));
    [order[at], order[other]] = [order[other], order[at]];
  }
  return order;
}

/**
 * Reads the options `host`, `hosts`, `port` and `path`. Throws a TypeError that says what to do.
 * @param {object} options with the defaults
 * @param {object} given what the program gave
 * @returns {{ host?: string, port?: number, path?: string }[]}
 */
function readAddresses(options, given) {
  const { hosts, host, path, port } = options;
  let addresses;
  if (path !== undefined) {
    if (hosts !== undefined) throw new TypeError('give hosts or path: hosts and Unix sockets cannot be mixed');
    const paths = Array.isArray(path) ? path : [path];
    if (paths.length === 0 || paths.some((one) => typeof one !== 'string' || one === '')) {
      throw new TypeError(`path must be a string that is not empty, or an array of some, not ${String(path)}`);
    }
    addresses = paths.map((one) => ({ path: one }));
  } else if (hosts === undefined) {
    // The hostname of a URL has an address of IPv6 in brackets.
    addresses = [{ host: host.replace(/^\[(.*:.*)\]$/, '$1'), port }];
  } else {
    if (given.host !== undefined && given.host !== null) {
      throw new TypeError('give host or hosts: each of hosts may have its own port, host:port');
    }
    const listed = typeof hosts === 'string' ? hosts.split(',') : hosts;
    if (!Array.isArray(listed) || listed.length === 0 || listed.some((one) => typeof one !== 'string')) {
      throw new TypeError(`hosts must be an array of names and addresses, not ${String(hosts)}`);
    }
    addresses = listed.map((one) => readHost(one.trim(), port));
  }
  const places = addresses.map(placeOf);
  const twice = places.find((place, at) => places.indexOf(place) !== at);
  if (twice !== undefined) throw new TypeError(`${twice} is there twice: name each server once`);
  return addresses;
}

const isV6 = (text) => net.isIPv6(text);

function readHost(text, port) {
  const malformed = () => new TypeError(`'${text}' is no address: give a host, or host:port, with brackets around an `
    + 'address of IPv6 that has a port, as in [::1]:8888');
  if (text === '') throw new TypeError('an address is empty: give a host or host:port');
  if (/^[/.]/.test(text)) throw new TypeError(`'${text}' is the path of a Unix socket: give it as path`);
  if (isV6(text)) return { host: text, port };
  const match = /^(?:\[([^\]]*)\]|([^:[\]\s,]+))(?::([^:]*))?$/.exec(text);
  if (match === null || (match[1] !== undefined && !isV6(match[1]))) throw malformed();
  const [, v6, name, number] = match;
  if (number === undefined) return { host: v6 ?? name, port };
  if (!/^\d+$/.test(number) || Number(number) < 1 || Number(number) > 65_535) {
    throw new TypeError(`the port of '${text}' is none: give a number from 1 to 65535`);
  }
  return { host: v6 ?? name, port: Number(number) };
}

module.exports = { Servers, readAddresses };
