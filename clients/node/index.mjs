// The same classes as `require` gives: `instanceof` holds across both.
import all from './index.js';

export const {
  IPCClient, IPCPool, Message, MessageType, ipcProxy, ipcEvents, IPCError, ServerError, TimeoutError, AbortedError,
  NotConnectedError, ConnectionLostError, TLSError, QueueFullError, FrameError,
} = all;
export default all;
