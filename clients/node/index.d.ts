/// <reference types="node" />
import { EventEmitter } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ConnectionOptions } from 'node:tls';

export type MessageTypeName = 'request' | 'response' | 'notification' | 'subscribe' | 'unsubscribe' | 'publish';

export const MessageType: {
  readonly REQUEST: 'request';
  readonly RESPONSE: 'response';
  readonly NOTIFICATION: 'notification';
  readonly SUBSCRIBE: 'subscribe';
  readonly UNSUBSCRIBE: 'unsubscribe';
  readonly PUBLISH: 'publish';
};
export type MessageType = MessageTypeName;

/** The seven fields of the wire. */
export interface MessageFields<Payload = any> {
  message_id: string;
  app_id: string;
  channel_id: string;
  message_type: MessageTypeName;
  payload: Payload;
  timestamp: number;
  reply_to: string | null;
}

/** The same in the other spelling. */
export interface IMessage<Payload = any> {
  messageId: string;
  appId: string;
  channelId: string;
  messageType: MessageTypeName;
  payload: Payload;
  timestamp: number;
  replyTo?: string | null | undefined;
}

/**
 * A message as it goes over the wire, with its fields in both spellings. What a payload is, only its sender knows:
 * name its type, or look at it before use.
 */
export class Message<Payload = any> implements MessageFields<Payload> {
  constructor(fields: Partial<MessageFields<Payload>> | Partial<IMessage<Payload>>);
  message_id: string;
  app_id: string;
  channel_id: string;
  message_type: MessageTypeName;
  payload: Payload;
  timestamp: number;
  reply_to: string | null;
  get messageId(): string;
  get appId(): string;
  get channelId(): string;
  get messageType(): MessageTypeName;
  get replyTo(): string | null;
  isRequest(): boolean;
  isNotification(): boolean;
  isResponse(): boolean;
  createResponse<Answer = any>(payload: Answer): Message<Answer>;
  toObject(): MessageFields<Payload>;
  /** JSON text; `JSON.stringify`, which gives a key, gets the object. */
  toJSON(): string;
  toJSON(key: string): MessageFields<Payload>;
  static fromJSON<Payload = any>(json: string | object): Message<Payload>;
  static fromObject<Payload = any>(object: object): Message<Payload>;
}

export interface ClientOptions {
  /** 'localhost' */
  host?: string | undefined;
  /** 8888 */
  port?: number | string | undefined;
  /** Of a Unix socket, in place of host and port. */
  path?: string | undefined;
  token?: string | undefined;
  /**
   * Speak TLS: `true` where Node trusts the server's certificate anyway, else what `tls.connect` takes, such as `ca`,
   * `cert`, `key` and `servername`, or a function that returns it and is called for each connection.
   */
  tls?: boolean | ConnectionOptions | (() => true | ConnectionOptions) | undefined;
  /** Milliseconds until connected and introduced, 10,000. */
  connectionTimeout?: number | undefined;
  /** Milliseconds for an answer where the call does not say, 10,000. */
  requestTimeout?: number | undefined;
  /** Milliseconds that close() waits for what is under way, 5,000. */
  closeTimeout?: number | undefined;
  /** 5; `Infinity` never gives up, 0 never tries. */
  reconnectAttempts?: number | undefined;
  /** Milliseconds before the first of them, 2,000; doubles with each. */
  reconnectDelay?: number | undefined;
  /** 30,000 */
  reconnectDelayMax?: number | undefined;
  /** Milliseconds, 30,000; 0 for none. */
  heartbeatInterval?: number | undefined;
  /** Of the body of a frame, either way, 16 MiB. */
  maxFrameBytes?: number | undefined;
  /** More unsent bytes for longer than `slowAfter` milliseconds are what `slow` tells of, 1 MiB and 250. */
  slowBytes?: number | undefined;
  slowAfter?: number | undefined;
  /** Unsent bytes at which nothing more is taken, 64 MiB. */
  sendQueueBytes?: number | undefined;
  /** Messages that wait for a connection to come back, 1,000. */
  offlineQueueSize?: number | undefined;
  /** Bytes of these, 16 MiB. */
  offlineQueueBytes?: number | undefined;
  /** Requests without an answer, 65,536. */
  pendingMax?: number | undefined;
}

export interface RequestOptions {
  /** Milliseconds; `Infinity` for none. */
  timeout?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface SubscribeOptions {
  signal?: AbortSignal | undefined;
  /** Messages kept for a reader that is behind, 1,024. */
  buffer?: number | undefined;
  /** Bytes of these, as they came, 16 MiB. */
  bufferBytes?: number | undefined;
}

export interface ServeOptions {
  /** Requests handled at a time, 64. */
  concurrency?: number | undefined;
  /** Requests that wait behind them, 1,024. */
  queueMax?: number | undefined;
  /** Bytes of these, as they came, 64 MiB. */
  queueBytes?: number | undefined;
  /** Takes the channel's notifications; what it returns goes nowhere. */
  onNotification?: ((notification: ServedRequest) => unknown) | undefined;
}

export interface ConnectionInfo {
  connectionId: string;
  appId: string;
  connected: boolean;
  host: string;
  port: number;
  path: string | undefined;
  /** What the server calls itself; null for the published one. */
  server: string | null;
  subscribedChannels: string[];
}

export type MessageHandler<Payload = any> = (message: Message<Payload>) => unknown;

export interface Subscription<Payload = any> extends AsyncIterableIterator<Message<Payload>> {
  readonly channel: string;
  /** Messages lost because the reader was too far behind. */
  readonly dropped: number;
  /** Resolves when the server has confirmed the subscription. */
  readonly ready: Promise<void>;
  unsubscribe(): void;
  next(): Promise<IteratorResult<Message<Payload>, undefined>>;
  return(): Promise<IteratorResult<Message<Payload>, undefined>>;
  [Symbol.asyncIterator](): Subscription<Payload>;
}

export type ServedRequest<Payload = any> = Message<Payload> & {
  /** Aborted when the connection that the request came over is gone. */
  readonly signal: AbortSignal;
};

export type ServeHandler<Payload = any> = (request: ServedRequest<Payload>) => unknown;

export interface Service {
  readonly channel: string;
  /** Notifications lost because `queueMax` were waiting. */
  readonly dropped: number;
  /** Serves no longer; resolves when what had begun is answered. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** The events and what their listeners are given. */
export interface ClientEvents {
  connected: [info: { isReconnect: boolean; server: string | null }];
  disconnected: [info: { cause: Error | undefined }];
  reconnecting: [info: { attempt: number; delay: number; error: Error | undefined }];
  error: [error: Error];
  slow: [info: { queuedBytes: number } | { channel: string; subscription: Subscription }
    | { channel: string; service: Service }];
  drain: [];
  /** An answer nobody awaits, such as one to `request`. */
  response: [message: Message];
  /** Whatever else comes in. */
  message: [message: Message];
}

/** What a client and a pool have in common. */
interface Messaging {
  readonly appId: string;
  readonly host: string;
  readonly port: number;
  readonly connected: boolean;
  /** What the server calls itself; null for the published one. */
  readonly server: string | null;
  readonly lastError: Error | null;
  isConnected(): boolean;
  /** False where it could not: `lastError` and the event `error` say why. */
  connect(how?: { retry?: boolean }): Promise<boolean>;
  disconnect(): void;
  close(options?: { timeout?: number }): Promise<void>;
  sendRequest<Answer = any>(channelId: string, data?: unknown, options?: number | RequestOptions)
    : Promise<Message<Answer>>;
  /** Sends a request and returns its id; the answer is the event `response`. */
  request(channelId: string, data?: unknown): string;
  sendRequestAsync<Answer = any>(
    channelId: string, data: unknown, callback: MessageHandler<Answer>, options?: number | RequestOptions): string;
  sendMessage(channelId: string, messageType: MessageTypeName, payload?: unknown, replyTo?: string | null): string;
  publish(channelId: string, data?: unknown): string;
  notify(channelId: string, data?: unknown): string;
  subscribe<Payload = any>(channelId: string, handler: MessageHandler<Payload>): true;
  subscribe<Payload = any>(channelId: string, options?: SubscribeOptions): Subscription<Payload>;
  unsubscribe(channelId: string): boolean;
  serve<Payload = any>(channelId: string, handler: ServeHandler<Payload>, options?: ServeOptions)
    : Promise<Service>;
  ping(timeout?: number): Promise<boolean>;
  healthCheck(timeout?: number): Promise<boolean>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface IPCClient extends Messaging {}
export class IPCClient extends EventEmitter {
  on<Name extends keyof ClientEvents>(event: Name, listener: (...values: ClientEvents[Name]) => void): this;
  once<Name extends keyof ClientEvents>(event: Name, listener: (...values: ClientEvents[Name]) => void): this;
  off<Name extends keyof ClientEvents>(event: Name, listener: (...values: ClientEvents[Name]) => void): this;
  constructor(appId: string, options?: ClientOptions);
  readonly connectionId: string;
  readonly state: 'idle' | 'connecting' | 'connected' | 'reconnecting' | 'closed';
  onConnected(handler: (() => unknown) | null): void;
  onDisconnected(handler: (() => unknown) | null): void;
  onError(handler: ((error: Error) => unknown) | null): void;
  send(message: Message): string;
  respond(request: Message, payload?: unknown): string;
  getConnectionInfo(): ConnectionInfo;
}

/** `connected` where one of them is; the channels of all. */
export interface PoolInfo extends Omit<ConnectionInfo, 'connectionId'> {
  connections: ConnectionInfo[];
}

/** The pool's events give the client they come from behind the values of the client's. */
export type PoolEvents = {
  [Name in keyof ClientEvents]: [...values: ClientEvents[Name], client: IPCClient];
};

export interface IPCPool extends Messaging {}
export class IPCPool extends EventEmitter {
  on<Name extends keyof PoolEvents>(event: Name, listener: (...values: PoolEvents[Name]) => void): this;
  once<Name extends keyof PoolEvents>(event: Name, listener: (...values: PoolEvents[Name]) => void): this;
  off<Name extends keyof PoolEvents>(event: Name, listener: (...values: PoolEvents[Name]) => void): this;
  constructor(appId: string, options?: ClientOptions & { size?: number });
  readonly size: number;
  readonly clients: readonly IPCClient[];
  onConnected(handler: ((client: IPCClient) => unknown) | null): void;
  onDisconnected(handler: ((client: IPCClient) => unknown) | null): void;
  onError(handler: ((error: Error, client: IPCClient) => unknown) | null): void;
  getConnectionInfo(): PoolInfo;
}

export type ServerCode =
  | 'bad_frame' | 'bad_message' | 'frame_too_large' | 'not_connected' | 'auth_failed' | 'server_full' | 'no_handler'
  | 'handler_failed' | 'worker_lost' | 'timeout' | 'forbidden' | 'limit_exceeded' | 'taken_over' | 'shutting_down';

export type ClientCode =
  | 'TIMEOUT' | 'ABORTED' | 'NOT_CONNECTED' | 'CONNECTION_LOST' | 'TLS_FAILED' | 'QUEUE_FULL' | 'FRAME_TOO_LARGE'
  | 'BAD_FRAME' | 'BAD_MESSAGE' | 'BAD_PAYLOAD' | 'ALREADY_SERVED' | 'UNSUPPORTED';

export class IPCError extends Error {
  constructor(code: ServerCode | ClientCode, message: string, options?: { cause?: unknown });
  readonly code: ServerCode | ClientCode;
  readonly cause?: unknown;
}
export class ServerError extends IPCError {
  constructor(response: Message);
  readonly code: ServerCode;
  readonly response: Message;
}
export class TimeoutError extends IPCError {
  constructor(message: string);
  readonly code: 'TIMEOUT';
}
export class AbortedError extends IPCError {
  constructor(message: string, options?: { cause?: unknown });
  readonly code: 'ABORTED';
}
export class NotConnectedError extends IPCError {
  constructor(message: string, options?: { cause?: unknown });
  readonly code: 'NOT_CONNECTED' | 'CONNECTION_LOST' | 'TLS_FAILED';
}
export class ConnectionLostError extends NotConnectedError {
  readonly code: 'CONNECTION_LOST';
}
export class QueueFullError extends IPCError {
  constructor(message: string);
  readonly code: 'QUEUE_FULL';
}
export class TLSError extends NotConnectedError {
  readonly code: 'TLS_FAILED';
}
export class FrameError extends IPCError {
  constructor(code: FrameError['code'], message: string, options?: { fatal?: boolean; cause?: unknown });
  readonly code: 'FRAME_TOO_LARGE' | 'BAD_FRAME' | 'BAD_MESSAGE' | 'BAD_PAYLOAD';
  /** Whether the connection is closed over it. */
  readonly fatal: boolean;
}

export interface ProxyOptions<Request extends IncomingMessage = IncomingMessage> {
  timeout?: number;
  /** Makes the payload; without it: method, path, query, params and body. */
  payload?: (req: Request) => unknown;
  /** The status of an error, where it is not to be the usual. */
  status?: (error: IPCError) => number | undefined | Promise<number | undefined>;
  /** Of a body that no parser has read, 1 MiB. */
  bodyBytes?: number;
}

export interface EventsOptions<Request extends IncomingMessage = IncomingMessage> {
  /** Name of the events; `message` without it. */
  event?: string;
  /** Milliseconds that a browser waits before it connects again. */
  retry?: number;
  /** Answers at once: nothing is shown for a promise. */
  filter?: (message: Message, req: Request) => boolean;
  /** Messages kept for browsers that come back, 256; 0 for none. */
  history?: number;
  /** Bytes of these, 1 MiB. */
  historyBytes?: number;
  /** Milliseconds that the subscription outlives the last browser, 30,000. */
  linger?: number;
}

/** Middleware of Express, or a listener of node:http. */
export function ipcProxy<Request extends IncomingMessage = IncomingMessage>(
  client: IPCClient | IPCPool, channel: string, options?: ProxyOptions<Request>,
): (req: Request, res: ServerResponse, next?: (error?: unknown) => void) => Promise<void>;

/** Shows a channel's messages to browsers as Server-Sent Events. */
export function ipcEvents<Request extends IncomingMessage = IncomingMessage>(
  client: IPCClient | IPCPool, channel: string, options?: EventsOptions<Request>,
): (req: Request, res: ServerResponse) => void;
