'use strict';

const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const { Process, startServer, sleep, eventually, PYTHON } = require('./support.js');

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
