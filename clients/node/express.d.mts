export { ipcProxy, ipcEvents, ProxyOptions, EventsOptions } from './index.mjs';
