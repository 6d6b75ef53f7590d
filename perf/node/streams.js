'use strict';

// Streams from a worker in Python, read by Node: `node streams.js WORK PEER ADDRESS SECONDS SERVER_CPU [PYTHON]`. With
// a PYTHON, it starts the worker on the server's processor; without one, the peer at ADDRESS is the worker itself.
// Prints the figures of one repetition, and single latencies in nanoseconds, as JSON.

const net = require('node:net');
const { connected, now, reportOf, startWorker } = require('./common.js');

const [work, peer, address, seconds, serverCpu, python] = process.argv.slice(2);
const [host, port] = [address.slice(0, address.lastIndexOf(':')), Number(address.slice(address.lastIndexOf(':') + 1))];
const MEASURE_NANOS = Number(seconds) * 1e9;
/** Time in which Node compiles what it runs often. */
const WARM_UP_NANOS = Math.max(5e8, MEASURE_NANOS / 4);
const STREAMS = 100;
const PARTS = 100;
const TOKEN = ' token';
/** Requests and ends of connections, of which the percentiles are taken. */
const ROUNDS_MIN = 100;

const sorted = (values) => values.sort((a, b) => a - b);
const quantile = (values, q) => values[Math.min(values.length - 1, Math.floor(values.length * q))];

/**
 * Each opens a source of streams: `open(parts)` is an async iterable of decoded parts, and `close()` ends it.
 */
const sources = {
  async ipc() {
    const client = await connected(host, port);
    async function* open(parts) {
      for await (const { payload } of client.stream('tokens', { parts })) yield payload;
    }
    return { open, close: () => client.close() };
  },
  async nats() {
    const { connect, JSONCodec, RequestStrategy } = require('nats');
    const connection = await connect({ servers: address });
    const json = JSONCodec();
    async function* open(parts) {
      const answers = await connection.requestMany('tokens', json.encode({ parts }),
        { strategy: RequestStrategy.SentinelMsg, maxWait: 60_000 });
      for await (const { data } of answers) {
        // The empty message is the end.
        if (data.length > 0) yield json.decode(data);
      }
    }
    return { open, close: () => connection.close() };
  },
  async grpc() {
    const grpc = require('@grpc/grpc-js');
    const client = new grpc.Client(address, grpc.credentials.createInsecure());
    const encode = (value) => Buffer.from(JSON.stringify(value));
    const decode = (bytes) => JSON.parse(bytes);
    const open = (parts) => client.makeServerStreamRequest('/perf.Streams/Tokens', encode, decode, { parts });
    return { open, close: () => client.close() };
  },
};

/** Parts a second of streams side by side, each followed by the next, and the latencies to their first parts. */
async function parts() {
  const { open, close } = await sources[peer]();
  const warm = now() + WARM_UP_NANOS;
  const end = warm + MEASURE_NANOS;
  const latencies = [];
  let counted = 0;
  let cpu;
  let isOver = false;
  const lane = async () => {
    while (!isOver) {
      const began = now();
      let index = 0;
      for await (const part of open(PARTS)) {
        const at = now();
        if (part.index !== index || part.token !== TOKEN) throw new Error(`part ${index} is ${JSON.stringify(part)}`);
        if (index === 0 && began >= warm && at < end) latencies.push(at - began);
        index += 1;
        if (at >= warm && at < end) {
          cpu ??= process.cpuUsage();
          counted += 1;
        } else if (at >= end && !isOver) {
          isOver = true;
          cpu = process.cpuUsage(cpu);
        }
      }
      if (index !== PARTS) throw new Error(`a stream had ${index} parts`);
    }
  };
  await Promise.all(Array.from({ length: STREAMS }, lane));
  await close();
  const perSecond = counted / (MEASURE_NANOS / 1e9);
  const busy = (cpu.user + cpu.system) * 1e3 / MEASURE_NANOS;
  return { figures: { per_second: perSecond, generator_busy: busy }, latency_nanos: latencies };
}

/**
 * The time from the end of a requester's connection, in the middle of a stream, until its worker knows, by the clock
 * that all processes of a machine share; and the round trip of a request to the same worker.
 */
async function leaving() {
  const asks = await connected(host, port);
  const trips = [];
  const times = [];
  const warm = now() + WARM_UP_NANOS;
  const end = warm + MEASURE_NANOS;
  for (let round = 0; now() < end || times.length < ROUNDS_MIN; round += 1) {
    const isCounted = now() >= warm;
    const id = `${process.pid}-${round}`;
    const began = now();
    await asks.sendRequest('echo-of-worker', id);
    if (isCounted) trips.push(now() - began);
    const socket = await inMiddleOfStream(id);
    const left = now();
    // Nothing is said before, as when a process is killed.
    socket.destroy();
    const known = (await asks.sendRequest('known', id)).payload;
    if (isCounted) times.push(known - left);
  }
  await asks.close();
  const [trip, tail] = [0.5, 0.99].map((q) => quantile(sorted(trips), q));
  return {
    figures: {
      round_trip_us: trip / 1e3,
      round_trip_p99_us: tail / 1e3,
      round_trips_to_know: quantile(sorted(times), 0.99) / trip,
    },
    latency_nanos: times,
  };
}

/** Asks for an endless stream over a socket of its own, and resolves with the socket when the first part is there. */
function inMiddleOfStream(id) {
  const socket = net.connect({ host, port, noDelay: true });
  const send = (channel, payload, more) => {
    const message = { message_id: id, app_id: 'bench', channel_id: channel, message_type: 'request', payload,
      timestamp: Date.now() / 1e3, reply_to: null, ...more };
    const body = Buffer.from(JSON.stringify(message));
    const header = Buffer.alloc(4);
    header.writeUInt32BE(body.length);
    socket.write(Buffer.concat([header, body]));
  };
  send('system', { action: 'connect', connection_id: id, extensions: ['call'] });
  send('endless', id, { meta: { stream: 1 } });
  return new Promise((resolve, reject) => {
    let text = '';
    socket.on('data', (bytes) => {
      text += bytes.toString('latin1');
      if (text.includes('"seq"')) resolve(socket);
      else if (text.includes('"error"')) reject(new Error(text));
    });
    socket.once('error', reject);
  });
}

async function main() {
  const worker = python === undefined ? null
    : await startWorker({ script: 'streams.py', peer, address, python, serverCpu });
  try {
    return await { parts, leaving }[work]();
  } finally {
    worker?.kill();
  }
}

reportOf(main());
