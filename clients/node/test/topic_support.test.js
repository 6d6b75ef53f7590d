'use strict';

// What is asked of which server, what it is asked by mistake, and publications that are acknowledged.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { collected, eventually, once, peer, joined, unconnected, servedPublished, warnings } = require('./support.js');
const { topical } = require('./topic_peer.js');

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

test('wishes that are none', async (t) => {
  const client = unconnected(t);
  for (const options of [{ last: 0 }, { last: 1.5 }, { last: '1' }, { last: 1n }, { since: 'e1:5' }, { since: null },
    { since: { epoch: 'e' } }, { since: { epoch: 'e', offset: -1 } }, { since: { offset: 1 } }, { conflate: 1 },
    { lats: 1 }]) {
    assert.throws(() => client.subscribe('a', options), TypeError, JSON.stringify(Object.keys(options)));
    assert.throws(() => client.subscribe('a', () => {}, options), TypeError);
  }
  assert.throws(() => client.subscribePattern('a.*', { since: { epoch: 'e', offset: 1 } }), /a pattern has no place/);
  assert.throws(() => client.subscribePattern('', {}), TypeError);
  assert.throws(() => client.subscribe('a', () => {}, { buffer: 1 }), /no option 'buffer'/);
  for (const options of [{ retain: 1 }, { ack: 'yes' }, { timeout: 5 }, { signal: AbortSignal.abort() }]) {
    assert.throws(() => client.publish('a', 1, options), TypeError);
  }
  assert.deepEqual(client.getConnectionInfo().subscribedChannels, []);
});

test('an acknowledged publication resolves with its place', async (t) => {
  const server = await topical(t);
  const client = await server.client();
  const first = await client.publish('log', 'a', { ack: true, headers: { a: 'b' } });
  assert.deepEqual(first, { messageId: first.messageId, epoch: 'e1', offset: 1 });
  assert.deepEqual(server.channels.published, [{ channel: 'log', payload: 'a', meta: { ack: true, headers: { a: 'b' } } }]);
  assert.equal((await client.publish('log', null, { ack: true, retain: true })).offset, 2);
  server.channels.messages = 0;
  const { epoch, offset } = await client.publish('log', 'b', { ack: true });
  assert.deepEqual([epoch, offset], [undefined, undefined]);
  assert.equal(typeof client.publish('log', 'c', { retain: true }), 'string');
  assert.equal(client.pending.size, 0);
  // Kept for the next connection, as all publications are.
  server.cut();
  await once(client, 'disconnected');
  const kept = client.publish('log', 'd', { ack: true });
  const given = client.publish('log', 'e', { ack: true, signal: AbortSignal.timeout(1) });
  await assert.rejects(given, { code: 'ABORTED', message: /publication on 'log' was aborted; it waited/ });
  assert.ok((await kept).messageId);
  await client.ping();
  assert.deepEqual(server.channels.published.slice(-1)[0].payload, 'd');
});

test('an acknowledged publication that is refused, late, aborted or lost', async (t) => {
  let isSilent = false;
  const { port, sides } = await peer(t, {
    grant: { extensions: ['topic'] },
    onMessage({ message_id: id, channel_id: channel }, side) {
      if (!isSilent) side.send('response', channel, { status: 'error', code: 'limit_exceeded', error: 'too many' }, id);
    },
  });
  const client = await joined(t, unconnected(t, { port, heartbeatInterval: 0, reconnectAttempts: 0 }));
  const ack = true;
  await assert.rejects(client.publish('a', 1, { ack, retain: true }), { name: 'ServerError', code: 'limit_exceeded' });
  isSilent = true;
  await assert.rejects(client.publish('a', 1, { ack, timeout: 5 }), { code: 'TIMEOUT' });
  await assert.rejects(client.publish('a', 1, { ack, signal: AbortSignal.abort() }), /aborted before it was sent/);
  await assert.rejects(client.publish('a', NaN, { ack }), { code: 'BAD_PAYLOAD' });
  await assert.rejects(client.publish('a', 1, { ack, timeout: -1 }), TypeError);
  const lost = client.publish('a', 1, { ack });
  await client.connection.whenFlushed();
  sides[0].socket.destroy();
  await assert.rejects(lost, { code: 'CONNECTION_LOST' });
  await assert.rejects(client.publish('a', 1, { ack }), { code: 'NOT_CONNECTED' });
  assert.equal(client.pending.size, 0);
});

for (const [name, start] of [
  ['an older server', async (t) => {
    const { port, sides } = await peer(t, {
      grant: { extensions: ['call', 'binary'] },
      onMessage({ message_type: type, payload, message_id: id }, side) {
        if (type === 'subscribe' && payload.ack) side.send('response', 'x', { status: 'subscribed' }, id);
      },
    });
    return { client: () => unconnected(t, { port, heartbeatInterval: 0 }), sides };
  }],
  ['the published server', async (t) => {
    const server = await servedPublished(t);
    return { client: () => { const client = server.client('bench'); t.after(() => client.disconnect()); return client; } };
  }],
]) {
  test(`${name} is not asked for what it does not know`, async (t) => {
    const server = await start(t);
    const early = server.client();
    const waiting = [early.subscribePattern('a.*'), early.subscribe('a', { last: 1 })];
    const reported = collected(early, 'error');
    early.subscribe('a', () => {}, { since: { epoch: 'e', offset: 1 } });
    const plain = early.subscribe('plain');
    await early.connect();
    for (const subscription of waiting) {
      await assert.rejects(subscription.ready, { code: 'UNSUPPORTED' });
      await assert.rejects(subscription.next(), { code: 'UNSUPPORTED' });
    }
    await plain.ready;
    assert.deepEqual(reported.map(({ code }) => code), ['UNSUPPORTED']);

    const client = await joined(t, server.client());
    const refused = (message) => ({ name: 'IPCError', code: 'UNSUPPORTED', message });
    assert.throws(() => client.subscribePattern('a.*'), refused(/patterns, .*subscribe to each channel by its name/));
    assert.throws(() => client.subscribePattern('a.*', () => {}), refused(/extension 'topic'/));
    assert.throws(() => client.subscribe('a', { last: 1 }), refused(/subscribe without last and since/));
    assert.throws(() => client.subscribe('a', () => {}, { conflate: true }), refused(/without conflate/));
    assert.throws(() => client.publish('a', 1, { retain: true }), refused(/last values/));
    await assert.rejects(client.publish('a', 1, { ack: true }), refused(/acknowledged publications/));
    assert.deepEqual([client.getConnectionInfo().subscribedChannels, client.pending.size], [[], 0]);
  });
}

test('a handler that was told of nothing on an older server is told of a gap all the same', async (t) => {
  const { port, sides } = await peer(t, { grant: { extensions: ['call'] } });
  const client = await joined(t, unconnected(t, { port, heartbeatInterval: 0, reconnectDelay: 5 }));
  const gaps = collected(client, 'gap');
  client.subscribe('a', () => {});
  const back = once(client, 'connected');
  sides[0].socket.destroy();
  await back;
  assert.deepEqual(gaps.map(({ channel, missed }) => [channel, missed]), [['a', null]]);
});

test('an old subscribe that names a pattern warns once', async (t) => {
  const warned = warnings(t);
  const { client: connect } = await topical(t);
  const client = await connect();
  client.subscribe('plain', () => {});
  client.subscribe('prices.*', () => {});
  client.subscribe('prices.>');
  client.subscribePattern('a.*', () => {});
  await eventually('warned', () => warned.length > 0);
  await client.ping();
  assert.equal(warned.length, 1);
  assert.match(warned[0], /subscribe\('prices\.\*'\) is for the channel of exactly that name.*subscribePattern\('prices\.\*'\)/);
});

test('numbers that the program reads its own way are numbers in a place', async (t) => {
  const { channels, client: connect } = await topical(t);
  const client = await connect({
    parse: (text) => JSON.parse(text, (key, value) => (Number.isInteger(value) ? BigInt(value) : value)),
    stringify: (value) => JSON.stringify(value, (key, one) => (typeof one === 'bigint' ? Number(one) : one)),
  });
  for (const n of range(1, 3)) channels.publish('log', n);
  const log = client.subscribe('log', { last: 2 });
  const { value } = await log.next();
  assert.deepEqual([value.payload, value.offset, value.epoch], [2n, 2, 'e1']);
  assert.deepEqual(await client.publish('log', 4n, { ack: true }).then(({ offset }) => offset), 4);
});
