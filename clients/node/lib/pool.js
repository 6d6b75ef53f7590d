'use strict';
class IPCPool {}
module.exports = { IPCPool };
