'use strict';

// A tensor from Node to a handler in Python and back: `node tensors.js WORK PEER ADDRESS SECONDS SERVER_CPU PYTHON`.
// The worker is started on the server's processor. Prints the figures of one repetition, and single latencies in
// nanoseconds, as JSON.

const net = require('node:net');
const { Tensor } = require('../../clients/node');
const { connected, now, reportOf, startWorker } = require('./common.js');

const [work, peer, address, seconds, serverCpu, python] = process.argv.slice(2);
const [host, port] = [address.slice(0, address.lastIndexOf(':')), Number(address.slice(address.lastIndexOf(':') + 1))];
const MEASURE_NANOS = Number(seconds) * 1e9;
/** Time in which Node compiles what it runs often. */
const WARM_UP_NANOS = Math.max(5e8, MEASURE_NANOS / 4);
const HEADER_BYTES = 4;

/** The numbers of a picture of 224 by 224 pixels of three colours. */
const SHAPE = [224, 224, 3];
const picture = Float32Array.from({ length: SHAPE.reduce((a, b) => a * b) }, (_, at) => (at % 255) / 255);
const bytesOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

/** Each opens a way to send the picture there and back: `ask()` resolves with a Float32Array. */
const ways = {
  async ipc() {
    const client = await connected(host, port);
    const image = new Tensor({ dtype: 'f32', shape: SHAPE, data: picture });
    const ask = async () => (await client.sendRequest('tensor', { image })).payload.image.data;
    return { ask, close: () => client.close() };
  },
  async 'ipc-base64'() {
    const client = await connected(host, port);
    async function ask() {
      const answer = await client.sendRequest('tensor', { image: bytesOf(picture).toString('base64'), shape: SHAPE });
      const bytes = Buffer.from(answer.payload.image, 'base64');
      return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    }
    return { ask, close: () => client.close() };
  },
  /** The floor: the same bytes over sockets of which a relay joins two. */
  async sockets() {
    const socket = net.connect({ host, port, noDelay: true });
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32BE(picture.byteLength);
    let whole;
    let filled = 0;
    let answer;
    socket.on('data', (chunk) => {
      let rest = chunk;
      if (whole === undefined) {
        whole = Buffer.from(new ArrayBuffer(picture.byteLength));
        rest = rest.subarray(HEADER_BYTES);
      }
      rest.copy(whole, filled);
      filled += rest.length;
      if (filled === whole.length) {
        const { buffer } = whole;
        [whole, filled] = [undefined, 0];
        answer(new Float32Array(buffer));
      }
    });
    const ask = () => new Promise((resolve) => {
      answer = resolve;
      socket.cork();
      socket.write(header);
      socket.write(bytesOf(picture));
      socket.uncork();
    });
    return { ask, close: () => socket.destroy() };
  },
};

async function picturesThereAndBack() {
  const { ask, close } = await ways[peer]();
  const warm = now() + WARM_UP_NANOS;
  const end = warm + MEASURE_NANOS;
  const latencies = [];
  for (let began = now(); began < end; began = now()) {
    const answer = await ask();
    const at = now();
    if (answer.length !== picture.length || answer[1_000] !== picture[1_000]) throw new Error('the answer is another');
    if (began >= warm) latencies.push(at - began);
  }
  await close();
  return { figures: { per_second: latencies.length / (MEASURE_NANOS / 1e9) }, latency_nanos: latencies };
}

async function main() {
  const worker = await startWorker({ script: 'tensors.py', peer, address, python, serverCpu });
  try {
    return await { picture: picturesThereAndBack }[work]();
  } finally {
    worker.kill();
  }
}

reportOf(main());
