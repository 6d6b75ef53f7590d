'use strict';

const { NotConnectedError } = require('./errors.js');
const { after, afterReading, cancel } = require('./timers.js');

/** The end of a client: what is in hand is finished within a bounded time, and the rest is given back. */
class Closing {
  /** @param {import('./client.js').IPCClient} client */
  constructor(client) {
    this.client = client;
    this.promise = null;
    this.expire = null;
    this.timers = [];
  }

  /**
   * Accepts no more work, waits for answers, served requests and unsent bytes, then closes. The shortest timeout holds
   * if it is called several times. A handler that serves a channel does not wait for it: it would wait for itself.
   * @param {number} timeout
   */
  close(timeout) {
    if (this.promise === null) {
      const deadline = new Promise((resolve) => { this.expire = resolve; });
      this.client.isClosing = true;
      this.promise = this.drainAndClose(deadline).finally(() => {
        this.client.isClosing = false;
        this.promise = null;
        for (const timer of this.timers) cancel(timer);
        this.timers = [];
      });
    }
    this.timers.push(after(timeout, () => afterReading(() => this.client.bytesRead, this.expire)));
    return this.client.services.isHandling ? Promise.resolve() : this.promise;
  }

  async drainAndClose(deadline) {
    const { client } = this;
    if (client.state !== 'closed') await Promise.race([deadline, this.drain()]);
    const isCut = this.reportDropped();
    // The signals of unfinished requests fire here, and the server tells the requesters that they lost their worker.
    const connection = client.disconnect();
    client.services.clear();
    const socket = connection?.socket;
    if (isCut) connection?.abandon();
    if (!socket || socket.closed) return;
    // The kernel has everything that was sent, so a server that does not close its side is not waited for any longer.
    await Promise.race([deadline, new Promise((resolve) => socket.once('close', resolve))]);
    socket.unref();
  }

  async drain() {
    const { client } = this;
    if (client.state === 'connecting' || (client.state === 'reconnecting' && client.offline.size > 0)) {
      await new Promise((resolve) => client.waiters.push(resolve));
    }
    await Promise.all(client.services.values().map((service) => service.finish().catch(() => {})));
    await client.pending.whenIdle();
    await client.connection?.whenFlushed();
  }

  /**
   * Reports what is dropped when the time is over. Requests without an answer are rejected, which tells their callers.
   * Returns whether there were unsent bytes.
   */
  reportDropped() {
    const { client } = this;
    client.connection?.flush();
    const bytes = client.connection?.queuedBytes ?? 0;
    const waiting = client.offline.messagesWithout(client.pending);
    const unanswered = client.connected ? client.services.unfinished : 0;
    if (bytes > 0 || waiting > 0 || unanswered > 0) {
      client.report(new NotConnectedError('the client was closed before its work was done, and its connection with it; '
        + `dropped: ${bytes} unsent bytes, ${waiting} messages that waited for a connection, ${unanswered} requests `
        + `that were being served${unanswered > 0 ? ' (a handler that awaits close() waits for itself: call it there '
          + 'without await)' : ''}`));
    }
    return bytes > 0;
  }
}

module.exports = { Closing };
