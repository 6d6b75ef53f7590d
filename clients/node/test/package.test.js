'use strict';

// What `npm pack` would publish.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { REPO } = require('./support.js');

const HERE = path.resolve(__dirname, '..');

test('the tarball has the licence, the documents and the library, and nothing else', () => {
  const [{ files }] = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json', '--silent'], { cwd: HERE }));
  const packed = files.map((file) => file.path).sort();
  const library = fs.readdirSync(path.join(HERE, 'lib')).map((name) => `lib/${name}`);
  assert.deepEqual(packed, ['LICENSE', 'MIGRATING.md', 'README.md', 'express.d.ts', 'index.d.mts', 'index.d.ts',
    'index.js', 'index.mjs', 'package.json', ...library].sort());
  assert.equal(fs.readFileSync(path.join(HERE, 'LICENSE'), 'utf8'),
    fs.readFileSync(path.join(REPO, 'LICENSE'), 'utf8'));
});
