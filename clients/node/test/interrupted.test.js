'use strict';

// Subscriptions that are cut off while the server still sends what it has kept, to a reader that is so slow that most of
// it has not come by then: by a client that takes over, and by a server that drains and begins anew.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { collected, eventually, joined, once, served, startServer, withHistories } = require('./support.js');

// More than the kernels of both sides and the server's queue hold.
const COUNT = 1_200;
const TEXT = 'x'.repeat(20_000);
const QUIET = { heartbeatInterval: 0, reconnectDelay: 5, reconnectDelayMax: 20 };

// No reader of these tests is closed for being slow, however long the machine takes.
const serving = (t) => [...withHistories(t, { log: COUNT }, '64MiB'), '--slow-consumer-grace', '2min'];

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

/** Publishes so many, and returns the place of the last one. */
async function fill(t, server, count) {
  const publisher = await joined(t, server.client('bench', QUIET));
  let place;
  for (let n = 0; n < count; n += 1) {
    place = publisher.publish('log', TEXT, { ack: true });
    if (n % 50 === 0) await place;
  }
  place = await place;
  await publisher.close();
  return place;
}

/** A client that stops reading after some messages, with what it is told in order. */
async function slow(t, server, wish, connectionId) {
  const client = server.client('bench', QUIET);
  if (connectionId !== undefined) client.connectionId = connectionId;
  await joined(t, client);
  const told = [];
  for (const event of ['gap', 'resumed']) client.on(event, (what) => told.push({ event, ...what }));
  let hold = true;
  client.subscribe('log', ({ epoch, offset }) => {
    told.push({ epoch, offset });
    if (hold && told.length === 5) client.connection.socket.pause();
  }, wish);
  const offsets = (epoch) => told.filter((one) => one.event === undefined && one.epoch === epoch).map(({ offset }) => offset);
  const go = () => {
    hold = false;
    client.connection.socket.resume();
  };
  return { client, told, offsets, go };
}

test('a client that takes over in the middle gets all, and the other one is told', { timeout: 120_000 }, async (t) => {
  const server = await served(t, { args: serving(t) });
  const { epoch, offset } = await fill(t, server, COUNT);
  const older = await slow(t, server, { since: { epoch, offset: 0 } });
  await eventually('it has begun', () => older.offsets(epoch).length >= 4);
  const newer = await slow(t, server, { since: { epoch, offset: 0 } }, older.client.connectionId);
  await eventually('it has begun, too', () => newer.offsets(epoch).length >= 4);
  newer.go();
  await eventually('all', () => newer.offsets(epoch).at(-1) === offset);
  await newer.client.publish('log', 'live', { ack: true });
  await eventually('what is live', () => newer.offsets(epoch).at(-1) === offset + 1);
  assert.deepEqual(newer.offsets(epoch), range(1, offset + 1));
  assert.deepEqual(newer.told.filter(({ event }) => event !== undefined).map(({ event }) => event), ['resumed']);

  const lost = once(older.client, 'disconnected');
  older.go();
  // The older one learns of it when it sends something.
  older.client.publish('other', 1);
  const [{ cause }] = await lost;
  assert.equal(cause.code, 'taken_over');
  assert.equal(older.client.state, 'idle', 'it does not take over in turn');
  const came = older.offsets(epoch);
  assert.deepEqual(came, range(1, came.length));
  assert.deepEqual(older.told.filter(({ event }) => event !== undefined).map(({ event }) => event), ['resumed']);
  await older.client.close();
  assert.equal(newer.client.connected, true);
});

for (const by of ['since', 'last']) {
  test(`a drain in the middle of a recovery by ${by} leaves a gap behind the last one that came`, { timeout: 120_000 }, async (t) => {
    const args = serving(t);
    const server = await startServer({ args: [...args, '--drain-timeout', '500ms'] });
    t.after(() => server.kill());
    const { epoch, offset } = await fill(t, server, COUNT);
    const reader = await slow(t, server, by === 'since' ? { since: { epoch, offset: 0 } } : { last: COUNT });
    await eventually('it has begun', () => reader.offsets(epoch).length >= 4);
    // It waits for the reader, and gives up.
    await server.kill('SIGTERM');
    const again = await served(t, { port: server.port, args });
    const anew = await fill(t, again, 3);
    const reconnected = collected(reader.client, 'connected');
    reader.go();
    await eventually('the gap', () => reader.told.some(({ event }) => event === 'gap'));
    const publisher = await joined(t, again.client('bench', QUIET));
    await publisher.publish('log', 'live', { ack: true });
    await eventually('what is live', () => reader.offsets(anew.epoch).at(-1) === 4);
    const came = reader.offsets(epoch);
    assert.deepEqual(came, range(1, came.length));
    assert.ok(came.length < offset, `cut off in the middle: ${came.length}`);
    const at = reader.told.findIndex(({ event }) => event === 'gap');
    const gap = reader.told[at];
    assert.deepEqual([gap.seen, gap.missed, gap.from.epoch], [{ epoch, offset: came.length }, null, anew.epoch]);
    assert.equal(reader.told.slice(0, at).filter(({ event }) => event === undefined).length, came.length);
    const later = reader.offsets(anew.epoch);
    assert.deepEqual(later, range(gap.from.offset + 1, 4), 'none is missing behind the place of the gap');
    assert.equal(reader.told.filter(({ event }) => event === 'gap').length, 1);
    assert.equal(reconnected.length, 1);
  });
}
