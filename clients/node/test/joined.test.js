'use strict';

// A client that knows two servers which NATS joins moves between them, and stays reachable for those of a third one.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { IPCClient } = require('../index.js');
const { closed, eventually, joined, startJoined, startNats } = require('./support.js');

const QUICK = { reconnectDelay: 5, reconnectDelayMax: 20 };
const at = (...servers) => servers.map(({ port }) => `127.0.0.1:${port}`);

test('a client moves between joined servers with all that it has', async (t) => {
  const nats = await startNats();
  const servers = [await startJoined(nats), await startJoined(nats), await startJoined(nats)];
  t.after(() => Promise.all([nats, ...servers].map((server) => server.kill())));
  const [first, second, third] = servers;
  const moves = await joined(t, new IPCClient('bench', { hosts: at(first, second), ...QUICK }));
  const stays = closed(t, new IPCClient('bench', { port: third.port }));
  assert.equal(await stays.connect(), true, String(stays.lastError));
  const heard = [];
  moves.subscribe('news', ({ payload }) => { heard.push(payload); });
  await moves.serve('mine', (request) => request.payload);
  const asked = async (payload) => {
    try {
      return (await stays.sendRequest('mine', payload)).payload;
    } catch (error) {
      assert.ok(['no_handler', 'worker_lost'].includes(error.code), String(error));
      return null;
    }
  };
  const goesOn = async (server, number) => {
    await eventually('the next server', () => moves.connected && moves.port === server.port);
    await eventually('an answer', async () => await asked(number) === number);
    const been = heard.length;
    await eventually('a publication', () => {
      stays.publish('news', 'trial');
      return heard.length > been;
    });
    stays.publish('news', number);
    await eventually('it came', () => heard.at(-1) === number);
    assert.equal(heard.filter((payload) => payload === number).length, 1);
  };
  await goesOn(first, 1);
  await first.kill();
  await goesOn(second, 2);
  const again = await startJoined(nats, { port: first.port });
  servers.push(again);
  // A drain is the end of a connection, too.
  assert.equal((await second.kill('SIGTERM')).code, 0);
  await goesOn(again, 3);
});
