'use strict';

// Places where the global functions are not Node's own: tests with fake timers, jsdom, windows of Electron, other realms.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { Process, connected, served } = require('./support.js');

const CASES = {
  'a test with fake timers that never fire': {
    after: `
      const never = () => 1;
      Object.assign(globalThis, { setTimeout: never, setInterval: never, setImmediate: never, queueMicrotask: never });
      performance.now = () => 5;
      for (const name of ['clearTimeout', 'clearInterval', 'clearImmediate']) {
        globalThis[name] = () => { throw new Error('that is no timer of mine'); };
      }`,
  },
  'a window, whose timers are numbers': {
    before: `
      const { setTimeout, clearTimeout, setInterval } = globalThis;
      const timers = [];
      globalThis.setTimeout = (...values) => timers.push(setTimeout(...values));
      globalThis.setInterval = (...values) => timers.push(setInterval(...values));
      globalThis.clearTimeout = globalThis.clearInterval = (timer) => clearTimeout(timers[timer - 1]);
      for (const name of ['setImmediate', 'clearImmediate', 'TextDecoder', 'queueMicrotask']) delete globalThis[name];`,
  },
};
const MODULES = {
  CommonJS: `Promise.resolve(require(${JSON.stringify(path.resolve(__dirname, '../index.js'))}))`,
  ES: `import(${JSON.stringify(path.resolve(__dirname, '../esm/index.js'))})`,
};

for (const [where, { before = '', after = '' }] of Object.entries(CASES)) {
  for (const [format, load] of Object.entries(MODULES)) {
    test(`a client works in ${where}; ${format} modules`, async (t) => {
      const server = await served(t);
      const child = new Process(process.execPath, ['-e', `
        ${before}
        ${load}.then(async ({ IPCClient }) => {
          ${after}
          const client = new IPCClient('bench', { host: '127.0.0.1', port: ${server.port}, reconnectDelay: 10 });
          console.log('CONNECTED', await client.connect(), client.lastError);
          console.log('ANSWER', (await client.sendRequest('echo', '\\ufffd')).payload);
          await client.serve('silent', () => new Promise(() => {}));
          console.log('SILENT', await client.sendRequest('silent', 1, 50).catch(({ code }) => code));
          const ended = client.subscribe('news', { signal: AbortSignal.abort() });
          console.log('ENDED', await ended.next().catch(({ code }) => code));
          const again = new Promise((resolve) => client.once('connected', resolve));
          client.connection.socket.destroy();
          await again;
          console.log('AGAIN', await client.ping());
          await client.close({ timeout: 100 });
          console.log('CLOSED');
        });`]);
      t.after(() => child.kill());
      await child.expect(/CLOSED/);
      assert.match(child.output, /CONNECTED true null\nANSWER \ufffd\nSILENT TIMEOUT\nENDED ABORTED\nAGAIN true/);
      assert.deepEqual(await child.wait(), { code: 0, signal: null });
    });
  }
}

test('an error of another realm keeps its text', async (t) => {
  const { client } = await connected(t);
  const vm = require('node:vm');
  await client.serve('fails', () => vm.runInNewContext('throw new RangeError("too far")'));
  await assert.rejects(client.sendRequest('fails', 1), { code: 'handler_failed', message: 'too far' });
});

test('only lib/timers.js names timers, and takes them from Node', () => {
  const lib = path.resolve(__dirname, '../lib');
  const timers = /(?<![\w.])((set|clear)(Timeout|Interval|Immediate)|queueMicrotask|process\.nextTick|performance\.now)\(/;
  const users = fs.readdirSync(lib).filter((file) => timers.test(fs.readFileSync(path.join(lib, file), 'utf8')));
  assert.deepEqual(users, ['timers.js']);
});
