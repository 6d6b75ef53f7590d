'use strict';

// A server with patterns, last values and histories, as PROTOCOL.md describes them, which tests can have forget, cut off
// and fall silent in ways that the real one does not on demand.

const { joined, peer, unconnected } = require('./support.js');

const GRANT = { extensions: ['call', 'topic'], limits: { max_frame_bytes: 16 << 20, request_timeout_ms: null } };

/** Returns whether a pattern matches, by a regular expression. */
function isMatch(pattern, channel) {
  const expression = pattern.split('.').map((token) => {
    if (token === '*') return '[^.]*';
    return token === '>' ? '[^]*' : token.replace(/[^\w]/g, '\\$&');
  }).join('\\.');
  return new RegExp(`^${expression}$`).test(channel);
}

/** The channels of a server, and who is subscribed to them. `messages` is the length of each history, 0 for none. */
class Channels {
  constructor({ messages = 100, epoch = 'e1' } = {}) {
    this.messages = messages;
    this.epoch = epoch;
    this.rings = new Map();
    this.retained = new Map();
    this.sides = new Set();
    /** Everything that clients have subscribed and unsubscribed, as [type, channel, payload]. */
    this.asked = [];
    this.published = [];
    /** Called before a subscribe is answered; true: it is not answered. */
    this.onSubscribe = () => false;
    /** The number of kept messages that go out before the line is cut. */
    this.cutAfter = Infinity;
    this.count = 0;
  }

  ring(channel) {
    if (!this.rings.has(channel)) this.rings.set(channel, { epoch: this.epoch, offset: 0, kept: [] });
    return this.rings.get(channel);
  }

  publish(channel, payload, meta = {}, id = `m${this.count += 1}`) {
    const message = { channel, payload, meta, id };
    if (this.messages > 0) {
      const ring = this.ring(channel);
      ring.offset += 1;
      message.meta = { ...meta, epoch: ring.epoch, offset: ring.offset };
      ring.kept.push(message);
      if (ring.kept.length > this.messages) ring.kept.shift();
    }
    if (meta.retain) this.retained.set(channel, message);
    for (const side of this.sides) {
      const isHeard = side.channels.has(channel) || [...side.patterns].some((pattern) => isMatch(pattern, channel));
      if (isHeard) this.deliver(side, message);
    }
    return message.meta;
  }

  deliver(side, { channel, payload, meta, id }) {
    side.send('publish', channel, payload, null, Object.keys(meta).length === 0 ? undefined : meta, id);
  }

  /** Begins a new epoch, as a server that was started again. */
  restart(epoch) {
    this.epoch = epoch;
    this.rings.clear();
    this.retained.clear();
  }

  open(side) {
    Object.assign(side, { channels: new Set(), patterns: new Set() });
    this.sides.add(side);
    side.socket.on('close', () => this.sides.delete(side));
  }

  receive(message, side) {
    const { channel_id: channel, message_type: type, payload, message_id: id, meta } = message;
    const { connection_id: ignored, ...wish } = payload ?? {};
    if (type === 'subscribe') {
      this.asked.push([type, channel, wish]);
      if (!this.onSubscribe(message, side)) this.subscribe(side, channel, wish, id);
    } else if (type === 'unsubscribe') {
      this.asked.push([type, channel, wish]);
      (wish.pattern ? side.patterns : side.channels).delete(channel);
    } else if (type === 'publish') {
      this.published.push({ channel, payload, meta });
      const { ack, ...rest } = meta ?? {};
      const { epoch, offset } = this.publish(channel, payload, rest, id);
      if (ack) side.send('response', channel, { status: 'published', epoch, offset }, id);
    } else if (message.isRequest() && payload?.action === 'ping') {
      side.send('response', 'system', { status: 'pong' }, id);
    }
  }

  subscribe(side, channel, { ack, pattern, last, since }, id) {
    const answer = (rest) => {
      if (ack || last !== undefined || since !== undefined) {
        side.send('response', channel, { status: 'subscribed', ...rest }, id);
      }
    };
    if (pattern) {
      side.patterns.add(channel);
      answer(last === undefined ? {} : { recovered: true });
      for (const [name, { kept }] of this.rings) {
        if (last !== undefined && isMatch(channel, name)) this.replay(side, kept.slice(-last));
      }
      return;
    }
    if ((last !== undefined || since !== undefined) && side.channels.has(channel)) {
      side.send('response', channel, { status: 'error', code: 'bad_message', error: 'subscribed already' }, id);
      return;
    }
    side.channels.add(channel);
    if (this.messages === 0) {
      const value = this.retained.get(channel);
      const kept = last !== undefined && value !== undefined ? [value] : [];
      answer(last === undefined && since === undefined ? {} : { recovered: kept.length > 0, messages: kept.length });
      this.replay(side, kept);
      return;
    }
    const ring = this.ring(channel);
    let kept = [];
    let recovered;
    if (since !== undefined) {
      const oldest = ring.kept[0]?.meta.offset ?? ring.offset + 1;
      recovered = since.epoch === ring.epoch && since.offset <= ring.offset && since.offset >= oldest - 1;
      if (recovered) kept = ring.kept.filter(({ meta }) => meta.offset > since.offset);
    } else if (last !== undefined) {
      recovered = true;
    }
    if (last !== undefined && (since === undefined || !recovered)) kept = ring.kept.slice(-last);
    answer({ epoch: ring.epoch, offset: ring.offset, ...(recovered === undefined ? {} : { recovered, messages: kept.length }) });
    this.replay(side, kept);
  }

  replay(side, kept) {
    for (const message of kept.slice(0, this.cutAfter)) this.deliver(side, message);
    if (kept.length > this.cutAfter) side.socket.end();
  }
}

/** Such a server. `client` makes a client of it that is connected. */
async function topical(t, { grant = GRANT, ...options } = {}) {
  const channels = new Channels(options);
  const { port, sides } = await peer(t, {
    grant, onOpen: (side) => channels.open(side), onMessage: (message, side) => channels.receive(message, side),
  });
  const client = (more) => joined(t, unconnected(t, { port, heartbeatInterval: 0, reconnectDelay: 5, ...more }));
  const cut = () => { for (const { socket } of sides) socket.destroy(); };
  return { channels, port, sides, client, cut };
}

module.exports = { GRANT, topical };
