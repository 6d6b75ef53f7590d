'use strict';

const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const path = require('node:path');
const express = require('express');
const { openPage } = require('./browser.js');
const {
  Process, startServer, eventually, once, joined, served, web, withHistories,
} = require('./support.js');
const { ipcProxy, ipcEvents, ipcStream } = require('../index.js');

describe('Express', () => {
  let ipc;
  let client;
  let server;
  let base;
  before(async () => {
    ipc = await startServer();
    client = ipc.client('web');
    await client.connect();
    await client.serve('api', async (request) => {
      if (request.payload.query.fail) throw new Error('no such user');
      if (request.payload.query.wait) await new Promise((resolve) => request.signal.addEventListener('abort', resolve));
      return request.payload;
    });
    const app = express();
    app.get('/api/:id', ipcProxy(client, 'api', { timeout: 2_000 }));
    app.post('/api', ipcProxy(client, 'api', { bodyBytes: 1000 }));
    app.post('/parsed', express.json(), ipcProxy(client, 'api', { payload: (req) => ({ query: {}, mine: req.body }) }));
    const status = (error) => (error.code === 'no_handler' ? 404 : undefined);
    app.get('/nobody', ipcProxy(client, 'nobody', { status }));
    app.get('/broken', ipcProxy(client, 'api', { payload: () => { throw new Error('broken'); } }));
    app.use((error, req, res, next) => {
      if (res.headersSent) next(error);
      else res.status(500).json({ handled: error.message });
    });
    app.get('/events', ipcEvents(client, 'ticks', { event: 'tick\nevil: 1', retry: 50, linger: 0 }));
    app.get('/odd', ipcEvents(client, 'ticks', { filter: ({ payload }) => payload % 2 === 1, linger: 0 }));
    server = app.listen(0, '127.0.0.1');
    await once(server, 'listening');
    base = `http://127.0.0.1:${server.address().port}`;
  });
  after(async () => {
    server.close();
    server.closeAllConnections();
    await client.close({ timeout: 100 });
    await ipc.kill();
  });

  const ask = async (url, options) => {
    const response = await fetch(base + url, options);
    return [response.status, await response.json()];
  };
  const post = (url, body) => ask(url, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });

  test('requests go through, with method, path, query, params and body', async () => {
    assert.deepEqual(await ask('/api/7?x=1'),
      [200, { method: 'GET', path: '/api/7', query: { x: '1' }, params: { id: '7' }, body: null }]);
    const [status, { body }] = await post('/api', '{"a":[1]}');
    assert.deepEqual([status, body], [200, { a: [1] }]);
    assert.deepEqual(await post('/parsed', '{"b":2}'), [200, { query: {}, mine: { b: 2 } }]);
  });

  test('what fails has a status and a code', async () => {
    assert.deepEqual(await ask('/api/1?fail=1'), [502, { error: 'the request failed', code: 'handler_failed' }]);
    const [late, told] = await ask('/api/1?wait=1');
    assert.deepEqual([late, told.code], [504, 'TIMEOUT']);
    const [missing, { code }] = await ask('/nobody');
    assert.deepEqual([missing, code], [404, 'no_handler']);
    assert.deepEqual((await post('/api', '{"a":'))[0], 400);
    assert.deepEqual((await post('/api', JSON.stringify('x'.repeat(2000))))[0], 413);
    assert.deepEqual(await ask('/broken'), [500, { handled: 'broken' }]);
    assert.equal(client.pending.size, 0);
  });

  test('a caller that leaves leaves nothing pending', async () => {
    const controller = new AbortController();
    const gone = fetch(`${base}/api/1?wait=1`, { signal: controller.signal });
    gone.catch(() => {});
    await eventually('under way', () => client.pending.size === 1);
    controller.abort();
    await eventually('nothing pending', () => client.pending.size === 0);
  });

  test('events reach all who listen, and the subscription ends with the last', async () => {
    const listen = (url) => new Promise((resolve) => {
      const request = http.get(base + url, (response) => {
        const stream = { text: '', close: () => request.destroy(), headers: response.headers };
        response.setEncoding('utf8');
        response.on('error', () => {});
        response.on('data', (text) => {
          stream.text += text;
          resolve(stream);
        });
      });
      request.on('error', () => {});
    });
    const [all, odd] = await Promise.all([listen('/events'), listen('/odd')]);
    assert.match(all.headers['content-type'], /^text\/event-stream/);
    for (let n = 0; n < 4; n += 1) client.publish('ticks', n);
    await eventually('all', () => all.text.includes('data: 3') && odd.text.includes('data: 3'));
    assert.match(all.text, /^retry: 50\n: subscribed\n\nid: [-0-9a-f]+\nevent: tick evil: 1\ndata: 0\n\n/);
    assert.deepEqual(odd.text.match(/data: \d/g), ['data: 1', 'data: 3']);
    assert.deepEqual(client.getConnectionInfo().subscribedChannels, ['ticks']);
    all.close();
    odd.close();
    await eventually('unsubscribed', () => client.getConnectionInfo().subscribedChannels.length === 0);
  });

  test('a browser that does not read is cut off', async () => {
    const request = http.get(`${base}/events`, (response) => response.pause());
    request.on('error', () => {});
    await eventually('subscribed', () => client.getConnectionInfo().subscribedChannels.includes('ticks'));
    const text = 'x'.repeat(500_000);
    await eventually('cut off', async () => {
      for (let n = 0; n < 8; n += 1) client.publish('ticks', text);
      await client.ping();
      return !client.getConnectionInfo().subscribedChannels.includes('ticks');
    });
    request.destroy();
  });

  test('works without Express as well', async () => {
    const plain = http.createServer(ipcProxy(client, 'api')).listen(0, '127.0.0.1');
    await once(plain, 'listening');
    const response = await fetch(`http://127.0.0.1:${plain.address().port}/x?y=1`, { method: 'POST', body: '[1]' });
    assert.deepEqual(await response.json(), { method: 'POST', path: '/x', query: { y: '1' }, params: {}, body: [1] });
    plain.close();
    plain.closeAllConnections();
  });
});

test('the example needs nothing but a clone', () => {
  const example = fs.readFileSync(path.resolve(__dirname, '../examples/notifications/server.js'), 'utf8');
  const needed = [...example.matchAll(/require\('([^']+)'\)/g)].map(([, name]) => name);
  assert.ok(needed.length > 0);
  for (const name of needed) assert.match(name, /^(node:.*|\.\.\/\.\.)$/);
});

test('the example in a real browser: a page shows live what it and others publish', { timeout: 120_000 }, async (t) => {
  const ipc = await served(t);
  const example = path.resolve(__dirname, '../examples/notifications/server.js');
  const site = new Process(process.execPath, [example, String(ipc.port), '0']);
  t.after(() => site.kill());
  const [, found] = await site.expect(/open http:\S+:(\d+)/);
  const line = await breakable(t, Number(found));
  const { url } = line;
  // The page shouts on its own account; a second publisher is heard while the page is open.
  const publisher = await joined(t, ipc.client('web'));
  const shouted = publisher.subscribe('notifications');
  await shouted.ready;
  const page = await openPage(t, `${url}?say=hello`);
  const { value } = await shouted.next();
  assert.deepEqual(value.payload, { text: 'HELLO' });
  publisher.publish('notifications', { text: '<b>from elsewhere</b>' });

  const show = (count) => eventually(`${count} on the page`, async () => {
    const text = await page.evaluate(
      "JSON.stringify([...document.querySelectorAll('li')].map((item) => item.textContent).concat("
      + "document.getElementById('state').textContent))");
    const items = JSON.parse(text);
    return items.length === count + 1 && items.at(-1) === 'live' && items;
  });
  assert.deepEqual(await show(2), ['<b>from elsewhere</b>', 'HELLO', 'live']);

  // What is published while the browser is away it gets by its Last-Event-ID.
  line.cut();
  publisher.publish('notifications', { text: 'missed' });
  // In order: the example has what came before this answer's publication.
  await publisher.sendRequest('shout', { body: { text: 'loud' } });
  await eventually('back', () => line.refused > 0);
  line.mend();
  assert.deepEqual(await show(4), ['LOUD', 'missed', '<b>from elsewhere</b>', 'HELLO', 'live']);
});

const PAGE = `<!doctype html><title>tokens</title><script>
  const seen = { events: [], lines: [], last: null };
  const parts = new EventSource('/sse?to=5');
  parts.onmessage = ({ data }) => seen.events.push(JSON.parse(data));
  for (const last of ['end', 'failure']) {
    parts.addEventListener(last, ({ data }) => { parts.close(); seen.last = last; });
  }
  (async () => {
    const response = await fetch('/ndjson?to=5', { method: 'POST' });
    let text = '';
    for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      text += value;
    }
    seen.lines = text.trim().split('\\n').map(JSON.parse);
  })();
  fetch('/sse?to=1e9');
</script>`;

test('streams in a real browser, as events and as lines, and one that ends with its page', { timeout: 120_000 }, async (t) => {
  const ipc = await served(t);
  const client = await joined(t, ipc.client());
  const worker = await joined(t, ipc.client());
  const reasons = [];
  let asked = 0;
  await worker.serve('tokens', async function* tokens({ payload: { query }, signal }) {
    asked += 1;
    signal.addEventListener('abort', () => reasons.push(signal.reason.reason));
    for (let n = 0; n < Number(query.to); n += 1) {
      await new Promise((resolve) => { setTimeout(resolve, 5); });
      yield { token: n };
    }
  });
  const [sse, ndjson] = ['sse', 'ndjson'].map((as) => ipcStream(client, 'tokens', { as }));
  const base = await web(t, (req, res) => {
    if (req.url.startsWith('/sse')) return sse(req, res);
    if (req.url.startsWith('/ndjson')) return ndjson(req, res);
    return res.setHeader('Content-Type', 'text/html').end(req.url === '/' ? PAGE : '');
  });
  const page = await openPage(t, `${base}/`);
  const seen = await eventually('all parts', async () => {
    // The page may not be there yet.
    const found = JSON.parse(await page.evaluate("typeof seen === 'object' ? JSON.stringify(seen) : null") ?? null);
    return found !== null && found.last !== null && found.lines.length === 5 && found;
  });
  const tokens = [0, 1, 2, 3, 4].map((token) => ({ token }));
  assert.deepEqual(seen, { events: tokens, lines: tokens, last: 'end' });
  assert.deepEqual([asked, worker.services.unfinished, reasons], [3, 1, []], 'one goes on');
  await page.close();
  await eventually('stopped', () => worker.services.unfinished === 0);
  assert.deepEqual(reasons, ['caller']);
});

const LOG = `<!doctype html><title>log</title><script>
  const seen = [];
  const events = new EventSource('/events');
  events.onmessage = ({ data, lastEventId }) => seen.push([lastEventId, JSON.parse(data)]);
  events.addEventListener('gap', ({ data }) => seen.push(['gap', JSON.parse(data)]));
</script>`;

test('a page that loses its line goes on at another front end, and hears what is gone', { timeout: 120_000 }, async (t) => {
  const args = withHistories(t, { log: 4 });
  const server = await served(t, { args });
  const publisher = await joined(t, server.client('bench', { reconnectDelay: 20 }));
  let epoch;
  const publish = async (from, to) => {
    for (let n = from; n <= to; n += 1) ({ epoch } = await publisher.publish('log', n, { ack: true }));
  };
  const fronts = [];
  for (const name of ['one', 'two']) {
    const client = await joined(t, server.client('bench', { reconnectDelay: 20 }));
    const events = ipcEvents(client, 'log', { retry: 20 });
    const base = await web(t, (req, res) => {
      if (req.url === '/events') events(req, res);
      else res.setHeader('Content-Type', 'text/html').end(req.url === '/' ? LOG : name);
    });
    fronts.push({ client, port: Number(new URL(base).port) });
  }
  const line = await breakable(t, fronts[0].port);
  const page = await openPage(t, line.url);
  const sees = (last) => eventually(`${last} on the page`, async () => {
    const all = JSON.parse(await page.evaluate("typeof seen === 'object' ? JSON.stringify(seen) : '[]'"));
    return all.at(-1)?.[1] === last && all;
  });
  await eventually('live', async () => await page.evaluate("typeof events === 'object' && events.readyState") === 1);
  await publish(1, 2);
  await sees(2);
  line.cut();
  await publish(3, 4);
  await eventually('tried again', () => line.refused > 0);
  line.mend(fronts[1].port);
  assert.deepEqual(await sees(4), [1, 2, 3, 4].map((n) => [`${epoch}:${n}`, n]), 'the other one has never seen them');
  await publish(5, 5);
  await sees(5);
  // The server keeps four: at the first one, which heard all of them, nothing is missing all the same.
  line.cut();
  await publish(6, 12);
  line.mend(fronts[0].port);
  assert.deepEqual((await sees(12)).map(([, n]) => n), Array.from({ length: 12 }, (_, at) => at + 1));
  // The server is started again: what it had is gone, and the page is told, once.
  line.cut();
  const former = epoch;
  await server.kill();
  await eventually('lost', () => !fronts[1].client.connected);
  await served(t, { args, port: server.port });
  await eventually('back', () => publisher.connected && fronts[1].client.connected);
  await publish(13, 13);
  line.mend(fronts[1].port);
  const all = await sees(13);
  assert.deepEqual(all.slice(12), [['gap', null], [`${epoch}:1`, 13]]);
  assert.notEqual(epoch, former);
});

/** A line to a port of this machine that can be cut, and mended, also to another port. */
async function breakable(t, port) {
  const sockets = new Set();
  const line = {
    refused: 0,
    isCut: false,
    port,
    cut() {
      line.isCut = true;
      for (const socket of sockets) socket.destroy();
    },
    mend(to = line.port) {
      line.port = to;
      line.isCut = false;
    },
  };
  const server = net.createServer((near) => {
    near.on('error', () => {});
    if (line.isCut) {
      line.refused += 1;
      near.destroy();
      return;
    }
    const far = net.connect(line.port, '127.0.0.1');
    far.on('error', () => {});
    for (const [from, to] of [[near, far], [far, near]]) {
      sockets.add(from);
      from.pipe(to);
      from.on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  }).listen(0, '127.0.0.1');
  t.after(() => {
    server.close();
    line.cut();
  });
  await once(server, 'listening');
  line.url = `http://127.0.0.1:${server.address().port}/`;
  return line;
}
