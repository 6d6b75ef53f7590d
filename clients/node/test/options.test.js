'use strict';

// Options that the other tests only set.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { connected, eventually, once, sleep, joined, closed, served } = require('./support.js');

test('connectionTimeout and requestTimeout: a server that says nothing', async (t) => {
  const server = await served(t);
  const slow = { connectionTimeout: 500, requestTimeout: 60, heartbeatInterval: 0 };
  const client = closed(t, server.client('bench', slow));
  server.child.kill('SIGSTOP');
  assert.equal(await client.connect(), false);
  assert.deepEqual([client.lastError.code, client.state], ['TIMEOUT', 'idle']);
  assert.match(client.lastError.message, /did not answer connect within 500 ms/);
  server.child.kill('SIGCONT');
  await eventually('connected', () => client.connect());
  server.child.kill('SIGSTOP');
  await assert.rejects(client.sendRequest('echo', 1), { code: 'TIMEOUT', message: /within 60 ms/ });
  await assert.rejects(client.sendRequest('echo', 1, 70), { code: 'TIMEOUT', message: /within 70 ms/ });
});

test('close() takes no longer than its timeout, though the server closes nothing', async (t) => {
  const server = await served(t);
  for (const work of [() => {}, (client) => client.sendRequest('echo', 1).catch(() => {})]) {
    const client = await joined(t, server.client());
    server.child.kill('SIGSTOP');
    work(client);
    const begin = performance.now();
    await client.close({ timeout: 300 });
    const took = performance.now() - begin;
    assert.ok(took < 1_500, `${took} ms`);
    server.child.kill('SIGCONT');
  }
});

test('closeTimeout: work that does not end', async (t) => {
  const { server, client } = await connected(t, { closeTimeout: 50 });
  const worker = server.client('bench', { closeTimeout: 50 });
  await worker.connect();
  await worker.serve('endless', () => new Promise(() => {}));
  const lost = assert.rejects(client.sendRequest('endless', 1, 30_000), { code: 'worker_lost' });
  await eventually('in hand', () => worker.services.get('endless').running === 1);
  const told = once(worker, 'error');
  // The default is five seconds.
  assert.notEqual(await Promise.race([worker.close(), sleep(4_500).then(() => 'late')]), 'late');
  assert.match((await told)[0].message, /dropped: 0 unsent bytes, 0 messages .*, 1 requests/);
  await lost;
});

test('slowBytes: how much may lie', async (t) => {
  const { server, client } = await connected(t, { heartbeatInterval: 0, slowAfter: 20, slowBytes: 32 << 20 });
  const strict = await joined(t, server.client('bench', { heartbeatInterval: 0, slowAfter: 20, slowBytes: 1_000 }));
  server.child.kill('SIGSTOP');
  client.on('slow', () => assert.fail('less than slowBytes'));
  const slow = once(strict, 'slow');
  for (const one of [client, strict]) one.publish('nobody', 'x'.repeat(12 << 20));
  const [{ queuedBytes }] = await slow;
  assert.ok(queuedBytes > 1_000);
  await sleep(100);
});
