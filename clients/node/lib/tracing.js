'use strict';

const diagnostics = require('node:diagnostics_channel');

// Nothing is built for a channel that nobody listens to: ask `hasSubscribers` first.
const tracing = {
  connect: diagnostics.channel('ipc-framework:connect'),
  disconnect: diagnostics.channel('ipc-framework:disconnect'),
  requestStart: diagnostics.channel('ipc-framework:request:start'),
  requestEnd: diagnostics.channel('ipc-framework:request:end'),
  requestError: diagnostics.channel('ipc-framework:request:error'),
  serveStart: diagnostics.channel('ipc-framework:serve:start'),
  serveEnd: diagnostics.channel('ipc-framework:serve:end'),
  publish: diagnostics.channel('ipc-framework:publish'),
};

module.exports = { tracing };
