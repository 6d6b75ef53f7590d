'use strict';

// Over TLS, against `ipc serve` with certificates made on the spot.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const net = require('node:net');
const { IPCClient, IPCPool, TLSError, NotConnectedError, TimeoutError } = require('../index.js');
const { STEP_MS_MAX, certificates, unconnected, eventually, once, joined, closed, served } = require('./support.js');

const read = (file) => fs.readFileSync(file);

async function secureServer(t, files, { mutual = false, port = 0 } = {}) {
  const args = ['--tls-cert', files['server.pem'], '--tls-key', files['server.key']];
  if (mutual) args.push('--tls-client-ca', files['ca.pem']);
  const server = await served(t, { port, args });
  return server;
}

function secureClient(t, port, tls, options = {}) {
  const client = closed(t, new IPCClient('bench', { port, tls, ...options }));
  return client;
}

const trust = (files) => ({ ca: read(files['ca.pem']) });
const trustAndShow = (files) => ({ ...trust(files), cert: read(files['client.pem']), key: read(files['client.key']) });

/** The error with which a client does not connect. */
async function refused(client) {
  assert.equal(await client.connect(), false);
  return client.lastError;
}

async function assertTlsError(client, words) {
  const error = await refused(client);
  assert.ok(error instanceof TLSError && error instanceof NotConnectedError, `${error?.stack}`);
  assert.equal(error.code, 'TLS_FAILED');
  assert.match(error.message, words);
}

test('large messages go both ways, many at once, and closing loses nothing', async (t) => {
  const files = certificates(t);
  const { port } = await secureServer(t, files);
  const client = secureClient(t, port, trust(files));
  assert.equal(await client.connect(), true, client.lastError?.message);
  const large = 'x'.repeat(1 << 20);
  const all = [large, 1, null, large, { a: [large] }];
  const answers = await Promise.all(all.map((data) => client.sendRequest('echo', data)));
  assert.deepEqual(answers.map(({ payload }) => payload), all);

  const listener = secureClient(t, port, trust(files));
  await listener.connect();
  const news = listener.subscribe('news', { buffer: 10_000, bufferBytes: 1 << 30 });
  await news.ready;
  const filler = 'y'.repeat(10_000);
  for (let n = 0; n < 1_000; n += 1) client.publish('news', [n, filler]);
  await client.close({ timeout: STEP_MS_MAX });
  let expected = 0;
  for await (const { payload } of news) {
    assert.deepEqual(payload, [expected, filler]);
    expected += 1;
    if (expected === 1_000) break;
  }
});

test('what was sent arrives when the client is disconnected at once', async (t) => {
  const files = certificates(t);
  const { port } = await secureServer(t, files);
  const listener = secureClient(t, port, trust(files));
  await listener.connect();
  const news = listener.subscribe('news', { buffer: 10_000, bufferBytes: 1 << 30 });
  await news.ready;
  const client = secureClient(t, port, trust(files));
  await client.connect();
  const filler = 'z'.repeat(100_000);
  // More than the kernel takes at once.
  const count = 300;
  for (let n = 0; n < count; n += 1) client.publish('news', [n, filler]);
  client.disconnect();
  let expected = 0;
  for await (const { payload } of news) {
    assert.equal(payload[0], expected);
    expected += 1;
    if (expected === count) break;
  }
});

test('a server that asks for certificates lets in whom its authority knows', async (t) => {
  const files = certificates(t);
  const strangers = certificates(t);
  const { port } = await secureServer(t, files, { mutual: true });
  const client = secureClient(t, port, trustAndShow(files));
  assert.equal(await client.connect(), true, client.lastError?.message);
  assert.equal((await client.sendRequest('echo', 1)).payload, 1);
  // The refusal comes behind the handshake, while the client sends already.
  for (let n = 0; n < 10; n += 1) {
    await assertTlsError(secureClient(t, port, trust(files)), /asks for a certificate.*tls\.cert and tls\.key/);
  }
  const stranger = { ...trust(files), cert: read(strangers['client.pem']), key: read(strangers['client.key']) };
  await assertTlsError(secureClient(t, port, stranger), /does not accept this client's certificate/);
});

test('a server whose certificate is of others, old or unknown is not talked to', async (t) => {
  const files = certificates(t);
  const { port } = await secureServer(t, files);
  const others = certificates(t);
  await assertTlsError(secureClient(t, port, trust(others)), /signed by nobody whom this client trusts.*tls\.ca/);
  await assertTlsError(secureClient(t, port, true), /signed by nobody whom this client trusts/);
  await assertTlsError(secureClient(t, port, trust(files), { host: '127.0.0.1' }), /is for others.*tls\.servername/);
  const named = secureClient(t, port, { ...trust(files), servername: 'localhost' }, { host: '127.0.0.1' });
  assert.equal(await named.connect(), true, named.lastError?.message);

  const past = certificates(t, { days: -1 });
  const old = await secureServer(t, past);
  await assertTlsError(secureClient(t, old.port, trust(past)), /has expired; renew it/);

  const byAddress = certificates(t, { name: 'IP:127.0.0.1' });
  const { port: itsPort } = await secureServer(t, byAddress);
  const client = secureClient(t, itsPort, trust(byAddress), { host: '127.0.0.1' });
  assert.equal(await client.connect(), true, client.lastError?.message);
});

test('who speaks TLS to those who do not is told so, and the other way round', async (t) => {
  const files = certificates(t);
  const { port } = await secureServer(t, files);
  await assertTlsError(unconnected(t, { port }), /this port speaks TLS; give the option tls/);
  const plain = await served(t);
  await assertTlsError(secureClient(t, plain.port, trust(files)), /is not TLS; leave out the option tls/);

  const silent = net.createServer((socket) => socket.on('error', () => {})).listen(0, '127.0.0.1');
  t.after(() => silent.close());
  await once(silent, 'listening');
  const waiting = secureClient(t, silent.address().port, trust(files), { connectionTimeout: 200 });
  const error = await refused(waiting);
  assert.ok(error instanceof TimeoutError, `${error?.stack}`);
  assert.match(error.message, /no TLS handshake within 200 ms/);

  const cutting = net.createServer((socket) => socket.end()).listen(0, '127.0.0.1');
  t.after(() => cutting.close());
  await once(cutting, 'listening');
  const cut = secureClient(t, cutting.address().port, trust(files));
  await assertTlsError(cut, /closed the connection in the TLS handshake/);
});

test('options that make no sense are refused before anything is connected', async (t) => {
  const files = certificates(t);
  assert.throws(() => new IPCClient('bench', { path: '/run/ipc.sock', tls: true }), /Unix socket takes no TLS/);
  assert.throws(() => new IPCClient('bench', { tls: 'yes' }), TypeError);
  for (const tls of [async () => ({ ca: 'a' }), () => null, () => 'yes']) {
    const client = new IPCClient('bench', { host: '127.0.0.1', port: 1, tls });
    assert.equal(await client.connect(), false);
    assert.match(client.lastError.message, /the function tls must return true or options of node:tls, at once/);
  }
  await assertTlsError(secureClient(t, 1, { cert: 'no certificate', key: 'no key' }), /TLS failed/);
  const key = read(files['client.key']).toString();
  const error = await refused(secureClient(t, 1, { cert: read(files['server.pem']), key }));
  assert.ok(!`${error.stack}${error.cause?.stack}`.includes(key.split('\n')[1]));
  assert.equal(secureClient(t, 1, false).options.tls, false);
});

test('a client comes back over TLS, with what its function says by then', async (t) => {
  const files = certificates(t);
  const first = await secureServer(t, files, { mutual: true });
  const client = secureClient(t, first.port, () => trustAndShow(files), {
    reconnectAttempts: Infinity, reconnectDelay: 20, reconnectDelayMax: 100,
  });
  assert.equal(await client.connect(), true, client.lastError?.message);
  const heard = [];
  client.subscribe('news', ({ payload }) => heard.push(payload));
  const whys = [];
  client.on('reconnecting', ({ error }) => whys.push(error));
  await first.kill();
  // Somebody else's server takes its place: nobody is talked into it, and nobody gives up.
  const strangers = certificates(t);
  const stranger = await secureServer(t, strangers, { port: first.port });
  await eventually('the stranger is told of', () => whys.some((error) => error instanceof TLSError));
  assert.equal(client.connected, false);
  await stranger.kill();
  for (const name of Object.keys(files)) fs.copyFileSync(strangers[name], files[name]);
  const connected = once(client, 'connected');
  await secureServer(t, files, { mutual: true, port: first.port });
  await connected;
  client.publish('news', 7);
  assert.equal((await client.sendRequest('echo', 8)).payload, 8);
  assert.deepEqual(heard, [7]);
});

test('a pool has TLS on all its connections', async (t) => {
  const files = certificates(t);
  const { port } = await secureServer(t, files);
  const pool = await joined(t, new IPCPool('bench', { size: 3, port, tls: trust(files) }));
  const answers = await Promise.all([1, 2, 3, 4].map((data) => pool.sendRequest('echo', data)));
  assert.deepEqual(answers.map(({ payload }) => payload), [1, 2, 3, 4]);
  await pool.close();
});
