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
 * A message as on the wire, with its fields in both spellings. Only the sender knows the payload's type: name it, or
 * check the payload before use.
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
  /** Headers that the sender gave to it. */
  get headers(): { [name: string]: string } | undefined;
  /** W3C Trace Context that the sender gave to it. */
  get trace(): Trace | undefined;
  /** The history of its channel that it is in; undefined where the server keeps none. */
  get epoch(): string | undefined;
  /** Its place there, from 1 on. */
  get offset(): number | undefined;
  /** True if it was published to be the last value of its channel. */
  get retained(): boolean;
  isRequest(): boolean;
  isNotification(): boolean;
  isResponse(): boolean;
  createResponse<Answer = any>(payload: Answer): Message<Answer>;
  toObject(): MessageFields<Payload>;
  /** Returns JSON text, or the object for `JSON.stringify`, which passes a key. */
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
  /**
   * Several servers in place of `host`: `['a', 'b:9000', '[::1]:9000']`, or with commas in one string. Those without a
   * port have `port`. The first that welcomes the client is used, and when the connection ends the client goes on with
   * the next one in turn.
   */
  hosts?: string | readonly string[] | undefined;
  /** Path of a Unix socket, instead of host and port, or several as for `hosts`. */
  path?: string | readonly string[] | undefined;
  /** 'listed'; with 'random' each client has an order of its own. */
  addressOrder?: 'listed' | 'random' | undefined;
  token?: string | undefined;
  /**
   * Speak TLS: `true` if Node trusts the server's certificate anyway, otherwise the options of `tls.connect`, such as
   * `ca`, `cert`, `key` and `servername`, or a function that returns them and is called for each connection.
   */
  tls?: boolean | ConnectionOptions | (() => true | ConnectionOptions) | undefined;
  /**
   * Reads the JSON of a message in place of `JSON.parse`, such as integers beyond 2^53. It is given the text of the whole
   * message, whose `payload` the program sees.
   */
  parse?: ((text: string) => any) | undefined;
  /**
   * Writes the JSON of a payload in place of `JSON.stringify`. It alone decides what can be sent, and nothing is sent
   * as bytes beside it.
   */
  stringify?: ((payload: any) => string | undefined) | undefined;
  /**
   * The replacer of `JSON.stringify`, for what JSON cannot say, such as a Map. It sees binary values as they are, and
   * those that it leaves are sent as bytes.
   */
  replacer?: ((this: any, key: string, value: any) => any) | readonly (string | number)[] | undefined;
  /** Milliseconds for connecting, handshake included, 10,000. */
  connectionTimeout?: number | undefined;
  /** Milliseconds for an answer, unless the call has its own, 10,000. */
  requestTimeout?: number | undefined;
  /** Milliseconds that close() waits for work in progress, 5,000. */
  closeTimeout?: number | undefined;
  /** `Infinity`, which never gives up; 0 never tries. */
  reconnectAttempts?: number | undefined;
  /** Milliseconds before the first attempt, 50; doubles with each. */
  reconnectDelay?: number | undefined;
  /** 5,000 */
  reconnectDelayMax?: number | undefined;
  /** Milliseconds, 30,000; 0 for none. */
  heartbeatInterval?: number | undefined;
  /** Bytes of a frame's body in either direction, 16 MiB. */
  maxFrameBytes?: number | undefined;
  /** Unsent bytes that are reported as `slow` after `slowAfter` milliseconds, 1 MiB and 250. */
  slowBytes?: number | undefined;
  slowAfter?: number | undefined;
  /** Unsent bytes at which sending fails, 64 MiB. */
  sendQueueBytes?: number | undefined;
  /** Messages that may wait for the next connection, 1,000. */
  offlineQueueSize?: number | undefined;
  /** Bytes of these messages, 16 MiB. */
  offlineQueueBytes?: number | undefined;
  /** Requests in flight, 65,536. */
  pendingMax?: number | undefined;
}

/** What any message may have besides its payload, for servers with an extension. All of it has at most 4 KiB. */
export interface MessageOptions {
  /** W3C Trace Context. */
  trace?: Trace | undefined;
  /** Headers of your own. */
  headers?: { [name: string]: string } | undefined;
}

export interface RequestOptions extends MessageOptions {
  /**
   * Milliseconds; `Infinity` for none. A server with the extension `call`, and the worker, know them; of a stream they
   * bound the whole.
   */
  timeout?: number | undefined;
  /** Cancels the request, at its worker too if the server has the extension `call`. */
  signal?: AbortSignal | undefined;
  /** The request may be carried out twice: if its worker is lost, the server gives it once to another one. */
  idempotent?: boolean | undefined;
}

export interface Trace {
  traceparent?: string | undefined;
  tracestate?: string | undefined;
}

export interface StreamOptions extends RequestOptions {
  /** Parts that the worker may be ahead of the reader, from 1 to 65,536; 64. */
  credit?: number | undefined;
}

/** Beside headers and trace, for servers with the extension `topic`. */
export interface PublishOptions extends MessageOptions {
  /** The server keeps it as the last value of the channel, for those who come later; null forgets that value. */
  retain?: boolean | undefined;
  /** True: `publish` returns a promise, which resolves when the server has it. */
  ack?: boolean | undefined;
  /** Milliseconds to wait for that; `requestTimeout`. */
  timeout?: number | undefined;
  /** Ends the waiting. The publication may have been sent all the same. */
  signal?: AbortSignal | undefined;
}

/** The server has the publication. Without a history of the channel it has no place. */
export interface Published {
  messageId: string;
  epoch: string | undefined;
  offset: number | undefined;
}

/** A place in the history of a channel: everything up to `offset`, which counts from 1 in an `epoch`. */
export interface Place {
  epoch: string;
  offset: number;
}

/** What only servers with the extension `topic` can do; with others it is the error UNSUPPORTED. */
export interface TopicOptions {
  /** The newest messages that the server keeps, so many, of each channel; 1 also for a last value. */
  last?: number | undefined;
  /** What the server keeps behind a place, such as that of the last message seen. Not for patterns. */
  since?: Place | undefined;
  /**
   * While this client is slow, the server keeps only the newest message of each channel for it. The same for all
   * subscriptions of a channel in a client.
   */
  conflate?: boolean | undefined;
}

export interface SubscribeOptions extends TopicOptions {
  signal?: AbortSignal | undefined;
  /** Messages kept for a slow reader, 1,024. */
  buffer?: number | undefined;
  /** Bytes of these messages on the wire, 16 MiB. */
  bufferBytes?: number | undefined;
}

/** Messages are missing, or may be. */
export interface Gap {
  /** Null: of a pattern, and nobody knows of which channels. */
  channel: string | null;
  /** The pattern of the subscription, if it has one. */
  pattern: string | undefined;
  /** The number of missing messages; null if nobody knows. */
  missed: number | null;
  /** The place up to which messages had come; null where there was no history. */
  seen: Place | null;
  /** The place behind which it goes on; null where there is no history. */
  from: Place | null;
}

/** On a new connection a subscription has gone on where it was, or begun where `since` said: nothing is missing. */
export interface Resumed extends Place {
  channel: string;
  /** The number of messages that were published meanwhile, which follow. */
  messages: number;
}

export interface ServeOptions {
  /** Requests handled at a time, 64. */
  concurrency?: number | undefined;
  /**
   * Requests that this worker holds ahead of those that it handles. The server keeps the others, also for a worker that
   * comes later. With null, the default, it hands out all at once. Use 0 if the handler takes more than a millisecond.
   */
  prefetch?: number | null | undefined;
  /** Requests that may wait, 1,024. */
  queueMax?: number | undefined;
  /** Bytes of these requests on the wire, 64 MiB. */
  queueBytes?: number | undefined;
  /** Handles the channel's notifications; its return value is ignored. */
  onNotification?: ((notification: ServedRequest) => unknown) | undefined;
}

export interface ConnectionInfo {
  connectionId: string;
  appId: string;
  connected: boolean;
  host: string;
  port: number;
  path: string | undefined;
  /** The name that the server gave itself; null for the published server. */
  server: string | null;
  subscribedChannels: string[];
  subscribedPatterns: string[];
}

export type MessageHandler<Payload = any> = (message: Message<Payload>) => unknown;

/** The events of a subscription. */
export interface SubscriptionEvents {
  gap: [gap: Gap];
  resumed: [resumed: Resumed];
}

export interface Subscription<Payload = any> extends AsyncIterableIterator<Message<Payload>> {
  /** The channel or the pattern. */
  readonly channel: string;
  /** The place up to which messages have come, also those that the loop has not read yet; null without a history. */
  readonly place: Place | null;
  on<Name extends keyof SubscriptionEvents>(event: Name, listener: (...values: SubscriptionEvents[Name]) => void): this;
  once<Name extends keyof SubscriptionEvents>(event: Name, listener: (...values: SubscriptionEvents[Name]) => void): this;
  off<Name extends keyof SubscriptionEvents>(event: Name, listener: (...values: SubscriptionEvents[Name]) => void): this;
  /** Number of messages dropped because the reader was too slow. */
  readonly dropped: number;
  /** Resolves when the server has confirmed the subscription. */
  readonly ready: Promise<void>;
  unsubscribe(): void;
  next(): Promise<IteratorResult<Message<Payload>, undefined>>;
  return(): Promise<IteratorResult<Message<Payload>, undefined>>;
  [Symbol.asyncIterator](): Subscription<Payload>;
}

/** The parts of an answer. Leaving the loop cancels the request. */
export interface Stream<Part = any> extends AsyncIterableIterator<Message<Part>> {
  readonly channel: string;
  next(): Promise<IteratorResult<Message<Part>, undefined>>;
  return(): Promise<IteratorResult<Message<Part>, undefined>>;
  [Symbol.asyncIterator](): Stream<Part>;
  [Symbol.asyncDispose](): Promise<void>;
}

export type ServedRequest<Payload = any> = Message<Payload> & {
  /**
   * Aborted when nobody waits for the answer any more. The reason is a CancelledError if the requester has cancelled or
   * is gone, or its time is over, and CONNECTION_LOST if this connection is lost.
   */
  readonly signal: AbortSignal;
  /** Milliseconds until the requester gives up; `Infinity` if it gave no time. */
  readonly remaining: number;
};

/**
 * Returns the answer, or a promise of it. A generator, an async generator or another async iterable streams its values,
 * to a requester that takes no stream in one array.
 */
export type ServeHandler<Payload = any> = (request: ServedRequest<Payload>) => unknown;

export interface Service {
  readonly channel: string;
  /** Number of notifications dropped because `queueMax` were waiting. */
  readonly dropped: number;
  /** Stops serving. Resolves when the requests that had begun are answered; do not wait for it in the handler. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** The events and the arguments of their listeners. */
export interface ClientEvents {
  /** `address` is `host:port`, or the path of a Unix socket. */
  connected: [info: { isReconnect: boolean; server: string | null; address: string }];
  disconnected: [info: { cause: Error | undefined; address: string }];
  reconnecting: [info: { attempt: number; delay: number; error: Error | undefined }];
  error: [error: Error];
  slow: [info: { queuedBytes: number } | { channel: string; subscription: Subscription }
    | { channel: string; service: Service }];
  drain: [];
  /** For each subscription: an iteration is named, a handler is not. */
  gap: [gap: Gap & { subscription?: Subscription }];
  resumed: [resumed: Resumed & { subscription?: Subscription }];
  /** An answer for which nothing waits, such as one to `request`. */
  response: [message: Message];
  /** Any other message. */
  message: [message: Message];
}

/** The common methods of a client and a pool. */
interface Messaging {
  readonly appId: string;
  readonly host: string;
  readonly port: number;
  readonly connected: boolean;
  /** The name that the server gave itself; null for the published server. */
  readonly server: string | null;
  /** The extensions of the protocol that the server has agreed to; none with an older or the published one. */
  readonly extensions: readonly string[];
  /** The server's limits where it names them, `Infinity` for none. They may be out of date. */
  readonly limits: { maxFrameBytes: number; requestTimeout: number } | null;
  readonly lastError: Error | null;
  isConnected(): boolean;
  /** Resolves with false if it failed; the reason is in `lastError` and the event `error`. */
  connect(how?: { retry?: boolean | undefined }): Promise<boolean>;
  disconnect(): void;
  /** Resolves when all is done and closed; do not wait for it in a handler that serves a channel. */
  close(options?: { timeout?: number | undefined }): Promise<void>;
  sendRequest<Answer = any>(channelId: string, data?: unknown, options?: number | RequestOptions)
    : Promise<Message<Answer>>;
  /** Sends a request whose answer comes in parts, at the reader's pace; a number is milliseconds for the whole. */
  stream<Part = any>(channelId: string, data?: unknown, options?: number | StreamOptions): Stream<Part>;
  /** Sends a request and returns its id; the answer is the event `response`. */
  request(channelId: string, data?: unknown): string;
  sendRequestAsync<Answer = any>(
    channelId: string, data: unknown, callback: MessageHandler<Answer>, options?: number | RequestOptions): string;
  sendMessage(channelId: string, messageType: MessageTypeName, payload?: unknown, replyTo?: string | null): string;
  /** Returns the message's id, or with `ack` a promise of the place that the server gave it. */
  publish(channelId: string, data: unknown, options: PublishOptions & { ack: true }): Promise<Published>;
  publish(channelId: string, data?: unknown, options?: PublishOptions & { ack?: false | undefined }): string;
  notify(channelId: string, data?: unknown, options?: MessageOptions): string;
  subscribe<Payload = any>(channelId: string, handler: MessageHandler<Payload>, options?: TopicOptions): true;
  subscribe<Payload = any>(channelId: string, options?: SubscribeOptions): Subscription<Payload>;
  unsubscribe(channelId: string): boolean;
  /** All channels that match: a token `*` stands for one token between points, `>` at the end for one or more. */
  subscribePattern<Payload = any>(
    pattern: string, handler: MessageHandler<Payload>, options?: Omit<TopicOptions, 'since'>): true;
  subscribePattern<Payload = any>(pattern: string, options?: Omit<SubscribeOptions, 'since'>): Subscription<Payload>;
  unsubscribePattern(pattern: string): boolean;
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

/** `connected` if one of the clients is; the channels of all. */
export interface PoolInfo extends Omit<ConnectionInfo, 'connectionId'> {
  connections: ConnectionInfo[];
}

/** The pool's events add the client as the last argument. */
export type PoolEvents = {
  [Name in keyof ClientEvents]: [...values: ClientEvents[Name], client: IPCClient];
};

export interface IPCPool extends Messaging {}
export class IPCPool extends EventEmitter {
  on<Name extends keyof PoolEvents>(event: Name, listener: (...values: PoolEvents[Name]) => void): this;
  once<Name extends keyof PoolEvents>(event: Name, listener: (...values: PoolEvents[Name]) => void): this;
  off<Name extends keyof PoolEvents>(event: Name, listener: (...values: PoolEvents[Name]) => void): this;
  constructor(appId: string, options?: ClientOptions & { size?: number | undefined });
  readonly size: number;
  readonly clients: readonly IPCClient[];
  onConnected(handler: ((client: IPCClient) => unknown) | null): void;
  onDisconnected(handler: ((client: IPCClient) => unknown) | null): void;
  onError(handler: ((error: Error, client: IPCClient) => unknown) | null): void;
  getConnectionInfo(): PoolInfo;
}

/** The element types of a Tensor; those of complex numbers have two numbers for each element. */
export type Dtype = 'bool' | 'u8' | 'i8' | 'u16' | 'i16' | 'u32' | 'i32' | 'u64' | 'i64' | 'f16' | 'bf16' | 'f32'
  | 'f64' | 'c64' | 'c128';

/** The class of a Tensor's data by its type. */
export interface DtypeArrays {
  bool: Uint8Array;
  u8: Uint8Array;
  i8: Int8Array;
  u16: Uint16Array;
  i16: Int16Array;
  u32: Uint32Array;
  i32: Int32Array;
  u64: BigUint64Array;
  i64: BigInt64Array;
  /** A `Float16Array` where Node.js has it, from version 24 on, and otherwise a `Uint16Array` with the bits. */
  f16: ArrayBufferView & ArrayLike<number>;
  /** The bits. */
  bf16: Uint16Array;
  f32: Float32Array;
  f64: Float64Array;
  c64: Float32Array;
  c128: Float64Array;
}

/**
 * An array of numbers of one type and any number of dimensions, in C order. Anywhere in a payload it is sent as bytes,
 * and so are `Buffer`, `Uint8Array`, `ArrayBuffer` and `DataView`, which arrive as a Buffer, and all other typed
 * arrays, which arrive as a Tensor. The memory of one that arrives belongs to nobody else, so that it can be transferred to
 * another thread.
 */
export class Tensor<D extends Dtype = any> {
  /**
   * @param fields `data` is the typed array of the type, which is used as it is, or bytes in little-endian order.
   *   `dtype` is by default that of the typed array, and `shape` its length. Throws a TypeError or a RangeError that
   *   says what to do
   */
  constructor(fields: {
    dtype?: D | undefined; shape?: readonly number[] | undefined; data: ArrayBufferView | ArrayBufferLike;
  });
  readonly dtype: D;
  readonly shape: readonly number[];
  readonly data: DtypeArrays[D];
  /**
   * Returns the elements as arrays in arrays, or the only one of no dimensions. i64 and u64 are BigInts, bool is
   * boolean, and complex numbers are pairs.
   */
  toArray(): any;
  /** Returns the form for peers that know JSON alone. */
  toJSON(): { $base64: string; dtype: D; shape: number[] };
}

/**
 * Returns a payload in which each object of exactly `$base64`, `dtype` and `shape` is the Buffer or the Tensor that it
 * stands for. Throws a FrameError where such an object contradicts itself. The payload itself is not changed.
 */
export function fromBase64<Payload = any>(payload: unknown): Payload;

export type ServerCode =
  | 'bad_frame' | 'bad_message' | 'frame_too_large' | 'not_connected' | 'auth_failed' | 'server_full' | 'no_handler'
  | 'handler_failed' | 'worker_lost' | 'timeout' | 'cancelled' | 'forbidden' | 'limit_exceeded' | 'unsupported'
  | 'taken_over' | 'shutting_down';

/** The code of an error that an application defines, see HandlerError. */
export type AppCode = `app:${string}`;

export type ClientCode =
  | 'TIMEOUT' | 'ABORTED' | 'CANCELLED' | 'NOT_CONNECTED' | 'CONNECTION_LOST' | 'TLS_FAILED' | 'QUEUE_FULL'
  | 'FRAME_TOO_LARGE' | 'BAD_FRAME' | 'BAD_MESSAGE' | 'BAD_PAYLOAD' | 'ALREADY_SERVED' | 'UNSUPPORTED';

export class IPCError extends Error {
  constructor(code: ServerCode | AppCode | ClientCode, message: string, options?: { cause?: unknown });
  readonly code: ServerCode | AppCode | ClientCode;
  readonly cause?: unknown;
}
export class ServerError extends IPCError {
  constructor(response: Message);
  readonly code: ServerCode | AppCode;
  /** True for an error that a handler raised on purpose, whose code begins with `app:`; false for the server's. */
  readonly isApplication: boolean;
  /** The value that the handler gave with its error; undefined if it gave none. */
  readonly details: any;
  readonly response: Message;
}
/**
 * An error for a handler to throw: the requester gets its code, text and details. Everything else that a handler throws
 * reaches the requester as `handler_failed`.
 */
export class HandlerError extends Error {
  /**
   * @param code 1 to 64 letters, digits, points, hyphens and underscores; the prefix `app:` may be left out
   * @param text for people
   * @param details any value that JSON can express; together at most 16 KiB
   */
  constructor(code: string, text: string, details?: unknown);
  /** With the prefix. */
  readonly code: AppCode;
  readonly details: any;
}
export class TimeoutError extends IPCError {
  constructor(message: string);
  readonly code: 'TIMEOUT';
}
export class AbortedError extends IPCError {
  constructor(message: string, options?: { cause?: unknown });
  readonly code: 'ABORTED';
}
/** The reason of a served request's signal. */
export class CancelledError extends IPCError {
  constructor(reason: CancelledError['reason']);
  readonly code: 'CANCELLED';
  /** `limit`: the requester did not read; `drain`: the server is shutting down. */
  readonly reason: 'caller' | 'deadline' | 'gone' | 'limit' | 'drain';
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
  /** True if the connection is closed because of it. */
  readonly fatal: boolean;
}

export interface ProxyOptions<Request extends IncomingMessage = IncomingMessage> {
  /** Milliseconds for the answer, which the worker knows too. */
  timeout?: number | undefined;
  /** Returns the payload; by default it has method, path, query, params and body. */
  payload?: ((req: Request) => unknown) | undefined;
  /** Returns the status for an error, if those of the table and of `statuses` do not fit. */
  status?: ((error: IPCError | HandlerError) => number | undefined | Promise<number | undefined>) | undefined;
  /** Statuses by code, beside those of the table or in their place: `{ 'app:conflict': 409 }`. */
  statuses?: { [Code in ServerCode | AppCode | ClientCode]?: number } | undefined;
  /** Shows browsers the text of what a handler threw; false, for that may hold anything. */
  exposeCrashes?: boolean | undefined;
  /** Bytes of a body that no parser has read, 1 MiB. */
  bodyBytes?: number | undefined;
}

export interface StreamProxyOptions<Request extends IncomingMessage = IncomingMessage> extends ProxyOptions<Request> {
  /** Server-Sent Events, `'sse'`, or a line of JSON for each part, `'ndjson'`; `'sse'`. */
  as?: 'sse' | 'ndjson' | undefined;
  /** Name of the events that are parts; `message` by default. */
  event?: string | undefined;
  /** Parts that the worker may be ahead of the browser, 64. */
  credit?: number | undefined;
}

export interface EventsOptions<Request extends IncomingMessage = IncomingMessage> {
  /** Name of the events; `message` by default. */
  event?: string | undefined;
  /** Milliseconds that a browser waits before it connects again. */
  retry?: number | undefined;
  /** Must answer at once: a promise shows nothing. */
  filter?: ((message: Message, req: Request) => boolean) | undefined;
  /** The channel is a pattern, as for `subscribePattern`; `data` is then `{ channel, payload }`. */
  pattern?: boolean | undefined;
  /** The newest messages that a new browser gets, of each channel; none by default. */
  last?: number | undefined;
  /** Messages kept for browsers that reconnect, 256; 0 for none. They begin with what the server keeps. */
  history?: number | undefined;
  /** Bytes of these messages, 1 MiB. */
  historyBytes?: number | undefined;
  /** Milliseconds for which the subscription outlives the last browser, 30,000. */
  linger?: number | undefined;
}

/** Middleware of Express, or a listener of node:http. */
export function ipcProxy<Request extends IncomingMessage = IncomingMessage>(
  client: IPCClient | IPCPool, channel: string, options?: ProxyOptions<Request>,
): (req: Request, res: ServerResponse, next?: (error?: unknown) => void) => Promise<void>;

/** Asks a channel for a stream and passes its parts on to a browser, at its pace, until it leaves. */
export function ipcStream<Request extends IncomingMessage = IncomingMessage>(
  client: IPCClient | IPCPool, channel: string, options?: StreamProxyOptions<Request>,
): (req: Request, res: ServerResponse, next?: (error?: unknown) => void) => Promise<void>;

/** Shows a channel's messages to browsers as Server-Sent Events. */
export function ipcEvents<Request extends IncomingMessage = IncomingMessage>(
  client: IPCClient | IPCPool, channel: string, options?: EventsOptions<Request>,
): (req: Request, res: ServerResponse) => void;
