'use strict';

// Makes the ES modules of this package from its CommonJS modules, which are its source: `node build.js`. npm runs it
// after `npm ci` here, before it packs, and when a project installs this directory, so it needs nothing but Node.js.
// The modules all have the same few forms of `require` and `module.exports`, and anything else is an error.
//
// Both kinds of a module have the same file name, because npm sorts a tarball by it: the second is then hardly anything
// to a compressor that has just seen the first, and the tarball has half the size.

const fs = require('node:fs');
const path = require('node:path');

const OUT = path.join(__dirname, 'esm');

/** Returns a CommonJS module as an ES module. */
function translated(source, file) {
  const code = source
    .replace(/^'use strict';\n+/, '')
    .replace(/^const (\{[^}]*\}|\w+) = require\('([^']+)'\);$/gm, (all, names, from) => {
      const isOwn = from.startsWith('.');
      if (isOwn && !names.startsWith('{')) throw new Error(`${file}: take names from ${from}, not the whole module`);
      return `import ${names.replace(/(\w+): (\w+)/g, '$1 as $2')} from '${from}';`;
    })
    .replace(/^module\.exports = (\{[^}:]*\});$/gm, 'export $1;');
  for (const left of ['require(', 'module.exports', 'exports.', '__dirname', '__filename']) {
    if (code.includes(left)) throw new Error(`${file}: no ES module has ${left}`);
  }
  return code;
}

function build() {
  fs.rmSync(OUT, { recursive: true, force: true });
  fs.mkdirSync(path.join(OUT, 'lib'), { recursive: true });
  const files = ['index.js', ...fs.readdirSync(path.join(__dirname, 'lib')).map((name) => `lib/${name}`)];
  for (const file of files) {
    let code = translated(fs.readFileSync(path.join(__dirname, file), 'utf8'), file);
    // `import ipc from 'ipc-framework'` gives everything at once, as `require` does.
    if (file === 'index.js') code += `\nexport default ${/^export (\{[^}]*\});$/m.exec(code)[1]};\n`;
    fs.writeFileSync(path.join(OUT, file), code);
  }
  fs.writeFileSync(path.join(OUT, 'package.json'), '{ "type": "module", "sideEffects": false }\n');
}

build();
