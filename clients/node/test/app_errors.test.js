'use strict';

// Errors that handlers raise on purpose, from the handler to the requester and the browser.

const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const {
  PYTHON, Process, collected, joined, peer, served, startServer, unconnected, warnings, web,
} = require('./support.js');
const { HandlerError, IPCError, IPCPool, ServerError, ipcProxy } = require('../index.js');

const LONGEST = 'x'.repeat(64);

test('a HandlerError takes its code with and without the prefix', () => {
  for (const code of ['bad_input', 'app:bad_input']) {
    const error = new HandlerError(code, 'no', { field: 'n' });
    assert.deepEqual([error.name, error.code, error.message, error.details],
      ['HandlerError', 'app:bad_input', 'no', { field: 'n' }]);
    assert.ok(error instanceof Error && !(error instanceof IPCError));
  }
  assert.equal(new HandlerError(LONGEST, '').code, `app:${LONGEST}`);
});

test('an invalid HandlerError is a clear error where it is made', () => {
  for (const code of ['', 'app:', 'bad input', 'app:app:x', 'ä', `${LONGEST}x`, 'x\n', undefined, 5, null, Symbol('x')]) {
    assert.throws(() => new HandlerError(code, 'text'), { name: 'TypeError', message: /the code of a HandlerError/ });
  }
  assert.throws(() => new HandlerError('x', new Error('text')), { name: 'TypeError', message: /must be a string/ });
  assert.throws(() => new HandlerError('x', 'text', { at: [NaN] }),
    { name: 'TypeError', message: /payload\.details\.at\[0\] is NaN/ });
  assert.throws(() => new HandlerError('x', 'text', 'd'.repeat(16_384)), { name: 'RangeError', message: /16384/ });
  const frame = Buffer.byteLength(JSON.stringify({ status: 'error', code: 'app:x', error: 'text', details: '' }));
  assert.equal(new HandlerError('x', 'text', 'd'.repeat(16_384 - frame)).details.length, 16_384 - frame);
  assert.throws(() => new HandlerError('x', 'text', 'd'.repeat(16_384 - frame + 1)), RangeError);
});

describe('from a worker', () => {
  let server;
  let worker;
  let client;
  before(async () => {
    server = await startServer();
    [worker, client] = [server.client(), server.client()];
    await Promise.all([worker.connect(), client.connect()]);
    await worker.serve('users', async ({ payload }) => {
      if (payload === 'crash') throw new Error('password=secret');
      if (payload === 'long crash') throw new Error('\u0000"ä'.repeat(20_000));
      if (payload === 'changed') {
        const error = new HandlerError('x', 'text');
        error.details = 'd'.repeat(20_000);
        throw error;
      }
      if (payload === 'odd') return { status: 'error', code: 'not_ours', error: 'of my own making' };
      throw new HandlerError(payload.code, `no user ${payload.id}`, payload.id === 0 ? undefined : { id: payload.id });
    });
  });
  after(async () => {
    await Promise.all([worker.close(), client.close()]);
    await server.kill();
  });

  test('its code, text and details arrive as they are', async (t) => {
    const warned = warnings(t);
    const reported = [collected(worker, 'error'), collected(client, 'error')];
    const error = await client.sendRequest('users', { code: 'not_found', id: 7 }).catch((thrown) => thrown);
    assert.ok(error instanceof ServerError);
    assert.deepEqual([error.code, error.message, error.details, error.isApplication],
      ['app:not_found', 'no user 7', { id: 7 }, true]);
    const bare = await client.sendRequest('users', { code: 'not_found', id: 0 }).catch((thrown) => thrown);
    assert.deepEqual([bare.details, Object.keys(bare.response.payload)], [undefined, ['status', 'code', 'error']]);
    assert.deepEqual([reported, warned], [[[], []], []], 'it is no crash');
  });

  test('the server\'s errors are told apart', async () => {
    for (const [channel, code] of [['nobody', 'no_handler'], ['users', 'handler_failed']]) {
      const error = await client.sendRequest(channel, 'crash').catch((thrown) => thrown);
      assert.deepEqual([error.code, error.isApplication, error.details], [code, false, undefined]);
    }
    const { payload } = await client.sendRequest('users', 'odd');
    assert.equal(payload.code, 'not_ours', 'an answer that is no error of the protocol resolves');
  });

  test('what is too large for an error is shortened, or refused in its place', async () => {
    const long = await client.sendRequest('users', 'long crash').catch((thrown) => thrown);
    assert.equal(long.code, 'handler_failed');
    assert.match(long.message, /\[shortened\]$/);
    assert.ok(Buffer.byteLength(JSON.stringify(long.response.payload)) <= 16_384);
    await assert.rejects(client.sendRequest('users', 'changed'), { code: 'handler_failed', message: /16384/ });
  });

  test('a worker in Python raises one without a class for it', async (t) => {
    const program = `
import sys
from ipc_framework import FrameworkClient, MessageType
client = FrameworkClient("bench", port=int(sys.argv[1]))
assert client.connect()
def refuse(request):
    error = {"status": "error", "code": "app:teapot", "error": "short and stout", "details": [1]}
    client.send_message("tea", MessageType.RESPONSE, error, reply_to=request.message_id)
client.create_channel_handler("tea", refuse)
client.send_request("system", {"action": "serve", "channel": "tea"})
print("ready", flush=True)
sys.stdin.read()
`;
    const python = new Process(PYTHON, ['-c', program, String(server.port)]);
    t.after(() => python.kill());
    await python.expect(/ready/);
    await assert.rejects(client.sendRequest('tea', 1), { code: 'app:teapot', isApplication: true, details: [1] });
  });

  test('each code has its status for browsers', async (t) => {
    const statuses = { 'app:conflict': 409, worker_lost: 503 };
    const payload = ({ url }) => JSON.parse(decodeURIComponent(url.slice(1)));
    const bases = {
      users: await web(t, ipcProxy(client, 'users', { payload, statuses })),
      nobody: await web(t, ipcProxy(client, 'nobody', { payload })),
      open: await web(t, ipcProxy(client, 'users', { payload, exposeCrashes: true })),
    };
    const ask = async (base, value) => {
      const response = await fetch(`${bases[base]}/${encodeURIComponent(JSON.stringify(value))}`);
      return [response.status, await response.json(), response.headers.get('retry-after')];
    };
    for (const [code, status] of [['bad_input', 400], ['not_found', 404], ['forbidden', 403], ['conflict', 409],
      ['else', 502]]) {
      assert.deepEqual(await ask('users', { code, id: 7 }),
        [status, { error: 'no user 7', code: `app:${code}`, details: { id: 7 } }, null]);
    }
    assert.deepEqual(await ask('users', 'crash'), [502, { error: 'the request failed', code: 'handler_failed' }, null]);
    assert.deepEqual((await ask('open', 'crash'))[1].error, 'password=secret');
    const [status, { code }, retry] = await ask('nobody', 1);
    assert.deepEqual([status, code, retry], [503, 'no_handler', '1']);
  });
});

for (const [code, status, retry] of [['limit_exceeded', 429, '1'], ['shutting_down', 503, '1'], ['timeout', 504, null],
  ['worker_lost', 502, null], ['forbidden', 502, null], ['cancelled', 502, null], ['unsupported', 502, null]]) {
  test(`the server's ${code} is ${status}`, async (t) => {
    const { port } = await peer(t, {
      onMessage: (message, side) => side.send('response', message.channel_id,
        { status: 'error', code, error: 'said so' }, message.message_id),
    });
    const client = await joined(t, unconnected(t, { port }));
    const base = await web(t, ipcProxy(client, 'x'));
    const response = await fetch(base);
    assert.deepEqual([response.status, response.headers.get('retry-after'), (await response.json()).code],
      [status, retry, code]);
  });
}

test('a callback of the proxy may refuse a request in the same way', async (t) => {
  const server = await served(t);
  const client = await joined(t, server.client());
  const payload = () => { throw new HandlerError('bad_input', 'no such query', { query: 'x' }); };
  const response = await fetch(await web(t, ipcProxy(client, 'echo', { payload })));
  assert.deepEqual([response.status, await response.json()],
    [400, { error: 'no such query', code: 'app:bad_input', details: { query: 'x' } }]);
  assert.throws(() => ipcProxy(client, 'echo', { statuses: { 'app:x': 99 } }), { name: 'TypeError', message: /app:x/ });
});

test('browsers are answered 503 at once while the server is away, and served when it is back', async (t) => {
  let server = await served(t);
  const { port } = server;
  const client = await joined(t, server.client());
  const pool = await joined(t, new IPCPool('bench', { size: 2, port }));
  const bases = [await web(t, ipcProxy(client, 'echo')), await web(t, ipcProxy(pool, 'echo'))];
  const statuses = async () => Promise.all(bases.map(async (base) => {
    const response = await fetch(base, { method: 'POST', body: '[1]' });
    return [response.status, response.headers.get('retry-after'), (await response.json()).code ?? null];
  }));
  assert.deepEqual(await statuses(), [[200, null, null], [200, null, null]]);
  await server.kill();
  let away;
  do away = await statuses(); while (away.some(([status]) => status !== 503));
  const begun = performance.now();
  assert.deepEqual(await statuses(), [[503, '1', 'NOT_CONNECTED'], [503, '1', 'NOT_CONNECTED']]);
  assert.ok(performance.now() - begun < client.options.requestTimeout / 2, 'nobody waits for the server');
  server = await served(t, { port });
  let back;
  do back = await statuses(); while (back.some(([status]) => status !== 200));
});

test('a client tries to reconnect for ever, and soon', () => {
  const { options } = unconnected({ after() {} });
  assert.deepEqual([options.reconnectAttempts, options.reconnectDelay, options.reconnectDelayMax],
    [Infinity, 50, 5_000]);
});
