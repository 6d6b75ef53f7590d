'use strict';

// Clients of several servers, some of which end, refuse, drain or never answer.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const net = require('node:net');
const path = require('node:path');
const { IPCClient, IPCPool } = require('../index.js');
const { Servers } = require('../lib/servers.js');
const {
  closed, collected, eventually, joined, once, peer, served, startServer, temporaryDirectory, unconnected, withHistories,
} = require('./support.js');

// A pause that a test would not survive.
const NEVER = { reconnectDelay: 1e9, reconnectDelayMax: 1e9 };
const QUICK = { reconnectDelay: 5, reconnectDelayMax: 20 };

const at = (...servers) => servers.map(({ port }) => `127.0.0.1:${port}`);

/** A port at which nothing listens, and where nobody else can begin to during the test. */
async function refusing(t) {
  const holder = net.createServer().listen(0, '127.0.0.1');
  await once(holder, 'listening');
  const { port } = holder.address();
  const socket = net.connect({ port, host: '127.0.0.1' });
  const [accepted] = await once(holder, 'connection');
  await new Promise((resolve) => holder.close(resolve).closeAllConnections?.() ?? resolve());
  t.after(() => { socket.destroy(); accepted.destroy(); });
  return { port };
}

/** A server that accepts and says nothing. */
async function silent(t) {
  const sockets = [];
  const server = net.createServer((socket) => { sockets.push(socket.on('error', () => {}).resume()); });
  server.listen(0, '127.0.0.1');
  t.after(() => { server.close(); for (const socket of sockets) socket.destroy(); });
  await once(server, 'listening');
  return { port: server.address().port };
}

/** A server that answers connect by an error. */
function refuser(t, code) {
  return peer(t, { grant: { status: 'error', code, error: 'the test wants it like this', server: undefined } });
}

test('what a client subscribes to and serves goes on at the next server, and at the first when its turn comes', async (t) => {
  const [first, second, third] = [await startServer(), await served(t), await startServer()];
  t.after(() => Promise.all([first.kill(), third.kill()]));
  const client = closed(t, new IPCClient('bench', { hosts: at(first, second, third), ...QUICK }));
  const told = [];
  client.on('connected', ({ address }) => told.push(['connected', address]));
  client.on('disconnected', ({ address }) => told.push(['disconnected', address]));
  assert.equal(await client.connect(), true, String(client.lastError));
  const news = client.subscribe('news');
  await client.serve('mine', (request) => request.payload);
  const goesOn = async (server) => {
    await eventually('the next server', () => client.connected && client.port === server.port);
    assert.equal((await client.sendRequest('mine', server.port)).payload, server.port);
    client.publish('news', server.port);
    assert.equal((await news.next()).value.payload, server.port);
  };
  await goesOn(first);
  await first.kill();
  await goesOn(second);
  // A drain is the end of a connection, too.
  assert.equal((await second.kill('SIGTERM')).code, 0);
  await goesOn(third);
  assert.deepEqual(client.getConnectionInfo().port, third.port);
  await third.kill();
  const again = await served(t, { port: first.port });
  await goesOn(again);
  const [one, two, three] = at(first, second, third);
  assert.deepEqual(told, [
    ['connected', one], ['disconnected', one], ['connected', two], ['disconnected', two], ['connected', three],
    ['disconnected', three], ['connected', one],
  ]);
});

test('each server is tried before a pause, also after one that welcomes and closes', async (t) => {
  const server = await served(t);
  const welcoming = await peer(t, { onOpen: ({ socket }) => socket.end() });
  const hosts = at(welcoming, await refusing(t), server);
  const client = await joined(t, new IPCClient('bench', { hosts, ...NEVER }));
  await eventually('the last one', () => client.connected && client.port === server.port);
  assert.equal((await client.sendRequest('echo', 1)).payload, 1);
  assert.equal(welcoming.sides.length, 1);
});

test('a pause comes when all have failed, and then each is tried once more', async (t) => {
  const welcoming = [0, 1].map(() => peer(t, { onOpen: ({ socket }) => socket.end() }));
  const peers = await Promise.all(welcoming);
  const client = closed(t, new IPCClient('bench', { hosts: at(...peers), ...QUICK, reconnectAttempts: 3 }));
  const pauses = collected(client, 'reconnecting');
  const ended = new Promise((resolve) => {
    client.on('error', (error) => { if (error.message.startsWith('gave up')) resolve(); });
  });
  await client.connect();
  await ended;
  assert.deepEqual(pauses.map(({ attempt }) => attempt), [1, 2, 3]);
  assert.deepEqual(peers.map(({ sides }) => sides.length), [4, 4]);
});

test('a server that never answers leaves time for the others', async (t) => {
  const [server, mute] = [await served(t), await silent(t)];
  await joined(t, new IPCClient('bench', { hosts: at(mute, server), connectionTimeout: 3_000 }));
  const client = unconnected(t, { hosts: at(mute, await refusing(t)), connectionTimeout: 300 });
  assert.equal(await client.connect(), false);
  assert.match(client.lastError.message, /did not answer connect within 150 ms.*ECONNREFUSED/);
});

test('the error names each server with its reason', async (t) => {
  const hosts = at(await refusing(t), await refuser(t, 'server_full'));
  const client = unconnected(t, { hosts });
  assert.equal(await client.connect(), false);
  const { message, code, cause } = client.lastError;
  assert.equal(code, 'NOT_CONNECTED');
  assert.match(message, new RegExp(`^none of 2 servers can be used: ${hosts[0]} \\(.*ECONNREFUSED.*\\), ${hosts[1]} \\(`));
  assert.deepEqual(cause.errors.map((error) => error.code), ['NOT_CONNECTED', 'server_full']);
});

test('a client ends where all servers refuse its token, and no sooner', async (t) => {
  const server = await served(t);
  const [one, two] = [await refuser(t, 'auth_failed'), await refuser(t, 'auth_failed')];
  const hosts = at(one, two, server);
  const client = await joined(t, new IPCClient('bench', { hosts, ...QUICK }));
  assert.equal(client.port, server.port);
  const other = closed(t, new IPCClient('bench', { hosts: at(one, two), ...QUICK }));
  assert.equal(await other.connect({ retry: true }), false);
  assert.equal(other.state, 'idle');
  assert.deepEqual(other.lastError.cause.errors.map(({ code }) => code), ['auth_failed', 'auth_failed']);
  // One that cannot be reached may take it later.
  const patient = closed(t, new IPCClient('bench', { hosts: at(one, await refusing(t)), ...QUICK }));
  const asked = one.sides.length;
  void patient.connect({ retry: true });
  await eventually('more attempts', () => one.sides.length > asked + 2);
  assert.equal(patient.state, 'reconnecting');
});

test('what a second server does not know is a gap', async (t) => {
  const args = withHistories(t, { log: 100 });
  const [first, second] = [await served(t, { args }), await served(t, { args })];
  const publisher = await joined(t, second.client());
  const there = await publisher.publish('log', 'before it came', { ack: true });
  const client = await joined(t, new IPCClient('bench', { hosts: at(first, second), ...QUICK }));
  const log = client.subscribe('log', { last: 1 });
  await log.ready;
  const here = await client.publish('log', 'here', { ack: true });
  assert.equal((await log.next()).value.payload, 'here');
  const gaps = collected(client, 'gap');
  await first.kill('SIGTERM');
  await eventually('the gap', () => gaps.length > 0);
  const [{ missed, seen, from }] = gaps;
  assert.deepEqual([missed, seen.epoch, seen.offset, from.epoch], [null, here.epoch, here.offset, there.epoch]);
  publisher.publish('log', 'live');
  const rest = [(await log.next()).value.payload];
  while (rest.at(-1) !== 'live') rest.push((await log.next()).value.payload);
  assert.deepEqual(rest, ['before it came', 'live']);
  assert.equal(gaps.length, 1);
});

test('Unix sockets may be several, and a pool has a turn for each of its clients', async (t) => {
  const socket = path.join(temporaryDirectory(t), 'there.sock');
  const server = await served(t, { args: ['--unix', socket] });
  const client = await joined(t, new IPCClient('bench', { path: [`${socket}.missing`, socket] }));
  assert.equal(client.getConnectionInfo().path, socket);
  const pool = await joined(t, new IPCPool('bench', { hosts: at(await refusing(t), server), size: 3 }));
  assert.deepEqual(pool.clients.map(({ port }) => port), [server.port, server.port, server.port]);
});

test('random orders put every server first and lose none', () => {
  const addresses = ['a', 'b', 'c'].map((host) => ({ host, port: 1 }));
  const orders = new Set();
  for (let n = 0; n < 300; n += 1) {
    const servers = new Servers(addresses, { isRandom: true });
    orders.add(addresses.map(() => servers.take(1).address.host).join(''));
  }
  // All of them but with a chance of one in 10^23.
  assert.deepEqual([...orders].sort(), ['abc', 'acb', 'bac', 'bca', 'cab', 'cba']);
});

test('addresses that cannot be used are refused by a sentence', () => {
  const listed = (hosts, more) => new IPCClient('bench', { hosts, ...more }).options.addresses
    .map(({ host, port }) => `${host} ${port}`);
  assert.deepEqual(listed('a, b:1,[::1]:9,::1', { port: 7 }), ['a 7', 'b 1', '::1 9', '::1 7']);
  assert.deepEqual(listed(['a', 'a:1', '[::1]']), ['a 8888', 'a 1', '::1 8888']);
  for (const [options, expected] of [
    [{ hosts: '' }, /empty/], [{ hosts: 'a,' }, /empty/], [{ hosts: [] }, /hosts must be/], [{ hosts: [1] }, /hosts must be/],
    [{ hosts: 5 }, /hosts must be/], [{ hosts: 'a:' }, /port of 'a:'/], [{ hosts: 'a:0' }, /port/],
    [{ hosts: 'a:65536' }, /port/], [{ hosts: 'a:+1' }, /port/], [{ hosts: ':1' }, /no address/],
    [{ hosts: '1:2:3' }, /no address/], [{ hosts: '[::1' }, /no address/], [{ hosts: '[a]:1' }, /no address/],
    [{ hosts: 'a b' }, /no address/], [{ hosts: 'tcp://a:1' }, /no address/], [{ hosts: '/run/x' }, /Unix socket/],
    [{ hosts: 'a,b,a:8888' }, /a:8888 is there twice/], [{ path: ['/x', '/x'] }, /twice/],
    [{ hosts: 'a', path: '/x' }, /cannot be mixed/], [{ hosts: 'a', host: 'b' }, /host or hosts/],
    [{ path: [] }, /path must be/], [{ path: ['/x', ''] }, /path must be/], [{ path: 5 }, /path must be/],
    [{ addressOrder: 'shuffled' }, /'listed' or 'random'/],
  ]) {
    assert.throws(() => new IPCClient('bench', options), { name: 'TypeError', message: expected }, JSON.stringify(options));
  }
});
