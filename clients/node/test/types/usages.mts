import all, { IPCClient, IPCPool, MessageType, Tensor, TimeoutError, fromBase64 } from 'ipc-framework';
import type { ClientOptions, Subscription } from 'ipc-framework';
import { ipcEvents, ipcProxy, ipcStream } from 'ipc-framework/express';

const options: ClientOptions = { port: Number(process.env['PORT']), host: undefined };
const client: IPCClient = new all.IPCClient('my_app', options);
const subscription: Subscription<number> = client.subscribe<number>('numbers');
const type: 'publish' = MessageType.PUBLISH;
const handlers = [
  ipcStream(client, 'model', { as: undefined, event: undefined, credit: undefined, timeout: undefined }),
  ipcProxy(client, 'api', { timeout: undefined, payload: undefined, status: undefined, bodyBytes: undefined }),
  ipcEvents(new IPCPool('a', { size: undefined }), 'news', { event: undefined, filter: undefined, linger: undefined }),
];
void client.connect({ retry: undefined });
void client.close({ timeout: undefined });
const thrown: unknown = new TimeoutError('late');

const halves: ArrayLike<number> = fromBase64<Tensor<'f16'>>({}).data;

export { halves, subscription, type, handlers, thrown };
