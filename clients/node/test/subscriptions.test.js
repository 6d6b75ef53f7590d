'use strict';

const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const { startServer, startPublished, eventually, once } = require('./support.js');

for (const [name, start] of [['this project\'s server', startServer], ['the published server', startPublished]]) {
  describe(`subscriptions on ${name}`, () => {
    let server;
    let client;
    before(async () => {
      server = await start();
      client = server.client('shop');
      await client.connect();
    });
    after(async () => {
      client.disconnect();
      await server.kill();
    });

    test('a handler gets what is published, in order, until it is replaced or unsubscribed', async () => {
      const other = server.client('shop');
      await other.connect();
      const first = [];
      const second = [];
      assert.equal(client.subscribe('news', (message) => first.push(message.payload)), true);
      await eventually('a subscription', async () => {
        other.publish('news', 0);
        return first.length > 0;
      });
      assert.equal(client.subscribe('news', (message) => second.push(message)), true);
      for (let n = 1; n <= 100; n += 1) other.publish('news', n);
      await eventually('a hundred', () => second.at(-1)?.payload === 100);
      const numbers = second.map(({ payload }) => payload).filter((payload) => payload > 0);
      assert.deepEqual(numbers, Array.from({ length: 100 }, (_, n) => n + 1));
      assert.equal(second.at(-1).channelId, 'news');
      assert.deepEqual(client.getConnectionInfo().subscribedChannels, ['news']);

      assert.equal(client.unsubscribe('news'), true);
      assert.equal(client.unsubscribe('news'), false);
      const before = second.length;
      client.subscribe('fence', (message) => { if (message.payload === 'up') client.emit('fence'); });
      const fence = once(client, 'fence');
      client.publish('news', 'unheard');
      client.publish('fence', 'up');
      await fence;
      assert.equal(second.length, before);
      client.unsubscribe('fence');
      other.disconnect();
    });

    test('for await', async () => {
      const subscription = client.subscribe('stream');
      await subscription.ready;
      for (let n = 0; n < 10; n += 1) client.publish('stream', n);
      const seen = [];
      for await (const message of subscription) {
        seen.push(message.payload);
        if (message.payload === 9) break;
      }
      assert.deepEqual(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
      assert.deepEqual(client.getConnectionInfo().subscribedChannels, [], 'leaving the loop unsubscribes');
    });

    test('several iterations and a handler share a channel', async () => {
      const handled = [];
      client.subscribe('shared', (message) => handled.push(message.payload));
      const one = client.subscribe('shared');
      const two = client.subscribe('shared');
      await Promise.all([one.ready, two.ready]);
      client.publish('shared', 'a');
      assert.equal((await one.next()).value.payload, 'a');
      one.unsubscribe();
      assert.equal((await two.next()).value.payload, 'a');
      client.publish('shared', 'b');
      assert.equal((await two.next()).value.payload, 'b');
      assert.deepEqual(handled, ['a', 'b']);
      const ended = two.next();
      client.unsubscribe('shared');
      assert.deepEqual(await ended, { done: true, value: undefined });
      assert.deepEqual(await one.next(), { done: true, value: undefined });
    });
  });
}

describe('subscriptions', () => {
  let server;
  let client;
  before(async () => {
    server = await startServer();
    client = server.client('shop');
    await client.connect();
  });
  after(async () => {
    client.disconnect();
    await server.kill();
  });

  test('a signal ends the iteration with an error', async () => {
    const controller = new AbortController();
    const subscription = client.subscribe('aborted', { signal: controller.signal });
    await subscription.ready;
    const loop = (async () => {
      for await (const message of subscription) assert.fail(message);
    })();
    controller.abort();
    await assert.rejects(loop, { code: 'ABORTED' });
    assert.deepEqual(client.getConnectionInfo().subscribedChannels, []);
    const late = client.subscribe('aborted', { signal: controller.signal });
    await assert.rejects(late.next(), { code: 'ABORTED' });
  });

  test('who reads too slowly loses the oldest, and is told', async () => {
    const subscription = client.subscribe('flood', { buffer: 10 });
    await subscription.ready;
    const slow = once(client, 'slow');
    for (let n = 0; n < 100; n += 1) client.publish('flood', n);
    const [told] = await slow;
    assert.deepEqual([told.channel, told.subscription], ['flood', subscription]);
    assert.equal(await client.ping(), true);
    assert.equal(subscription.dropped, 90);
    assert.equal((await subscription.next()).value.payload, 90);
    subscription.unsubscribe();
  });

  test('subscribed before connecting, and for the handler of every message', async () => {
    const early = server.client('shop');
    const subscription = early.subscribe('early');
    const heard = [];
    early.on('message', (message) => heard.push(message.payload));
    await early.connect();
    await subscription.ready;
    client.publish('early', 'bird');
    assert.equal((await subscription.next()).value.payload, 'bird');
    assert.deepEqual(heard, ['bird']);
    const loop = subscription.next();
    await early.close();
    assert.deepEqual(await loop, { done: true, value: undefined });
  });

  test('a handler that fails is reported and the others go on', async () => {
    const errors = [];
    client.onError((error) => errors.push(error.message));
    client.subscribe('faulty', (message) => { throw new Error(`thrown ${message.payload}`); });
    client.subscribe('rejecting', async (message) => { throw new Error(`rejected ${message.payload}`); });
    client.publish('faulty', 1);
    client.publish('rejecting', 2);
    await eventually('both reported', () => errors.length === 2);
    assert.deepEqual(errors, ['thrown 1', 'rejected 2']);
    client.onError(null);
    client.unsubscribe('faulty');
    client.unsubscribe('rejecting');
  });

  test('a refused subscription is an error', async () => {
    const subscription = client.subscribe('y'.repeat(300));
    await assert.rejects(subscription.ready, { code: 'bad_message' });
    await assert.rejects(subscription.next(), { code: 'bad_message' });
    const reported = new Promise((resolve) => client.once('error', resolve));
    client.subscribe('y'.repeat(300), () => {});
    assert.equal((await reported).code, 'bad_message');
    client.unsubscribe('y'.repeat(300));
  });

  test('notifications of the server', async () => {
    const chat = server.client('chat_app');
    await chat.connect();
    const subscription = chat.subscribe('general');
    await subscription.ready;
    chat.notify('general', { username: 'ann' });
    const { value } = await subscription.next();
    assert.equal(value.payload.type, 'user_joined');
    assert.equal(value.payload.username, 'ann');
    await chat.close();
  });
});
