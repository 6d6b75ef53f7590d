'use strict';

// Server-Sent Events, as in the HTML standard.

const { jsonPayloadOf } = require('./base64.js');
const { IPCError, NotConnectedError } = require('./errors.js');
const { EventHistory, idOf, isUpTo, placeOf } = require('./event_history.js');
const { sendJson } = require('./http_failure.js');
const { checkedOptions } = require('./options.js');
const { checkedWish } = require('./patterns.js');
const { bound } = require('./context.js');
const { after, afterReading, cancel, every } = require('./timers.js');

const OPTIONS = ['event', 'retry', 'filter', 'pattern', 'last', 'history', 'historyBytes', 'linger'];
// A browser that is behind by so many bytes for so long is cut off. It reconnects by itself. Any browser is behind for
// a moment when much is published at once.
const BEHIND_BYTES_MAX = 1024 * 1024;
const BEHIND_MS_MAX = 2_000;
// A browser that is behind by so many is cut off at once, because they take memory.
const UNSENT_BYTES_MAX = 16 * 1024 * 1024;
// Pause between comments, because proxies close a connection that is silent for a minute.
const KEEP_ALIVE_MS = 15_000;
// Limits of the events kept for browsers that reconnect, and the time for which the subscription outlives the last one.
const HISTORY_MESSAGES = 256;
const HISTORY_BYTES = 1024 * 1024;
const LINGER_MS = 30_000;

/**
 * Returns a handler that sends the messages of a channel to browsers as Server-Sent Events, with the payload as JSON in
 * `data`. All browsers share one subscription. A browser that reconnects gets the messages that it missed, also from
 * another process if the server keeps a history of the channel, or an event `gap` if they are no longer known.
 * @param {import('./client.js').IPCClient} client or a pool
 * @param {string} channel
 * @param {{ event?: string, retry?: number, filter?: (message: object, req: object) => boolean, pattern?: boolean,
 * last?: number, history?: number, historyBytes?: number, linger?: number }} [options] `event` names the events,
 * `retry` is what the browser waits before it connects again, in milliseconds. With `pattern` the channel is one, and
 * `data` is `{ channel, payload }`. `last` is the number of messages that a new browser gets, of each channel
 */
function ipcEvents(client, channel, options = {}) {
  const { retry, filter, pattern = false, last } = checkedOptions(options, OPTIONS, 'ipcEvents');
  if (typeof pattern !== 'boolean') throw new TypeError('pattern must be a boolean');
  checkedWish({ last });
  const stream = new EventStream(client, channel, options);
  const greeting = `${retry === undefined ? '' : `retry: ${Math.trunc(retry)}\n`}: subscribed\n\n`;
  return (req, res) => {
    // A browser that has left by now would never be noticed again.
    if (res.destroyed) return;
    const browser = new Browser(req, res, filter, (error) => stream.report(error));
    try {
      stream.open();
    } catch (error) {
      const { message, code } = error instanceof IPCError ? error : { message: 'internal error', code: 'INTERNAL' };
      sendJson(res, 503, { error: message, code });
      return;
    }
    browser.begin();
    stream.join(browser, greeting);
    res.on('close', () => {
      browser.end();
      stream.leave(browser);
    });
  };
}

/** The subscription of a channel or a pattern, its last events, and its viewers. */
class EventStream {
  constructor(client, channel, options) {
    const { event, filter, history = HISTORY_MESSAGES, historyBytes = HISTORY_BYTES, linger = LINGER_MS } = options;
    const { pattern = false, last = 0 } = options;
    this.client = client;
    this.channel = channel;
    this.name = event === undefined ? '' : `event: ${oneLine(event)}\n`;
    this.keepsMessages = filter !== undefined;
    this.isPattern = pattern;
    this.last = last;
    const kept = Math.max(history, last);
    this.history = new EventHistory(kept, historyBytes);
    // A pattern has no place from which another process could go on.
    this.wanted = (pattern ? last : kept) || undefined;
    this.linger = kept > 0 ? linger : 0;
    /** The number of last values that are still to come from before the subscription. */
    this.kept = 0;
    this.subscription = null;
    this.browsers = new Set();
    this.lingering = undefined;
  }

  /** Subscribes, unless that has been done. */
  open() {
    cancel(this.lingering);
    if (this.subscription !== null) return;
    const { state } = this.client.clientOf?.(this.channel) ?? this.client;
    if (state === 'closed') throw new NotConnectedError('the client was closed: there is no connection');
    this.history.clear();
    this.subscription = this.client.openSubscription(this.channel, {
      isPattern: this.isPattern,
      isLenient: !this.isPattern,
      last: this.wanted,
      onMessage: (message) => this.show(message),
      onGap: (gap) => this.tellOfGap(gap),
      onStart: (place, kept) => {
        this.history.begin(place, kept);
        this.kept = place === null ? kept : 0;
      },
      onEnd: () => {
        this.subscription = null;
        for (const browser of this.browsers) browser.res.end();
      },
    });
  }

  report(error) {
    (this.client.clientOf?.(this.channel) ?? this.client).report(error);
  }

  /** Sends the greeting. Everything published after the browser has read it reaches the browser. */
  join(browser, greeting) {
    this.browsers.add(browser);
    const { subscription } = this;
    const begin = () => {
      if (this.subscription !== subscription || !this.browsers.has(browser)) return;
      browser.write(greeting);
      for (const entry of this.eventsFor(browser)) browser.show(entry);
      browser.isLive = true;
    };
    if (subscription.isReady) begin();
    // A refused subscription ends all viewers that wait for it.
    else subscription.ready.then(begin, () => {});
  }

  /** Returns the events with which a browser begins, and notes behind which place it wants what is still to come. */
  eventsFor(browser) {
    const { history, last } = this;
    const { lastEventId: id } = browser;
    if (id === '') {
      const { newest } = history;
      browser.wantsKept = last > 0;
      browser.place = newest && { epoch: newest.epoch, offset: newest.offset - last };
      return history.latest(last);
    }
    const missed = history.after(id);
    if (missed === null) browser.write(gapEvent(history.missedAfter(id)));
    else browser.place = placeOf(id);
    return missed ?? history.entries;
  }

  leave(browser) {
    this.browsers.delete(browser);
    if (this.browsers.size > 0 || this.subscription === null) return;
    const { subscription } = this;
    if (this.linger === 0) {
      subscription.unsubscribe();
      return;
    }
    this.lingering = after(this.linger, () => subscription.unsubscribe());
    this.lingering?.unref();
  }

  show(message) {
    const { channel_id: channel, epoch, offset } = message;
    const place = offset === undefined || this.isPattern ? null : { epoch, offset };
    const id = oneLine(place === null ? message.message_id : idOf(place));
    // JSON text has no line breaks, so one `data` line is enough.
    const { stringify = JSON.stringify } = this.client.options;
    const payload = jsonPayloadOf(message);
    const data = stringify(this.isPattern ? { channel, payload } : payload);
    const text = Buffer.from(`id: ${id}\n${this.name}data: ${data}\n\n`);
    const isKept = this.kept > 0;
    if (isKept) this.kept -= 1;
    this.add({ id, text, place, channel, isKept, message: this.keepsMessages ? message : undefined });
  }

  /** The connection was interrupted, and publications in between are lost. */
  tellOfGap({ channel, missed, from }) {
    const place = this.isPattern ? null : from;
    const text = Buffer.from(gapEvent(missed, this.isPattern && channel !== null ? channel : undefined));
    this.add({ id: null, text, place, channel, isKept: false, message: undefined });
  }

  add(entry) {
    this.history.add(entry);
    for (const browser of this.browsers) if (browser.isLive) browser.show(entry);
  }
}

/** A viewer, until the end of its response. */
class Browser {
  constructor(req, res, filter, report) {
    this.req = req;
    this.res = res;
    // It runs as the request that it filters for, and not as whoever made the connection or published.
    this.filter = bound(filter);
    this.report = report;
    this.isLive = false;
    /** The place behind which it wants messages, if there is one, and whether it wants a value from before it. */
    this.place = null;
    this.wantsKept = true;
    this.keepAlive = undefined;
    this.behind = undefined;
    // Node decodes headers as Latin-1, but browsers send UTF-8.
    this.lastEventId = Buffer.from(String(req.headers['last-event-id'] ?? ''), 'latin1').toString();
  }

  begin() {
    this.res.writeHead(200, {
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-cache, no-transform',
      Connection: 'keep-alive',
      'X-Accel-Buffering': 'no',
    });
    this.res.flushHeaders();
    this.res.on('drain', () => this.caughtUp());
    this.keepAlive = every(KEEP_ALIVE_MS, () => this.write(': still here\n\n'));
    this.keepAlive.unref();
  }

  end() {
    this.isLive = false;
    cancel(this.keepAlive);
    this.caughtUp();
  }

  show({ id, text, place, isKept, message }) {
    if (isUpTo(place, this.place) || (isKept && !this.wantsKept)) return;
    if (id === null || this.wants(message)) this.write(text);
  }

  wants(message) {
    if (this.filter === undefined) return true;
    try {
      const wanted = this.filter(message, this.req);
      if (typeof wanted?.then !== 'function') return Boolean(wanted);
      // A promise is always truthy, so a filter that returns one would pass every message.
      wanted.then(undefined, (error) => this.report(error));
      this.report(new TypeError('the filter of ipcEvents has to answer at once; nothing is shown for a promise'));
    } catch (error) {
      this.report(error);
    }
    return false;
  }

  write(text) {
    const { res } = this;
    // Writing to a destroyed response would raise an error that nothing handles.
    if (res.destroyed || res.writableEnded) return;
    if (res.writableLength > UNSENT_BYTES_MAX) {
      res.destroy();
      return;
    }
    res.write(text);
    if (res.writableLength > BEHIND_BYTES_MAX) this.watch();
  }

  /** Cuts the browser off unless it catches up in time. */
  watch() {
    if (this.behind !== undefined) return;
    const { res } = this;
    const judge = () => {
      this.behind = undefined;
      if (res.writableLength > BEHIND_BYTES_MAX) res.destroy();
    };
    // After a long computation timers come before what the browser has made room for.
    this.behind = after(BEHIND_MS_MAX, () => afterReading(() => 0, judge));
    this.behind?.unref();
  }

  caughtUp() {
    cancel(this.behind);
    this.behind = undefined;
  }
}

/** An event without an id, so that the browser resumes after the last message that it received. */
function gapEvent(missed, channel) {
  const known = missed === null && !channel ? null : { channel, missed };
  return `event: gap\ndata: ${JSON.stringify(known)}\n\n`;
}

/** Removes line breaks, because one in an id or a name could forge another event. */
function oneLine(text) {
  return String(text).replace(/[\r\n\0]/g, ' ');
}

module.exports = { ipcEvents };
