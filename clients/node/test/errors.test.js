'use strict';

// Errors say what happened, and are of the classes that the README promises.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const dns = require('node:dns');
const net = require('node:net');
const path = require('node:path');
const {
  BINARY, Process, closed, collected, connected, eventually, once, peer, served, temporaryDirectory, unconnected, warnings,
} = require('./support.js');
const all = require('../index.js');

const { IPCClient, IPCError, IPCPool, NotConnectedError, TimeoutError, ipcEvents, ipcProxy } = all;

/** Lets a name have these addresses during a test. */
function resolve(t, addresses) {
  const { lookup } = dns;
  t.after(() => { dns.lookup = lookup; });
  dns.lookup = (host, options, callback) => process.nextTick(callback, null,
    addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })));
}

/** Returns the port of a peer that says the same to everybody who says something. */
async function speaker(t, words) {
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => socket.end(words));
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  return server.address().port;
}

test('nobody listens on any address of a name', async (t) => {
  const warned = warnings(t);
  resolve(t, ['::1', '127.0.0.1']);
  const client = unconnected(t, { port: 1 });
  const reported = collected(client, 'error');
  assert.equal(await client.connect(), false);
  const { lastError: error } = client;
  assert.ok(error instanceof NotConnectedError && error instanceof IPCError);
  assert.match(error.message, /^no connection to localhost:1: connect E\w+ ::1:1.*, connect ECONNREFUSED 127\.0\.0\.1:1/);
  assert.deepEqual([error.name, error.code, error.cause.errors.length], ['NotConnectedError', 'NOT_CONNECTED', 2]);
  assert.deepEqual(reported, [error]);
  await assert.rejects(client.sendRequest('echo', 1), { code: 'NOT_CONNECTED' });
  const silent = unconnected(t, { port: 1 });
  await silent.connect();
  await new Promise((done) => { setTimeout(done, 20); });
  assert.deepEqual(warned, []);
});

test('what is wrong with an address is said, and what to do', async (t) => {
  const gone = path.join(temporaryDirectory(t), 'gone.sock');
  for (const [options, message, code] of [
    [{ host: '127.0.0.1', port: 1 }, /connect ECONNREFUSED 127\.0\.0\.1:1; no server listens there; start it/, 'ECONNREFUSED'],
    [{ host: '::1', port: 1 }, /no connection to \[::1\]:1: /, undefined],
    [{ path: gone }, /ENOENT .*; there is no such socket; start the server with --unix/, 'ENOENT'],
    [{ path: __filename }, /no connection to .*errors\.test\.js/, undefined],
    [{ host: 'no-such-host.invalid', port: 1 }, /no connection to no-such-host\.invalid:1: getaddrinfo/, undefined],
    [{ host: '127.0.0.1', port: 1, tls: true }, /ECONNREFUSED/, 'ECONNREFUSED'],
  ]) {
    const client = unconnected(t, options);
    assert.equal(await client.connect(), false);
    assert.ok(client.lastError instanceof NotConnectedError, client.lastError.stack);
    assert.match(client.lastError.message, message);
    if (code !== undefined) assert.equal(client.lastError.cause.code, code);
  }
});

test('an address at which something else answers is named', async (t) => {
  const framed = (body) => Buffer.concat([Buffer.from([0, 0, 0, body.length]), Buffer.from(body)]);
  for (const [what, words] of Object.entries({
    'a web server': Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'),
    'no JSON': framed('hello'),
    'an empty frame': framed(''),
    'no message': framed('[]'),
    'another message': framed('{"message_id":"1","app_id":"a","channel_id":"system","message_type":"response","payload":5,"timestamp":1}'),
  })) {
    const port = await speaker(t, words);
    const client = unconnected(t, { host: '127.0.0.1', port });
    assert.equal(await client.connect(), false, what);
    const { lastError: error } = client;
    assert.equal(error.code, 'BAD_MESSAGE', what);
    assert.equal(error.message, `what listens at 127.0.0.1:${port} does not answer connect as a server of ipc-framework `
      + 'does; check the address', what);
  }
});

test('connect() that fails is an error with `retry` and no attempts to reconnect, too', async (t) => {
  const client = unconnected(t, { host: '127.0.0.1', port: 1, reconnectAttempts: 0 });
  const reported = collected(client, 'error');
  assert.equal(await client.connect({ retry: true }), false);
  assert.deepEqual(reported, [client.lastError]);
  assert.equal(client.lastError.code, 'NOT_CONNECTED');
});

test('an address of IPv6 may stand in brackets, as in a URL', async (t) => {
  const client = unconnected(t, { host: '[::1]', port: 1 });
  assert.equal(await client.connect(), false);
  assert.match(client.lastError.message, /^no connection to \[::1\]:1: connect E/);
});

test('a connection that breaks is an IPCError everywhere', async (t) => {
  const { port } = await peer(t, { onMessage: (message, { socket }) => socket.resetAndDestroy() });
  const client = unconnected(t, { port, reconnectAttempts: 0 });
  const causes = collected(client, 'disconnected');
  const errors = collected(client, 'error');
  assert.equal(await client.connect(), true);
  await assert.rejects(client.sendRequest('echo', 1), { code: 'CONNECTION_LOST' });
  await eventually('told', () => causes.length === 1);
  for (const error of [causes[0].cause, ...errors, client.lastError]) {
    assert.ok(error instanceof IPCError, error.stack);
    assert.match(error.message, /the connection to localhost:\d+ broke: .*ECONNRESET/);
  }
});

test('an error of the program\'s is not lost because it looks like one of the network', async (t) => {
  const warned = warnings(t);
  const { client } = await connected(t);
  client.subscribe('news', () => require('node:fs').readFileSync('/no/such/file'));
  client.publish('news', 1);
  await eventually('warned', () => warned.length === 1);
  assert.match(warned[0], /ENOENT/);
});

test('a Unix socket whose queue is full is tried until there is room, or the time is over', async (t) => {
  const file = path.join(temporaryDirectory(t), 'ipc.sock');
  const server = new Process(BINARY, ['serve', '--demo', '--port', '0', '--unix', file]);
  t.after(() => server.kill());
  await server.expect(/listening on unix/i).catch(() => eventually('the socket', () => require('node:fs').existsSync(file)));
  server.child.kill('SIGSTOP');
  // The kernel lets so many connections wait before a stopped server, and refuses the next with EAGAIN.
  const filler = new Process('python3', ['-c', `
import socket, sys
waiting = []
while True:
    one = socket.socket(socket.AF_UNIX)
    one.setblocking(False)
    try:
        one.connect(${JSON.stringify(file)})
    except BlockingIOError:
        break
    waiting.append(one)
print("full", len(waiting), flush=True)
sys.stdin.read()
`]);
  t.after(() => filler.kill());
  await filler.expect(/full \d+/);
  const hasty = closed(t, new IPCClient('bench', { path: file, connectionTimeout: 100 }));
  assert.equal(await hasty.connect(), false);
  assert.ok(hasty.lastError instanceof TimeoutError, hasty.lastError.stack);
  assert.match(hasty.lastError.message, /accepted no connection within 100 ms; its queue .* is full/);
  const leaving = closed(t, new IPCClient('bench', { path: file }));
  const left = leaving.connect();
  leaving.disconnect();
  assert.equal(await left, false);
  const patient = closed(t, new IPCClient('bench', { path: file }));
  const connecting = patient.connect();
  setTimeout(() => {
    filler.child.stdin.end();
    server.child.kill('SIGCONT');
  }, 200);
  assert.equal(await connecting, true, String(patient.lastError));
  assert.equal((await patient.sendRequest('echo', 1)).payload, 1);
});

test('names and classes of errors hold when classes are renamed, and across copies of the package', () => {
  const copy = path.resolve(__dirname, '../lib/errors.js');
  const { [require.resolve(copy)]: loaded } = require.cache;
  delete require.cache[require.resolve(copy)];
  const others = require(copy);
  require.cache[require.resolve(copy)] = loaded;
  assert.notEqual(others.IPCError, all.IPCError);
  const made = new others.ConnectionLostError('x');
  assert.equal(made.name, 'ConnectionLostError');
  assert.match(made.stack, /^ConnectionLostError: x/);
  assert.deepEqual(Object.keys(made), ['code']);
  for (const name of ['IPCError', 'NotConnectedError', 'ConnectionLostError']) assert.ok(made instanceof all[name], name);
  for (const name of ['TimeoutError', 'TLSError', 'FrameError']) assert.ok(!(made instanceof all[name]), name);
  class Own extends all.NotConnectedError {}
  assert.ok(new Own('x') instanceof all.NotConnectedError && new Own('x') instanceof all.IPCError);
  assert.ok(!(made instanceof Own) && new Own('x') instanceof Own);
  for (const none of [null, undefined, 'x', {}, new Error('x')]) assert.ok(!(none instanceof all.IPCError));
});

test('a mistyped option is refused with a suggestion, wherever options are taken', async (t) => {
  const { client } = await connected(t);
  const typo = (name, meant) => ({ name: 'TypeError', message: new RegExp(`no option '${name}'; did you mean '${meant}'`) });
  assert.throws(() => new IPCClient('a', { prot: 1 }), typo('prot', 'port'));
  assert.throws(() => new IPCClient('a', { requestTimout: 1 }), typo('requestTimout', 'requestTimeout'));
  assert.throws(() => new IPCClient('a', { hots: undefined }), typo('hots', 'host'));
  assert.throws(() => new IPCClient('a', { reconnect: 1 }), /no option 'reconnect'; it has host, port/);
  assert.throws(() => new IPCClient('a', 8888), /must be an object, not number/);
  assert.throws(() => new IPCPool('a', { sise: 1 }), typo('sise', 'size'));
  assert.throws(() => new IPCPool('a', { tokn: 'x' }), typo('tokn', 'token'));
  for (const bad of [{ host: 5 }, { path: 5 }, { token: 5 }, { host: '' }]) {
    assert.throws(() => new IPCClient('a', bad), TypeError);
  }
  await assert.rejects(client.sendRequest('echo', 1, { timout: 5 }), typo('timout', 'timeout'));
  assert.throws(() => client.sendRequestAsync('echo', 1, () => {}, { signla: 5 }), typo('signla', 'signal'));
  assert.throws(() => client.subscribe('news', { bufer: 1 }), typo('bufer', 'buffer'));
  assert.throws(() => client.subscribe('news', 'handler'), /must be an object, not string/);
  await assert.rejects(client.serve('x', () => 1, { concurency: 1 }), typo('concurency', 'concurrency'));
  await assert.rejects(client.close({ timeuot: 1 }), typo('timeuot', 'timeout'));
  await assert.rejects(client.connect({ rety: true }), typo('rety', 'retry'));
  assert.throws(() => ipcProxy(client, 'x', { stauts: 1 }), typo('stauts', 'status'));
  assert.throws(() => ipcEvents(client, 'x', { fitler: 1 }), typo('fitler', 'filter'));
  assert.equal(client.connected, true);
  assert.deepEqual(client.getConnectionInfo().subscribedChannels, []);
});
