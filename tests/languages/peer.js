'use strict';

// Serves or asks as a program in Node.js: `node peer.js PORT serve CHANNEL`, `node peer.js PORT ask CHANNEL TABLE`.

const fs = require('node:fs');
const path = require('node:path');
const { IPCClient, Tensor } = require(path.resolve(__dirname, '../../clients/node'));

const [port, action, channel, table] = process.argv.slice(2);

/** What a program in this language has in its hands: a typed array of its own where there is one for the type. */
function made({ dtype, shape, data }) {
  const bytes = Buffer.from(data, 'hex');
  return dtype === null ? bytes : new Tensor({ dtype, shape, data: Uint8Array.from(bytes) });
}

function described(value) {
  if (Buffer.isBuffer(value)) return { dtype: null, shape: null, data: value.toString('hex') };
  const { buffer, byteOffset, byteLength } = value.data;
  return { dtype: value.dtype, shape: value.shape, data: Buffer.from(buffer, byteOffset, byteLength).toString('hex') };
}

async function main() {
  const client = new IPCClient('bench', { port });
  if (!await client.connect()) throw client.lastError;
  if (action === 'serve') {
    await client.serve(channel, ({ payload }) => ({ ...payload, again: [payload.value] }));
    console.log('serves');
    return;
  }
  const rows = JSON.parse(fs.readFileSync(table, 'utf8'));
  let alike = 0;
  for (const row of rows) {
    const { payload } = await client.sendRequest(channel, { name: 'ä', value: made(row) });
    const got = described(payload.again[0]);
    if (payload.name === 'ä' && JSON.stringify(got) === JSON.stringify(row)) alike += 1;
    else console.log(`${row.dtype} [${row.shape}] came back as`, got);
  }
  console.log(`${alike} of ${rows.length} alike`);
  await client.close();
}

main();
