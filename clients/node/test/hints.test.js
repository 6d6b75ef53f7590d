'use strict';

// The line for Node.js with which `ipc serve` greets makes a client that connects, however the server was started.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const { IPCClient } = require('../index.js');
const { certificates, closed, served } = require('./support.js');

/** Makes the client of the hint, with the placeholders filled in. */
async function advised(t, server, files = {}) {
  const [, hint] = await server.expect(/^from Node\.js, .*: (new IPCClient\(.*\))$/m);
  const filled = hint.replace('"TOKEN"', '"secret"').replace('"CA.pem"', JSON.stringify(files['ca.pem']))
    .replace('"CLIENT.pem"', JSON.stringify(files['client.pem']))
    .replace('"CLIENT.key"', JSON.stringify(files['client.key']));
  const make = new Function('IPCClient', 'fs', `return ${filled};`);
  return closed(t, make(IPCClient, fs));
}

async function answers(client) {
  assert.equal(await client.connect(), true, String(client.lastError));
  assert.equal((await client.sendRequest('echo', 7)).payload, 7);
}

test('the hint for Node.js connects with a port, a token and TLS', async (t) => {
  const files = certificates(t);
  const [cert, key, ca] = ['server.pem', 'server.key', 'ca.pem'].map((name) => files[name]);
  const mutual = ['--tls-cert', cert, '--tls-key', key, '--tls-client-ca', ca];
  await answers(await advised(t, await served(t)));
  await answers(await advised(t, await served(t, { env: { IPC_TOKEN: 'secret' } })));
  await answers(await advised(t, await served(t, { args: ['--tls-cert', cert, '--tls-key', key] }), files));
  await answers(await advised(t, await served(t, { args: mutual, env: { IPC_TOKEN: 'secret' } }), files));
});
