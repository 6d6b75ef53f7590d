'use strict';

// What goes wrong in the program's own callbacks, or at a bound, stays where it belongs.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const http = require('node:http');
const {
  STEP_MS_MAX, connected, unconnected, web, warnings, eventually, once, sleep, joined, closed, served, collected,
} = require('./support.js');
const { Message, ipcEvents, ipcProxy } = require('../index.js');
const { Connection } = require('../lib/connection.js');
const { Service } = require('../lib/service.js');
const { encodeBody, encodeFrames } = require('../lib/codec.js');

test('a filter that throws is reported, and the other listeners go on', async (t) => {
  const { client } = await connected(t);
  const errors = collected(client, 'error');
  const base = await web(t, ipcEvents(client, 'ticks', { filter: ({ payload }) => payload.wanted }));
  const controller = new AbortController();
  const response = await fetch(base, { signal: controller.signal });
  const reader = response.body.getReader();
  await reader.read();
  const others = client.subscribe('ticks');
  await others.ready;
  client.publish('ticks', null);
  client.publish('ticks', { wanted: 1 });
  assert.equal((await others.next()).value.payload, null);
  const { value } = await reader.read();
  assert.match(Buffer.from(value).toString(), /data: \{"wanted":1\}/);
  assert.deepEqual(errors.map(({ name }) => name), ['TypeError']);
  assert.equal(client.connected, true);
  controller.abort();
});

test('what a message starts does not keep the rest of its chunk from being read', () => {
  const seen = [];
  const faults = [];
  const fault = new Error('thrown on the way');
  const connection = new Connection({ maxFrameBytes: 1000 }, {
    onMessage: ({ payload }) => {
      seen.push(payload);
      if (payload === 1) throw fault;
    },
    onFault: (error) => faults.push(error),
  });
  const bodies = [1, 2].map((n) => encodeBody(`id${n}`, '"a"', '"c"', 'publish', String(n)));
  const chunk = encodeFrames(bodies, Buffer.byteLength(bodies.join('')));
  assert.equal(connection.read(chunk.length, chunk), true);
  assert.deepEqual(seen, [1, 2]);
  assert.deepEqual(faults, [fault]);
});

test('subscriptions and services are restored however full everything is', async (t) => {
  const server = await served(t);
  const client = closed(t, server.client('bench', { sendQueueBytes: 1, pendingMax: 1, offlineQueueSize: 10 }));
  const errors = collected(client, 'error');
  const handled = [];
  client.subscribe('handled', ({ payload }) => handled.push(payload));
  const subscriptions = ['a', 'b', 'c'].map((channel) => client.subscribe(channel));
  await client.serve('square', ({ payload }) => payload ** 2);
  const connecting = client.connect();
  const waiting = client.sendRequest('system', { action: 'ping' });
  waiting.catch(() => {});
  assert.equal(client.pending.size, 1);
  assert.equal(await connecting, true);
  await Promise.all(subscriptions.map(({ ready }) => ready));
  await eventually('nothing pending', () => client.pending.size === 0);
  const other = await joined(t, server.client('bench'));
  assert.equal((await other.sendRequest('square', 7)).payload, 49);
  for (const channel of ['a', 'b', 'c', 'handled']) other.publish(channel, channel);
  for (const subscription of subscriptions) {
    assert.equal((await subscription.next()).value.payload, subscription.channel);
  }
  await eventually('handled', () => handled.length === 1);
  assert.ok(errors.every(({ code, message }) => code === 'QUEUE_FULL' && /sendQueueBytes/.test(message)), errors);
});

test('whoever waits for the connection is told of it, whatever goes wrong in restoring', async (t) => {
  const server = await served(t);
  const client = closed(t, server.client('bench'));
  const errors = [];
  client.on('error', (error) => errors.push(error.message));
  client.restore = () => { throw new Error('not restored'); };
  assert.equal(await client.connect(), true);
  assert.deepEqual(errors, ['not restored']);
});

test('a subscription that cannot be sent leaves nothing behind', async (t) => {
  const { client } = await connected(t, { sendQueueBytes: 1 });
  const full = () => client.publish('nobody', 1);
  full();
  assert.throws(() => client.subscribe('iterated'), { code: 'QUEUE_FULL' });
  assert.throws(() => client.subscribe('handled', () => {}), { code: 'QUEUE_FULL' });
  assert.deepEqual([client.pending.size, client.getConnectionInfo().subscribedChannels], [0, []]);
});

test('events that cannot be subscribed to are answered with 503, before and after the client is closed', async (t) => {
  const { client } = await connected(t, { sendQueueBytes: 1 });
  const events = ipcEvents(client, 'ticks');
  const base = await web(t, (req, res) => {
    if (client.connected) client.publish('nobody', 1);
    events(req, res);
  });
  const ask = async () => {
    const response = await fetch(base);
    return [response.status, (await response.json()).code];
  };
  assert.deepEqual(await ask(), [503, 'QUEUE_FULL']);
  assert.deepEqual([client.pending.size, client.getConnectionInfo().subscribedChannels], [0, []]);
  await client.close();
  assert.deepEqual(await ask(), [503, 'NOT_CONNECTED']);
  assert.deepEqual(client.getConnectionInfo().subscribedChannels, []);
});

test('a browser that left before its turn is not subscribed', async (t) => {
  const { client } = await connected(t);
  const events = ipcEvents(client, 'ticks');
  let handled = false;
  const base = await web(t, (req, res) => res.on('close', () => setImmediate(() => {
    events(req, res);
    handled = true;
  })));
  const request = http.get(base);
  request.on('error', () => {});
  request.on('socket', (socket) => socket.on('connect', () => setTimeout(() => request.destroy(), 50)));
  await eventually('handled', () => handled);
  assert.deepEqual(client.getConnectionInfo().subscribedChannels, []);
});

test('the headers come before the server has confirmed', async (t) => {
  const { server, client } = await connected(t);
  const base = await web(t, ipcEvents(client, 'ticks'));
  server.child.kill('SIGSTOP');
  const response = await fetch(base, { signal: AbortSignal.timeout(STEP_MS_MAX) });
  assert.equal(response.status, 200);
  server.child.kill('SIGCONT');
  await response.body.cancel();
});

for (const endless of [Infinity, 2 ** 31, 2 ** 32]) {
  test(`${endless} ms is no millisecond`, async (t) => {
    const { client } = await connected(t, {
      connectionTimeout: endless, requestTimeout: endless, heartbeatInterval: endless, closeTimeout: endless,
      reconnectDelay: endless, reconnectDelayMax: endless,
    });
    let pings = 0;
    const { command } = client;
    client.command = function counted(payload, ...rest) {
      if (payload.action === 'ping') pings += 1;
      return command.call(this, payload, ...rest);
    };
    await client.sendRequest('system', { action: 'ping' }, endless);
    const warned = warnings(t);
    assert.equal(await client.ping(endless), true);
    assert.equal(await client.healthCheck(endless), true);
    await client.command({ action: 'serve', channel: 'slow' });
    const answer = client.sendRequest('slow', 1);
    client.subscribe('slow', (request) => setTimeout(() => client.respond(request, 2), 50));
    const closing = client.close();
    assert.equal((await answer).payload, 2, 'close() waited for it');
    await closing;
    assert.equal(pings, 1, 'that of the program, and no heartbeat');
    assert.deepEqual(warned, []);
    const dead = unconnected(t, { port: 1, reconnectDelay: endless, reconnectDelayMax: endless });
    const [{ delay }] = await new Promise((resolve) => {
      dead.once('reconnecting', (...values) => resolve(values));
      void dead.connect({ retry: true });
    });
    assert.ok(delay > 2 ** 29 && delay < 2 ** 31, String(delay));
  });
}

test('a timeout that is none is a TypeError', async (t) => {
  const { client } = await connected(t);
  for (const timeout of [NaN, -1, '5']) {
    await assert.rejects(client.sendRequest('echo', 1, { timeout }), TypeError);
    await assert.rejects(client.ping(timeout), TypeError);
    await assert.rejects(client.healthCheck(timeout), TypeError);
    await assert.rejects(client.close({ timeout }), TypeError);
    assert.throws(() => client.sendRequestAsync('echo', 1, () => {}, { timeout }), TypeError);
  }
  await assert.rejects(client.sendRequest('echo', 1, NaN), TypeError);
  assert.equal(client.connected, true);
  assert.equal(client.pending.size, 0);
});

test('an onError that fails is a warning', async (t) => {
  const { client } = await connected(t);
  const warned = warnings(t);
  client.onError(async () => { throw new Error('the log is full'); });
  client.report(new Error('news'));
  client.onError(() => { throw Object.create(null); });
  client.report(new Error('news'));
  client.onError(null);
  client.report(Object.create(null));
  await eventually('warned', () => warned.length === 3);
  assert.ok(warned.includes('the log is full'));
});

test('whatever a handler throws is an error at the requester, and its place is free again', async (t) => {
  const { server, client } = await connected(t);
  const worker = await joined(t, server.client('bench'));
  const number = new Error('');
  number.message = 42;
  const getter = Object.defineProperty(new Error(''), 'message', { get: () => { throw new Error('no message'); } });
  const thrown = [Object.create(null), number, getter, Symbol('symbol'), undefined, null];
  const service = await worker.serve('faulty', ({ payload }) => {
    if (payload === 'toJSON') return { toJSON: () => { throw Object.create(null); } };
    if (payload < thrown.length) throw thrown[payload];
    return 'done';
  }, { concurrency: 1 });
  for (let n = 0; n < thrown.length; n += 1) {
    await assert.rejects(client.sendRequest('faulty', n, 2_000), { name: 'ServerError', code: 'handler_failed' }, n);
  }
  await assert.rejects(client.sendRequest('faulty', 1), { message: '42' });
  await assert.rejects(client.sendRequest('faulty', 'toJSON'), { code: 'handler_failed' });
  assert.equal((await client.sendRequest('faulty', 100)).payload, 'done');
  assert.equal(service.running, 0);
});

test('a place is free again even where the answer fails', async () => {
  const fails = () => { throw new Error('not sent'); };
  const answers = { whole: fails, refuse: fails };
  const service = new Service('x', () => 1, { concurrency: 1, queueMax: 1, queueBytes: 1 }, { answers });
  const work = service.context.resource();
  work.begin(new Message({ message_type: 'request' }), 1, service, false);
  await assert.rejects(service.run(work), /not sent/);
  assert.equal(service.running, 0);
});

test('a request that is larger than the queue waits alone, and the next one is told that the worker is busy', async () => {
  const answered = [];
  let finish;
  const note = ({ message_id: id }, payload) => answered.push([id, payload?.code ?? payload]);
  const answers = { whole: note, refuse: note };
  const handler = ({ message_id: id }) => (id === 'a' ? new Promise((resolve) => { finish = resolve; }) : 'done');
  const service = new Service('x', handler, { concurrency: 1, queueMax: 10, queueBytes: 100 }, { answers });
  for (const [id, bytes] of [['a', 1], ['b', 1_000], ['c', 1]]) {
    service.take(new Message({ message_id: id, message_type: 'request' }), bytes);
  }
  assert.deepEqual(answered, [['c', 'limit_exceeded']]);
  finish('done');
  await service.whenIdle();
  assert.deepEqual(answered, [['c', 'limit_exceeded'], ['a', 'done'], ['b', 'done']]);
});

test('a status that is none, or that throws, is no crash', async (t) => {
  const { client } = await connected(t);
  for (const given of [0, NaN, 99, 1000, '404']) {
    const base = await web(t, ipcProxy(client, 'nobody', { status: () => given }));
    const response = await fetch(base);
    assert.deepEqual([response.status, (await response.json()).code], [503, 'no_handler']);
  }
  const base = await web(t, ipcProxy(client, 'nobody', { status: () => { throw new Error('broken'); } }));
  assert.equal((await fetch(base)).status, 500);
});

test('a client that is being closed takes no more work, but finishes what it has', async (t) => {
  const { server, client } = await connected(t);
  const worker = await joined(t, server.client('bench'));
  let finish;
  await client.serve('slow', () => new Promise((resolve) => { finish = resolve; }));
  await worker.serve('idle', () => 1);
  const answer = worker.sendRequest('slow', 1);
  await eventually('begun', () => finish !== undefined);
  const closing = worker.close();
  const code = { code: 'NOT_CONNECTED', message: /connection/ };
  await assert.rejects(worker.sendRequest('system', { action: 'ping' }), code);
  assert.throws(() => worker.publish('x', 1), code);
  assert.throws(() => worker.notify('x', 1), code);
  assert.throws(() => worker.request('x', 1), code);
  assert.throws(() => worker.sendRequestAsync('x', 1, () => {}), code);
  assert.equal(worker.connected, true, 'it is not closed yet');
  await eventually('stopped', () => client.sendRequest('idle', 2).then(() => false,
    (error) => error.code === 'no_handler'));
  finish('finished');
  assert.equal((await answer).payload, 'finished');
  await closing;
});

test('close() waits until the server has read everything', async (t) => {
  const { server, client } = await connected(t, { heartbeatInterval: 0 });
  const listener = await joined(t, server.client('bench'));
  const subscription = listener.subscribe('bulk');
  await subscription.ready;
  server.child.kill('SIGSTOP');
  client.publish('bulk', 'x'.repeat(12 << 20));
  const errors = collected(client, 'error');
  const closing = client.close({ timeout: 20_000 });
  // Longer than the time a connection lingers that is closed at once.
  await sleep(2_500);
  assert.ok(client.connection.queuedBytes > 0);
  server.child.kill('SIGCONT');
  await closing;
  assert.deepEqual(errors, []);
  assert.equal((await subscription.next()).value.payload.length, 12 << 20);
});

test('close() reports what it drops when its time is up, and takes no longer', async (t) => {
  const { server, client } = await connected(t, { heartbeatInterval: 0 });
  const lingering = server.client('bench', { heartbeatInterval: 0 });
  await lingering.connect();
  server.child.kill('SIGSTOP');
  client.publish('bulk', 'x'.repeat(12 << 20));
  const waiting = unconnected(t, { port: 1 });
  void waiting.connect({ retry: true });
  await once(waiting, 'reconnecting');
  waiting.publish('x', 1);
  // The clock of this test: a connection that is closed at once lingers longer.
  lingering.publish('bulk', 'x'.repeat(12 << 20));
  const lingered = once(lingering.connection.socket, 'close').then(() => 'lingered');
  lingering.disconnect();
  for (const [closed, dropped] of [[client, /dropped: [1-9]\d* unsent bytes/], [waiting, /, 1 messages that waited/]]) {
    const errors = collected(closed, 'error');
    assert.equal(await Promise.race([closed.close({ timeout: 100 }).then(() => 'cut'), lingered]), 'cut');
    assert.equal(errors.length, 1);
    assert.match(errors[0].message, dropped);
  }
});

test('the path is what stands before the first question mark', async (t) => {
  const { client } = await connected(t);
  await client.serve('api', ({ payload: { path, query } }) => [path, query]);
  const base = await web(t, ipcProxy(client, 'api'));
  const { port } = new URL(base);
  const ask = (path) => new Promise((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, path }, (response) => {
      let text = '';
      response.on('data', (data) => { text += data; });
      response.on('end', () => resolve(JSON.parse(text)));
    }).on('error', reject);
  });
  assert.deepEqual(await ask('//evil/admin'), ['//evil/admin', {}]);
  assert.deepEqual(await ask('//'), ['//', {}]);
  assert.deepEqual(await ask('/a/../b?x=//c?d&y=%20'), ['/a/../b', { x: '//c?d', y: ' ' }]);
});
