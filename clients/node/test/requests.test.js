'use strict';

const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const net = require('node:net');
const { startServer, sleep, eventually, once, joined, servedPublished, collected } = require('./support.js');
const {
  IPCError, ServerError, TimeoutError, AbortedError, NotConnectedError, QueueFullError, Message,
} = require('../index.js');

describe('requests', () => {
  let server;
  let client;
  before(async () => {
    server = await startServer();
    client = server.client();
    assert.equal(await client.connect(), true);
  });
  after(async () => {
    await client.close();
    await server.kill();
  });

  test('whatever JSON can say comes back', async () => {
    const payloads = [null, 0, -1.5e300, '', 'ß☃🦀\u0000\n"\\', [], {}, [[{ a: [null] }]], { __proto__: null, x: 1 }];
    for (const payload of payloads) {
      assert.deepEqual((await client.sendRequest('echo', payload)).payload, JSON.parse(JSON.stringify(payload)));
    }
    assert.equal((await client.sendRequest('echo')).payload, null);
    const hostile = JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1}');
    const { payload } = await client.sendRequest('echo', hostile);
    assert.equal(JSON.stringify(payload), JSON.stringify(hostile));
    assert.equal({}.polluted, undefined);
  });

  test('a megabyte there and back, and one the frame limit forbids', async () => {
    const large = 'x'.repeat(4 << 20);
    assert.equal((await client.sendRequest('echo', large)).payload, large);
    await assert.rejects(client.sendRequest('echo', 'x'.repeat(17 << 20)),
      { code: 'FRAME_TOO_LARGE', message: /stays open/ });
    assert.equal(await client.ping(), true);
  });

  test('the server\'s refusals are errors with its codes', async () => {
    await assert.rejects(client.sendRequest('nobody', {}), (error) => {
      assert.ok(error instanceof ServerError && error instanceof IPCError && error instanceof Error);
      assert.equal(error.code, 'no_handler');
      assert.equal(error.response.payload.code, 'no_handler');
      return true;
    });
    await assert.rejects(client.sendRequest('system', { action: 'unheard of' }), { code: 'no_handler' });
    await assert.rejects(client.sendRequest('system', 5), { code: 'bad_message' });
    await assert.rejects(client.sendRequest('x'.repeat(300), 5), { code: 'bad_message' });
  });

  test('an answer that only looks like an error is an answer', async () => {
    for (const payload of [{ status: 'error' }, { status: 'error', code: 'no_handler' },
      { status: 'error', code: 'mine', error: 'text' }, { status: 'error', code: 'timeout', error: 'x', more: 1 }]) {
      assert.deepEqual((await client.sendRequest('echo', payload)).payload, payload);
    }
  });

  test('timeouts and aborts leave nothing pending', async () => {
    const service = await client.serve('slow', async (request) => {
      await sleep(request.payload);
      return 'late';
    });
    const errors = [];
    const late = [];
    client.on('error', (error) => errors.push(error));
    client.on('response', (response) => late.push(response));
    await assert.rejects(client.sendRequest('slow', 60, 20),
      (error) => error instanceof TimeoutError && error.code === 'TIMEOUT' && /timeout/i.test(error.message));
    await assert.rejects(client.sendRequest('slow', 60, { timeout: 20 }), { code: 'TIMEOUT' });

    const controller = new AbortController();
    const aborted = client.sendRequest('slow', 60, { signal: controller.signal });
    controller.abort(new Error('no longer'));
    await assert.rejects(aborted, (error) => error instanceof AbortedError && error.code === 'ABORTED'
      && error.cause.message === 'no longer');
    await assert.rejects(client.sendRequest('echo', 1, { signal: controller.signal }), { code: 'ABORTED' });
    await assert.rejects(client.sendRequest('slow', 60, { signal: AbortSignal.timeout(10) }), { code: 'ABORTED' });

    const { signal } = new AbortController();
    let listeners = 0;
    const counted = { aborted: false, addEventListener: () => { listeners += 1; },
      removeEventListener: () => { listeners -= 1; }, reason: signal.reason };
    await client.sendRequest('echo', 1, { signal: counted });
    assert.equal(listeners, 0, 'the listener goes with the request');
    assert.equal(client.pending.size, 0);

    await service.close();
    assert.equal(await client.ping(), true);
    assert.deepEqual([errors, late], [[], []], 'what comes too late is no news');
    client.removeAllListeners('error');
    client.removeAllListeners('response');
  });

  test('sendRequestAsync calls back, or reports', async () => {
    const response = await new Promise((resolve) => {
      const id = client.sendRequestAsync('echo', 5, (answer) => resolve({ id, answer }));
    });
    assert.equal(response.answer.payload, 5);
    assert.equal(response.answer.reply_to, response.id);

    const reported = once(client, 'error');
    client.sendRequestAsync('nobody', 5, () => assert.fail('never called'));
    assert.equal((await reported)[0].code, 'no_handler');
    assert.equal(client.pending.size, 0);
  });

  test('request returns an id; its answer is an event, a refusal an error', async () => {
    const answered = once(client, 'response');
    const id = client.request('echo', 'hi');
    const [response] = await answered;
    assert.deepEqual([response.reply_to, response.payload], [id, 'hi']);
    const refused = new Promise((resolve) => client.once('error', resolve));
    const refusedId = client.request('nobody', 1);
    const error = await refused;
    assert.deepEqual([error.code, error.response.reply_to], ['no_handler', refusedId]);
  });

  test('wrong arguments', async () => {
    await assert.rejects(client.sendRequest('', 1), TypeError);
    await assert.rejects(client.sendRequest(undefined, 1), TypeError);
    await assert.rejects(client.sendRequest('echo', 1n), { code: 'BAD_PAYLOAD' });
    assert.throws(() => client.publish(7, 1), TypeError);
    assert.throws(() => server.client(''), TypeError);
    for (const options of [{ port: 'x' }, { port: 0 }, { port: 1.5 }, { maxFrameBytes: -1 }, { requestTimeout: '5' }]) {
      assert.throws(() => server.client('a', options), TypeError, JSON.stringify(options));
    }
    assert.equal(server.client('a', { port: String(server.port) }).port, server.port);
    assert.equal(client.pending.size, 0);
  });

  test('nothing a caller gives gets into a frame but as what it is', async () => {
    const messages = [];
    client.subscribe('forged', ({ payload }) => messages.push(payload));
    const forged = 'publish","payload":"forged","x":"';
    for (const type of [forged, 'Publish', '', undefined, null, 5, {}]) {
      assert.throws(() => client.sendMessage('forged', type, 1), TypeError, String(type));
    }
    for (const replyTo of [5, {}, true]) {
      assert.throws(() => client.sendMessage('forged', 'response', 1, replyTo), TypeError, String(replyTo));
    }
    const good = { channel_id: 'forged', message_type: 'publish', payload: 'good', message_id: 'a"b' };
    const bad = [{ channel_id: undefined }, { channel_id: '' }, { channel_id: 7 }, { message_type: forged },
      { message_id: 5 }, { message_id: '' }, { reply_to: 5 }];
    for (const fields of bad) {
      const message = Object.assign(new Message(good), fields);
      assert.throws(() => client.send(message), TypeError, JSON.stringify(fields));
    }
    assert.equal(client.send(new Message(good)), 'a"b');
    assert.equal(client.send(new Message({ ...good, message_id: undefined })).length, 36);
    assert.equal(await client.ping(), true);
    assert.deepEqual(messages, ['good', 'good']);
    client.unsubscribe('forged');
  });

  test('a thousand in flight, answered in the opposite order', async () => {
    const held = [];
    const service = await client.serve('thousand', (request) => new Promise((resolve) => {
      held.push(() => resolve(request.payload * 2));
      // In a later turn: the last handler has to have returned, or it would not be the first to be answered.
      if (held.length === 1000) setImmediate(() => held.reverse().forEach((answer) => answer()));
    }), { concurrency: 1000 });
    const order = [];
    const requests = Array.from({ length: 1000 }, (_, n) => client.sendRequest('thousand', n)
      .then(({ payload }) => {
        order.push(n);
        assert.equal(payload, n * 2);
      }));
    await Promise.all(requests);
    assert.equal(order[0], 999);
    assert.equal(order[999], 0);
    assert.equal(client.pending.size, 0);
    await service.close();
  });

  test('more than pendingMax is refused at once', async () => {
    const small = server.client('bench', { pendingMax: 2 });
    await small.connect();
    const first = [small.sendRequest('echo', 1), small.sendRequest('echo', 2)];
    await assert.rejects(small.sendRequest('echo', 3), (error) => error instanceof QueueFullError);
    assert.deepEqual((await Promise.all(first)).map(({ payload }) => payload), [1, 2]);
    assert.equal((await small.sendRequest('echo', 3)).payload, 3);
    small.disconnect();
  });

  test('limits too small for anything are errors, not crashes', async () => {
    const tiny = server.client('bench', { maxFrameBytes: 10 });
    assert.equal(await tiny.connect(), false);
    assert.equal(tiny.lastError.code, 'FRAME_TOO_LARGE');
    const mute = server.client('bench', { pendingMax: 0 });
    const errors = [];
    mute.on('error', (error) => errors.push(error.code));
    mute.subscribe('early');
    assert.equal(await mute.connect(), true);
    assert.throws(() => mute.subscribe('news'), { code: 'QUEUE_FULL' });
    assert.deepEqual(mute.getConnectionInfo().subscribedChannels, ['early']);
    assert.deepEqual(errors, [], 'what is restored needs no place');
    await mute.close();
  });

  test('without a connection', async () => {
    const idle = server.client();
    await assert.rejects(idle.sendRequest('echo', 1),
      (error) => error instanceof NotConnectedError && error.code === 'NOT_CONNECTED');
    assert.throws(() => idle.publish('news', 1), { code: 'NOT_CONNECTED' });
    assert.equal(await idle.ping(), false);
    assert.equal(await idle.healthCheck(), false);
    assert.equal(idle.pending.size, 0);
    assert.equal(await idle.connect(), true);
    const cut = idle.sendRequest('system', { action: 'ping' });
    idle.disconnect();
    await assert.rejects(cut, { code: 'NOT_CONNECTED' });
    assert.equal(await idle.connect(), true, 'and it can be connected again');
    assert.equal(await idle.ping(), true);
    idle.disconnect();
  });

  test('frames that arrive byte by byte, and many in one chunk', async (t) => {
    // Between client and server, so that every read of the client ends where this says.
    const cut = async (socket, bytes) => {
      for (let at = 0; at < bytes.length; at += 1) {
        socket.write(bytes.subarray(at, at + 1));
        if (at % 16 === 0) await new Promise(setImmediate);
      }
    };
    const relay = net.createServer({ noDelay: true }, (near) => {
      const far = net.connect({ host: '127.0.0.1', port: server.port, noDelay: true });
      let queue = Promise.resolve();
      far.on('data', (bytes) => { queue = queue.then(() => cut(near, bytes)); });
      near.on('data', (bytes) => { queue = queue.then(() => cut(far, bytes)); });
      for (const [one, other] of [[near, far], [far, near]]) {
        one.on('close', () => other.destroy());
        one.on('error', () => {});
      }
    }).listen(0, '127.0.0.1');
    await once(relay, 'listening');
    t.after(() => relay.close());
    const slow = server.client('bench', { host: '127.0.0.1', port: relay.address().port });
    assert.equal(await slow.connect(), true);
    const texts = ['', 'ä☃🦀', 'x'.repeat(2000)];
    const answers = await Promise.all(texts.map((text) => slow.sendRequest('echo', text)));
    assert.deepEqual(answers.map(({ payload }) => payload), texts);
    slow.disconnect();
  });
});

test('the published server answers out of order', async (t) => {
  const server = await servedPublished(t);
  const client = await joined(t, server.client());
  assert.equal(client.server, null);
  const count = 1000;
  const order = [];
  const requests = Array.from({ length: count }, (_, n) => client
    .sendRequest('batch', { n, flush: n === count - 1 }, 30_000)
    .then(({ payload }) => {
      order.push(n);
      assert.equal(payload.n, n);
    }));
  await Promise.all(requests);
  assert.deepEqual([order[0], order[count - 1]], [count - 1, 0]);
  await assert.rejects(client.sendRequest('late', { seconds: 0.2 }, 50), { code: 'TIMEOUT' });
  await assert.rejects(client.serve('api', () => 1), { code: 'UNSUPPORTED' });
  await assert.rejects(client.stream('batch', 1).next(), { code: 'UNSUPPORTED', message: /does not know streams/ });
  await assert.rejects(client.sendRequest('batch', 1, { headers: { a: 'b' } }), { code: 'UNSUPPORTED' });
  assert.deepEqual([client.extensions, client.limits], [[], null]);
  assert.equal(await client.healthCheck(), true);
  assert.equal(client.pending.size, 0);
  assert.deepEqual(client.getConnectionInfo().subscribedChannels, [], 'the health check leaves nothing behind');
});

test('what the server sends and is no message: reported, and the connection goes on', async (t) => {
  const server = await servedPublished(t);
  const client = await joined(t, server.client('raw_app', { reconnectDelay: 20, reconnectAttempts: 100 }));
  const errors = collected(client, 'error');
  const raw = (body, length = body.length) => {
    const header = Buffer.alloc(4);
    header.writeUInt32BE(length);
    client.request('raw', { hex: Buffer.concat([header, Buffer.from(body)]).toString('hex') });
  };
  const valid = { message_id: 'm', app_id: 'a', channel_id: 'c', message_type: 'publish', payload: 'ok', timestamp: 1 };
  const messages = [];
  client.subscribe('c', (message) => messages.push(message.payload));

  raw('{not json');
  raw('');
  raw([0x22, 0xff, 0x22]);
  raw('{"message_id": 5}');
  raw('[]');
  raw(JSON.stringify(valid));
  await eventually('the valid one', () => messages.length === 1);
  assert.deepEqual(errors.map(({ code }) => code),
    ['BAD_FRAME', 'BAD_FRAME', 'BAD_FRAME', 'BAD_MESSAGE', 'BAD_MESSAGE']);
  for (const error of errors) assert.match(error.message, /stays open/);
  assert.equal(client.connected, true);
  assert.equal((await client.sendRequest('api', { action: 'still' })).payload.action, 'still');

  errors.length = 0;
  const dropped = once(client, 'disconnected');
  const waiting = assert.rejects(client.sendRequest('silent', {}), { code: 'CONNECTION_LOST' });
  raw('', 0xffffffff);
  const [{ cause }] = await dropped;
  assert.equal(cause.code, 'FRAME_TOO_LARGE');
  assert.match(cause.message, /4294967295 bytes.*the connection is closed/);
  await waiting;
  assert.deepEqual(errors.map(({ code }) => code), ['FRAME_TOO_LARGE']);
  await once(client, 'connected');
  assert.equal((await client.sendRequest('api', { action: 'again' })).payload.action, 'again');
});
