'use strict';

// One message over the server's limit ends the connection. Each other message is told what is true of it.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { collected, eventually, joined, served, web } = require('./support.js');
const { ConnectionLostError, FrameError, ServerError, ipcProxy } = require('../index.js');
const { Largest } = require('../lib/oversize.js');

const LIMIT = 100_000;
const QUICK = { reconnectDelay: 20, reconnectDelayMax: 100, reconnectAttempts: 500 };
const LARGE = 'x'.repeat(LIMIT + 1);

async function limited(t) {
  const server = await served(t, { args: ['--max-frame-bytes', String(LIMIT)] });
  return { server, client: await joined(t, server.client('bench', QUICK)) };
}

const caught = (promise) => promise.then(() => null, (error) => error);

test('a request over the server\'s limit fails by name, and the others with what is true of them', async (t) => {
  const { server, client } = await limited(t);
  const worker = await joined(t, server.client('bench'));
  let received = 0;
  await worker.serve('stuck', () => {
    received += 1;
    return new Promise(() => {});
  });
  const errors = collected(client, 'error');
  const before = caught(client.sendRequest('stuck', 1));
  await eventually('with the worker', () => received === 1);
  // Others that are large, before and after it.
  for (const size of [10, 50_000, 99_000, 20_000]) client.publish('news', 'x'.repeat(size));
  const culprit = caught(client.sendRequest('echo', LARGE));
  const after = caught(client.sendRequest('stuck', 2));
  client.publish('news', 'x'.repeat(LIMIT * 3));
  for (const size of [1, 2, 3]) client.notify('news', size);

  const tooLarge = await culprit;
  assert.ok(tooLarge instanceof FrameError, tooLarge.stack);
  assert.deepEqual([tooLarge.name, tooLarge.code, tooLarge.fatal], ['FrameError', 'FRAME_TOO_LARGE', true]);
  assert.match(tooLarge.message, /the request on "echo" with the message_id [\w-]+ has 100\d{3} bytes, more than the 100000/);
  assert.match(tooLarge.message, /--max-frame-bytes.*was not carried out/);
  assert.ok(tooLarge.cause instanceof ServerError && tooLarge.cause.code === 'frame_too_large');
  const [lost, unread] = await Promise.all([before, after]);
  for (const error of [lost, unread]) {
    assert.ok(error instanceof ConnectionLostError, error.stack);
    assert.equal(error.cause, tooLarge);
    assert.match(error.message, /the request on "echo".*--max-frame-bytes/);
  }
  assert.match(lost.message, /sent before that one, and may or may not have been carried out/);
  assert.match(unread.message, /did not read this request, which was not carried out/);
  await eventually('all told', () => errors.length === 2);
  assert.equal(errors[0], tooLarge);
  assert.match(errors[1].message, /did not read 4 publications, notifications and answers that were sent last/);
  assert.equal(received, 1, 'it is as the error says');
  await eventually('connected again', () => client.connected);
  assert.equal((await client.sendRequest('echo', 'ok')).payload, 'ok');
});

for (const [what, send] of [
  ['publish on "news"', (client) => client.publish('news', LARGE)],
  ['notification on "news"', (client) => client.notify('news', LARGE)],
]) {
  test(`a ${what} over the limit is named`, async (t) => {
    const { client } = await limited(t);
    const errors = collected(client, 'error');
    send(client);
    await eventually('told', () => errors.length === 1);
    assert.ok(errors[0].message.startsWith(`the ${what} with`), errors[0].message);
    assert.equal(errors[0].code, 'FRAME_TOO_LARGE');
  });
}

test('an answer over the limit is named to the worker that gave it', async (t) => {
  const { server, client } = await limited(t);
  const worker = await joined(t, server.client('bench', QUICK));
  const errors = collected(worker, 'error');
  await worker.serve('big', () => LARGE);
  await assert.rejects(client.sendRequest('big', 1), { code: 'worker_lost' });
  await eventually('told', () => errors.length === 1);
  assert.match(errors[0].message, /^the response on "big"/);
});

test('a proxy answers 413', async (t) => {
  const { client } = await limited(t);
  const response = await fetch(await web(t, ipcProxy(client, 'echo')), { method: 'POST', body: JSON.stringify(LARGE) });
  assert.deepEqual([response.status, (await response.json()).code], [413, 'FRAME_TOO_LARGE']);
});

test('the message is found by its bytes, by the limit, or as the largest', () => {
  const largest = new Largest();
  const refusal = (text) => new ServerError({ payload: { code: 'frame_too_large', error: text } });
  assert.equal(largest.explain(refusal('5 bytes, over 4')).code, 'frame_too_large', 'nothing was sent');
  for (const bytes of [10, 100, 1_000, 10_000]) {
    largest.add({ bytes, id: `of ${bytes}`, type: 'publish', channelJson: '"c"', begun: 0, oneWay: 0 });
  }
  const found = (text) => largest.explain(refusal(text)).record.bytes;
  assert.equal(found('the length prefix says 1000 bytes, over the limit of 500'), 1_000);
  assert.equal(found('a frame of 999 bytes, over the limit of 50'), 100);
  assert.equal(found('too large'), 10_000);
  for (let bytes = 20_000; bytes < 23_000; bytes += 1) largest.add({ bytes });
  assert.ok(largest.records.length <= 1_024);
});
