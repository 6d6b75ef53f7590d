'use strict';

// The Node client beside a bare `net` socket and the official `nats` client: `npm ci && node compare.js [rounds]`.
// Needs `cargo build --release --features cli` and nats-server. Every round gives each its turn, and the goals are
// judged by the median of the ratios of the same round.

const { spawn } = require('node:child_process');
const net = require('node:net');
const path = require('node:path');

const REPO = path.resolve(__dirname, '../..');
const SECONDS = 2;
const rounds = Number(process.argv[2] ?? 5);
const children = new Set();

/** Starts a process on one processor and resolves with what `pattern` finds in its output. */
function start(cpu, command, args, pattern) {
  const child = spawn('taskset', ['-c', String(cpu), command, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  children.add(child);
  child.on('exit', () => children.delete(child));
  const found = new Promise((resolve, reject) => {
    let output = '';
    const take = (text) => {
      output += text;
      const match = pattern.exec(output);
      if (match !== null) resolve(match);
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.on('close', () => reject(new Error(`${command} ${args.join(' ')} ended:\n${output}`)));
  });
  return found.then((match) => ({ child, match }));
}

async function measure(role, port) {
  const { match } = await start(1, process.execPath, [path.join(__dirname, 'part.js'), role, port, SECONDS], /\{.*\}/);
  return JSON.parse(match[0]);
}

async function freePort() {
  const probe = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => probe.once('listening', resolve));
  const { port } = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

const servers = {
  async ipc() {
    const { child, match } = await start(0, path.join(REPO, 'target/release/ipc'), ['serve', '--demo', '--port', '0'],
      /listening on 127\.\S+:(\d+)/);
    return { child, port: match[1] };
  },
  async nats() {
    const port = await freePort();
    const { child } = await start(0, 'nats-server', ['-a', '127.0.0.1', '-p', port], /Server is ready/);
    return { child, port };
  },
};

/** One measurement with a fresh server and, where one is named, a responder beside the server. */
async function run(server, role, responder) {
  const { child, port } = await servers[server]();
  try {
    let answering = null;
    if (responder) {
      const started = await start(0, process.execPath, [path.join(__dirname, 'part.js'), responder, port, 0], /ready/);
      answering = started.child;
    }
    const result = await measure(role, port);
    answering?.kill();
    return result;
  } finally {
    child.kill();
  }
}

const median = (values) => values.toSorted?.((a, b) => a - b)[values.length >> 1]
  ?? [...values].sort((a, b) => a - b)[values.length >> 1];
const spread = (values, digits) => `${median(values).toFixed(digits)} (${Math.min(...values).toFixed(digits)}..`
  + `${Math.max(...values).toFixed(digits)})`;

async function main() {
  const all = { bare: [], ipc: [], requests: [], nats: [], echo: [] };
  const turns = [
    async () => all.bare.push(await run('ipc', 'bare-trip')),
    async () => all.ipc.push(await run('ipc', 'ipc-trip')),
    async () => all.requests.push(await run('ipc', 'ipc-requests', 'ipc-responder')),
    async () => all.nats.push(await run('nats', 'nats-requests', 'nats-responder')),
    async () => all.echo.push(await run('ipc', 'ipc-echo')),
  ];
  for (let round = 0; round < rounds; round += 1) {
    for (let n = 0; n < turns.length; n += 1) await turns[(round + n) % turns.length]();
    console.error(`round ${round + 1} of ${rounds}`);
  }
  console.error(JSON.stringify(all));
  const trip = all.ipc.map(({ p50 }, n) => p50 / all.bare[n].p50);
  const tail = all.ipc.map(({ p99 }, n) => p99 / all.bare[n].p99);
  const rate = all.requests.map(({ perSecond }, n) => perSecond / all.nats[n].perSecond);
  console.log(`Node ${process.version}, ${rounds} rounds of ${SECONDS} s; medians (lowest..highest)

| what | figure |
|---|---|
| round trip p50, bare socket | ${spread(all.bare.map(({ p50 }) => p50), 1)} µs |
| round trip p50, client | ${spread(all.ipc.map(({ p50 }) => p50), 1)} µs |
| **ratio, at most 1.5** | ${spread(trip, 2)} |
| ratio of p99 | ${spread(tail, 2)} |
| request/reply to another Node process, 100 in flight, client | ${spread(all.requests.map((r) => r.perSecond), 0)} /s |
| the same, nats | ${spread(all.nats.map((r) => r.perSecond), 0)} /s |
| **ratio, at least 1** | ${spread(rate, 2)} |
| echo of the server itself, 100 in flight, client | ${spread(all.echo.map((r) => r.perSecond), 0)} /s |
`);
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
}).finally(() => {
  for (const child of children) child.kill();
});
