'use strict';

// The programs of the README do what their comments say.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { Process, served } = require('./support.js');

const README = fs.readFileSync(path.resolve(__dirname, '../README.md'), 'utf8');
// Complete programs have a function `main`; the other examples are fragments.
const PROGRAMS = [...README.matchAll(/^#+ (.*)$|```js\n([^]*?)```/gm)].reduce((found, [, heading, code]) => {
  if (heading !== undefined) return { ...found, heading };
  if (code.includes('main();')) found.programs.push([found.heading, code]);
  return found;
}, { heading: '', programs: [] }).programs;

test('there are programs in the README', () => {
  assert.ok(PROGRAMS.length >= 3);
});

for (const [heading, program] of PROGRAMS) {
  test(`the program under "${heading}"`, async (t) => {
    const server = await served(t);
    const expected = [...program.matchAll(/console\.log\(.*\/\/ (.*)$/gm)].map(([, output]) => output);
    assert.ok(expected.length > 0);
    const running = program
      .replace("require('ipc-framework')", `require(${JSON.stringify(path.resolve(__dirname, '..'))})`)
      .replace("new IPCClient('bench')", `new IPCClient('bench', { port: ${server.port} })`);
    const child = new Process(process.execPath, ['--unhandled-rejections=strict', '-e', running]);
    const { code } = await child.wait();
    assert.equal(code, 0, child.output);
    assert.deepEqual(child.output.trim().split('\n'), expected);
  });
}
