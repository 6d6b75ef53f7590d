'use strict';

// The quick start does what its comments say.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { Process, served } = require('./support.js');

test('the quick start of the README', async (t) => {
  const server = await served(t);
  const readme = fs.readFileSync(path.resolve(__dirname, '../README.md'), 'utf8');
  const [, program] = /```js\n([^]*?)```/.exec(readme);
  const expected = [...program.matchAll(/console\.log\(.*\/\/ (.*)$/gm)].map(([, output]) => output);
  assert.equal(expected.length, 3);
  const running = program
    .replace("require('ipc-framework')", `require(${JSON.stringify(path.resolve(__dirname, '..'))})`)
    .replace("new IPCClient('bench')", `new IPCClient('bench', { port: ${server.port} })`);
  const child = new Process(process.execPath, ['--unhandled-rejections=strict', '-e', running]);
  const { code } = await child.wait();
  assert.equal(code, 0, child.output);
  assert.deepEqual(child.output.trim().split('\n'), expected);
});
