'use strict';
module.exports = { ipcProxy() {}, ipcEvents() {} };
