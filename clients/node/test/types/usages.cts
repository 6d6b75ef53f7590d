// What programs do with the package; the compiler reads it in strict mode, nobody runs it.
// Each @ts-expect-error is a mistake that has to be one.

import events = require('node:events');
import express = require('express');
import http = require('node:http');
import ipc = require('ipc-framework');
import expressHelper = require('ipc-framework/express');

const { IPCClient, Message, MessageType } = ipc;

async function published(): Promise<void> {
  const client = new IPCClient('my_app', {
    host: 'localhost', port: 8888, connectionTimeout: 10000, reconnectAttempts: 5, reconnectDelay: 2000,
    heartbeatInterval: 30000,
  });
  client.onConnected(() => {});
  client.onDisconnected(() => {});
  client.onError((error) => console.error(error.message));
  const ok: boolean = await client.connect();
  const response = await client.sendRequest('api', { action: 'get_data' }, 10000);
  response.payload.anything;
  const handled: true = client.subscribe('notifications', (message) => console.log(message.payload, message.channelId));
  const ids: string[] = [client.publish('events', {}), client.notify('events', {}), client.request('api', {}),
    client.sendRequestAsync('api', {}, (answer) => answer.reply_to)];
  const healthy: boolean[] = [await client.ping(), await client.healthCheck(), client.isConnected(), client.connected,
    client.unsubscribe('notifications')];
  const { connectionId, appId, connected, host, port, subscribedChannels } = client.getConnectionInfo();
  const texts: string[] = [connectionId, appId, host, ...subscribedChannels, client.connectionId];
  client.disconnect();
  void [ok, handled, ids, healthy, connected, port, texts];
}

async function modern(signal: AbortSignal): Promise<void> {
  await using client = new IPCClient('math', { path: '/run/ipc.sock', token: 'secret', reconnectAttempts: Infinity });
  await client.connect({ retry: true });
  const { payload } = await client.sendRequest<{ sum: number }>('add', [1, 2], { timeout: 500, signal });
  const sum: number = payload.sum;
  // @ts-expect-error the payload was said to have no such field
  payload.difference;
  for await (const message of client.subscribe<{ text: string }>('news', { signal, buffer: 10, bufferBytes: 1e6 })) {
    const text: string = message.payload.text;
    void text;
    break;
  }
  const subscription = client.subscribe('news');
  await subscription.ready;
  const lost: number = subscription.dropped;
  subscription.unsubscribe();
  await using service = await client.serve<number>('square', async (request) => {
    request.signal.throwIfAborted();
    return request.payload ** 2;
  }, { concurrency: 4, prefetch: 0, queueMax: 10, queueBytes: 1e6, onNotification: async ({ payload }) => payload });
  const options = { timeout: 500, signal, credit: 8, idempotent: true, headers: { tenant: 'a' },
    trace: { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' } };
  for await (const part of client.stream<{ token: string }>('model', { prompt: 'x' }, options)) {
    const token: string = part.payload.token;
    const tenant: string | undefined = part.headers?.['tenant'];
    void [token, tenant, part.trace?.traceparent];
    break;
  }
  await using stream = client.stream<number>('numbers', null, 1_000);
  const first = await stream.next();
  const number: number | undefined = first.done ? undefined : first.value.payload;
  client.publish('news', 1, { headers: { a: 'b' }, trace: { tracestate: 'x' } });
  // @ts-expect-error a publication has no time
  client.notify('news', 1, { timeout: 5 });
  await client.sendRequest('add', [1], { idempotent: true, headers: { a: 'b' } });
  // @ts-expect-error a header is text
  client.sendRequest('add', [1], { headers: { a: 5 } });
  // @ts-expect-error a request takes no credit
  client.sendRequest('add', [1], { credit: 5 });
  // @ts-expect-error credit is a number
  client.stream('add', [1], { credit: '5' });
  await client.serve<{ prompt: string }>('model', async function* tokens({ payload, signal, remaining }) {
    const left: number = remaining;
    signal.addEventListener('abort', () => {
      if (signal.reason instanceof ipc.CancelledError) console.log(signal.reason.reason === 'caller', left);
    });
    yield payload.prompt;
  });
  const granted: readonly string[] = client.extensions;
  const frameBytes: number | undefined = client.limits?.maxFrameBytes;
  void [number, granted, frameBytes];
  client.on('connected', ({ isReconnect, server }) => console.log(isReconnect, server?.length));
  client.on('reconnecting', ({ attempt, delay, error }) => console.log(attempt + delay, error?.message));
  client.once('slow', (told) => {
    if ('queuedBytes' in told) return told.queuedBytes;
    return 'subscription' in told ? told.subscription.dropped : told.service.dropped;
  });
  client.on('error', (error) => error.message);
  client.on('response', (message) => client.respond(message, 1));
  await events.once(client, 'connected', { signal });
  // @ts-expect-error there is no such event
  client.on('conected', () => {});
  // @ts-expect-error a channel is a string
  client.publish(5, 'x');
  new IPCClient('a', { tls: true });
  new IPCClient('a', { tls: { ca: Buffer.from(''), cert: '', key: '', servername: 'ipc.internal' } });
  new IPCClient('a', { tls: () => ({ ca: '' }) });
  // @ts-expect-error a certificate is no number
  new IPCClient('a', { tls: { ca: 5 } });
  new IPCClient('a', { parse: (text) => JSON.parse(text), stringify: (payload) => JSON.stringify(payload) });
  new IPCClient('a', { parse: JSON.parse, stringify: JSON.stringify });
  // @ts-expect-error text is no number
  new IPCClient('a', { stringify: () => 5 });
  // @ts-expect-error no such option
  new IPCClient('a', { hots: 'localhost' });
  // @ts-expect-error a signal is no string
  client.sendRequest('a', 1, { signal: 'now' });
  client.sendMessage('a', MessageType.RESPONSE, 1, 'id');
  // @ts-expect-error no type of a message
  client.sendMessage('a', 'reply');
  await client.close({ timeout: 100 });
  void [sum, lost, service];
}

async function topics(client: ipc.IPCClient, pool: ipc.IPCPool): Promise<void> {
  const handled: true = client.subscribePattern<number>('prices.>', ({ payload, channelId }) => [payload + 1, channelId]);
  for await (const { payload, epoch, offset, retained } of client.subscribePattern<number>('prices.*', { last: 1 })) {
    const place: [number, string | undefined, number | undefined, boolean] = [payload, epoch, offset, retained];
    void place;
    break;
  }
  client.subscribe('log', (message) => message.offset, { since: { epoch: 'e', offset: 5 }, conflate: true });
  const log = pool.subscribe<string>('log', { last: 10, since: { epoch: 'e', offset: 0 }, conflate: false, buffer: 5 });
  log.on('gap', ({ channel, missed, seen, from }) => console.log(channel?.length, missed, seen?.offset, from?.epoch));
  log.once('resumed', ({ messages, epoch, offset }) => console.log(messages + offset, epoch));
  const at: number | undefined = log.place?.offset;
  client.on('gap', ({ pattern, subscription }) => console.log(pattern?.length, subscription?.dropped));
  pool.on('resumed', (resumed, one) => console.log(resumed.channel, one.connectionId));
  const id: string = client.publish('state', 1, { retain: true, headers: { a: 'b' } });
  const { messageId, epoch, offset } = await pool.publish('log', 1, { ack: true, timeout: 100 });
  const published: [string, string | undefined, number | undefined] = [messageId, epoch, offset];
  const ended: boolean = client.unsubscribePattern('prices.>');
  const { subscribedPatterns } = client.getConnectionInfo();
  const gap: ipc.Gap['seen'] = log.place;
  // @ts-expect-error a pattern has no place in a history
  client.subscribePattern('prices.*', { since: { epoch: 'e', offset: 5 } });
  // @ts-expect-error a place has an epoch
  client.subscribe('log', { since: { offset: 5 } });
  // @ts-expect-error a handler has no buffer
  client.subscribe('log', () => {}, { buffer: 5 });
  // @ts-expect-error no such event
  log.on('gaps', () => {});
  // @ts-expect-error what is acknowledged is a promise
  const wrong: string = client.publish('log', 1, { ack: true });
  http.createServer(ipc.ipcEvents(client, 'prices.*', { pattern: true, last: 1 }));
  // @ts-expect-error a boolean
  ipc.ipcEvents(client, 'prices.*', { pattern: 'prices.*' });
  void [handled, at, id, published, ended, subscribedPatterns, gap, wrong];
}

async function binary(client: ipc.IPCClient): Promise<void> {
  const image = new ipc.Tensor({ dtype: 'f32', shape: [224, 224, 3], data: new Float32Array(224 * 224 * 3) });
  const { payload } = await client.sendRequest<{ scores: ipc.Tensor<'f32'>; mask: ipc.Tensor; raw: Buffer }>('model', {
    image, raw: Buffer.from(''), also: new BigInt64Array(1),
  });
  const scores: Float32Array = payload.scores.data;
  const shape: readonly number[] = payload.mask.shape;
  const bytes: number = payload.raw.length;
  const long: BigInt64Array = new ipc.Tensor({ dtype: 'i64', data: new Uint8Array(8) }).data;
  // @ts-expect-error not a type of the wire
  new ipc.Tensor({ dtype: 'float32', data: new Float32Array(1) });
  // @ts-expect-error numbers are no memory
  new ipc.Tensor({ dtype: 'f32', data: [1, 2] });
  // @ts-expect-error its shape is what it was
  image.shape = [1];
  const decoded = ipc.fromBase64<{ image: Buffer }>({ image: { $base64: '', dtype: null, shape: null } });
  new IPCClient('a', { replacer: (key, value) => (value instanceof Map ? [...value] : value) });
  new IPCClient('a', { replacer: ['a', 5] });
  // @ts-expect-error no replacer
  new IPCClient('a', { replacer: 'a' });
  void [scores, shape, bytes, long, decoded.image.length, image.toArray(), image.toJSON().$base64];
}

async function errors(client: ipc.IPCClient): Promise<string> {
  try {
    await client.sendRequest('x');
    return '';
  } catch (error) {
    if (error instanceof ipc.ServerError) {
      if (error.code === 'no_handler') return error.response.channelId;
      // @ts-expect-error not a code of the server's
      if (error.code === 'TIMEOUT') return '';
      if (error.code === 'app:not_found') return String(error.details.id);
      const isApplication: boolean = error.isApplication;
      return String(isApplication);
    }
    if (error instanceof ipc.HandlerError) { const code: `app:${string}` = error.code; return code; }
    if (error instanceof ipc.ConnectionLostError) { const code: 'CONNECTION_LOST' = error.code; return code; }
    if (error instanceof ipc.NotConnectedError || error instanceof ipc.TimeoutError) return error.code;
    if (error instanceof ipc.FrameError) return String(error.fatal);
    if (error instanceof ipc.IPCError) return `${error.code} ${error.message}`;
    throw error;
  }
}

function messages(message: ipc.Message<number>): string {
  const doubled: number = message.payload * 2;
  const answer: ipc.Message<string> = message.createResponse('done');
  const type: ipc.MessageType = answer.messageType;
  const fields: ipc.MessageFields<number> = message.toObject();
  Message.fromJSON<{ a: 1 }>(message.toJSON()).payload.a;
  void [doubled, type, fields];
  return message.isRequest() || message.isResponse() ? message.toJSON() : JSON.stringify(message);
}

async function pools(): Promise<void> {
  const pool = new ipc.IPCPool('bench', { size: 3, port: 9000 });
  pool.on('error', (error, client) => console.log(error.message, client.connectionId));
  await pool.connect();
  const answer = await pool.sendRequest<string>('echo', 'x');
  const length: number = answer.payload.length + pool.size + pool.clients.length;
  for await (const { payload } of pool.stream<string>('model', 'x')) console.log(payload.length);
  const service: ipc.Service = await pool.serve('square', (request) => {
    if (request.payload < 0) throw new ipc.HandlerError('bad_input', 'no negative numbers', { got: request.payload });
    // @ts-expect-error a text is no number
    new ipc.HandlerError('bad_input', 5);
    return request.payload;
  });
  await service.close();
  await pool.close();
  const status = (error: ipc.IPCError | ipc.HandlerError): number => (error.code === 'timeout' ? 504 : 502);
  http.createServer(ipc.ipcProxy(pool, 'api', { timeout: 10, status }));
  const filter = ({ payload }: ipc.Message): boolean => payload !== null;
  http.createServer(expressHelper.ipcEvents(pool, 'news', { event: 'news', retry: 10, filter }));
  const ids: string[] = [pool.request('echo', 1), pool.sendRequestAsync('echo', 1, ({ payload }) => payload, 10)];
  pool.onError((error, client) => console.error(error.message, client.connectionId));
  const well: boolean = await pool.ping() && await pool.healthCheck(10);
  const connections: ipc.ConnectionInfo[] = pool.getConnectionInfo().connections;
  // @ts-expect-error an answer belongs on its request's connection: it is the client that has this
  pool.respond;
  void [length, ids, well, connections];
}

function web(client: ipc.IPCClient): void {
  const app = express();
  app.use('/api', express.json(), ipc.ipcProxy(client, 'api'));
  app.get('/users/:id', ipc.ipcProxy(client, 'users', { payload: ({ params }: express.Request) => params['id'] }));
  const status = async ({ code }: { code: string }): Promise<number | undefined> => (code === 'TIMEOUT' ? 408 : undefined);
  const statuses = { 'app:conflict': 409, worker_lost: 503 };
  app.post('/late', ipc.ipcProxy(client, 'late', { status, statuses, exposeCrashes: true }));
  // @ts-expect-error no such code
  app.post('/late', ipc.ipcProxy(client, 'late', { statuses: { conflict: 409 } }));
  app.get('/events', ipc.ipcEvents(client, 'news'));
  app.get('/model', ipc.ipcStream(client, 'model', { event: 'token', timeout: 60_000 }));
  app.post('/model', express.json(), expressHelper.ipcStream(client, 'model', {
    as: 'ndjson', credit: 8, payload: ({ body }: express.Request) => body, status, statuses, exposeCrashes: false,
  }));
  // @ts-expect-error no such format
  app.get('/model', ipc.ipcStream(client, 'model', { as: 'xml' }));
  const isMine = ({ payload }: ipc.Message<{ to: string }>, req: express.Request): boolean => payload.to === req.ip;
  app.get('/mine', ipc.ipcEvents(client, 'news', { filter: isMine, history: 10, historyBytes: 1e6, linger: 0 }));
  // @ts-expect-error a filter answers at once
  app.get('/theirs', ipc.ipcEvents(client, 'news', { filter: async () => true }));
}

void [published, modern, topics, binary, errors, messages, pools, web];
