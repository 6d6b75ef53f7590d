'use strict';

// Timers that fire late, because the loop was busy or the process stood still, let the loop read before they judge.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const {
  STEP_MS_MAX, Process, connected, servedPublished, eventually, sleep, joined, closed, served, collected,
} = require('./support.js');
const { afterReading } = require('../lib/timers.js');

const INDEX = path.resolve(__dirname, '../index.js');

/** Bytes that lie unread in the connections with this local port, by the kernel's tables. There may be several. */
function unread(port) {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const lines = ['tcp', 'tcp6'].flatMap((table) => fs.readFileSync(`/proc/net/${table}`, 'utf8').split('\n'));
  const found = lines.map((line) => line.trim().split(/\s+/)).filter(([, local, , state]) => (
    local?.endsWith(wanted) && state === '01'));
  return found.reduce((sum, [, , , , queues]) => sum + parseInt(queues.split(':')[1], 16), 0);
}

/**
 * Keeps the loop from turning, as a long computation or `execSync` does, for so long, and until something has arrived
 * for the client.
 */
function busy(ms, client = null) {
  const { localPort } = client?.connection.socket ?? {};
  const begin = performance.now();
  for (;;) {
    const passed = performance.now() - begin;
    if (passed > ms && (client === null || unread(localPort) > 0)) return;
    if (passed > STEP_MS_MAX) throw new Error('nothing arrived');
  }
}

/** Lets the client write what it was told to send. The loop does not read meanwhile, so no answer is missed. */
const written = () => new Promise((resolve) => { process.nextTick(resolve); });

/** A worker in a process of its own, because the loop of this one is kept busy. It answers 50 ms after the request. */
async function slowWorker(t, port) {
  const worker = new Process(process.execPath, ['-e', `
    const { IPCClient } = require(${JSON.stringify(INDEX)});
    const client = new IPCClient('bench', { port: ${port} });
    (async () => {
      await client.connect();
      await client.serve('slow', () => new Promise((resolve) => setTimeout(resolve, 50, 'in time')));
      console.log('up');
    })();`]);
  t.after(() => worker.kill());
  await worker.expect(/up/);
}

const ASKS = {
  'a request': (client) => client.sendRequest('slow', 1, 200).then(({ payload }) => payload === 'in time'),
  'a request with a callback': (client) => new Promise((resolve) => {
    client.sendRequestAsync('slow', 1, () => resolve(true), 200);
    client.onError(() => resolve(false));
  }),
  'a request with AbortSignal.timeout()': (client) => client.sendRequest('slow', 1, { signal: AbortSignal.timeout(200) })
    .then(({ payload }) => payload === 'in time'),
  'a ping': (client) => client.ping(200),
  'a health check': (client) => client.healthCheck(200),
};

for (const [what, ask] of Object.entries(ASKS)) {
  test(`${what} whose answer lies in the socket is answered, however busy the loop was`, async (t) => {
    const { server, client } = await connected(t);
    await slowWorker(t, server.port);
    const answered = ask(client);
    await written();
    busy(400, client);
    assert.equal(await answered, true);
  });
}

test('what takes several turns to read is read first, but an endless flow ends', async () => {
  for (const [perTurn, turnsMin, turnsMax] of [[0, 1, 2], [2 << 20, 4, 6], [100_000, 1, 2], [8 << 20, 7, 12]]) {
    const fullTurns = perTurn === 2 << 20 ? 4 : Infinity;
    let turns = 0;
    let isOver = false;
    const read = () => {
      if (isOver) return;
      turns += 1;
      setImmediate(read);
    };
    const bytesRead = () => Math.min(turns, fullTurns) * perTurn;
    await new Promise((resolve) => {
      setImmediate(read);
      afterReading(bytesRead, resolve);
    });
    isOver = true;
    assert.ok(turns <= turnsMax && turns >= turnsMin - 1, `${perTurn} bytes a turn: ${turns} turns`);
  }
});

test('a health check of the published server waits for what lies in the socket', async (t) => {
  const server = await servedPublished(t);
  const client = await joined(t, server.client());
  const healthy = client.healthCheck(200);
  await written();
  busy(400, client);
  assert.equal(await healthy, true);
});

test('a connection is made however busy the loop is meanwhile', async (t) => {
  const server = await served(t);
  const client = closed(t, server.client('bench', { connectionTimeout: 1_000 }));
  const connecting = client.connect();
  busy(2_100);
  assert.equal(await connecting, true, String(client.lastError));
});

test('a heartbeat that was answered in time is no reason to close', async (t) => {
  const server = await served(t);
  const client = closed(t, server.client('bench', { heartbeatInterval: 200, reconnectAttempts: 0 }));
  const { command } = client;
  let beats = 0;
  client.command = function counted(payload, ...rest) {
    const answered = command.call(this, payload, ...rest);
    if (payload.action === 'ping') {
      beats += 1;
      // Once the ping has left, until its time is over.
      process.nextTick(() => busy(400, client));
    }
    return answered;
  };
  assert.equal(await client.connect(), true);
  const lost = collected(client, 'disconnected');
  await eventually('three heartbeats', () => beats >= 3);
  assert.deepEqual(lost, []);
  assert.equal(client.connected, true);
});

test('close() takes the answers that came before its time was up', async (t) => {
  const { server, client } = await connected(t);
  await slowWorker(t, server.port);
  const errors = collected(client, 'error');
  const asked = client.sendRequest('slow', 1);
  await written();
  const closing = client.close({ timeout: 200 });
  busy(400, client);
  assert.equal(await asked.then(({ payload }) => payload, ({ code }) => code), 'in time');
  await closing;
  assert.deepEqual(errors, []);
});

test('a process that stood still loses neither its requests nor its connection', async (t) => {
  const { server } = await connected(t);
  await slowWorker(t, server.port);
  const child = new Process(process.execPath, ['-e', `
    const { IPCClient } = require(${JSON.stringify(INDEX)});
    const client = new IPCClient('bench', { port: ${server.port}, heartbeatInterval: 100, reconnectAttempts: 0 });
    client.on('disconnected', () => console.log('LOST'));
    (async () => {
      await client.connect();
      const asked = client.sendRequest('slow', 1, 500);
      setImmediate(() => console.log('ASKED', client.connection.socket.localPort));
      console.log('GOT', await asked.then(({ payload }) => payload, ({ code }) => code));
      await client.close();
      console.log('CLOSED');
    })();`]);
  t.after(() => child.kill());
  const [, port] = await child.expect(/ASKED (\d+)/);
  child.child.kill('SIGSTOP');
  await sleep(600);
  await eventually('the answer lies in its socket', () => unread(Number(port)) > 0);
  child.child.kill('SIGCONT');
  await child.expect(/CLOSED/);
  assert.match(child.output, /GOT in time/);
});

test('a peer that sends all the time postpones no timeout', async (t) => {
  const { server, client } = await connected(t);
  const feed = await joined(t, server.client('bench'));
  client.subscribe('flood', () => {});
  client.on('message', () => {});
  await client.command({ action: 'serve', channel: 'never' });
  const timer = setInterval(() => feed.publish('flood', 'x'.repeat(100_000)), 1);
  t.after(() => clearInterval(timer));
  await assert.rejects(client.sendRequest('never', 1, 50), { code: 'TIMEOUT' });
});
