'use strict';

// Handlers for Express, and for other frameworks that pass Node's own request and response.

const { ipcProxy } = require('./http_proxy.js');
const { ipcStream } = require('./http_stream.js');
const { ipcEvents } = require('./event_stream.js');

module.exports = { ipcProxy, ipcStream, ipcEvents };
