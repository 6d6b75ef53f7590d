'use strict';

const { IPCClient } = require('./lib/client.js');
const { IPCPool } = require('./lib/pool.js');
const { Message, MessageType } = require('./lib/message.js');
const { ipcProxy, ipcEvents } = require('./lib/express.js');
const errors = require('./lib/errors.js');

// Exports are listed one by one, so that Node finds the names for `import` from a CommonJS module.
module.exports = {
  IPCClient,
  IPCPool,
  Message,
  MessageType,
  ipcProxy,
  ipcEvents,
  IPCError: errors.IPCError,
  ServerError: errors.ServerError,
  TimeoutError: errors.TimeoutError,
  AbortedError: errors.AbortedError,
  NotConnectedError: errors.NotConnectedError,
  ConnectionLostError: errors.ConnectionLostError,
  TLSError: errors.TLSError,
  QueueFullError: errors.QueueFullError,
  FrameError: errors.FrameError,
};
