import all, { IPCClient, IPCPool, MessageType, TimeoutError } from 'ipc-framework';
import type { ClientOptions, Subscription } from 'ipc-framework';
import { ipcEvents, ipcProxy } from 'ipc-framework/express';

const options: ClientOptions = { port: Number(process.env['PORT']), host: undefined };
const client: IPCClient = new all.IPCClient('my_app', options);
const subscription: Subscription<number> = client.subscribe<number>('numbers');
const type: 'publish' = MessageType.PUBLISH;
const handlers = [ipcProxy(client, 'api'), ipcEvents(new IPCPool('a'), 'news')];
const thrown: unknown = new TimeoutError('late');

export { subscription, type, handlers, thrown };
