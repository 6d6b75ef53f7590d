'use strict';

const { randomUUID } = require('node:crypto');
const { FrameError } = require('./errors.js');
const { kind } = require('./kinds.js');

const MessageType = Object.freeze({
  REQUEST: 'request',
  RESPONSE: 'response',
  NOTIFICATION: 'notification',
  SUBSCRIBE: 'subscribe',
  UNSUBSCRIBE: 'unsubscribe',
  PUBLISH: 'publish',
});

/** The property by which a message leads to the work on it. It is not enumerable. */
const WORK = Symbol('work');

/** Marks a message with binary values in its payload. Helpers of one copy of this package take messages of another. */
const BINARY = Symbol.for('ipc-framework.hasBinary');

const NOTHING = Object.freeze({});
const TYPES = new Set(Object.values(MessageType));

function isMessageType(type) {
  return TYPES.has(type);
}

/** A message as on the wire. Its fields can be read in both spellings, `message_id` and `messageId`. */
class Message {
  /** @param {object} fields in either spelling; what is missing of id and timestamp is made up */
  constructor(fields) {
    this.message_id = fields.message_id ?? fields.messageId ?? randomUUID();
    this.app_id = fields.app_id ?? fields.appId;
    this.channel_id = fields.channel_id ?? fields.channelId;
    this.message_type = fields.message_type ?? fields.messageType;
    this.payload = fields.payload ?? null;
    this.timestamp = fields.timestamp ?? Date.now() / 1000;
    this.reply_to = fields.reply_to ?? fields.replyTo ?? null;
    // Only messages between peers that agreed on an extension have it.
    if (fields.meta !== undefined && fields.meta !== null && typeof fields.meta === 'object') this.meta = fields.meta;
  }

  get messageId() { return this.message_id; }
  get appId() { return this.app_id; }
  get channelId() { return this.channel_id; }
  get messageType() { return this.message_type; }
  get replyTo() { return this.reply_to; }
  /** Headers of the sender's, strings by string. */
  get headers() { return this.meta?.headers; }
  /** The place in the history of its channel: `offset` counts from 1 in an `epoch`. Undefined where there is none. */
  get epoch() { return this.offset === undefined ? undefined : this.meta.epoch; }
  get offset() {
    const { offset, epoch } = this.meta ?? NOTHING;
    return typeof epoch === 'string' && Number.isSafeInteger(offset) && offset > 0 ? offset : undefined;
  }
  /** True if it is, or was, the last value of its channel, which the server keeps. */
  get retained() { return this.meta?.retain === true; }
  /** The sender's `traceparent` and `tracestate`, as the W3C defines them. */
  get trace() { return this.meta?.trace; }
  /** Fires when nobody waits for the answer of this request any more; a message that is not served has none. */
  get signal() { return this[WORK]?.signal; }
  /** The milliseconds until the requester gives up; Infinity if it has set no time. */
  get remaining() { return this[WORK]?.remaining; }

  isRequest() { return this.message_type === MessageType.REQUEST; }
  isNotification() { return this.message_type === MessageType.NOTIFICATION; }
  isResponse() { return this.message_type === MessageType.RESPONSE; }

  /** Returns the answer to this message, which `client.send(message.createResponse(…))` sends. */
  createResponse(payload) {
    return new Message({
      app_id: this.app_id,
      channel_id: this.channel_id,
      message_type: MessageType.RESPONSE,
      payload,
      reply_to: this.message_id,
    });
  }

  /** Returns the seven fields of the wire as a plain object. */
  toObject() {
    const { message_id, app_id, channel_id, message_type, payload, timestamp, reply_to } = this;
    return { message_id, app_id, channel_id, message_type, payload, timestamp, reply_to };
  }

  /**
   * Returns the message as JSON text, as the published package does. `JSON.stringify` calls this too, always with a
   * key, and would quote the text a second time, so with an argument it returns the object.
   */
  toJSON(...key) {
    return key.length === 0 ? JSON.stringify(this.toObject()) : this.toObject();
  }

  /** @param {string | object} json text, or what JSON.parse made of it */
  static fromJSON(json) {
    return Message.fromObject(typeof json === 'string' ? JSON.parse(json) : json);
  }

  /** Checks fields in either spelling. Throws if one is missing or of the wrong type. */
  static fromObject(object) {
    if (object === null || typeof object !== 'object') throw fault('is no object');
    // Checked before the constructor would generate one.
    if ((object.message_id ?? object.messageId) === undefined) throw fault('has no message_id');
    const message = new Message(object);
    for (const field of ['message_id', 'app_id', 'channel_id']) {
      if (typeof message[field] !== 'string') throw fault(`has no ${field}`);
    }
    if (!isMessageType(message.message_type)) throw fault('has no message_type that is known');
    if (typeof message.timestamp !== 'number') throw fault('has a timestamp that is no number');
    if (message.reply_to !== null && typeof message.reply_to !== 'string') throw fault('has a reply_to of no use');
    return message;
  }
}

kind(Message, 'Message');

function fault(what) {
  return new FrameError('BAD_MESSAGE', `a message ${what}; it was ignored and the connection stays open`);
}

module.exports = { Message, MessageType, BINARY, WORK, isMessageType };
