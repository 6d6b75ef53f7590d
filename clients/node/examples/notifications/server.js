'use strict';

// A page that shows live notifications: `node examples/notifications/server.js [port of ipc] [port of http]`. Publish a
// message, and every open page shows it. It needs nothing but this repository and a server, `cargo ipc serve --demo`.

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { IPCClient, ipcProxy, ipcEvents } = require('../..');

const PAGE = fs.readFileSync(path.join(__dirname, 'index.html'));

async function main() {
  const client = new IPCClient('web', { port: process.argv[2] ?? 8888, reconnectAttempts: Infinity });
  client.onError((error) => console.error(error.message));
  await client.connect({ retry: true });
  await client.serve('shout', (request) => {
    const text = String(request.payload.body.text).toUpperCase();
    client.publish('notifications', { text });
    return { text };
  });

  const events = ipcEvents(client, 'notifications', { retry: 1000 });
  const shout = ipcProxy(client, 'shout');
  const server = http.createServer((req, res) => {
    const [route] = req.url.split('?');
    if (route === '/') {
      res.setHeader('Content-Type', 'text/html; charset=utf-8');
      res.end(PAGE);
    } else if (route === '/events') {
      events(req, res);
    } else if (route === '/shout' && req.method === 'POST') {
      void shout(req, res);
    } else {
      res.statusCode = 404;
      res.end();
    }
  });
  server.listen(process.argv[3] ?? 3000, '127.0.0.1', () => {
    console.log(`open http://127.0.0.1:${server.address().port}/`);
  });

  process.once('SIGTERM', async () => {
    await client.close();
    process.exit();
  });
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
