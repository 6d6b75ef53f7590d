'use strict';

// What `npm pack` would publish, and what runtimes, bundlers and the checkers of packages make of it.

const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { REPO, Process, served } = require('./support.js');

const HERE = path.resolve(__dirname, '..');
const LIBRARY = fs.readdirSync(path.join(HERE, 'lib')).map((name) => `lib/${name}`);
const MODULES = ['index.js', ...LIBRARY].map((name) => `esm/${name}`);

// Prints what an error of the server is called, and what it is an instance of.
const BODY = `
  const client = new IPCClient('bench', { port: Number(process.argv[2]) });
  if (!await client.connect()) throw client.lastError;
  const error = await client.sendRequest('nobody', 1).catch((thrown) => thrown);
  const lost = await client.sendRequest('echo', NaN).catch((thrown) => thrown);
  const { payload } = await client.sendRequest('echo', 7);
  await client.close();
  console.log(JSON.stringify([error.name, error instanceof ServerError, error instanceof IPCError, lost.name, payload,
    typeof ipcProxy, client.constructor.name]));`;
const IMPORTS = `import { IPCClient, IPCError, ServerError } from 'ipc-framework';
import { ipcProxy } from 'ipc-framework/express';`;
const REQUIRES = `const { IPCClient, IPCError, ServerError } = require('ipc-framework');
const { ipcProxy } = require('ipc-framework/express');`;
const MODULE = `${IMPORTS}\n${BODY}`;
const COMMON = `${REQUIRES}\n(async () => {${BODY}})();`;
const EXPECTED = ['ServerError', true, true, 'FrameError', 7, 'function', 'IPCClient'];

describe('the package', () => {
  let project;
  let tarball;
  let installed;
  let packed;
  let bytes;
  before(() => {
    project = fs.mkdtempSync(path.join(os.tmpdir(), 'ipc-node-'));
    const folder = path.join(project, 'published');
    execFileSync(process.execPath, [path.join(HERE, 'pack.js'), folder]);
    const output = execFileSync('npm', ['pack', '--json', '--silent', '--pack-destination', project], { cwd: folder });
    const [{ files, filename, size }] = JSON.parse(output);
    packed = files.map((file) => file.path).sort();
    bytes = size;
    tarball = path.join(project, filename);
    const dependencies = { 'ipc-framework': `file:${tarball}` };
    fs.writeFileSync(path.join(project, 'package.json'), JSON.stringify({ name: 'user', private: true, dependencies }));
    execFileSync('npm', ['install', '--offline', '--no-audit', '--no-fund', '--silent'], { cwd: project });
    installed = path.join(project, 'node_modules/ipc-framework');
    fs.writeFileSync(path.join(project, 'module.mjs'), MODULE);
    fs.writeFileSync(path.join(project, 'common.cjs'), COMMON);
    // A CommonJS module has no `await` at its top.
    fs.writeFileSync(path.join(project, 'wrapped.mjs'), `${IMPORTS}\n(async () => {${BODY}})();`);
  });
  after(() => fs.rmSync(project, { recursive: true, force: true }));

  /** Runs a program of the project against a server, and returns what it printed. */
  const run = async (t, file, port) => {
    const child = new Process(process.execPath, ['--no-warnings', file, String(port)], { cwd: project });
    const { code } = await child.wait();
    assert.equal(code, 0, `${file}: ${child.output}`);
    return JSON.parse(child.output);
  };

  test('the tarball has the licence, the documents and the library, and nothing else', () => {
    assert.deepEqual(packed, ['LICENSE', 'MIGRATING.md', 'README.md', 'esm/package.json', 'express.d.mts', 'express.d.ts', 'index.d.mts',
      'index.d.ts', 'index.js', 'package.json', ...LIBRARY, ...MODULES].sort());
    assert.equal(fs.readFileSync(path.join(HERE, 'LICENSE'), 'utf8'),
      fs.readFileSync(path.join(REPO, 'LICENSE'), 'utf8'));
  });

  test('the tarball is small', () => assert.ok(bytes < 100_000, `${bytes} bytes`));

  test('its modules are those of the source, but for the comments', () => {
    const { transformSync } = require('esbuild');
    const code = (directory, file) => transformSync(fs.readFileSync(path.join(directory, file), 'utf8'),
      { minifyWhitespace: true, legalComments: 'none' }).code;
    for (const file of ['index.js', ...LIBRARY, ...MODULES]) {
      assert.equal(code(installed, file), code(HERE, file), file);
      assert.doesNotMatch(fs.readFileSync(path.join(installed, file), 'utf8'), /^\s*\/[/*]/m, file);
    }
  });

  test('nothing runs when it is installed', () => {
    const manifest = JSON.parse(fs.readFileSync(path.join(installed, 'package.json'), 'utf8'));
    assert.deepEqual([manifest.scripts, manifest.dependencies, manifest.devDependencies], [undefined, undefined, undefined]);
  });

  test('its documents link to nothing that it lacks', () => {
    for (const name of ['README.md', 'MIGRATING.md']) {
      const text = fs.readFileSync(path.join(installed, name), 'utf8');
      const headings = [...text.matchAll(/^#+ (.*)$/gm)]
        .map(([, heading]) => heading.toLowerCase().replace(/[^\w\- ]/g, '').replaceAll(' ', '-'));
      for (const [, link] of text.matchAll(/\]\(([^)]+)\)/g)) {
        if (/^https?:/.test(link)) continue;
        const [file, anchor] = link.split('#');
        if (file === '') assert.ok(headings.includes(anchor), `${name}: ${link}`);
        else assert.ok(fs.existsSync(path.join(installed, file)), `${name}: ${link}`);
      }
    }
  });

  test('its ES modules are ES modules, behind which there is no require', () => {
    for (const file of MODULES) {
      const source = fs.readFileSync(path.join(installed, file), 'utf8');
      assert.doesNotMatch(source, /\brequire\(|module\.exports|createRequire/, file);
      for (const [, from] of source.matchAll(/from '([^']+)'/g)) assert.match(from, /^(node:|\.\.?\/.*\.js$)/, file);
    }
  });

  test('import and require give the same names, whose instances know each other', async () => {
    const required = require(installed);
    const imported = await import(path.join(installed, 'esm/index.js'));
    const express = await import(path.join(installed, 'esm/lib/express.js'));
    assert.deepEqual(Object.keys(imported).filter((name) => name !== 'default').sort(), Object.keys(required).sort());
    assert.deepEqual(Object.keys(imported.default).sort(), Object.keys(required).sort());
    assert.equal(express.ipcProxy, imported.ipcProxy);
    for (const [ours, theirs] of [[required, imported], [imported, required]]) {
      const error = new ours.ConnectionLostError('x');
      for (const name of ['ConnectionLostError', 'NotConnectedError', 'IPCError']) {
        assert.ok(error instanceof theirs[name], name);
      }
      assert.ok(!(error instanceof theirs.TimeoutError));
      assert.ok(new ours.IPCClient('a') instanceof theirs.IPCClient);
      assert.ok(new ours.IPCPool('a') instanceof theirs.IPCPool);
      assert.ok(new ours.Message({}) instanceof theirs.Message);
    }
  });

  test('programs import and require it', async (t) => {
    const { port } = await served(t);
    assert.deepEqual(await run(t, 'module.mjs', port), EXPECTED);
    assert.deepEqual(await run(t, 'common.cjs', port), EXPECTED);
  });

  for (const [entry, format] of [['module.mjs', 'esm'], ['wrapped.mjs', 'cjs'], ['common.cjs', 'cjs']]) {
    for (const minify of [false, true]) {
      test(`esbuild: ${entry} as ${format}${minify ? ', minified' : ''}`, async (t) => {
        const { port } = await served(t);
        const outfile = path.join(project, `esbuild.${format === 'esm' ? 'mjs' : 'cjs'}`);
        await require('esbuild').build({
          entryPoints: [path.join(project, entry)], bundle: true, platform: 'node', format, minify, outfile, logLevel: 'silent',
        });
        if (format === 'esm') assert.doesNotMatch(fs.readFileSync(outfile, 'utf8'), /__require|createRequire/);
        assert.deepEqual(await run(t, outfile, port), EXPECTED);
      });
    }
  }

  test('esbuild leaves out what a program does not use', async () => {
    const { outputFiles: [{ text }] } = await require('esbuild').build({
      stdin: { contents: "import { IPCClient } from 'ipc-framework'; console.log(IPCClient);", resolveDir: project },
      bundle: true, platform: 'node', format: 'esm', write: false,
    });
    assert.doesNotMatch(text, /EventStream|text\/event-stream|class IPCPool/);
  });

  test('rollup', async (t) => {
    const { rollup } = require('rollup');
    const { nodeResolve } = require('@rollup/plugin-node-resolve');
    const warned = [];
    const bundle = await rollup({
      input: path.join(project, 'module.mjs'), external: /^node:/, plugins: [nodeResolve()],
      onwarn: ({ message }) => warned.push(message),
    });
    const file = path.join(project, 'rollup.mjs');
    await bundle.write({ file, format: 'es' });
    await bundle.close();
    assert.deepEqual(warned, []);
    const { port } = await served(t);
    assert.deepEqual(await run(t, file, port), EXPECTED);
  });

  for (const [entry, isModule] of [['module.mjs', true], ['common.cjs', false]]) {
    test(`webpack, minified, from ${entry}`, async (t) => {
      const webpack = require('webpack');
      const filename = `webpack.${isModule ? 'mjs' : 'cjs'}`;
      const stats = await new Promise((resolve, reject) => webpack({
        mode: 'production', target: 'node18', entry: path.join(project, entry),
        output: { path: project, filename, ...(isModule ? { module: true, chunkFormat: 'module' } : {}) },
        experiments: { outputModule: isModule },
      }, (error, result) => (error ? reject(error) : resolve(result))));
      assert.deepEqual(stats.toJson({ all: false, errors: true, warnings: true }).errors, []);
      const { port } = await served(t);
      assert.deepEqual(await run(t, filename, port), EXPECTED);
    });
  }

  test('publint finds nothing', async () => {
    const { publint } = await import('publint');
    const { formatMessage } = await import('publint/utils');
    const { messages, pkg } = await publint({ pkgDir: installed, pack: false, strict: true });
    assert.deepEqual(messages.map((message) => formatMessage(message, pkg, { color: false })), []);
  });

  test('the types are right for whoever resolves them (attw)', () => {
    // It needs Node.js 20, also where the tests run with 18.
    const attw = path.join(HERE, 'node_modules/.bin/attw');
    const { status, stdout, stderr } = spawnSync('node', [attw, tarball, '--no-color', '--no-emoji', '--format', 'ascii']);
    assert.equal(status, 0, `${stdout}${stderr}`);
  });

  test('a directory that is installed as it is makes its ES modules itself', async (t) => {
    const clone = path.join(project, 'clone');
    for (const file of ['package.json', 'build.js', 'index.js', 'index.d.ts', ...LIBRARY]) {
      fs.cpSync(path.join(HERE, file), path.join(clone, file));
    }
    const user = path.join(project, 'user');
    fs.mkdirSync(user);
    const dependencies = { 'ipc-framework': `file:${clone}` };
    fs.writeFileSync(path.join(user, 'package.json'), JSON.stringify({ name: 'user', private: true, dependencies }));
    execFileSync('npm', ['install', '--offline', '--no-audit', '--no-fund', '--silent'], { cwd: user });
    fs.writeFileSync(path.join(user, 'module.mjs'), MODULE);
    const { port } = await served(t);
    assert.deepEqual(await run(t, path.join(user, 'module.mjs'), port), EXPECTED);
  });
});
