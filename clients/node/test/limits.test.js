'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const path = require('node:path');
const {
  Process, startServer, startPublished, eventually, temporaryDirectory, joined, closed, served, BINARY,
  STEP_MS_MAX,
} = require('./support.js');
const { IPCClient } = require('../index.js');

test('a server that stops reading costs bounded memory', async (t) => {
  const server = await served(t);
  const client = await joined(t, server.client('bench', { sendQueueBytes: 8 << 20, heartbeatInterval: 0 }));
  const slow = [];
  let drained = 0;
  client.on('slow', (told) => slow.push(told.queuedBytes));
  client.on('drain', () => { drained += 1; });
  server.child.kill('SIGSTOP');
  const payload = 'x'.repeat(100_000);
  let taken = 0;
  let refused = 0;
  for (let round = 0; round < 100; round += 1) {
    for (let n = 0; n < 10; n += 1) {
      try {
        client.publish('nobody', payload);
        taken += 1;
      } catch (error) {
        assert.equal(error.code, 'QUEUE_FULL');
        refused += 1;
      }
    }
    await new Promise(setImmediate);
  }
  assert.ok(refused > 0, 'the bound was reached');
  assert.ok(client.connection.queuedBytes <= 9 << 20, String(client.connection.queuedBytes));
  await eventually('told', () => slow.length > 0);
  assert.ok(slow[0] > 1 << 20);
  await assert.rejects(client.sendRequest('echo', payload), { code: 'QUEUE_FULL' });
  await assert.rejects(client.sendRequest('echo', 1, 50), { code: 'TIMEOUT' });
  assert.equal(client.pending.size, 0);
  assert.equal(slow.length, 1, 'told once');
  server.child.kill('SIGCONT');
  await eventually('drained', () => drained === 1);
  assert.equal((await client.sendRequest('echo', 'ok')).payload, 'ok');
  assert.ok(taken > 80, `${taken} taken, ${refused} refused`);
});

test('100,000 requests leave nothing behind', { timeout: 120_000 }, async (t) => {
  const server = await served(t);
  const program = `
    const { IPCClient } = require(${JSON.stringify(path.resolve(__dirname, '../index.js'))});
    const client = new IPCClient('bench', { port: ${server.port} });
    const heap = () => { gc(); gc(); return process.memoryUsage().heapUsed; };
    const round = async (requests) => {
      const controller = new AbortController();
      let left = requests;
      const lane = async () => {
        while (left > 0) {
          left -= 1;
          const { payload } = await client.sendRequest('echo', { n: left }, { signal: controller.signal });
          if (payload === null) throw new Error('no payload');
        }
      };
      await Promise.all(Array.from({ length: 100 }, lane));
    };
    (async () => {
      require('node:events').setMaxListeners(0);
      await client.connect();
      await round(10_000);
      const before = heap();
      await round(100_000);
      const after = heap();
      const gone = client.pending.size === 0 && client.pending.givenUp.size === 0 && client.offline.size === 0;
      console.log('GREW ' + (after - before) + ' ' + gone);
      await client.close();
    })();
  `;
  const child = new Process(process.execPath, ['--expose-gc', '--no-warnings', '-e', program]);
  const { code } = await child.wait(110_000);
  assert.equal(code, 0, child.output);
  const [, grew, gone] = /GREW (-?\d+) (\w+)/.exec(child.output);
  assert.equal(gone, 'true');
  // Ten bytes a request would be a megabyte.
  assert.ok(Number(grew) < 1_000_000, `the heap grew by ${grew} bytes`);
});

const EXITS = {
  'close()': 'await client.close();',
  'disconnect()': 'client.disconnect();',
  'close() with work under way': `
    client.sendRequest('nobody', 1).catch(() => {});
    client.sendRequest('silent', {}, 60_000).catch(() => {});
    client.subscribe('a', () => {}); client.subscribe('b');
    const dead = new IPCClient('x', { port: 1 });
    dead.connect({ retry: true }); await new Promise((resolve) => dead.once('reconnecting', resolve));
    dead.publish('c', 1); dead.sendRequest('c', 1, 60_000).catch(() => {});
    await Promise.all([client.close({ timeout: 50 }), dead.close({ timeout: 50 })]);`,
  'a failed connect': "client.disconnect(); if (await new IPCClient('x', { port: 1 }).connect()) throw new Error();",
  'an abandoned request': "client.sendRequest('nobody', 1).catch(() => {}); client.disconnect();",
};

for (const [what, statements] of Object.entries(EXITS)) {
  for (const start of [startServer, startPublished]) {
    test(`the process ends by itself after ${what}, ${start.name}`, async (t) => {
      const server = await start();
      t.after(() => server.kill());
      const program = `
        const { IPCClient } = require(${JSON.stringify(path.resolve(__dirname, '../index.js'))});
        const client = new IPCClient('my_app', { port: ${server.port} });
        (async () => { if (!await client.connect()) throw client.lastError; ${statements} console.log('DONE'); })();
      `;
      const child = new Process(process.execPath, ['--unhandled-rejections=strict', '-e', program]);
      await child.expect(/DONE/);
      // Timers that kept it alive, such as those of heartbeats, would do so for ever.
      const { code } = await child.wait();
      assert.equal(code, 0, `it had to be killed, or failed: ${child.output}`);
    });
  }
}

test('what was published just before disconnect() arrives', async (t) => {
  const server = await served(t);
  const listener = await joined(t, server.client('shop'));
  const subscription = listener.subscribe('last words');
  await subscription.ready;
  for (const size of [1, 3 << 20]) {
    const client = server.client('shop');
    await client.connect();
    client.publish('last words', 'x'.repeat(size));
    client.disconnect();
    assert.equal((await subscription.next()).value.payload.length, size);
  }
});

test('close() waits for answers, served requests and unsent bytes', async (t) => {
  const server = await served(t);
  const [worker, client, listener] = [server.client('math'), server.client('math'), server.client('math')];
  t.after(() => listener.disconnect());
  await Promise.all([worker.connect(), client.connect(), listener.connect()]);
  const subscription = listener.subscribe('bulk');
  await subscription.ready;
  await worker.serve('slow', async (request) => {
    await new Promise((resolve) => setTimeout(resolve, 100));
    return request.payload;
  });
  const answer = client.sendRequest('slow', 'finished');
  await eventually('begun', () => worker.services.get('slow').running === 1);
  client.publish('bulk', 'x'.repeat(4 << 20));
  await Promise.all([worker.close({ timeout: STEP_MS_MAX }), client.close({ timeout: STEP_MS_MAX })]);
  assert.equal((await answer).payload, 'finished');
  assert.equal((await subscription.next()).value.payload.length, 4 << 20);
  assert.deepEqual([worker.state, client.state], ['closed', 'closed']);
  assert.equal(client.close() instanceof Promise, true);
});

test('await using closes', async (t) => {
  const server = await served(t);
  const client = server.client();
  await client.connect();
  const dispose = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose');
  const service = await client.serve('disposable', () => 1);
  await service[dispose]();
  await client[dispose]();
  assert.equal(client.state, 'closed');
});

test('a Unix socket', async (t) => {
  const file = path.join(temporaryDirectory(t), 'ipc.sock');
  const server = new Process(BINARY, ['serve', '--demo', '--port', '0', '--unix', file]);
  t.after(() => server.kill());
  await eventually('the socket', () => require('node:fs').existsSync(file));
  const client = await joined(t, new IPCClient('bench', { path: file }));
  assert.equal((await client.sendRequest('echo', 'unix')).payload, 'unix');
  assert.equal(client.getConnectionInfo().path, file);
});

test('a listener that throws does no harm', async (t) => {
  const server = await served(t);
  const client = closed(t, server.client());
  const errors = [];
  client.on('connected', () => { throw new Error('thrown by a listener'); });
  client.onConnected(() => { throw new Error('thrown by a handler'); });
  client.onError((error) => errors.push(error.message));
  assert.equal(await client.connect(), true);
  assert.deepEqual(errors, ['thrown by a handler', 'thrown by a listener']);
  assert.equal(await client.ping(), true);
});
