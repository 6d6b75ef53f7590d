'use strict';

// Bounds of memory, and who is told when one side is slower than the other.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const path = require('node:path');
const { Process, connected, unconnected, eventually, once, joined, served, collected } = require('./support.js');

const MIB = 1 << 20;
const INDEX = JSON.stringify(path.resolve(__dirname, '../index.js'));

test('a large message is not slow, a server that leaves it lying is', async (t) => {
  const { server, client } = await connected(t, { heartbeatInterval: 0, slowAfter: 20_000 });
  const slow = collected(client, 'slow');
  for (let n = 0; n < 3; n += 1) {
    client.publish('nobody', 'x'.repeat(12 * MIB));
    assert.equal(await client.ping(30_000), true);
  }
  assert.deepEqual(slow, []);

  const hasty = await joined(t, server.client('bench', { heartbeatInterval: 0, slowAfter: 100 }));
  server.child.kill('SIGSTOP');
  hasty.publish('nobody', 'x'.repeat(12 * MIB));
  const [{ queuedBytes }] = await once(hasty, 'slow');
  assert.ok(queuedBytes > MIB);
  const drained = once(hasty, 'drain');
  server.child.kill('SIGCONT');
  await drained;
  assert.equal(hasty.connection.queuedBytes, 0);
  assert.equal(await hasty.ping(30_000), true);
});

test('a backlog that goes in time is forgotten, and does not count for the next', async (t) => {
  const { server, client } = await connected(t, { heartbeatInterval: 0, slowAfter: 20_000 });
  server.child.kill('SIGSTOP');
  client.publish('nobody', 'x'.repeat(12 * MIB));
  await eventually('watched', () => client.connection.slowTimer !== undefined);
  server.child.kill('SIGCONT');
  await client.connection.whenFlushed();
  assert.equal(client.connection.slowTimer, undefined);
});

test('an iteration keeps no more bytes than bufferBytes, and the last message in any case', async (t) => {
  const { client } = await connected(t);
  const slow = collected(client, 'slow');
  const subscription = client.subscribe('big', { bufferBytes: MIB });
  await subscription.ready;
  for (let n = 0; n < 10; n += 1) client.publish('big', { n, text: 'x'.repeat(400_000) });
  await client.ping(30_000);
  assert.equal(subscription.dropped, 8);
  assert.deepEqual(slow, [{ channel: 'big', subscription }], 'told once');
  assert.equal((await subscription.next()).value.payload.n, 8);
  assert.equal((await subscription.next()).value.payload.n, 9);
  client.publish('big', 'x'.repeat(3 * MIB));
  assert.equal((await subscription.next()).value.payload.length, 3 * MIB);
  client.publish('big', 'x'.repeat(3 * MIB));
  await client.ping(30_000);
  assert.equal((await subscription.next()).value.payload.length, 3 * MIB);
  assert.equal(subscription.bufferedBytes, 0);
  for (const wrong of [{ buffer: 0 }, { buffer: NaN }, { bufferBytes: -1 }]) {
    assert.throws(() => client.subscribe('big', wrong), TypeError, JSON.stringify(wrong));
  }
});

test('what waits for a worker\'s handler is bounded in bytes', async (t) => {
  const { server, client } = await connected(t);
  const worker = await joined(t, server.client());
  const finish = [];
  await worker.serve('heavy', () => new Promise((resolve) => { finish.push(resolve); }),
    { concurrency: 1, queueBytes: MIB });
  const text = 'x'.repeat(400_000);
  const requests = Array.from({ length: 6 }, () => client.sendRequest('heavy', text, 30_000)
    .then(({ payload }) => payload, (error) => error.code));
  const refused = await Promise.all(requests.slice(3));
  assert.deepEqual(refused, ['limit_exceeded', 'limit_exceeded', 'limit_exceeded']);
  for (let n = 0; n < 3; n += 1) {
    await eventually('in hand', () => finish.length > n);
    finish[n]('done');
  }
  assert.deepEqual(await Promise.all(requests.slice(0, 3)), ['done', 'done', 'done']);
  const service = worker.services.get('heavy');
  assert.deepEqual([service.queueBytes, service.queue.length], [0, 0]);
});

test('what waits for a connection is counted with its channel', async (t) => {
  const client = unconnected(t, { port: 1, offlineQueueBytes: 1000 });
  void client.connect({ retry: true });
  await once(client, 'reconnecting');
  client.publish('c'.repeat(600), 1);
  assert.throws(() => client.publish('c'.repeat(600), 1), { code: 'QUEUE_FULL' });
  assert.equal(client.offline.size, 1);
});

/** Runs a program that prints `GREW <bytes>`, against a server. */
async function growth(server, program) {
  const child = new Process(process.execPath, ['--expose-gc', '-e', `
    const { IPCClient } = require(${INDEX});
    const settled = async () => { for (let n = 0; n < 3; n += 1) { gc(); await new Promise(setImmediate); } };
    const client = new IPCClient('bench', { port: ${server.port}, heartbeatInterval: 0, sendQueueBytes: 16 << 20 });
    (async () => { if (!await client.connect()) throw client.lastError; ${program} process.exit(); })();`]);
  return { child, grew: async () => Number((await child.expect(/GREW (-?\d+)/, 60_000))[1]) };
}

test('requests that wait for their answers do not hold what they sent', async (t) => {
  const { server, client } = await connected(t);
  // A worker that never answers, and keeps nothing either.
  client.on('message', () => {});
  await client.command({ action: 'serve', channel: 'never' });
  const { grew } = await growth(server, `
    const held = () => { const { heapUsed, external } = process.memoryUsage(); return heapUsed + external; };
    await settled();
    const before = held();
    for (let n = 0; n < 64; n += 1) {
      client.sendRequest('never', String(n) + 'x'.repeat(1 << 20), 60_000).catch(() => {});
      if (!await client.ping(30_000)) throw new Error('no pong');
    }
    await settled();
    if (client.pending.size !== 64) throw new Error('pending: ' + client.pending.size);
    console.log('GREW ' + (held() - before));`);
  const bytes = await grew();
  assert.ok(bytes < 16 * MIB, `${bytes} bytes for 64 requests of a mebibyte each`);
});

test('the process does not grow while a server that stands still is sent to', async (t) => {
  const server = await served(t);
  const { child, grew } = await growth(server, `
    const text = 'x'.repeat(100_000);
    console.log('READY');
    await new Promise((resolve) => process.stdin.once('data', resolve));
    const rss = () => process.memoryUsage().rss;
    const flood = async (rounds) => {
      let refused = 0;
      for (let n = 0; n < rounds; n += 1) {
        try { client.publish('nobody', text); } catch (error) { if (error.code !== 'QUEUE_FULL') throw error; refused += 1; }
        client.sendRequest('echo', text, 1).catch(() => {});
        if (n % 10 === 9) await new Promise((resolve) => setTimeout(resolve, 1));
      }
      return refused;
    };
    if (await flood(1_000) === 0) throw new Error('the bound was not reached');
    await settled();
    const before = rss();
    if (await flood(5_000) < 4_900) throw new Error('the server reads');
    await settled();
    if (client.connection.queuedBytes > 17 << 20) throw new Error('queued: ' + client.connection.queuedBytes);
    console.log('GREW ' + (rss() - before));`);
  await child.expect(/READY/);
  server.child.kill('SIGSTOP');
  child.child.stdin.write('go\n');
  const bytes = await grew();
  // 5,000 rounds offered a gigabyte.
  assert.ok(bytes < 64 * MIB, `grew by ${bytes} bytes after the bound was reached`);
});
