'use strict';

const { IPCClient, ServerError } = require('ipc-framework');

(async () => {
  const client = new IPCClient('bench', { port: Number(process.env.IPC_PORT) });
  if (!await client.connect()) throw client.lastError;
  const error = await client.sendRequest('nobody', 1).catch((thrown) => thrown);
  if (!(error instanceof ServerError)) throw error;
  console.log('common', (await client.sendRequest('echo', 7)).payload);
  await client.close();
})();
