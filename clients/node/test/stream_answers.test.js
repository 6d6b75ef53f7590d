'use strict';

// Handlers that stream, are cancelled and have deadlines, against a server that says what the test wants.

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { AsyncLocalStorage } = require('node:async_hooks');
const { collected, eventually, sleep, warnings } = require('./support.js');
const { GRANT, working } = require('./scripted.js');
const { CancelledError, HandlerError, IPCError } = require('../index.js');

async function* count(from, to) {
  for (let n = from; n < to; n += 1) yield n;
}

const GENERATORS = {
  'an async generator': async function* handler() { yield* count(0, 3); },
  'a generator': function* handler() { yield 0; yield Promise.resolve(1); yield 2; },
  'a function that resolves with a generator': async () => count(0, 3),
  'another async iterable': () => ({
    [Symbol.asyncIterator]() {
      let n = 0;
      return { next: async () => ({ done: n === 3, value: n++ }) };
    },
  }),
};

for (const [what, handler] of Object.entries(GENERATORS)) {
  test(`${what} streams, and answers at once with all parts to whoever takes no stream`, async (t) => {
    const { worker, ask, told } = await working(t);
    await worker.serve('x', handler);
    ask('a', null, { stream: 8 });
    ask('b', null);
    await eventually('both', () => told('a').length === 4 && told('b').length === 1);
    assert.deepEqual(told('a'), [[0, 0], [1, 1], [2, 2], [3, 'end']]);
    assert.deepEqual(told('b'), [[[0, 1, 2]]]);
    assert.deepEqual([worker.services.unfinished, worker.services.works.size], [0, 0]);
  });
}

test('values that can be iterated but are no generators are answers, and so is what is no generator to `stream`', async (t) => {
  const { worker, ask, told } = await working(t);
  await worker.serve('x', ({ payload }) => payload);
  for (const [id, payload] of [['a', [1, 2]], ['b', 'text'], ['c', { next: 1 }]]) {
    ask(id, payload, { stream: 5 });
    await eventually('answered', () => told(id).length === 1);
    assert.deepEqual(told(id), [[payload]]);
  }
});

test('without the extension a stream is asked for in vain, and whatever meta says is not believed', async (t) => {
  const { worker, ask, told, control } = await working(t, { grant: {} });
  const seen = [];
  await worker.serve('x', async function* handler(request) {
    seen.push(request.remaining);
    yield 1;
    await sleep(20);
    yield request.signal.aborted;
  });
  const messages = collected(worker, 'message');
  ask('a', null, { stream: 5, ttl: 1 });
  control('cancel', 'a');
  await eventually('answered', () => told('a').length === 1);
  assert.deepEqual([told('a'), seen], [[[[1, false]]], [Infinity]]);
  assert.equal(messages.length, 1, 'it is a notification as any other');
});

test('a generator waits for credit, one part ahead, and its end needs none', async (t) => {
  const { worker, ask, told, control } = await working(t);
  let made = 0;
  await worker.serve('x', async function* handler({ payload }) {
    for (; made < payload; made += 1) yield made;
  });
  ask('a', 5, { stream: 2 });
  await eventually('two', () => told('a').length === 2);
  await sleep(20);
  assert.deepEqual([told('a').length, made], [2, 2], 'the third is made and waits');
  for (const n of [0, -1, 1.5, 65_537, '1', null, undefined, {}]) control('credit', 'a', { n });
  control('credit', 'b', { n: 5 });
  await sleep(20);
  assert.equal(told('a').length, 2);
  control('credit', 'a', { n: 3 });
  await eventually('the end', () => told('a').length === 6);
  assert.deepEqual(told('a').at(-1), [5, 'end']);
});

test('credit that comes while a request waits for its turn counts', async (t) => {
  const { worker, ask, told, control } = await working(t);
  let open;
  const gate = new Promise((resolve) => { open = resolve; });
  await worker.serve('x', async function* handler({ payload }) {
    if (payload === 'first') await gate;
    else yield* count(0, 4);
  }, { concurrency: 1 });
  ask('a', 'first');
  ask('b', 'second', { stream: 1 });
  control('credit', 'b', { n: 2 });
  await eventually('waits', () => worker.services.get('x').waiting === 1);
  await worker.sendRequest('y', 1, 20).catch(() => {});
  open();
  await eventually('three', () => told('b').length === 3);
  control('credit', 'b', { n: 1 });
  await eventually('the end', () => told('b').length === 5);
});

test('a cancel ends a generator where it stands, and runs its `finally`', async (t) => {
  const { worker, ask, told, control } = await working(t);
  const ended = [];
  await worker.serve('x', async function* handler(request) {
    const { payload, signal } = request;
    try {
      if (payload === 'waits for credit') for (;;) yield 1;
      if (payload === 'waits for something') {
        yield 1;
        await new Promise((resolve) => { signal.addEventListener('abort', resolve); });
        yield 2;
        ended.push('went on');
      }
      for (;;) {
        yield 1;
        await sleep(1);
      }
    } finally {
      ended.push(payload);
      assert.ok(signal.aborted && signal.reason instanceof CancelledError && signal.reason instanceof IPCError);
      assert.deepEqual([signal.reason.code, signal.reason.reason], ['CANCELLED', 'caller']);
    }
  });
  const payloads = ['waits for credit', 'waits for something', 'waits for nothing'];
  payloads.forEach((payload) => ask(payload, payload, { stream: 5 }));
  await eventually('under way', () => payloads.every((payload) => told(payload).length > 0));
  for (const payload of payloads) control('cancel', payload, { reason: 'caller' });
  await eventually('ended', () => worker.services.unfinished === 0);
  assert.deepEqual(ended.sort(), payloads.sort());
  const before = payloads.map((payload) => told(payload).length);
  await sleep(20);
  assert.deepEqual(payloads.map((payload) => told(payload).length), before, 'nothing is said any more');
  assert.ok(payloads.every((payload) => told(payload).every(([, value]) => value === 1)));
});

test('an iterator that waits for what never comes is closed at once', async (t) => {
  const { worker, ask, control } = await working(t);
  let isClosed = false;
  await worker.serve('x', () => {
    let wake;
    return {
      [Symbol.asyncIterator]: () => ({
        next: () => new Promise((resolve) => { wake = resolve; }),
        return: async () => {
          isClosed = true;
          wake({ done: true });
          return { done: true };
        },
      }),
    };
  });
  ask('a', 1, { stream: 5 });
  await eventually('begun', () => worker.services.unfinished === 1);
  control('cancel', 'a');
  await eventually('closed', () => isClosed && worker.services.unfinished === 0);
});

test('each reason has its words, and an unknown one reads as gone', async (t) => {
  const { worker, ask, control } = await working(t);
  const reasons = {};
  await worker.serve('x', ({ payload, signal }) => new Promise((resolve) => {
    signal.addEventListener('abort', () => {
      reasons[payload] = signal.reason;
      resolve();
    });
  }));
  for (const reason of ['caller', 'deadline', 'gone', 'limit', 'drain', 'novel', 'toString']) {
    ask(reason, reason);
    control('cancel', reason, { reason });
  }
  ask('none', 'none');
  control('cancel', 'none', { reason: { not: 'a string' } });
  await eventually('all', () => Object.keys(reasons).length === 8);
  assert.deepEqual(Object.fromEntries(Object.entries(reasons).map(([key, { reason }]) => [key, reason])),
    { caller: 'caller', deadline: 'deadline', gone: 'gone', limit: 'limit', drain: 'drain', novel: 'gone',
      toString: 'gone', none: 'gone' });
  assert.equal(new Set(Object.values(reasons).map(({ message }) => message)).size, 5);
});

test('work that waits is dropped unstarted when it is cancelled, or its time is over', async (t) => {
  const { worker, ask, told, control } = await working(t);
  const begun = [];
  let finish;
  const service = await worker.serve('x', ({ payload }) => {
    begun.push(payload);
    return payload === 0 ? new Promise((resolve) => { finish = resolve; }) : payload;
  }, { concurrency: 1, queueMax: 400 });
  for (let n = 0; n <= 300; n += 1) ask(`id ${n}`, n);
  ask('late', 'late', { ttl: 20 });
  await eventually('waiting', () => service.waiting === 301);
  // Those that are cancelled make room at once, whatever stands before them.
  for (let n = 1; n < 300; n += 1) control('cancel', `id ${n}`, { reason: 'gone' });
  control('cancel', 'unknown', { reason: 'gone' });
  await eventually('dropped', () => service.waiting === 2);
  assert.ok(service.queue.length < 100, `${service.queue.length} places`);
  assert.ok(service.queueBytes < 1_000 && service.queueBytes > 0);
  await sleep(30);
  finish('first');
  await eventually('done', () => worker.services.unfinished === 0);
  assert.deepEqual([begun, told('id 0'), told('id 300'), told('late')], [[0, 300], [['first']], [[300]], []]);
  assert.deepEqual([service.queueBytes, worker.services.works.size], [0, 0]);
});

test('a cancelled handler keeps its place until it returns, and then answers nothing', async (t) => {
  const { worker, ask, told, control } = await working(t);
  let finish;
  const service = await worker.serve('x', ({ payload }) => (
    payload === 'stays' ? new Promise((resolve) => { finish = resolve; }) : payload), { concurrency: 1 });
  ask('a', 'stays');
  ask('b', 'next');
  await eventually('both', () => service.running === 1 && service.waiting === 1);
  control('cancel', 'a', { reason: 'caller' });
  control('cancel', 'a', { reason: 'caller' });
  await sleep(20);
  assert.deepEqual(told('b'), []);
  finish(1);
  await eventually('next', () => told('b').length === 1);
  assert.deepEqual(told('a'), []);
});

test('a deadline is seen as what remains, and fires the signal', async (t) => {
  const { worker, ask, told } = await working(t);
  const seen = [];
  await worker.serve('x', async ({ remaining, signal, payload }) => {
    seen.push(remaining);
    if (payload !== 'waits') return remaining;
    await new Promise((resolve) => { signal.addEventListener('abort', resolve); });
    seen.push(signal.reason.reason);
    return 'too late';
  });
  for (const ttl of [0, -5, 1.5, '7', null, 2 ** 31 + 1]) ask(`bad ${ttl}`, 1, { ttl });
  await eventually('all', () => seen.length === 6);
  assert.deepEqual(seen.splice(0), Array(6).fill(Infinity));
  ask('long', 1, { ttl: 2 ** 31 });
  await eventually('long', () => told('long').length === 1);
  assert.ok(seen[0] > 2 ** 31 - 60_000 && seen.splice(0)[0] <= 2 ** 31);
  ask('a', 'waits', { ttl: 40 });
  await eventually('over', () => seen.length === 2);
  assert.ok(seen[0] > 0 && seen[0] <= 40, String(seen[0]));
  assert.equal(seen[1], 'deadline');
  await eventually('returned', () => worker.services.unfinished === 0);
  assert.deepEqual(told('a'), []);
});

test('requests made in a handler inherit what is left of its deadline, and only there', async (t) => {
  const asked = [];
  const { worker, ask, told } = await working(t, {
    onMessage(message, side) {
      if (!message.isRequest()) return;
      asked.push([message.payload, message.meta?.ttl]);
      side.send('response', message.channel_id, 'ok', message.message_id);
    },
  });
  const tenant = new AsyncLocalStorage();
  let later;
  let background;
  const inner = async (name, options) => (await worker.sendRequest('inner', name, options)).payload;
  await tenant.run('served', () => worker.serve('x', async function handler({ payload, remaining }) {
    assert.equal(tenant.getStore(), 'served');
    if (payload === 'late') {
      await sleep(remaining + 5);
      await assert.rejects(inner('never'), { code: 'TIMEOUT', message: /in hand is over/ });
      assert.throws(() => worker.stream('inner', 'never'), { code: 'TIMEOUT' });
      later = true;
      return 1;
    }
    background = (async () => {
      await sleep(50);
      await inner(`${payload} in the background`);
    })();
    await sleep(5);
    return inner(`${payload} without`).then(() => inner(`${payload} longer`, 60_000))
      .then(() => inner(`${payload} shorter`, 1_000)).then(() => inner(`${payload} for ever`, { timeout: Infinity }));
  }));
  await worker.serve('generator', async function* handler() {
    for (let n = 0; n < 2; n += 1) yield await inner(`yield ${n}`);
  });
  ask('a', 'a', { ttl: 20_000 });
  await eventually('answered', () => told('a').length === 1);
  await background;
  assert.deepEqual(asked.map(([name]) => name), ['a without', 'a longer', 'a shorter', 'a for ever', 'a in the background']);
  // The default timeout of the client, which is shorter than the deadline, does not travel.
  const [without, longer, shorter, forever, after] = asked.splice(0).map(([, ttl]) => ttl);
  for (const ttl of [without, longer, forever]) assert.ok(ttl > 10_000 && ttl < 20_000, String(ttl));
  assert.ok(shorter <= 1_000);
  assert.equal(after, undefined, 'the answer has been given');

  ask('b', 'b');
  await eventually('answered', () => told('b').length === 1);
  await background;
  // A busy machine takes a while from the call to the frame.
  const rounded = asked.splice(0).map(([, ttl]) => (ttl === undefined ? undefined : [1_000, 60_000].find((ms) => ttl <= ms)));
  assert.deepEqual(rounded, [undefined, 60_000, 1_000, undefined, undefined]);
  ask('c', 1, { ttl: 20_000, stream: 1 }, 'generator');
  await eventually('first', () => told('c').length === 1);
  await sleep(5);
  assert.ok(asked.splice(0).every(([, ttl]) => ttl > 10_000 && ttl <= 20_000));
  ask('d', 'late', { ttl: 10 });
  await eventually('late', () => later);
  await inner('outside');
  assert.deepEqual(asked.at(-1), ['outside', undefined]);
});

test('an error ends a stream, whatever it is', async (t) => {
  const { worker, ask, told, of } = await working(t);
  const errors = collected(worker, 'error');
  let closed = 0;
  await worker.serve('x', async function* handler({ payload }) {
    try {
      yield 1;
      if (payload === 'own') throw new HandlerError('no_more', 'that was all', { n: 1 });
      if (payload === 'crash') throw new Error('broken');
      yield payload === 'large' ? 'x'.repeat(17 << 20) : NaN;
      yield 2;
    } finally {
      closed += 1;
    }
  });
  for (const payload of ['own', 'crash', 'unsendable', 'large']) {
    ask(payload, payload, { stream: 9 });
    await eventually(payload, () => told(payload).length === 2);
  }
  assert.deepEqual(told('own'), [[0, 1], ['app:no_more']]);
  assert.deepEqual(of('own')[1].payload.details, { n: 1 });
  for (const payload of ['crash', 'unsendable', 'large']) assert.deepEqual(told(payload), [[0, 1], ['handler_failed']]);
  assert.match(of('unsendable')[1].payload.error, /payload is NaN/);
  assert.deepEqual(errors.map(({ code }) => code), ['BAD_PAYLOAD', 'FRAME_TOO_LARGE'], 'a crash is the requester\'s to know');
  ask('whole', 'own');
  ask('whole crash', 'unsendable');
  await eventually('whole', () => told('whole').length === 1 && told('whole crash').length === 1);
  assert.deepEqual([told('whole'), told('whole crash')], [[['app:no_more']], [['handler_failed']]]);
  assert.equal(closed, 6);
});

test('what fits into no frame is limit_exceeded to whoever takes no stream, and ends the generator', async (t) => {
  const { worker, ask, told } = await working(t, { grant: { ...GRANT, limits: { max_frame_bytes: 100_000 } } });
  let made = 0;
  let isClosed = false;
  await worker.serve('x', function* handler({ payload }) {
    try {
      for (; payload === 'endless' || made < payload; made += 1) yield 'x'.repeat(998);
    } finally {
      isClosed = true;
    }
  });
  ask('fits', 90);
  await eventually('fits', () => told('fits').length === 1);
  assert.equal(told('fits')[0][0].length, 90);
  [made, isClosed] = [0, false];
  ask('endless', 'endless');
  await eventually('refused', () => told('endless').length === 1);
  assert.deepEqual([told('endless'), isClosed], [[['limit_exceeded']], true]);
  assert.ok(made < 100);
});

test('a generator that never waits stops nothing, and its parts leave while it goes on', async (t) => {
  const { worker, ask, told, control } = await working(t);
  let isEnded = false;
  await worker.serve('x', function* handler() {
    try {
      for (let n = 0; ; n += 1) yield n;
    } finally {
      isEnded = true;
    }
  });
  await worker.serve('y', ({ payload }) => payload);
  ask('a', 1, { stream: 65_536 });
  ask('b', 2, undefined, 'y');
  await eventually('the other', () => told('b').length === 1);
  control('cancel', 'a', { reason: 'caller' });
  await eventually('ended', () => isEnded);
  assert.ok(told('a').length < 65_536, `${told('a').length} parts`);
});

test('parts wait for a server that does not read, and not in memory', async (t) => {
  const { worker, ask, told, sides } = await working(t, { options: { slowAfter: 60_000 } });
  let made = 0;
  await worker.serve('x', async function* handler() {
    for (; made < 200; made += 1) yield 'x'.repeat(200_000);
  });
  ask('a', 1, { stream: 1_000 });
  await eventually('begun', () => made > 0);
  sides[0].socket.pause();
  await eventually('stalled', async () => {
    const before = made;
    await sleep(100);
    return made === before;
  });
  assert.ok(made < 150, `${made} parts`);
  assert.ok(worker.connection.queuedBytes < 3 << 20);
  sides[0].socket.resume();
  await eventually('the end', () => told('a').length === 201);
});

test('a lost connection ends generators, and their requests are not answered on the next one', async (t) => {
  const { worker, ask, answers, sides } = await working(t);
  const reasons = [];
  await worker.serve('x', async function* handler({ signal }) {
    try {
      for (;;) {
        yield 1;
        await sleep(1);
      }
    } finally {
      reasons.push(signal.reason.code);
    }
  });
  ask('a', 1, { stream: 65_536 });
  ask('b', 1, { stream: 1 });
  await eventually('under way', () => answers.length > 2);
  sides[0].socket.destroy();
  await eventually('ended', () => reasons.length === 2);
  assert.deepEqual(reasons, ['CONNECTION_LOST', 'CONNECTION_LOST']);
  await eventually('again', () => sides.length === 2 && worker.connected);
  const { length } = answers;
  await sleep(30);
  assert.equal(answers.length, length);
});

test('an id that comes twice confuses nobody', async (t) => {
  const { worker, ask, told, control } = await working(t);
  const finish = [];
  const service = await worker.serve('x', () => new Promise((resolve) => { finish.push(resolve); }));
  ask('same', 1);
  ask('same', 2);
  await eventually('both', () => service.running === 2);
  control('cancel', 'same');
  await eventually('cancelled', () => [...worker.services.works.values()].filter(({ lost }) => lost).length === 1);
  finish.forEach((resolve) => resolve('done'));
  await eventually('done', () => service.running === 0);
  assert.deepEqual([told('same'), worker.services.works.size], [[['done']], 0]);
});

test('what fails in `finally` after a cancel is an error of this side', async (t) => {
  const { worker, ask, told, control } = await working(t);
  const warned = warnings(t);
  const errors = collected(worker, 'error');
  await worker.serve('x', async function* handler() {
    try {
      for (;;) yield 1;
    } finally {
      throw new Error('not cleaned up');
    }
  });
  ask('a', 1, { stream: 1 });
  await eventually('one', () => told('a').length === 1);
  control('cancel', 'a');
  await eventually('told', () => errors.length === 1);
  assert.deepEqual([errors[0].message, warned, worker.services.unfinished], ['not cleaned up', [], 0]);
});

test('close() of a generator\'s own service does not wait for itself', async (t) => {
  const { worker, ask, told } = await working(t, {
    onMessage: (message, side) => side.send('response', 'system', {}, message.message_id),
  });
  const service = await worker.serve('x', async function* handler() {
    await service.close();
    yield 1;
  });
  ask('a', 1, { stream: 1 });
  await eventually('answered', () => told('a').length === 2);
  await service.close();
});
