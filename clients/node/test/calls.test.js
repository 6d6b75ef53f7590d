'use strict';

// Requests that are cancelled, have deadlines, and stream, through the real server, beside clients that know none of it.

const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const {
  PYTHON, Process, collected, eventually, joined, served, sleep, startServer, web,
} = require('./support.js');
const { payloadsOf } = require('./scripted.js');
const { CancelledError, HandlerError, IPCPool, ipcProxy, ipcStream } = require('../index.js');

/** The services of this file: what became of each of their requests. */
async function serving(worker, options) {
  const seen = { begun: [], lost: [], ended: 0 };
  const watch = (request) => {
    seen.begun.push(request.payload);
    request.signal.addEventListener('abort', () => seen.lost.push(request.signal.reason));
  };
  await worker.serve('count', async function* count(request) {
    watch(request);
    try {
      const { to = Infinity, pause, fail, bytes } = request.payload ?? {};
      for (let n = 0; n < to; n += 1) {
        if (pause !== undefined) await sleep(pause);
        yield bytes === undefined ? n : 'x'.repeat(bytes);
      }
      if (fail) throw new HandlerError('no_more', 'that was all', { to });
    } finally {
      seen.ended += 1;
    }
  }, options);
  await worker.serve('waits', async (request) => {
    watch(request);
    await new Promise((resolve) => { request.signal.addEventListener('abort', resolve); });
    seen.ended += 1;
  }, options);
  seen.reasons = () => seen.lost.map(({ reason, code }) => reason ?? code);
  return seen;
}

describe('calls', () => {
  let server;
  let worker;
  let client;
  let seen;
  before(async () => {
    server = await startServer();
    [worker, client] = [server.client(), server.client()];
    assert.deepEqual([await worker.connect(), await client.connect()], [true, true]);
    seen = await serving(worker);
  });
  after(async () => {
    await Promise.all([worker.close(), client.close()]);
    await server.kill();
  });
  const forget = () => Object.assign(seen, { begun: [], lost: [], ended: 0 });

  test('the server agrees to the extension, and names its limits', () => {
    assert.deepEqual(client.extensions, ['call', 'binary', 'topic']);
    assert.deepEqual(client.limits, { maxFrameBytes: 16 << 20, requestTimeout: 30_000 });
  });

  test('many parts, at every credit, in order', async () => {
    for (const credit of [1, 2, 7, 64, 65_536]) {
      const expected = Array.from({ length: 500 }, (_, n) => n);
      assert.deepEqual(await payloadsOf(client.stream('count', { to: 500 }, { credit })), expected, String(credit));
    }
    assert.deepEqual(await payloadsOf(client.stream('count', { to: 0 })), []);
    assert.deepEqual(await payloadsOf(client.stream('echo', 'whole')), ['whole'], 'an answer that is no stream');
  });

  test('an error after parts, and one in their place', async () => {
    const parts = [];
    await assert.rejects(async () => {
      for await (const { payload } of client.stream('count', { to: 3, fail: true })) parts.push(payload);
    }, { code: 'app:no_more', details: { to: 3 }, isApplication: true });
    assert.deepEqual(parts, [0, 1, 2]);
    await assert.rejects(payloadsOf(client.stream('nobody', 1)), { code: 'no_handler' });
  });

  test('who takes no stream gets all parts at once, or limit_exceeded', async () => {
    assert.deepEqual((await client.sendRequest('count', { to: 4 })).payload, [0, 1, 2, 3]);
    await assert.rejects(client.sendRequest('count', { bytes: 1e6 }, 60_000), { code: 'limit_exceeded' });
    await eventually('ended', () => worker.services.unfinished === 0);
  });

  test('leaving the loop stops the generator', async () => {
    forget();
    for await (const { payload } of client.stream('count', { pause: 1 })) if (payload === 20) break;
    await eventually('stopped', () => seen.ended === 1);
    assert.deepEqual(seen.reasons(), ['caller']);
    assert.ok(seen.lost[0] instanceof CancelledError);
    await eventually('forgotten', () => worker.services.works.size === 0);
  });

  test('a signal and both kinds of timeout reach the handler', async (t) => {
    forget();
    const impatient = await joined(t, server.client('bench', { requestTimeout: 30 }));
    const controller = new AbortController();
    const aborted = assert.rejects(client.sendRequest('waits', 1, { signal: controller.signal }), { code: 'ABORTED' });
    await eventually('begun', () => seen.begun.length === 1);
    controller.abort();
    await aborted;
    await eventually('told', () => seen.ended === 1);
    await assert.rejects(impatient.sendRequest('waits', 1), { code: 'TIMEOUT' });
    await eventually('told', () => seen.ended === 2);
    // Whoever is first to say so, the client or the server.
    await assert.rejects(client.sendRequest('waits', 1, 30), { name: 'TimeoutError', code: 'TIMEOUT' });
    await eventually('told', () => seen.ended === 3);
    await assert.rejects(payloadsOf(client.stream('count', { pause: 1 }, 30)), { code: 'TIMEOUT' });
    await eventually('told', () => seen.ended === 4);
    assert.deepEqual(seen.reasons(), ['caller', 'caller', 'deadline', 'deadline']);
  });

  test('a requester that disconnects cancels all that it has in flight', async () => {
    forget();
    const brief = server.client();
    await brief.connect();
    const streams = Array.from({ length: 5 }, () => brief.stream('count', { pause: 1 }));
    await Promise.all(streams.map((stream) => stream.next()));
    brief.sendRequest('waits', 1).catch(() => {});
    await eventually('begun', () => seen.begun.length === 6);
    brief.disconnect();
    await eventually('told', () => seen.ended === 6);
    assert.deepEqual(new Set(seen.reasons()), new Set(['gone']));
  });

  test('a slow reader of one of many streams holds up that one alone', async () => {
    forget();
    const slow = client.stream('count', {}, { credit: 16 });
    await slow.next();
    const quick = Array.from({ length: 30 }, () => payloadsOf(client.stream('count', { to: 1_000 })));
    for (const payloads of await Promise.all(quick)) assert.equal(payloads.length, 1_000);
    assert.equal(slow.parts.length, 15, 'what it has credit for, and no more');
    assert.equal((await client.sendRequest('echo', 'and requests')).payload, 'and requests');
    for (let n = 1; n < 100; n += 1) assert.equal((await slow.next()).value.payload, n);
    await slow.return();
  });

  test('tokens are seen as they are made, and the generator stops when the reader leaves half-way', async () => {
    forget();
    const made = [];
    const service = await worker.serve('tokens', async function* tokens({ signal }) {
      try {
        for (let n = 0; n < 50; n += 1) {
          await sleep(20);
          made.push(performance.now());
          yield n;
        }
      } finally {
        seen.lost.push(signal.reason);
      }
    });
    const delays = [];
    for await (const { payload } of client.stream('tokens', 'prompt')) {
      delays.push(performance.now() - made[payload]);
      if (payload === 24) break;
    }
    await eventually('stopped', () => seen.lost.length === 1);
    assert.ok(made.length <= 26, `${made.length} tokens were made`);
    // Each before the next is made, on a busy machine too, but for a few.
    assert.ok(delays.filter((delay) => delay < 20).length > 15, delays.map(Math.round).join(' '));
    await service.close();
  });

  test('of aborted requests nothing is left to do, for the worker or the server', async (t) => {
    const busy = await Promise.all([1, 2].map(() => joined(t, server.client())));
    let begun = 0;
    let longest = 0;
    const handler = async ({ payload }) => {
      begun += 1;
      const started = performance.now();
      // As a model that cannot be stopped.
      await sleep(payload === 'storm' ? 1_000 : 0);
      longest = Math.max(longest, performance.now() - started);
      return payload;
    };
    for (const options of [{ concurrency: 2 }, { concurrency: 2, prefetch: 0 }]) {
      begun = 0;
      const services = await Promise.all(busy.map((one) => one.serve('busy', handler, options)));
      const started = performance.now();
      const signal = AbortSignal.timeout(100);
      const storm = Array.from({ length: 40 }, () => assert.rejects(client.sendRequest('busy', 'storm', { signal }),
        { code: 'ABORTED' }));
      await Promise.all(storm);
      assert.equal((await client.sendRequest('busy', 'next', 20_000)).payload, 'next');
      const milliseconds = performance.now() - started;
      assert.equal(begun, 5, 'the four that had begun, and the next one');
      assert.ok(milliseconds < 1.9 * longest, `${milliseconds} ms, ${longest} ms for one`);
      await Promise.all(services.map((service) => service.close()));
    }
  });

  test('requests made in a handler have what is left of its time', async () => {
    const lefts = [];
    const inner = await worker.serve('inner', ({ remaining, headers, trace }) => {
      lefts.push(remaining);
      return { headers, trace };
    });
    const outer = await worker.serve('outer', async () => {
      await sleep(5);
      return (await client.sendRequest('inner', 1)).payload;
    });
    await client.sendRequest('outer', 1, 20_000);
    await client.sendRequest('outer', 1);
    assert.ok(lefts[0] > 10_000 && lefts[0] <= 19_996, String(lefts[0]));
    assert.equal(lefts[1], Infinity);
    const options = { headers: { tenant: 'ä' }, trace: { traceparent: 'x', tracestate: 'y' } };
    assert.deepEqual((await client.sendRequest('inner', 1, options)).payload, options);
    await inner.close();
    await outer.close();
  });

  test('publications and notifications have headers too, for those who know of them', async (t) => {
    const program = `
import sys
from ipc_framework import FrameworkClient
client = FrameworkClient("bench", port=int(sys.argv[1]))
assert client.connect()
client.subscribe("headed", lambda message: print("heard", message.payload, flush=True))
client.send_request("system", {"action": "ping"})
print("ready", flush=True)
sys.stdin.read()
`;
    const python = new Process(PYTHON, ['-c', program, String(server.port)]);
    t.after(() => python.kill());
    await python.expect(/ready/);
    const options = { headers: { tenant: 'ä' }, trace: { traceparent: 'x' } };
    const news = client.subscribe('headed');
    await news.ready;
    worker.publish('headed', 'with', options);
    worker.publish('headed', 'without');
    const heard = [(await news.next()).value, (await news.next()).value];
    assert.deepEqual(heard.map(({ payload, headers, trace }) => [payload, headers, trace]),
      [['with', options.headers, options.trace], ['without', undefined, undefined]]);
    await python.expect(/heard with\nheard without/);
    const noticed = [];
    const service = await worker.serve('noticed', () => 1, { onNotification: (message) => noticed.push(message) });
    client.notify('noticed', 1, options);
    await eventually('noticed', () => noticed.length === 1);
    assert.deepEqual([noticed[0].headers, noticed[0].trace], [options.headers, options.trace]);
    await service.close();
    assert.throws(() => client.publish('headed', 1, { header: {} }), { name: 'TypeError', message: /'headers'/ });
    assert.throws(() => client.notify('headed', 1, { headers: { a: 1 } }), TypeError);
  });

  test('a pool streams, and serves streams', async (t) => {
    const pool = await joined(t, new IPCPool('bench', { port: server.port, size: 2 }));
    const service = await pool.serve('pooled', function* pooled() { yield* [1, 2, 3]; });
    assert.deepEqual(await payloadsOf(pool.stream('pooled', null)), [1, 2, 3]);
    assert.deepEqual(await payloadsOf(client.stream('pooled', null)), [1, 2, 3]);
    await service.close();
  });

  test('browsers: what they read, and that leaving reaches the model', async (t) => {
    forget();
    const payload = () => ({ to: 3 });
    assert.equal(await (await fetch(await web(t, ipcStream(client, 'count', { as: 'ndjson', payload })))).text(), '0\n1\n2\n');
    const endless = await web(t, ipcStream(client, 'count', { payload: () => ({ pause: 1 }) }));
    const reader = (await fetch(endless)).body.getReader();
    await reader.read();
    await reader.cancel();
    await eventually('stopped', () => seen.ended === 2);
    const controller = new AbortController();
    const gone = fetch(await web(t, ipcProxy(client, 'waits')), { signal: controller.signal }).catch(() => {});
    await eventually('begun', () => seen.begun.length === 3);
    controller.abort();
    await gone;
    await eventually('stopped', () => seen.ended === 3);
    assert.deepEqual(seen.reasons(), ['caller', 'caller']);
    const late = await fetch(await web(t, ipcProxy(client, 'waits', { timeout: 30 })));
    assert.equal(late.status, 504);
    await eventually('told', () => seen.ended === 4);
    assert.equal(seen.reasons().at(-1), 'deadline');
  });

  test('the unmodified Python client beside it, as requester and as worker', async (t) => {
    forget();
    const program = `
import sys, time
from ipc_framework import FrameworkClient, MessageType
client = FrameworkClient("bench", port=int(sys.argv[1]))
assert client.connect()
def slow(request):
    if request.payload == "wait":
        time.sleep(0.3)
    client.send_message("python", MessageType.RESPONSE, request.payload, reply_to=request.message_id)
client.create_channel_handler("python", slow)
client.send_request("system", {"action": "serve", "channel": "python"})
print("answer", client.send_request("count", {"to": 3}).payload, flush=True)
sys.stdin.readline()
print("again", client.send_request("count", {"to": 2}).payload, flush=True)
sys.stdin.read()
`;
    const python = new Process(PYTHON, ['-c', program, String(server.port)]);
    t.after(() => python.kill());
    await python.expect(/answer \[0, 1, 2\]/);
    const errors = collected(client, 'error');
    assert.deepEqual(await payloadsOf(client.stream('python', 'only')), ['only']);
    await assert.rejects(client.sendRequest('python', 'wait', 50), { code: 'TIMEOUT' });
    const stream = client.stream('python', 'wait');
    await stream.return();
    const controller = new AbortController();
    const aborted = assert.rejects(client.sendRequest('python', 'wait', { signal: controller.signal }), { code: 'ABORTED' });
    controller.abort();
    await aborted;
    const options = { headers: { a: 'b' }, timeout: 20_000, idempotent: true, trace: { traceparent: 'x' } };
    assert.equal((await client.sendRequest('python', 'after all', options)).payload, 'after all');
    python.child.stdin.write('\n');
    await python.expect(/again \[0, 1\]/);
    assert.deepEqual(errors, []);
  });
});

test('a requester that stops reading loses its stream, and not its connection', async (t) => {
  // It is no slow consumer yet when its queue is full, however busy the machine is.
  const server = await served(t, { args: ['--slow-consumer-grace', '5m'] });
  const worker = await joined(t, server.client());
  const seen = await serving(worker);
  const stuck = await joined(t, server.client('bench', { heartbeatInterval: 0 }));
  const stream = stuck.stream('count', { bytes: 100_000 }, { credit: 65_536 });
  await stream.next();
  stuck.connection.socket.pause();
  await eventually('ended', () => seen.ended === 1);
  assert.deepEqual(seen.reasons(), ['limit']);
  stuck.connection.socket.resume();
  await assert.rejects(payloadsOf(stream), { code: 'limit_exceeded' });
  assert.equal((await stuck.sendRequest('echo', 'still there')).payload, 'still there');
});

test('a worker that is lost in the middle of a stream, and one that is taken over', async (t) => {
  const server = await served(t);
  const client = await joined(t, server.client());
  for (const [what, lose] of [
    ['lost', (worker) => worker.connection.socket.destroy()],
    ['taken over', async (worker) => {
      const other = server.client();
      other.connectionId = worker.connectionId;
      await joined(t, other);
    }],
  ]) {
    const worker = await joined(t, server.client('bench', { reconnectAttempts: 0 }));
    const seen = await serving(worker);
    const stream = client.stream('count', { pause: 1 });
    await stream.next();
    const rest = assert.rejects(payloadsOf(stream), { code: 'worker_lost' }, what);
    await lose(worker);
    await rest;
    await eventually('ended', () => seen.ended === 1);
    assert.deepEqual(seen.reasons(), ['CONNECTION_LOST']);
  }
});

test('a requester that is taken over in the middle of a stream', async (t) => {
  const server = await served(t);
  const worker = await joined(t, server.client());
  const seen = await serving(worker);
  const client = await joined(t, server.client('bench', { reconnectAttempts: 0 }));
  const stream = client.stream('count', { pause: 1 });
  await stream.next();
  const other = server.client();
  other.connectionId = client.connectionId;
  await joined(t, other);
  await assert.rejects(payloadsOf(stream), { code: 'CONNECTION_LOST' });
  await eventually('told', () => seen.ended === 1);
  assert.deepEqual(seen.reasons(), ['gone']);
  assert.deepEqual(await payloadsOf(other.stream('count', { to: 2 })), [0, 1]);
});

test('a request that may be carried out twice goes to another worker, once', async (t) => {
  const server = await served(t);
  const client = await joined(t, server.client());
  const begun = [];
  const workers = await Promise.all([0, 1, 2].map(() => joined(t, server.client('bench', { reconnectAttempts: 0 }))));
  const handler = (worker) => ({ payload }) => {
    begun.push(payload);
    if (payload === 'always' || begun.filter((one) => one === payload).length === 1) worker.connection.socket.destroy();
    else return 'done';
    return new Promise(() => {});
  };
  await Promise.all(workers.map((worker) => worker.serve('fragile', handler(worker))));
  assert.equal((await client.sendRequest('fragile', 'twice', { idempotent: true })).payload, 'done');
  await assert.rejects(client.sendRequest('fragile', 'once'), { code: 'worker_lost' });
  assert.deepEqual(begun, ['twice', 'twice', 'once']);
});

test('a drain lets streams go on, and cuts off what is left at its end', async (t) => {
  const server = await served(t, { args: ['--drain-timeout', '2s'] });
  const [worker, client] = await Promise.all([joined(t, server.client()), joined(t, server.client())]);
  const seen = await serving(worker);
  const ends = client.stream('count', { to: 20, pause: 1 }, { credit: 4 });
  const endless = client.stream('count', { pause: 1 }, { credit: 4 });
  await Promise.all([ends.next(), endless.next()]);
  const cut = assert.rejects(payloadsOf(endless), { code: 'timeout' });
  server.child.kill('SIGTERM');
  assert.equal((await payloadsOf(ends)).length, 19);
  await assert.rejects(client.sendRequest('count', { to: 1 }), { code: 'shutting_down' });
  await cut;
  await eventually('both', () => seen.ended === 2);
  assert.ok(['drain', 'CONNECTION_LOST'].includes(seen.reasons()[0]), seen.reasons()[0]);
  await server.wait();
});

test('streams through a connection that breaks again and again leave nothing behind', async (t) => {
  const server = await served(t);
  const quick = { reconnectDelay: 5, reconnectDelayMax: 20 };
  const worker = await joined(t, server.client());
  const seen = await serving(worker);
  const client = await joined(t, server.client('bench', quick));
  const codes = new Set();
  const lane = async (n) => {
    for (let round = 0; round < 10; round += 1) {
      try {
        const parts = await payloadsOf(client.stream('count', { to: 30, pause: n % 2 }, { credit: 1 + n }));
        assert.deepEqual(parts, Array.from({ length: 30 }, (_, at) => at));
      } catch (error) {
        codes.add(error.code);
      }
    }
  };
  const lanes = Promise.all(Array.from({ length: 10 }, (_, n) => lane(n)));
  for (let n = 0; n < 5; n += 1) {
    await sleep(20);
    client.connection?.socket?.destroy();
  }
  await lanes;
  assert.ok([...codes].every((code) => code === 'CONNECTION_LOST'), [...codes].join());
  await eventually('nothing left', () => client.pending.size === 0 && worker.services.works.size === 0
    && worker.services.unfinished === 0);
  assert.equal(seen.ended, seen.begun.length);
});
