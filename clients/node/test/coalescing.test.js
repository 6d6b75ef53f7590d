'use strict';

// System calls, counted by strace from outside.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { Process, temporaryDirectory, served } = require('./support.js');

/** What a program wrote to its TCP socket, write by write in bytes, between its calls of `mark('a')` and `mark('b')`. */
async function writes(t, server, program) {
  assert.equal(spawnSync('strace', ['-V']).status, 0,
    'strace is missing: `apt-get install strace` on Debian');
  const log = path.join(temporaryDirectory(t), 'strace');
  const child = new Process('strace', ['-f', '-yy', '-qq', '-s', '16', '-e', 'trace=write,writev,sendto,sendmsg,access',
    '-o', log, process.execPath, '-e', `
    const fs = require('node:fs');
    const mark = (name) => { try { fs.accessSync('/mark-' + name); } catch {} };
    const { IPCClient } = require(${JSON.stringify(path.resolve(__dirname, '../index.js'))});
    const client = new IPCClient('bench', { port: ${server.port}, heartbeatInterval: 0 });
    (async () => {
      if (!await client.connect()) throw client.lastError;
      mark('a');
      ${program}
      mark('b');
      await client.close();
    })();`]);
  const { code } = await child.wait();
  assert.equal(code, 0, child.output);
  const lines = fs.readFileSync(log, 'utf8').split('\n');
  const [from, to] = ['a', 'b'].map((name) => lines.findIndex((line) => line.includes(`/mark-${name}`)));
  assert.ok(from !== -1 && to > from, 'both marks');
  const ours = lines.slice(from, to).filter((line) => /(write|writev|sendto|sendmsg)\(\d+<TCP/.test(line));
  return ours.map((line) => Number(/= (\d+)$/.exec(line)[1]));
}

test('all that one tick sends leaves in one write, and a message alone in one', async (t) => {
  const server = await served(t);
  const turn = 'await new Promise(setImmediate);';
  const one = await writes(t, server, `client.publish('nobody', 1); ${turn}`);
  assert.equal(one.length, 1);
  const hundred = await writes(t, server, `
    for (let n = 0; n < 50; n += 1) client.publish('nobody', 1);
    const answers = Array.from({ length: 50 }, () => client.sendRequest('echo', 1));
    await Promise.all(answers);`);
  assert.equal(hundred.length, 1, String(hundred));
  assert.ok(hundred[0] > 90 * one[0]);
  const three = await writes(t, server, `for (let n = 0; n < 3; n += 1) { client.publish('nobody', 1); ${turn} }`);
  assert.equal(three.length, 3);
});
