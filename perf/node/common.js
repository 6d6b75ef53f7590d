'use strict';

// What the scripts of this folder share that measure Node beside a worker in Python.

const { spawn } = require('node:child_process');
const path = require('node:path');
const { IPCClient } = require('../../clients/node');

/** Nanoseconds of the clock that all processes of a machine share. */
const now = () => Number(process.hrtime.bigint());

/** Starts a worker of `perf/python` on the server's processor, and resolves when it serves. */
function startWorker({ script, peer, address, python, serverCpu }) {
  const file = path.join(__dirname, '../python', script);
  const worker = spawn('taskset', ['-c', serverCpu, python, file, peer, address],
    { stdio: ['ignore', 'pipe', 'inherit'] });
  const isReady = new Promise((resolve, reject) => {
    worker.stdout.once('data', resolve);
    worker.once('exit', (code) => reject(new Error(`the worker of ${peer} ended with ${code}`)));
    worker.once('error', reject);
  });
  return isReady.then(() => worker);
}

async function connected(host, port) {
  const client = new IPCClient('bench', { host, port });
  if (!await client.connect()) throw client.lastError;
  return client;
}

/** Prints the report that a promise resolves with, and ends the process: a peer may keep a timer. */
function reportOf(promise) {
  promise.then((report) => {
    console.log(JSON.stringify(report));
    process.exit();
  }, (error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = { connected, now, reportOf, startWorker };
