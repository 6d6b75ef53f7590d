'use strict';

// A page that shows live notifications: `node examples/notifications/server.js [port of ipc] [port of http]`. Publish a
// message, and every open page shows it.

const path = require('node:path');
const express = require('express');
const { IPCClient, ipcProxy, ipcEvents } = require('../..');

async function main() {
  const client = new IPCClient('web', { port: process.argv[2] ?? 8888, reconnectAttempts: Infinity });
  client.onError((error) => console.error(error.message));
  await client.connect({ retry: true });
  await client.serve('shout', (request) => {
    const text = String(request.payload.body.text).toUpperCase();
    client.publish('notifications', { text });
    return { text };
  });

  const app = express();
  app.get('/', (req, res) => res.sendFile(path.join(__dirname, 'index.html')));
  app.get('/events', ipcEvents(client, 'notifications', { retry: 1000 }));
  app.post('/shout', express.json(), ipcProxy(client, 'shout'));
  const server = app.listen(process.argv[3] ?? 3000, '127.0.0.1', () => {
    console.log(`open http://127.0.0.1:${server.address().port}/`);
  });

  process.once('SIGTERM', async () => {
    await client.close();
    server.close();
    server.closeAllConnections?.();
  });
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
