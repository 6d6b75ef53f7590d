'use strict';

const { IPCClient } = require('./lib/client.js');
const { IPCPool } = require('./lib/pool.js');
const { Message, MessageType } = require('./lib/message.js');
const { ipcProxy, ipcStream, ipcEvents } = require('./lib/express.js');
const { Tensor } = require('./lib/tensor.js');
const { fromBase64 } = require('./lib/base64.js');
const { HandlerError } = require('./lib/handler_error.js');
const {
  IPCError, ServerError, TimeoutError, AbortedError, CancelledError, NotConnectedError, ConnectionLostError, TLSError,
  QueueFullError, FrameError,
} = require('./lib/errors.js');

// Written without values, so that Node finds the names for `import` from a CommonJS module.
module.exports = {
  IPCClient,
  IPCPool,
  Message,
  MessageType,
  ipcProxy,
  ipcStream,
  ipcEvents,
  Tensor,
  fromBase64,
  HandlerError,
  IPCError,
  ServerError,
  TimeoutError,
  AbortedError,
  CancelledError,
  NotConnectedError,
  ConnectionLostError,
  TLSError,
  QueueFullError,
  FrameError,
};
