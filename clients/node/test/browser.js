'use strict';

// Chromium, driven by its debugging protocol.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { Process, eventually, temporaryDirectory } = require('./support.js');

const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'];

/**
 * A page in a browser that ends with the test. `evaluate` resolves with the value of an expression in it, `close` closes
 * the page.
 */
async function openPage(t, url) {
  const chromium = ['chromium', 'chromium-browser', 'google-chrome']
    .flatMap((name) => process.env.PATH.split(':').map((directory) => path.join(directory, name)))
    .find((file) => fs.existsSync(file));
  assert.ok(chromium, 'no Chromium on this machine: install one, `apt-get install chromium` on Debian');
  let browser;
  // Before its directory is removed: hooks run in the order in which they are registered.
  t.after(() => browser?.kill());
  const profile = path.join(temporaryDirectory(t), 'profile');
  fs.mkdirSync(profile);
  browser = new Process(chromium, [...FLAGS, `--user-data-dir=${profile}`, '--remote-debugging-port=0', url]);
  const [, debugging] = await browser.expect(/DevTools listening on ws:\/\/(\S+?)\//, 60_000);
  const page = await eventually('the page', async () => {
    const response = await fetch(`http://${debugging}/json/list`);
    return (await response.json()).find(({ type, url: at }) => type === 'page' && at.startsWith(url));
  });
  return {
    evaluate: (expression) => evaluate(page.webSocketDebuggerUrl, expression),
    close: () => fetch(`http://${debugging}/json/close/${page.id}`),
  };
}

/** The value of an expression in a page, by the debugging protocol over the one WebSocket message it takes. */
function evaluate(address, expression) {
  const { hostname, port, pathname } = new URL(address);
  return new Promise((resolve, reject) => {
    const request = http.request({ hostname, port, path: pathname, headers: {
      Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': Buffer.alloc(16).toString('base64'),
    } });
    request.on('error', reject);
    request.on('upgrade', (response, socket) => {
      const body = Buffer.from(JSON.stringify({ id: 1, method: 'Runtime.evaluate', params: { expression } }));
      // One masked text frame with a mask of zeros, which leaves the bytes as they are.
      const header = Buffer.from([0x81, 0x80 | 126, body.length >> 8, body.length & 0xff, 0, 0, 0, 0]);
      let received = Buffer.alloc(0);
      socket.on('data', (bytes) => {
        received = Buffer.concat([received, bytes]);
        const start = received.length > 1 && (received[1] & 0x7f) === 126 ? 4 : 2;
        const length = start === 4 ? received.length > 3 && received.readUInt16BE(2) : received[1];
        if (received.length < start + length) return;
        socket.destroy();
        const { result } = JSON.parse(received.toString('utf8', start, start + length));
        resolve(result.result.value);
      });
      socket.on('error', reject);
      socket.write(Buffer.concat([header, body]));
    });
    request.end();
  });
}

module.exports = { openPage };
