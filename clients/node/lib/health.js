'use strict';

const { after, afterReading, cancel, checkedTimeout } = require('./timers.js');

const PING_TIMEOUT_MS = 2_000;
const HEALTH_TIMEOUT_MS = 5_000;

/**
 * Resolves with whether the server answers a ping. The published server does only if its program handles `system`.
 */
async function ping(client, timeout = PING_TIMEOUT_MS) {
  checkedTimeout(timeout);
  try {
    const response = await client.command({ action: 'ping' }, timeout, { unbounded: false });
    return response.payload?.status === 'pong';
  } catch {
    return false;
  }
}

/** Resolves with whether the connection works in both directions. */
async function healthCheck(client, timeout = HEALTH_TIMEOUT_MS) {
  checkedTimeout(timeout);
  if (!client.connected) return false;
  try {
    if (!client.connection.isOurs) return await echoes(client, timeout);
    const response = await client.command({ action: 'health_check' }, timeout, { unbounded: false });
    return response.payload?.status === 'healthy';
  } catch {
    return false;
  }
}

/** The published server does not answer pings, but a client receives its own publications. */
async function echoes(client, timeout) {
  const channel = `ipc-framework.health.${client.connectionId}`;
  const subscription = client.openSubscription(channel, {});
  const timer = after(timeout, () => afterReading(() => client.bytesRead, () => subscription.end(null)));
  try {
    client.publish(channel, null);
    const { done } = await subscription.next();
    return !done;
  } finally {
    cancel(timer);
    subscription.unsubscribe();
  }
}

module.exports = { ping, healthCheck };
