'use strict';

// One process of a measurement: `node part.js ROLE PORT SECONDS`. A requester prints its figures as JSON; a responder
// prints `ready` and answers until it is killed.

const net = require('node:net');
const { IPCClient } = require('../../clients/node');
const codec = require('../../clients/node/lib/codec.js');

const [role, port, seconds] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const PAYLOAD = { text: 'x'.repeat(100), n: 1 };
const IN_FLIGHT = 100;
const WARM_UP_SHARE = 0.25;

const now = () => Number(process.hrtime.bigint());

/** Round trips one after the other; `trip` resolves when the answer is there. */
async function roundTrips(trip) {
  const times = [];
  const began = now();
  const warm = began + seconds * 1e9 * WARM_UP_SHARE;
  const end = began + seconds * 1e9;
  for (let at = began; at < end;) {
    await trip();
    const then = now();
    if (at > warm) times.push(then - at);
    at = then;
  }
  times.sort((a, b) => a - b);
  return { p50: times[Math.floor(times.length / 2)] / 1e3, p99: times[Math.floor(times.length * 0.99)] / 1e3 };
}

/** Requests a second with so many in flight. */
async function throughput(trip) {
  const began = now();
  const warm = began + seconds * 1e9 * WARM_UP_SHARE;
  const end = began + seconds * 1e9;
  let counted = 0;
  let running = true;
  const lane = async () => {
    while (running) {
      await trip();
      const at = now();
      if (at > end) running = false;
      else if (at > warm) counted += 1;
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
  return { perSecond: counted / (seconds * (1 - WARM_UP_SHARE)) };
}

const roles = {
  /** The same bytes to the same server, without a client: written and counted. */
  async 'bare-trip'() {
    const socket = net.connect({ port, host: 'localhost', noDelay: true, autoSelectFamily: true });
    let missing = 0;
    let done = () => {};
    socket.on('data', (bytes) => {
      missing -= bytes.length;
      if (missing <= 0) done();
    });
    const send = (body) => socket.write(codec.encodeFrames([body], Buffer.byteLength(body)));
    const connect = codec.encodeBody('c', '"bench"', '"system"', 'request',
      JSON.stringify({ action: 'connect', connection_id: 'bare' }));
    const first = new Promise((resolve) => { done = resolve; });
    send(connect);
    await first;
    const id = '01234567-89ab-cdef-0123-456789abcdef';
    const body = codec.encodeBody(id, '"bench"', '"echo"', 'request', JSON.stringify(PAYLOAD));
    const frame = codec.encodeFrames([body], Buffer.byteLength(body));
    // The header of the first answer tells the length of all.
    const answerBytes = await new Promise((resolve) => {
      socket.once('data', (bytes) => resolve(bytes.readUInt32BE(0) + 4));
      socket.write(frame);
    });
    const result = await roundTrips(() => new Promise((resolve) => {
      // A timestamp's digits vary by a few bytes.
      missing = answerBytes - 24;
      done = resolve;
      socket.write(frame);
    }));
    socket.destroy();
    return result;
  },
  async 'ipc-trip'() {
    const client = new IPCClient('bench', { port });
    if (!await client.connect()) throw client.lastError;
    const result = await roundTrips(() => client.sendRequest('echo', PAYLOAD));
    await client.close();
    return result;
  },
  async 'ipc-responder'() {
    const client = new IPCClient('bench', { port });
    if (!await client.connect()) throw client.lastError;
    await client.serve('work', (request) => request.payload, { concurrency: 1000 });
    console.log('ready');
    return null;
  },
  async 'ipc-requests'() {
    const client = new IPCClient('bench', { port });
    if (!await client.connect()) throw client.lastError;
    const result = await throughput(() => client.sendRequest('work', PAYLOAD));
    await client.close();
    return result;
  },
  async 'ipc-echo'() {
    const client = new IPCClient('bench', { port });
    if (!await client.connect()) throw client.lastError;
    const result = await throughput(() => client.sendRequest('echo', PAYLOAD));
    await client.close();
    return result;
  },
  async 'nats-responder'() {
    const { connect, JSONCodec } = require('nats');
    const connection = await connect({ port });
    const json = JSONCodec();
    connection.subscribe('work', { callback: (error, message) => {
      if (error) throw error;
      message.respond(json.encode(json.decode(message.data)));
    } });
    await connection.flush();
    console.log('ready');
    return null;
  },
  async 'nats-requests'() {
    const { connect, JSONCodec } = require('nats');
    const connection = await connect({ port });
    const json = JSONCodec();
    // With a timeout, as the other has one.
    const result = await throughput(async () => {
      const answer = await connection.request('work', json.encode(PAYLOAD), { timeout: 10_000 });
      return json.decode(answer.data);
    });
    await connection.close();
    return result;
  },
};

roles[role]().then((result) => { if (result !== null) console.log(JSON.stringify(result)); }, (error) => {
  console.error(error);
  // The connections of what failed are still open.
  process.exit(1);
});
