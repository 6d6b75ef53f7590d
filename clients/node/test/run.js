'use strict';

// Runs the tests of this directory, one process each. `node test/run.js reconnect` runs those with that in the name.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const wanted = process.argv[2] ?? '';
const files = fs.readdirSync(__dirname)
  .filter((name) => name.endsWith('.test.js') && name.includes(wanted))
  .map((name) => path.join(__dirname, name));
if (files.length === 0) {
  console.error(`no test file has '${wanted}' in its name`);
  process.exit(1);
}
// A test that hangs fails. Node.js 18 does not know the option.
const [major, minor] = process.versions.node.split('.').map(Number);
const timeout = major > 20 || (major === 20 && minor >= 11) ? ['--test-timeout=600000'] : [];
const { status } = spawnSync(process.execPath, ['--test', ...timeout, ...files], { stdio: 'inherit' });
process.exit(status ?? 1);
