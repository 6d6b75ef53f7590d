'use strict';

// The real servers as subprocesses, and what the tests need around them.

const { spawn, spawnSync } = require('node:child_process');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { IPCClient } = require('../index.js');
const { FrameReader, decodeBody, encodeBody, encodeFrames } = require('../lib/codec.js');

const REPO = path.resolve(__dirname, '../../..');
const BINARY = process.env.IPC_BIN ?? path.join(REPO, 'target/debug/ipc');
// The same program with NATS, which is no default feature of it, and NATS' own server.
const NATS_BINARY = process.env.IPC_NATS_BIN ?? path.join(REPO, 'target/ipc-nats');
const NATS_SERVER = process.env.IPC_TEST_NATS ?? path.join(REPO, 'target/nats/nats-server');
const PYTHON = path.join(REPO, 'target/interop-venv/bin/python');
// A ceiling to find what hangs, not an expectation.
const STEP_MS_MAX = 60_000;

const running = new Set();
// Whatever ends a test file early must not leave its servers behind.
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/** A subprocess whose output is collected, and which does not outlive the tests. */
class Process {
  constructor(command, args, options = {}) {
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options });
    this.output = '';
    running.add(this.child);
    this.exited = new Promise((resolve) => {
      this.child.on('close', (code, signal) => {
        running.delete(this.child);
        resolve({ code, signal });
      });
      this.child.on('error', (error) => {
        this.output += String(error);
        resolve({ code: null, signal: null });
      });
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding('utf8');
      stream.on('data', (text) => { this.output += text; });
    }
  }

  async expect(pattern, ms = STEP_MS_MAX) {
    let ended = false;
    void this.exited.then(() => { ended = true; });
    const deadline = performance.now() + ms;
    for (;;) {
      const match = pattern.exec(this.output);
      if (match !== null) return match;
      if (ended || performance.now() > deadline) {
        throw new Error(`${ended ? 'ended' : 'waited'} without ${pattern} in the output:\n${this.output}`);
      }
      await sleep(10);
    }
  }

  async wait(ms = STEP_MS_MAX) {
    const timeout = setTimeout(() => this.child.kill('SIGKILL'), ms);
    const result = await this.exited;
    clearTimeout(timeout);
    return result;
  }

  async kill(signal = 'SIGKILL') {
    this.child.kill(signal);
    // One that was stopped would never take note of anything else.
    if (signal !== 'SIGKILL') this.child.kill('SIGCONT');
    return this.exited;
  }
}

// Another process that runs tests begins elsewhere.
let nextPort = (process.pid * 37) % 10_000;

/**
 * A port that stays free, so that a server can be started there again. The kernel gives these to nobody who asks for
 * any port; other tests make thousands of connections, which could take such a port in between.
 */
async function freePort() {
  for (;;) {
    const port = 20_000 + (nextPort % 10_000);
    nextPort += 1;
    const isFree = await new Promise((resolve) => {
      const probe = net.createServer().once('error', () => resolve(false));
      probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}

/** `ipc serve --demo` of this repository. */
async function startServer({ port, args = [], env = {}, binary = BINARY } = {}) {
  if (!fs.existsSync(binary)) {
    throw new Error(`${binary} is missing: run \`cargo build --features cli\`, or set IPC_BIN to a built \`ipc\``);
  }
  const server = new Process(binary, ['serve', '--demo', '--port', String(port ?? await freePort()), ...args],
    { env: { ...process.env, ...env } });
  const [, found] = await server.expect(/listening on 127\.\d+\.\d+\.\d+:(\d+)/);
  server.port = Number(found);
  server.client = (app = 'bench', options = {}) => new IPCClient(app, { port: server.port, ...options });
  return server;
}

/** The unmodified server of the PyPI package, with the handlers of tests/interop/published_server.py. */
async function startPublished({ port } = {}) {
  if (!fs.existsSync(PYTHON)) {
    throw new Error(`${PYTHON} is missing: run \`python3 tests/interop/run.py\`, which makes it`);
  }
  const env = { ...process.env, PYTHONNOUSERSITE: '1', PYTHONUNBUFFERED: '1' };
  delete env.PYTHONPATH;
  const program = path.join(REPO, 'tests/interop/published_server.py');
  const server = new Process(PYTHON, [program, String(port ?? await freePort()), 'my_app', 'shop', 'raw_app'], { env });
  const [, found] = await server.expect(/listening on 127\.0\.0\.1:(\d+)/);
  server.port = Number(found);
  server.client = (app = 'my_app', options = {}) => new IPCClient(app, { port: server.port, ...options });
  return server;
}

/** A server of this project, killed after the test. */
async function served(t, options) {
  const server = await startServer(options);
  t.after(() => server.kill());
  return server;
}

/**
 * The arguments of a server that keeps so many messages of channels that match a pattern, in the application `bench`;
 * of each no more than `bytes`.
 */
function withHistories(t, histories, bytes = '4MiB') {
  const file = path.join(temporaryDirectory(t), 'ipc.toml');
  fs.writeFileSync(file, Object.entries(histories).map(([channel, messages]) => (
    `[[history]]\napp = "bench"\nchannel = ${JSON.stringify(channel)}\nmessages = ${messages}\n`
    + `bytes = "${bytes}"\n`)).join('\n'));
  return ['--config', file];
}

/** NATS' own server. */
async function startNats() {
  if (!fs.existsSync(NATS_SERVER)) {
    throw new Error(`${NATS_SERVER} is missing: run tests/nats-server, or set IPC_TEST_NATS`);
  }
  const port = await freePort();
  const nats = new Process(NATS_SERVER, ['--addr', '127.0.0.1', '--port', String(port)]);
  await nats.expect(/Server is ready/);
  return Object.assign(nats, { port });
}

/** A server that joins the others at the same NATS. */
function startJoined(nats, { port } = {}) {
  if (!fs.existsSync(NATS_BINARY)) {
    throw new Error(`${NATS_BINARY} is missing: run \`cargo build --features cli,nats\`, and set IPC_NATS_BIN to the program`);
  }
  return startServer({ port, binary: NATS_BINARY, args: ['--nats', `nats://127.0.0.1:${nats.port}`] });
}

/** The server of the PyPI package, killed after the test. */
async function servedPublished(t, options) {
  const server = await startPublished(options);
  t.after(() => server.kill());
  return server;
}

/** The client or pool, disconnected after the test. */
function closed(t, client) {
  t.after(() => client.disconnect());
  return client;
}

/** The client or pool, connected, and disconnected after the test. */
async function joined(t, client) {
  closed(t, client);
  assert.equal(await client.connect(), true, String(client.lastError));
  return client;
}

/** A server of this project and a connected client of it, both gone after the test. */
async function connected(t, options) {
  const server = await served(t);
  return { server, client: await joined(t, server.client('bench', options)) };
}

/** A client that nobody serves. */
function unconnected(t, options) {
  return closed(t, new IPCClient('bench', options));
}

/** What comes with each event of this name. */
function collected(emitter, event) {
  const values = [];
  emitter.on(event, (value) => values.push(value));
  return values;
}

/** The address of a web server with this handler. */
async function web(t, handler) {
  const server = http.createServer(handler).listen(0, '127.0.0.1');
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  await once(server, 'listening');
  return `http://127.0.0.1:${server.address().port}`;
}

/**
 * A peer that welcomes every connection in the name of this project's server, for what the real one never does. `onOpen`
 * gets the peer's side of each, and `onMessage` the messages after connect. `grant` is added to the answer to connect.
 * Returns the port, and all sides so far, each with the client's message to connect.
 */
async function peer(t, { onOpen = () => {}, onMessage = () => {}, grant = {} } = {}) {
  const sides = [];
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    const reader = new FrameReader(64 << 20);
    const side = {
      socket,
      sent: 0,
      send(type, channel, payload, replyTo = null, meta = undefined, id = `peer-${side.sent += 1}`) {
        const body = encodeBody(id, '"bench"', JSON.stringify(channel), type, JSON.stringify(payload), replyTo,
          JSON.stringify(meta));
        socket.write(encodeFrames([body], Buffer.byteLength(body)));
      },
    };
    sides.push(side);
    let isOpen = false;
    socket.on('data', (chunk) => reader.feed(chunk, (buffer, start, end) => {
      const message = decodeBody(buffer, start, end);
      if (isOpen) {
        onMessage(message, side);
        return true;
      }
      isOpen = true;
      side.connect = message;
      side.send('response', 'system', { status: 'connected', server: 'ipc-framework/0', ...grant });
      onOpen(side);
      return true;
    }));
  }).listen(0, '127.0.0.1');
  t.after(() => {
    server.close();
    for (const { socket } of sides) socket.destroy();
  });
  await once(server, 'listening');
  return { port: server.address().port, sides };
}

/** What the process warns of during a test. */
function warnings(t) {
  const warned = [];
  const onWarning = (warning) => warned.push(warning.message);
  process.on('warning', onWarning);
  t.after(() => process.off('warning', onWarning));
  return warned;
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function eventually(what, condition, ms = STEP_MS_MAX) {
  const deadline = performance.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (performance.now() > deadline) throw new Error(`never happened: ${what}`);
    await sleep(10);
  }
}

/** The arguments of an emitter's next event. `events.once` would fail at an `error` that comes before it. */
function once(emitter, event) {
  return new Promise((resolve) => emitter.once(event, (...values) => resolve(values)));
}

/** A directory of its own, removed after the test. */
function temporaryDirectory(t) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ipc-node-'));
  // A browser's other processes may still write for a moment.
  t.after(() => fs.rmSync(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));
  return directory;
}

/**
 * An authority, a server's and a client's certificate of it, in PEM files; the paths by name. `days` and `name` are of
 * the server's.
 */
function certificates(t, { days = 30, name = 'DNS:localhost' } = {}) {
  const directory = temporaryDirectory(t);
  const paths = {};
  for (const file of ['ca.pem', 'ca.key', 'server.pem', 'server.key', 'client.pem', 'client.key']) {
    paths[file] = path.join(directory, file);
  }
  const openssl = (...args) => {
    const { status, error, stderr } = spawnSync('openssl', args);
    if (status !== 0) throw new Error(`openssl, which makes certificates for tests: ${error ?? stderr}`);
  };
  const request = (who, out, ...args) => openssl('req', '-config', '/dev/null', '-newkey', 'ec', '-pkeyopt',
    'ec_paramgen_curve:P-256', '-noenc', '-subj', `/CN=${who}`, '-keyout', paths[`${who}.key`], '-out', out, ...args);
  const sign = (who, daysLeft, extension) => {
    const unsigned = path.join(directory, `${who}.csr`);
    request(who, unsigned, '-addext', extension);
    openssl('x509', '-req', '-in', unsigned, '-CA', paths['ca.pem'], '-CAkey', paths['ca.key'], '-days',
      String(daysLeft), '-copy_extensions', 'copy', '-out', paths[`${who}.pem`]);
  };
  request('ca', paths['ca.pem'], '-x509', '-addext', 'basicConstraints=critical,CA:TRUE');
  sign('server', days, `subjectAltName=${name}`);
  sign('client', 30, 'extendedKeyUsage=clientAuth');
  return paths;
}

module.exports = {
  REPO, BINARY, PYTHON, STEP_MS_MAX, Process, startServer, startPublished, served, withHistories, servedPublished, closed, joined,
  connected, unconnected, startNats, startJoined, peer, collected, web, warnings, sleep, eventually, temporaryDirectory, once, certificates,
};
