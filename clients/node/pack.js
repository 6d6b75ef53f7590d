'use strict';

// Makes the folder that is published: `node pack.js FOLDER`, then `npm pack FOLDER`. It has the modules without their
// comments, which are a quarter of the tarball and of no use to who installs it: editors show those of the declarations.
// It has no scripts either, of which npm warns whoever installs it, and not the tools of the tests.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const HERE = __dirname;

/** Returns a module without the comments that have lines of their own; here no text has lines that look like these. */
function withoutComments(source) {
  return source
    .replace(/^[ \t]*\/\*\*(?:[^*]|\*(?!\/))*\*\/\n/gm, '')
    .replace(/^[ \t]*\/\/.*\n/gm, '')
    .replace(/\n{2,}/g, '\n');
}

function pack(folder) {
  const { scripts, devDependencies, ...manifest } = JSON.parse(fs.readFileSync(path.join(HERE, 'package.json'), 'utf8'));
  execFileSync(process.execPath, [path.join(HERE, 'build.js')]);
  fs.mkdirSync(folder, { recursive: true });
  for (const name of ['LICENSE', ...manifest.files]) {
    fs.cpSync(path.join(HERE, name), path.join(folder, name), { recursive: true });
  }
  fs.writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  for (const name of ['index.js', 'lib', 'esm']) strip(path.join(folder, name));
}

function strip(file) {
  if (fs.statSync(file).isDirectory()) {
    for (const name of fs.readdirSync(file)) strip(path.join(file, name));
  } else if (file.endsWith('.js')) {
    fs.writeFileSync(file, withoutComments(fs.readFileSync(file, 'utf8')));
  }
}

pack(path.resolve(process.argv[2]));
