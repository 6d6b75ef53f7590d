'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { startServer, startPublished, sleep, eventually } = require('./support.js');
const { IPCPool } = require('../index.js');

test('requests spread over the connections, publications keep their order', async (t) => {
  const server = await startServer();
  t.after(() => server.kill());
  const pool = new IPCPool('bench', { size: 3, port: server.port });
  assert.equal(pool.size, 3);
  assert.equal(pool.connected, false);
  await assert.rejects(pool.sendRequest('echo', 1), { code: 'NOT_CONNECTED' });
  assert.equal(await pool.connect(), true);
  assert.equal(pool.isConnected(), true);

  const service = await pool.serve('slow', async (request) => { await sleep(5); return request.payload; });
  const requests = Array.from({ length: 30 }, (_, n) => pool.sendRequest('slow', n));
  await Promise.resolve();
  assert.deepEqual(pool.clients.map((client) => client.pending.size), [10, 10, 10]);
  const answers = (await Promise.all(requests)).map(({ payload }) => payload);
  assert.deepEqual(answers, Array.from({ length: 30 }, (_, n) => n));
  assert.ok(pool.clients.every((client) => client.services.get('slow').running === 0));
  await service.close();
  await assert.rejects(pool.sendRequest('slow', 1), { code: 'no_handler' });

  for (const channel of ['a', 'b', 'c', 'd']) {
    const subscription = pool.subscribe(channel);
    await subscription.ready;
    for (let n = 0; n < 20; n += 1) pool.publish(channel, n);
    for (let n = 0; n < 20; n += 1) assert.equal((await subscription.next()).value.payload, n);
    pool.unsubscribe(channel);
  }
  pool.notify('nobody', 1);
  await assert.rejects(pool.serve('system', () => 1), { code: 'forbidden' });
  await pool.close();
  assert.equal(pool.connected, false);
});

test('a pool lives on while one of its connections is gone', async (t) => {
  const server = await startServer();
  t.after(() => server.kill());
  const pool = new IPCPool('bench', { size: 2, port: server.port, reconnectDelay: 20 });
  t.after(() => pool.close());
  await pool.connect();
  let disconnected = 0;
  pool.on('disconnected', () => { disconnected += 1; });
  pool.clients[0].connection.socket.destroy();
  await eventually('one gone', () => disconnected === 1);
  for (let n = 0; n < 10; n += 1) assert.equal((await pool.sendRequest('echo', n)).payload, n);
  await eventually('back', () => pool.clients.every((client) => client.connected));
});

test('a pool against the published server, and wrong sizes', async (t) => {
  const server = await startPublished();
  t.after(() => server.kill());
  const pool = new IPCPool('my_app', { size: 2, port: server.port });
  t.after(() => pool.disconnect());
  await pool.connect();
  assert.equal((await pool.sendRequest('api', { action: 'x' })).payload.action, 'x');
  await assert.rejects(pool.serve('x', () => 1), { code: 'UNSUPPORTED' });
  assert.throws(() => new IPCPool('a', { size: 0 }), TypeError);
});
