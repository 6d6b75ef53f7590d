'use strict';

// Programs written for the published package, installed under its name, against both servers.

const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const {
  Process, startServer, startPublished, temporaryDirectory, eventually, PYTHON, joined, collected,
} = require('./support.js');

// Serves `api` of `my_app` for the runs against the server of this project, which has no such handler of its own.
const WORKER = `
import sys
from ipc_framework import FrameworkClient, MessageType
client = FrameworkClient("my_app", port=int(sys.argv[1]))
assert client.connect()
def on_api(request):
    client.send_message("api", MessageType.RESPONSE, {"echo": request.payload, "action": request.payload["action"]},
                        reply_to=request.message_id)
client.create_channel_handler("api", on_api)
client.send_request("system", {"action": "serve", "channel": "api"})
print("worker ready", flush=True)
sys.stdin.read()
`;

const PROGRAM = `
async function main() {
  const client = new IPCClient('my_app', { host: 'localhost', port: Number(process.env.PORT), connectionTimeout: 10000,
    reconnectAttempts: 5, reconnectDelay: 2000, heartbeatInterval: 30000 });
  const seen = [];
  client.onConnected(() => { seen.push('connected'); });
  client.onDisconnected(() => { seen.push('disconnected'); });
  client.onError((error) => { seen.push('error ' + error.message); });
  const ok = await client.connect();
  if (ok !== true) throw new Error('Failed to connect');
  const response = await client.sendRequest('api', { action: 'get_data' }, 10000);
  const messages = [];
  const subscribed = client.subscribe('notifications', (message) => messages.push(message));
  const published = client.publish('notifications', { text: 'hello' });
  const notified = client.notify('events', {});
  const requested = client.request('api', { action: 'forgotten' });
  const called = await new Promise((resolve) => client.sendRequestAsync('api', { action: 'call' }, resolve));
  while (messages.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const info = client.getConnectionInfo();
  const result = {
    action: response.payload.action, echo: response.payload.echo, id: client.connectionId,
    types: [response instanceof Message, response.isResponse(), response.messageType === MessageType.RESPONSE],
    replies: [response.reply_to === response.replyTo, typeof response.message_id],
    subscribed, strings: [typeof published, typeof notified, typeof requested],
    called: called.payload.action, message: messages[0].payload,
    ping: await client.ping(300), health: await client.healthCheck(), info,
    state: [client.isConnected(), client.connected],
    unsubscribed: client.unsubscribe('notifications'),
  };
  client.disconnect();
  result.after = [client.isConnected(), client.connected];
  const failed = await client.sendRequest('api', {}, 100).catch((error) => error);
  result.failed = failed instanceof Error;
  result.seen = seen;
  console.log('RESULT ' + JSON.stringify(result));
}
main().catch((error) => { console.error(error); process.exitCode = 1; });
`;

describe('old programs', () => {
  let directory;
  let ours;
  let published;
  let worker;
  before(async () => {
    const hooks = [];
    directory = temporaryDirectory({ after: (hook) => hooks.push(hook) });
    const dependencies = { '@ifesol/ipc-framework-nodejs': `file:${path.resolve(__dirname, '..')}` };
    const manifest = JSON.stringify({ name: 'old', private: true, dependencies });
    fs.writeFileSync(path.join(directory, 'package.json'), manifest);
    execFileSync('npm', ['install', '--offline', '--no-audit', '--no-fund', '--silent'], { cwd: directory });
    const imports = "{ IPCClient, Message, MessageType }";
    fs.writeFileSync(path.join(directory, 'old.cjs'),
      `const ${imports} = require('@ifesol/ipc-framework-nodejs');\n${PROGRAM}`);
    fs.writeFileSync(path.join(directory, 'old.mjs'),
      `import ${imports} from '@ifesol/ipc-framework-nodejs';\n${PROGRAM}`);
    [ours, published] = await Promise.all([startServer(), startPublished()]);
    worker = new Process(PYTHON, ['-c', WORKER, String(ours.port)]);
    await worker.expect(/worker ready/);
  });
  after(async () => {
    await Promise.all([worker, ours, published].map((one) => one?.kill()));
    fs.rmSync(directory, { recursive: true, force: true });
  });

  const run = async (program, port) => {
    const child = new Process(process.execPath, ['--unhandled-rejections=strict', program],
      { cwd: directory, env: { ...process.env, PORT: String(port) } });
    const { code } = await child.wait();
    assert.equal(code, 0, child.output);
    const result = JSON.parse(/RESULT (.*)/.exec(child.output)[1]);
    assert.equal(result.action, 'get_data');
    assert.deepEqual(result.types, [true, true, true]);
    assert.deepEqual(result.replies, [true, 'string']);
    assert.equal(result.subscribed, true);
    assert.deepEqual(result.strings, ['string', 'string', 'string']);
    assert.equal(result.called, 'call');
    assert.deepEqual(result.message, { text: 'hello' });
    assert.equal(result.health, true);
    assert.deepEqual(result.state, [true, true]);
    assert.equal(result.unsubscribed, true);
    assert.deepEqual(result.after, [false, false]);
    assert.equal(result.failed, true);
    assert.deepEqual(result.seen, ['connected', 'disconnected']);
    const { info } = result;
    assert.deepEqual([info.connectionId, info.appId, info.connected, info.host, info.port],
      [result.id, 'my_app', true, 'localhost', port]);
    assert.ok(info.subscribedChannels.includes('notifications'));
    return result;
  };

  for (const program of ['old.cjs', 'old.mjs']) {
    test(`${program} against this project's server`, async () => {
      const result = await run(program, ours.port);
      assert.equal(result.ping, true);
      assert.deepEqual(result.echo, { action: 'get_data' }, 'nothing is added to payloads here');
    });
    test(`${program} against the published server`, async () => {
      const result = await run(program, published.port);
      assert.equal(result.ping, false, 'it answers no ping');
      assert.deepEqual(result.echo, { action: 'get_data', connection_id: result.id });
    });
  }

  test('a connection_id of the program\'s own stays, and what is no object is left alone', async (t) => {
    const client = await joined(t, published.client());
    const { payload } = await client.sendRequest('api', { connection_id: client.connectionId, x: 1 });
    assert.deepEqual(payload.echo, { connection_id: client.connectionId, x: 1 });
    await assert.rejects(client.sendRequest('silent', [1], 50), { code: 'TIMEOUT', message: /timeout/i });
  });

  test('a connection that fails is false, and tells why', async () => {
    const { IPCClient } = require('../index.js');
    const client = new IPCClient('my_app', { port: 1 });
    const errors = collected(client, 'error');
    assert.equal(await client.connect(), false);
    await eventually('an error', () => errors.length > 0);
    assert.deepEqual([errors[0].code, errors[0].message.includes('ECONNREFUSED')], ['NOT_CONNECTED', true]);
    assert.equal(client.lastError, errors[0]);
  });
});
