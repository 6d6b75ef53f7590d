export { ipcProxy, ipcStream, ipcEvents, ProxyOptions, StreamProxyOptions, EventsOptions } from './index.mjs';
