'use strict';

// Each worker thread has a client of its own; they end without being stopped.

const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');
const { IPCClient } = require('ipc-framework');

async function work() {
  const client = new IPCClient('bench', { port: Number(process.env.IPC_PORT) });
  if (!await client.connect()) throw client.lastError;
  parentPort.postMessage((await client.sendRequest('echo', workerData)).payload);
  await client.close();
}

async function main() {
  const answers = [1, 2, 3].map((workerData) => new Promise((resolve, reject) => {
    let answer;
    const worker = new Worker(__filename, { workerData });
    worker.on('message', (message) => { answer = message; });
    worker.on('error', reject);
    worker.on('exit', (code) => (code === 0 ? resolve(answer) : reject(new Error(`exit code ${code}`))));
  }));
  console.log('workers', ...(await Promise.all(answers)));
}

(isMainThread ? main : work)();
