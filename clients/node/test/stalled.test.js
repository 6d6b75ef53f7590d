'use strict';

// Servers that stand still, say half of a goodbye, or cannot even be dialled.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const net = require('node:net');
const tls = require('node:tls');
const { connected, unconnected, peer, eventually, once, collected, certificates } = require('./support.js');
const { MessageType } = require('../index.js');
const { encodeBody, encodeFrames } = require('../lib/codec.js');
const { Backoff } = require('../lib/reconnect.js');

test('a server that says goodbye and reads no more is taken for gone', async (t) => {
  const sockets = [];
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    socket.once('data', () => {
      socket.pause();
      const payload = JSON.stringify({ status: 'connected', server: 'ipc-framework/0' });
      const body = encodeBody('id', '"bench"', '"system"', MessageType.RESPONSE, payload);
      socket.write(encodeFrames([body], Buffer.byteLength(body)));
    });
  }).listen(0, '127.0.0.1');
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  await once(server, 'listening');
  const client = unconnected(t, { port: server.address().port, reconnectAttempts: 0 });
  assert.equal(await client.connect(), true, String(client.lastError));
  const errors = collected(client, 'error');
  // More than the kernels hold: Node ends its own side only behind that.
  client.publish('bulk', 'x'.repeat(12 << 20));
  sockets[0].end();
  await eventually('told', () => errors.length > 0);
  const [{ code, message }] = errors;
  assert.equal(code, 'CONNECTION_LOST');
  assert.match(message, /lost with \d{6,} bytes unsent/);
  assert.equal(client.connected, false);
});

test('disconnect() reports what the server has not taken', async (t) => {
  const { server, client } = await connected(t, { heartbeatInterval: 0 });
  server.child.kill('SIGSTOP');
  client.publish('bulk', 'x'.repeat(12 << 20));
  const errors = collected(client, 'error');
  client.disconnect();
  await eventually('told', () => errors.length > 0);
  const [{ code, message }] = errors;
  assert.equal(code, 'CONNECTION_LOST');
  assert.match(message, /after disconnect\(\) with \d{6,} bytes unsent/);
  assert.equal(errors.length, 1);
});

test('a heartbeat behind a large message that the server is still reading closes nothing', async (t) => {
  let received = 0;
  const { port, sides } = await peer(t, {
    onOpen({ socket }) {
      socket.on('data', (chunk) => {
        received += chunk.length;
        // A megabyte and a half a second. Most of that time the rest of the message is in the kernel, where the client
        // sees no progress.
        socket.pause();
        setTimeout(() => socket.resume(), chunk.length / 1500);
      });
    },
  });
  const client = unconnected(t, { port, reconnectAttempts: 0, heartbeatInterval: 1_500 });
  assert.equal(await client.connect(), true, String(client.lastError));
  const errors = collected(client, 'error');
  client.publish('bulk', 'x'.repeat(12 << 20));
  await eventually('everything', () => received > 12 << 20 || errors.length > 0);
  assert.deepEqual(errors, []);
  assert.equal(sides.length, 1);
});

test('a server that dies with megabytes unread is found out all the same', async (t) => {
  const { port, sides } = await peer(t);
  const client = unconnected(t, { port, reconnectAttempts: 0, heartbeatInterval: 100 });
  assert.equal(await client.connect(), true, String(client.lastError));
  sides[0].socket.pause();
  client.publish('bulk', 'x'.repeat(12 << 20));
  const [{ cause }] = await once(client, 'disconnected');
  assert.match(cause.message, /silent for \d+ ms after a heartbeat/);
});

for (const isSecure of [false, true]) {
  test(`disconnect() waits for a slow server as long as it goes on, TLS: ${isSecure}`, async (t) => {
    let received = 0;
    const sockets = [];
    const serve = (socket) => {
      sockets.push(socket);
      socket.on('error', () => {});
      socket.once('data', () => {
        const payload = JSON.stringify({ status: 'connected', server: 'ipc-framework/0' });
        const body = encodeBody('id', '"bench"', '"system"', MessageType.RESPONSE, payload);
        socket.write(encodeFrames([body], Buffer.byteLength(body)));
        socket.on('data', (chunk) => {
          received += chunk.length;
          // A few megabytes a second: all of it takes longer than a server may take nothing at all.
          socket.pause();
          setTimeout(() => socket.resume(), chunk.length / 6000);
        });
      });
    };
    const files = isSecure ? certificates(t) : null;
    const read = (name) => fs.readFileSync(files[name], 'utf8');
    const server = isSecure
      ? tls.createServer({ cert: read('server.pem'), key: read('server.key') }, serve)
      : net.createServer(serve);
    server.listen(0, isSecure ? 'localhost' : '127.0.0.1');
    t.after(() => {
      server.close();
      for (const socket of sockets) socket.destroy();
    });
    await once(server, 'listening');
    const { port } = server.address();
    const options = isSecure ? { host: 'localhost', tls: { ca: read('ca.pem') } } : {};
    const client = unconnected(t, { port, reconnectAttempts: 0, ...options });
    assert.equal(await client.connect(), true, String(client.lastError));
    const errors = collected(client, 'error');
    for (let n = 0; n < 3; n += 1) client.publish('bulk', 'x'.repeat(8 << 20));
    client.disconnect();
    await eventually('everything', () => received > 24 << 20 || errors.length > 0);
    assert.deepEqual(errors, []);
  });
}

for (const options of [{ host: '127.0.0.1' }, { host: 'localhost' }, { path: '/nowhere' }, { tls: () => { throw 5; } }]) {
  test(`disconnect() right after connect(), ${Object.keys(options)} ${Object.values(options)}`, async (t) => {
    const client = unconnected(t, { port: 1, ...options });
    const connecting = client.connect();
    client.disconnect();
    assert.equal(await connecting, false);
    assert.equal(client.connection, null);
  });
}

test('attempts without a delay do not end by themselves', () => {
  const backoff = new Backoff({ attempts: Infinity, delay: 0, delayMax: 1000 });
  for (let n = 0; n < 1100; n += 1) assert.equal(backoff.next(), 0);
});
