'use strict';

// What is in hand when a service, a client or a process ends is finished or given back, and holds no process.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { Process, collected, connected, eventually, joined, served, sleep } = require('./support.js');
const { IPCClient, IPCPool } = require('../index.js');

const INDEX = path.resolve(__dirname, '../index.js');

/** A worker whose handlers wait until `finish`, and what became of each of its requests. */
async function working(t, server, make = () => server.client('bench', { heartbeatInterval: 0 })) {
  const worker = await joined(t, make());
  const work = { worker, begun: [], ended: [], aborted: [], noticed: [], finish: null };
  const open = new Promise((resolve) => { work.finish = resolve; });
  const handle = async (request) => {
    work.begun.push(request.payload);
    request.signal.addEventListener('abort', () => work.aborted.push(request.payload));
    try {
      await open;
      await sleep(1);
      return `${request.payload} done`;
    } finally {
      work.ended.push(request.payload);
    }
  };
  const onNotification = async (notification) => {
    await handle(notification);
    work.noticed.push(notification.payload);
  };
  work.serve = () => worker.serve('work', handle, { concurrency: 2, onNotification });
  work.service = await work.serve();
  return work;
}

/** Asks for a (in hand), tells b (in hand) and asks for c (it waits). */
async function load(client, work) {
  const settle = (promise) => promise.then(({ payload }) => payload, ({ code }) => code);
  const a = settle(client.sendRequest('work', 'a', 60_000));
  client.notify('work', 'b');
  const c = settle(client.sendRequest('work', 'c', 60_000));
  await eventually('in hand', () => work.begun.length === 2 && unfinished(work.worker) === 3);
  return { a, c };
}

function unfinished(worker) {
  const clients = worker.clients ?? [worker];
  return clients.reduce((sum, { services }) => sum + services.unfinished, 0);
}

const GENTLE = {
  'service.close()': (work) => work.service.close(),
  'service.close() and serving anew': async (work) => {
    const closing = work.service.close();
    const again = await work.serve();
    await closing;
    await again.close();
  },
  'client.close()': (work) => work.worker.close({ timeout: 60_000 }),
  'await using': (work) => work.worker[Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')](),
};

for (const [how, end] of Object.entries(GENTLE)) {
  for (const kind of ['client', 'pool']) {
    test(`${how} of a ${kind} finishes what is in hand and what waits`, async (t) => {
      const { server, client } = await connected(t);
      const work = await working(t, server, kind === 'pool'
        ? () => new IPCPool('bench', { size: 1, port: server.port, closeTimeout: 60_000 })
        : () => server.client('bench', { closeTimeout: 60_000 }));
      const { a, c } = await load(client, work);
      const ended = end(work);
      await sleep(20);
      work.finish();
      await ended;
      assert.deepEqual([await a, await c], ['a done', 'c done']);
      assert.deepEqual([work.ended.sort(), work.noticed, work.aborted], [['a', 'b', 'c'], ['b'], []]);
      await assert.rejects(client.sendRequest('work', 'd'), { code: 'no_handler' });
    });
  }
}

const CUT = {
  'close() whose time is over': (work) => work.worker.close({ timeout: 20 }),
  'close() that is shortened': async (work) => {
    const long = work.worker.close({ timeout: 60_000 });
    await work.worker.close({ timeout: 20 });
    await long;
  },
  'disconnect()': (work) => work.worker.disconnect(),
  'a lost connection': (work) => work.worker.connection.socket.destroy(),
};

for (const [how, end] of Object.entries(CUT)) {
  test(`${how} gives back what is in hand and what waits`, async (t) => {
    const { server, client } = await connected(t);
    const work = await working(t, server);
    work.worker.on('error', () => {});
    const { a, c } = await load(client, work);
    await end(work);
    assert.deepEqual([await a, await c], ['worker_lost', 'worker_lost']);
    await eventually('told', () => work.aborted.length === 2);
    work.finish();
    await eventually('the handlers came to their ends', () => work.ended.length === 2);
    await sleep(20);
    assert.deepEqual([work.begun, work.noticed], [['a', 'b'], ['b']], 'what waited has not begun');
  });
}

test('a handler may ask and publish until it is done, while its client is being closed', async (t) => {
  const { server, client } = await connected(t);
  const worker = server.client('bench');
  await worker.connect();
  let begin;
  const begun = new Promise((resolve) => { begin = resolve; });
  await worker.serve('work', async () => {
    begin();
    await eventually('closing', () => worker.isClosing);
    worker.publish('log', 'asking');
    const { payload } = await worker.sendRequest('echo', 'asked');
    return payload;
  });
  const log = client.subscribe('log');
  await log.ready;
  const answer = client.sendRequest('work', 1);
  await begun;
  await worker.close();
  assert.equal((await answer).payload, 'asked');
  assert.equal((await log.next()).value.payload, 'asking');
});

test('a service that finishes is counted and told of a lost connection while another one serves', async (t) => {
  const { server, client } = await connected(t);
  const work = await working(t, server);
  const { a, c } = await load(client, work);
  const closing = work.service.close();
  const again = await work.serve();
  assert.notEqual(again, work.service);
  const errors = collected(work.worker, 'error');
  await work.worker.close({ timeout: 20 });
  assert.deepEqual([await a, await c], ['worker_lost', 'worker_lost']);
  assert.deepEqual(work.aborted.sort(), ['a', 'b']);
  assert.match(errors[0].message, /3 requests that were being served/);
  work.finish();
  await closing;
});

/** The recipe of the README, in a process that serves. */
function recipe(port, { isStuck = false } = {}) {
  const readme = fs.readFileSync(path.resolve(__dirname, '../README.md'), 'utf8');
  const [, ending] = /```js\n(process\.once\('SIGTERM'[^]*?)```/.exec(readme);
  return `
    const { IPCClient } = require(${JSON.stringify(INDEX)});
    const client = new IPCClient('bench', { host: '127.0.0.1', port: ${port} });
    ${ending.replace('10_000', isStuck ? '200' : '10_000')}
    (async () => {
      if (!await client.connect()) throw client.lastError;
      await client.serve('work', (request) => {
        console.log('BEGUN');
        return new Promise((resolve) => setTimeout(resolve, ${isStuck ? 1e9 : 300}, 'done'));
      });
      console.log('SERVING', process.pid);
    })();`;
}

test('SIGTERM: the recipe finishes what is in hand and ends the process', async (t) => {
  const { server, client } = await connected(t);
  const worker = new Process(process.execPath, ['-e', recipe(server.port)]);
  t.after(() => worker.kill());
  await worker.expect(/SERVING/);
  const answer = client.sendRequest('work', 1);
  await worker.expect(/BEGUN/);
  worker.child.kill('SIGTERM');
  assert.equal((await answer).payload, 'done');
  assert.deepEqual(await worker.wait(), { code: 0, signal: null });
});

test('SIGTERM: a handler that does not return holds nobody', async (t) => {
  const { server, client } = await connected(t);
  const worker = new Process(process.execPath, ['-e', recipe(server.port, { isStuck: true })]);
  t.after(() => worker.kill());
  await worker.expect(/SERVING/);
  const answer = client.sendRequest('work', 1);
  await worker.expect(/BEGUN/);
  worker.child.kill('SIGTERM');
  await assert.rejects(answer, { code: 'worker_lost' });
  assert.deepEqual(await worker.wait(), { code: 0, signal: null });
});

test('SIGTERM: the same as process 1 of a container', { skip: process.platform !== 'linux' }, async (t) => {
  const unshare = process.getuid() === 0 ? ['-pf', '--mount-proc'] : ['-rpf', '--mount-proc'];
  const { status, stderr } = spawnSync('unshare', [...unshare, 'true']);
  assert.equal(status, 0, `this needs root or namespaces of users: ${stderr}`);
  const { server, client } = await connected(t);
  const outer = new Process('unshare', [...unshare, process.execPath, '-e', recipe(server.port)]);
  t.after(() => outer.kill());
  await outer.expect(/SERVING 1\b/);
  const answer = client.sendRequest('work', 1);
  await outer.expect(/BEGUN/);
  const inner = Number(spawnSync('pgrep', ['-P', String(outer.child.pid)]).stdout.toString());
  process.kill(inner, 'SIGTERM');
  assert.equal((await answer).payload, 'done');
  assert.equal((await outer.wait()).code, 0);
});

for (const [what, statements] of Object.entries({
  'close() over a handler that does not return': 'await worker.close({ timeout: 50 });',
  'disconnect() over a handler that does not return': 'worker.disconnect();',
  'service.close() that waits for ever': 'void worker.services.get("work").close(); worker.disconnect();',
})) {
  test(`the process ends by itself after ${what}`, async (t) => {
    const server = await served(t);
    const child = new Process(process.execPath, ['-e', `
      const { IPCClient } = require(${JSON.stringify(INDEX)});
      const [worker, client] = [1, 2].map(() => new IPCClient('bench', { port: ${server.port} }));
      (async () => {
        await Promise.all([worker.connect(), client.connect()]);
        const begun = new Promise((resolve) => worker.serve('work', () => { resolve(); return new Promise(() => {}); }));
        const asked = client.sendRequest('work', 1).catch(({ code }) => console.log(code));
        await begun;
        ${statements}
        await asked;
        client.disconnect();
        console.log('DONE');
      })();`]);
    await child.expect(/DONE/);
    assert.match(child.output, /worker_lost/);
    assert.equal((await child.wait()).code, 0, `it had to be killed: ${child.output}`);
  });
}

for (const [what, end] of [
  ['client.close()', ({ worker }) => worker.close({ timeout: 60_000 })],
  ['client.disconnect()', ({ worker }) => worker.disconnect()],
  ['service.close()', ({ service }) => service.close()],
]) {
  test(`a handler that calls ${what} does not wait for itself`, async (t) => {
    const { server, client } = await connected(t);
    const has = { worker: await joined(t, server.client('bench')) };
    let isDone = false;
    has.service = await has.worker.serve('ending', async () => {
      await end(has);
      isDone = true;
      return 'done';
    });
    const answer = client.sendRequest('ending', 1, 60_000).then(({ payload }) => payload, ({ code }) => code);
    assert.equal(await answer, what === 'client.disconnect()' ? 'worker_lost' : 'done');
    await eventually('the end of the handler', () => isDone);
    await assert.rejects(client.sendRequest('ending', 1), { code: 'no_handler' });
    if (what === 'client.close()') await eventually('closed', () => !has.worker.connected && !has.worker.isClosing);
  });
}

test('a handler that waits for close() later is told of, and what to do', async (t) => {
  const { server, client } = await connected(t);
  const worker = await joined(t, server.client('bench'));
  const errors = collected(worker, 'error');
  await worker.serve('ending', async () => {
    await sleep(1);
    await worker.close({ timeout: 200 });
  });
  await assert.rejects(client.sendRequest('ending', 1, 60_000), { code: 'worker_lost' });
  assert.match(errors[0].message, /a handler that awaits close\(\) waits for itself: call it there without await/);
});
