'use strict';

// For Express and whatever else hands over Node's own request and response.

const { ipcProxy } = require('./http_proxy.js');
const { ipcEvents } = require('./event_stream.js');

module.exports = { ipcProxy, ipcEvents };
