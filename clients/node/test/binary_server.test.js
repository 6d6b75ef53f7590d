'use strict';

// Binary values through the real server: to handlers, subscribers, streams, browsers, and to peers that know JSON alone.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { Worker } = require('node:worker_threads');
const path = require('node:path');
const {
  PYTHON, Process, certificates, collected, connected, eventually, joined, served, unconnected, web,
} = require('./support.js');
const { payloadsOf } = require('./scripted.js');
const { IPCClient, IPCPool, Tensor, fromBase64, ipcEvents, ipcProxy, ipcStream } = require('../index.js');
const { DTYPES, toWire } = require('../lib/tensor.js');
const { BINARY } = require('../lib/message.js');

const image = new Tensor({ dtype: 'f32', shape: [224, 224, 3], data: new Float32Array(224 * 224 * 3).map((_, at) => at) });

/** Payloads of every type, with bits that an arithmetic would change. */
const EXACT = [...DTYPES].flatMap(([dtype, { bytes }]) => {
  const bits = Buffer.from(Array.from({ length: 12 * bytes }, (_, at) => (at * 37 + 255) % 256));
  const make = (shape, data) => new Tensor({ dtype, shape, data: Uint8Array.from(data) });
  return [make([2, 3, 2], bits), make([], bits.subarray(0, bytes)), make([0, 4], [])];
});
const FLOATS = new Float64Array(new BigUint64Array([0x7ff8000000000001n, 0xfff0dead00000000n, 1n << 63n, 1n]).buffer);

test('every type goes to a handler and back with the same bits', async (t) => {
  const { client } = await connected(t);
  assert.deepEqual(client.extensions, ['call', 'binary', 'topic']);
  const seen = [];
  await client.serve('back', ({ payload }) => {
    seen.push(payload);
    return { again: [payload] };
  });
  for (const tensor of [...EXACT, new Tensor({ data: FLOATS })]) {
    const { payload: { again: [back] } } = await client.sendRequest('back', tensor);
    const what = `${tensor.dtype} [${tensor.shape}]`;
    for (const one of [seen.at(-1), back]) {
      assert.ok(one instanceof Tensor, what);
      assert.deepEqual([one.dtype, one.shape], [tensor.dtype, tensor.shape]);
      assert.deepEqual(Buffer.from(toWire(one.data)), Buffer.from(toWire(tensor.data)), what);
    }
  }
  const bytes = (await client.sendRequest('back', { a: Buffer.from('raw'), b: new BigInt64Array([-1n]) })).payload.again[0];
  assert.deepEqual([bytes.a.toString(), bytes.b.dtype, bytes.b.toArray()], ['raw', 'i64', [-1n]]);
  // All at once, small and large by turns.
  const many = await Promise.all(Array.from({ length: 200 }, (_, at) => (
    client.sendRequest('back', [at, new Uint32Array(at % 7 === 0 ? 20_000 : 3).fill(at)]))));
  many.forEach(({ payload: { again: [[at, { data }]] } }, expected) => {
    assert.deepEqual([at, data[0], data.at(-1)], [expected, expected, expected]);
  });
});

test('publications, notifications and streams carry them, and a pool does', async (t) => {
  const { server, client } = await connected(t);
  const other = await joined(t, server.client('bench'));
  const news = other.subscribe('news');
  await news.ready;
  client.publish('news', { image, raw: Buffer.from('x') }, { headers: { a: 'b' } });
  const { value } = await news.next();
  assert.deepEqual([value.payload.image.shape, value.payload.raw.toString(), value.headers], [[224, 224, 3], 'x', { a: 'b' }]);
  assert.deepEqual(value.payload.image.data, image.data);

  const noticed = [];
  await other.serve('work', async function* parts({ payload: count }) {
    const memory = new Float32Array(30_000);
    for (let n = 0; n < count; n += 1) {
      memory.fill(n);
      yield { n, memory };
    }
  }, { onNotification: ({ payload }) => noticed.push(payload) });
  client.notify('work', new Int8Array([1, -1]));
  await eventually('noticed', () => noticed.length === 1);
  assert.deepEqual(noticed[0].toArray(), [1, -1]);
  let expected = 0;
  for await (const { payload: { n, memory } } of client.stream('work', 40, { credit: 8 })) {
    assert.equal(n, expected);
    assert.ok(memory.data.every((number) => number === n), `part ${n}`);
    expected += 1;
  }
  assert.equal(expected, 40);
  // Whoever takes no stream gets them in one array.
  const { payload: together } = await client.sendRequest('work', 3);
  assert.deepEqual(together.map(({ n, memory }) => [n, memory.data[0], memory.data.length]), [0, 1, 2].map((n) => [n, n, 30_000]));
  await assert.rejects(client.sendRequest('work', 200), { code: 'limit_exceeded' });
  await assert.rejects(client.sendRequest('work', 1_025), { code: 'limit_exceeded' });

  const pool = await joined(t, new IPCPool('bench', { port: server.port, size: 2 }));
  assert.deepEqual((await payloadsOf(pool.stream('work', 2))).map(({ n }) => n), [0, 1]);
  await pool.serve('double', ({ payload }) => payload.data.map((number) => 2 * number));
  assert.deepEqual((await pool.sendRequest('double', new Float64Array([1.5]))).payload.toArray(), [3]);
});

test('a message over the limit of the server names it, and what to do', async (t) => {
  const server = await served(t, { args: ['--max-frame-bytes', '100000'] });
  const client = await joined(t, server.client('bench'));
  await assert.rejects(client.sendRequest('echo', new Uint8Array(100_000)), {
    code: 'FRAME_TOO_LARGE', message: /the 100000 that its server allows \(--max-frame-bytes\).*stream/,
  });
  await eventually('back', () => client.connected);
  await client.serve('length', ({ payload }) => payload.length);
  assert.equal((await client.sendRequest('length', new Uint8Array(90_000))).payload, 90_000);
});

test('over TLS and a Unix socket', async (t) => {
  const files = certificates(t);
  const socket = path.join(path.dirname(files['ca.pem']), 'ipc.sock');
  const { port } = await served(t, { args: ['--tls-cert', files['server.pem'], '--tls-key', files['server.key'],
    '--unix', socket] });
  const ca = require('node:fs').readFileSync(files['ca.pem']);
  const client = await joined(t, new IPCClient('bench', { port, tls: { ca } }));
  const local = await joined(t, unconnected(t, { path: socket }));
  await local.serve('back', ({ payload }) => payload);
  await client.serve('forth', ({ payload }) => payload);
  const large = Buffer.alloc(5 << 20, 'abcdefg');
  for (const [from, channel] of [[client, 'back'], [local, 'forth']]) {
    const answers = await Promise.all([[large, image], image, 7].map((payload) => from.sendRequest(channel, payload)));
    assert.ok(answers[0].payload[0].equals(large));
    assert.deepEqual([answers[1].payload.data, answers[2].payload], [image.data, 7]);
  }
});

test('in a worker thread, and moved from one to another', async (t) => {
  const { server, client } = await connected(t);
  await client.serve('back', ({ payload }) => payload);
  const thread = new Worker(`
    const { IPCClient } = require(${JSON.stringify(path.resolve(__dirname, '../index.js'))});
    const { parentPort, workerData: port } = require('node:worker_threads');
    (async () => {
      const client = new IPCClient('bench', { port });
      if (!await client.connect()) throw client.lastError;
      const { payload: { data } } = await client.sendRequest('back', new Float32Array(100_000).fill(2));
      parentPort.postMessage(data, [data.buffer]);
      await client.close();
    })();
  `, { eval: true, workerData: server.port });
  t.after(() => thread.terminate());
  const data = await new Promise((resolve, reject) => thread.once('message', resolve).once('error', reject));
  assert.deepEqual([data.constructor, data.length, data.byteOffset, data.at(-1)], [Float32Array, 100_000, 0, 2]);
});

test('peers that know JSON alone get Base64, and nobody turns theirs back unasked', async (t) => {
  const { server, client } = await connected(t);
  await client.serve('back', ({ payload }) => payload);
  await client.serve('make', () => ({ raw: Buffer.from('abc'), t: new Tensor({ data: new Float32Array([1]) }) }));
  const program = `
import base64, json, struct, sys
from ipc_framework import FrameworkClient
client = FrameworkClient("bench", port=int(sys.argv[1]))
assert client.connect()
made = client.send_request("make", {}).payload
print("made", base64.b64decode(made["raw"]["$base64"]), struct.unpack("<f", base64.b64decode(made["t"]["$base64"])), flush=True)
print("shape", made["t"]["dtype"], made["t"]["shape"], flush=True)
client.subscribe("news", lambda message: print("news", json.dumps(message.payload), flush=True))
print("ready", client.send_request("back", made).payload == made, flush=True)
sys.stdin.readline()
client.publish("from-python", made)
sys.stdin.read()
`;
  const python = new Process(PYTHON, ['-c', program, String(server.port)]);
  t.after(() => python.kill());
  await python.expect(/made b'abc' \(1\.0,\)/);
  await python.expect(/shape f32 \[1\]/);
  await python.expect(/ready True/);
  client.publish('news', [Buffer.from('abc'), { $base64: 'mine' }]);
  await python.expect(/news \[\{"\$base64": "YWJj", "dtype": null, "shape": null\}, \{"\$base64": "mine"\}\]/);
  const theirs = client.subscribe('from-python');
  await theirs.ready;
  python.child.stdin.write('\n');
  const { value: { payload } } = await theirs.next();
  assert.equal(payload.raw.$base64, 'YWJj');
  const decoded = fromBase64(payload);
  assert.deepEqual([decoded.raw.toString(), decoded.t.toArray()], ['abc', [1]]);
});

test('browsers send files and get Base64', async (t) => {
  const { client } = await connected(t);
  await client.serve('model', ({ payload: { body } }) => ({ bytes: body.length, mask: body.subarray(0, 3) }));
  await client.serve('parts', function* parts() { yield Buffer.from('abc'); });
  const raw = async (req) => {
    const chunks = [];
    for await (const chunk of req) chunks.push(chunk);
    return Buffer.concat(chunks);
  };
  const proxy = ipcProxy(client, 'model');
  const upload = await web(t, async (req, res) => {
    req.body = await raw(req);
    await proxy(req, res);
  });
  const answer = await (await fetch(upload, { method: 'POST', body: Buffer.alloc(300_000, 'abc') })).json();
  assert.deepEqual(answer, { bytes: 300_000, mask: { $base64: 'YWJj', dtype: null, shape: null } });
  const lines = await (await fetch(await web(t, ipcStream(client, 'parts', { as: 'ndjson' })))).text();
  assert.equal(lines, '{"$base64":"YWJj","dtype":null,"shape":null}\n');
  const events = await fetch(await web(t, ipcEvents(client, 'news')));
  const reader = events.body.getReader();
  await reader.read();
  client.publish('news', [new Tensor({ data: new Float32Array([1]) })]);
  assert.match(Buffer.from((await reader.read()).value).toString(),
    /data: \[\{"\$base64":"AACAPw==","dtype":"f32","shape":\[1\]\}\]\n/);
  await reader.cancel();
});

test('what handlers do wrong reaches the requester, and nothing else is hurt', async (t) => {
  const { server, client } = await connected(t);
  const errors = collected(client, 'error');
  await client.serve('many', () => Array.from({ length: 2_000 }, () => Buffer.alloc(1)));
  await client.serve('gone', () => {
    const data = new Float32Array(10);
    structuredClone(data.buffer, { transfer: [data.buffer] });
    return { data };
  });
  const asker = await joined(t, server.client('bench'));
  await assert.rejects(asker.sendRequest('many'), { code: 'handler_failed', message: /2000 binary values/ });
  await assert.rejects(asker.sendRequest('gone'), { code: 'handler_failed', message: /payload\.data .*transferred/ });
  assert.deepEqual(errors.map(({ code }) => code), ['BAD_PAYLOAD', 'BAD_PAYLOAD']);
  assert.equal((await asker.sendRequest('echo', 1)).payload, 1);
  assert.equal((await asker.sendRequest('echo', 1))[BINARY], undefined);
});
