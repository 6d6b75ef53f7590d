'use strict';

const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const { Process, startServer, sleep, eventually, PYTHON, joined, collected } = require('./support.js');

describe('serving', () => {
  let server;
  let worker;
  let client;
  before(async () => {
    server = await startServer();
    [worker, client] = [server.client('math'), server.client('math')];
    await Promise.all([worker.connect(), client.connect()]);
  });
  after(async () => {
    await Promise.all([worker.close(), client.close()]);
    await server.kill();
  });

  test('answers with what the handler returns, or what it resolves with', async () => {
    const square = await worker.serve('square', (request) => request.payload ** 2);
    const later = await worker.serve('later', async (request) => {
      await sleep(1);
      assert.equal(request.isRequest(), true);
      assert.equal(request.signal.aborted, false);
      return { got: request.payload };
    });
    assert.equal((await client.sendRequest('square', 7)).payload, 49);
    assert.deepEqual((await client.sendRequest('later', 'x')).payload, { got: 'x' });
    await square.close();
    await later.close();
    await assert.rejects(client.sendRequest('square', 7), { code: 'no_handler' });
  });

  test('what a handler throws reaches the requester', async () => {
    const service = await worker.serve('faulty', async (request) => {
      if (request.payload === 'null') return undefined;
      if (request.payload === 'circle') { const a = {}; a.a = a; return a; }
      throw new Error('the disk is full');
    });
    await assert.rejects(client.sendRequest('faulty', 1),
      { name: 'ServerError', code: 'handler_failed', message: 'the disk is full' });
    assert.equal((await client.sendRequest('faulty', 'null')).payload, null);
    await assert.rejects(client.sendRequest('faulty', 'circle'), { code: 'handler_failed', message: /JSON/ });
    await service.close();
  });

  test('no more at a time than concurrency, no more waiting than queueMax', async () => {
    let running = 0;
    let most = 0;
    const service = await worker.serve('narrow', async () => {
      running += 1;
      most = Math.max(most, running);
      await sleep(5);
      running -= 1;
    }, { concurrency: 3, queueMax: 10 });
    const results = await Promise.allSettled(Array.from({ length: 30 }, () => client.sendRequest('narrow', null)));
    assert.equal(most, 3);
    const refused = results.filter(({ status }) => status === 'rejected').map(({ reason }) => reason.code);
    assert.deepEqual(refused, Array(17).fill('limit_exceeded'));
    await service.close();
  });

  test('what cannot be served', async () => {
    await assert.rejects(worker.serve('system', () => 1), { code: 'forbidden' });
    await assert.rejects(worker.serve('x', 'no function'), TypeError);
    await assert.rejects(worker.serve('x', () => 1, { concurrency: 0 }), TypeError);
    const service = await worker.serve('once', () => 1);
    await assert.rejects(worker.serve('once', () => 2), { code: 'ALREADY_SERVED' });
    await service.close();
    const again = await worker.serve('once', () => 3);
    assert.equal((await client.sendRequest('once', 0)).payload, 3);
    await again.close();
  });

  test('takes notifications where it is said so', async () => {
    const noticed = [];
    const errors = [];
    worker.on('error', ({ message }) => errors.push(message));
    let finish;
    const onNotification = async (notification) => {
      assert.deepEqual([notification.isNotification(), notification.signal.aborted], [true, false]);
      noticed.push(notification.payload);
      if (notification.payload === 'fails') throw new Error('not noticed');
      if (notification.payload === 'stays') await new Promise((resolve) => { finish = resolve; });
    };
    const service = await worker.serve('noticed', ({ payload }) => payload,
      { concurrency: 1, queueMax: 2, onNotification });
    client.notify('noticed', 'fails');
    assert.equal((await client.sendRequest('noticed', 1)).payload, 1);
    await eventually('reported', () => errors.length === 1);
    assert.deepEqual([noticed, errors], [['fails'], ['not noticed']]);

    const slow = collected(worker, 'slow');
    client.notify('noticed', 'stays');
    for (let n = 0; n < 5; n += 1) client.notify('noticed', n);
    await eventually('dropped', () => service.dropped === 3);
    assert.deepEqual(slow, [{ channel: 'noticed', service }], 'told once');
    finish();
    await eventually('the others', () => noticed.length === 4);
    assert.deepEqual(noticed, ['fails', 'stays', 0, 1]);
    await service.close();
    worker.removeAllListeners('error');
    worker.removeAllListeners('slow');
  });

  test('without that, notifications are for whoever listens', async () => {
    const heard = [];
    worker.on('message', ({ payload }) => heard.push(payload));
    const service = await worker.serve('unnoticed', () => assert.fail('a notification is no request'));
    client.notify('unnoticed', 1);
    await eventually('heard', () => heard.length === 1);
    await service.close();
    worker.removeAllListeners('message');
    await assert.rejects(worker.serve('x', () => 1, { onNotification: 'no function' }), TypeError);
  });

  test('a serve that is not confirmed in time is undone', async (t) => {
    const late = server.client('math', { requestTimeout: 1_000, heartbeatInterval: 0 });
    // In the server's words, not in those of a worker that has no such service.
    const unserved = ({ code, message }) => code === 'no_handler' && !/no longer/.test(message);
    t.after(() => late.disconnect());
    await late.connect();
    server.child.kill('SIGSTOP');
    await assert.rejects(late.serve('undone', () => 1), { code: 'TIMEOUT' });
    assert.equal(late.services.get('undone'), undefined);
    server.child.kill('SIGCONT');
    await assert.rejects(client.sendRequest('undone', 1, 20_000), unserved);
    await late.serve('undone', () => 'again');
    assert.equal((await client.sendRequest('undone', 1)).payload, 'again');

    server.child.kill('SIGSTOP');
    await assert.rejects(late.services.get('undone').close(), { code: 'TIMEOUT' });
    server.child.kill('SIGCONT');
    await assert.rejects(client.sendRequest('undone', 1, 20_000), unserved);
    await late.serve('undone', () => 'once more');
    assert.equal((await client.sendRequest('undone', 1)).payload, 'once more');
    await late.close();
  });

  test('a client that is closed meanwhile serves nothing', async () => {
    const brief = server.client('math');
    await brief.connect();
    const serving = brief.serve('brief', () => 1);
    brief.disconnect();
    await assert.rejects(serving, { code: 'NOT_CONNECTED' });
    assert.equal(brief.services.get('brief'), undefined);
  });

  test('a request that reaches who serves no longer is refused at once', async (t) => {
    const former = await joined(t, server.client('math'));
    await former.command({ action: 'serve', channel: 'formerly' });
    await assert.rejects(client.sendRequest('formerly', 1, 20_000),
      { code: 'no_handler', message: /serves 'formerly' no longer/ });
  });

  test('a worker that goes away hands its requests back', async () => {
    const lost = server.client('math');
    await lost.connect();
    let aborted = false;
    await lost.serve('lost', (request) => new Promise(() => {
      request.signal.addEventListener('abort', () => { aborted = true; });
    }));
    const request = client.sendRequest('lost', 1);
    request.catch(() => {});
    await eventually('the request to arrive', () => lost.services.get('lost').running === 1);
    lost.disconnect();
    await assert.rejects(request, { code: 'worker_lost' });
    assert.equal(aborted, true);
  });

  test('serves the unmodified Python client, and is served by it', async () => {
    const program = `
import sys
from ipc_framework import FrameworkClient, MessageType
client = FrameworkClient("math", port=int(sys.argv[1]))
assert client.connect()
def cube(request):
    client.send_message("cube", MessageType.RESPONSE, request.payload ** 3, reply_to=request.message_id)
client.create_channel_handler("cube", cube)
client.send_request("system", {"action": "serve", "channel": "cube"})
print("answer", client.send_request("from_node", {"n": 20}).payload, flush=True)
sys.stdin.read()
`;
    const service = await worker.serve('from_node', (request) => request.payload.n + 1);
    const python = new Process(PYTHON, ['-c', program, String(server.port)]);
    await python.expect(/answer 21/);
    assert.equal((await client.sendRequest('cube', 3)).payload, 27);
    await python.kill();
    await service.close();
  });

  test('several workers share a channel', async () => {
    const second = server.client('math');
    await second.connect();
    const count = [0, 0];
    const serve = (who, at) => who.serve('shared', async () => { count[at] += 1; await sleep(2); return at; });
    await Promise.all([serve(worker, 0), serve(second, 1)]);
    await Promise.all(Array.from({ length: 40 }, () => client.sendRequest('shared', null)));
    assert.ok(count[0] >= 10 && count[1] >= 10, String(count));
    await second.close();
    assert.equal((await client.sendRequest('shared', null)).payload, 0);
    await worker.services.get('shared').close();
  });

  test('a request can be answered by hand', async () => {
    worker.subscribe('manual', (message) => {
      if (message.isRequest()) worker.send(message.createResponse({ by: 'hand' }));
    });
    await worker.sendRequest('system', { action: 'serve', channel: 'manual' });
    assert.deepEqual((await client.sendRequest('manual', 1)).payload, { by: 'hand' });
  });
});
