'use strict';

const diagnostics = require('node:diagnostics_channel');

// Check `hasSubscribers` first, so that nothing is built for a channel without listeners.
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
