'use strict';

// A name with several addresses, some of them slow or dead, in every order.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const dns = require('node:dns');
const net = require('node:net');
const { PYTHON, Process, certificates, closed, eventually, once, served, sleep, unconnected } = require('./support.js');
const { TimeoutError } = require('../index.js');

const [ALIVE, SLOW, DEAD, OTHER] = ['127.0.0.1', '127.0.0.2', '127.0.0.3', '127.0.0.4'];

// Listens with a queue that is full, so that the kernel drops what wants to connect, as a firewall does. After so many
// milliseconds it accepts, and passes everything on to the server; without a number it never does.
const SLUGGISH = `
import socket, sys, threading, time
address, port, wait = sys.argv[1], int(sys.argv[2]), sys.argv[3]
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((address, port))
listener.listen(0)
fillers = []
while True:
    filler = socket.socket()
    filler.settimeout(0.3)
    try:
        filler.connect((address, port))
        fillers.append(filler)
    except OSError:
        break
print("full", flush=True)
if wait == "never":
    sys.stdin.read()
sys.stdin.readline()
time.sleep(float(wait))
def pump(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.close()
while True:
    near, _ = listener.accept()
    far = socket.create_connection(("127.0.0.1", port))
    for pair in ((near, far), (far, near)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
`;

/** An address that accepts nothing before it is told to and so many seconds have passed, or "never". */
async function sluggish(t, address, port, wait) {
  const process = new Process(PYTHON, ['-c', SLUGGISH, address, String(port), String(wait)]);
  t.after(() => process.kill());
  await process.expect(/full/);
  return { begin: () => process.child.stdin.write('\n') };
}

function resolve(t, addresses) {
  const { lookup } = dns;
  t.after(() => { dns.lookup = lookup; });
  dns.lookup = (host, options, callback) => process.nextTick(callback, null,
    addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })));
}

for (const order of [[DEAD, SLOW], [SLOW, DEAD], [DEAD, OTHER, SLOW], [SLOW, OTHER, DEAD], [OTHER, SLOW, DEAD]]) {
  const names = { [SLOW]: 'slow', [DEAD]: 'dead', [OTHER]: 'refused' };
  test(`${order.map((address) => names[address])}: the slow one has all the time that the connection has`, async (t) => {
    const { port } = await served(t);
    const [slow] = await Promise.all([sluggish(t, SLOW, port, 0.4), sluggish(t, DEAD, port, 'never')]);
    resolve(t, order);
    const client = unconnected(t, { port, host: 'several.test', connectionTimeout: 20_000 });
    const connecting = client.connect();
    slow.begin();
    assert.equal(await connecting, true, String(client.lastError));
    assert.equal(client.connection.socket.remoteAddress, SLOW);
    assert.equal((await client.sendRequest('echo', 1)).payload, 1);
  });
}

for (const order of [[DEAD, ALIVE], [ALIVE, DEAD], [DEAD, OTHER, ALIVE], [OTHER, DEAD, ALIVE]]) {
  test(`${order}: a dead address does not keep the one that answers waiting`, async (t) => {
    const { port } = await served(t);
    await sluggish(t, DEAD, port, 'never');
    resolve(t, order);
    const client = unconnected(t, { port, host: 'several.test', connectionTimeout: 20_000 });
    const connecting = client.connect();
    assert.equal(await Promise.race([connecting, sleep(10_000).then(() => 'late')]), true, String(client.lastError));
    assert.equal(client.connection.socket.remoteAddress, ALIVE);
  });
}

test('if all are dead, the time is the connection\'s and the error says so', async (t) => {
  const { port } = await served(t);
  await Promise.all([sluggish(t, SLOW, port, 'never'), sluggish(t, DEAD, port, 'never')]);
  resolve(t, [SLOW, DEAD]);
  const client = unconnected(t, { port, host: 'several.test', connectionTimeout: 700 });
  const begin = performance.now();
  assert.equal(await client.connect(), false);
  assert.ok(performance.now() - begin > 600);
  assert.ok(client.lastError instanceof TimeoutError, client.lastError.stack);
  assert.match(client.lastError.message, /several\.test:\d+ accepted no connection within 700 ms/);
});

test('addresses are tried by turns of their families, and the losers are closed', async (t) => {
  const { port } = await served(t);
  const tried = [];
  const { connect } = net;
  t.after(() => { net.connect = connect; });
  net.connect = (options) => {
    tried.push(options.host);
    return connect(options);
  };
  resolve(t, ['fd00::1', 'fd00::2', DEAD, ALIVE]);
  const client = unconnected(t, { port, host: 'several.test' });
  await sluggish(t, DEAD, port, 'never');
  assert.equal(await client.connect(), true, String(client.lastError));
  assert.deepEqual(tried, ['fd00::1', DEAD, 'fd00::2', ALIVE]);
  assert.equal(client.connection.dial.attempts.size, 0);
});

test('the certificate is checked against the name, whichever address answers', async (t) => {
  const files = certificates(t, { name: 'DNS:several.test' });
  const { port } = await served(t, { args: ['--tls-cert', files['server.pem'], '--tls-key', files['server.key']] });
  resolve(t, [OTHER, ALIVE]);
  const ca = require('node:fs').readFileSync(files['ca.pem']);
  const client = unconnected(t, { port, host: 'several.test', tls: { ca } });
  assert.equal(await client.connect(), true, String(client.lastError));
  assert.equal((await client.sendRequest('echo', 1)).payload, 1);
  const wrong = unconnected(t, { port, host: 'another.test', tls: { ca } });
  assert.equal(await wrong.connect(), false);
  assert.match(wrong.lastError.message, /is for others/);
});
