'use strict';

const net = require('node:net');
const tls = require('node:tls');
const { TLSError } = require('./errors.js');

// The first bytes of a TLS alert, which a TLS server sends to clients that do not speak TLS: the type of a record, and
// a version.
const ALERT = Buffer.from([0x15, 0x03]);

/** Returns a connecting socket, and the event after which it can be written to. */
function connectSocket(address, given) {
  if (!given) return { socket: net.connect(address), opened: 'connect' };
  const options = typeof given === 'function' ? given() : given;
  const socket = tls.connect({ ...(options === true ? {} : options), ...address });
  // `tls.connect` does not accept the option of this name.
  socket.setNoDelay(true);
  return { socket, opened: 'secureConnect' };
}

/** Returns whether bytes are a TLS alert to a client that does not speak TLS. */
function isAlert(bytes) {
  return bytes.subarray(0, ALERT.length).equals(ALERT);
}

/** Explains a failed handshake, and says what to do about it. */
function explain(error) {
  const { code = '', message } = error;
  const because = (text) => new TLSError(text, { cause: error });
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return because(`the server's certificate is for others (${error.reason ?? message}); connect by a name that it `
      + 'has, or give tls.servername');
  }
  if (code === 'CERT_HAS_EXPIRED') {
    return because('the server\'s certificate has expired; renew it, and see that this clock is right');
  }
  if (code === 'CERT_NOT_YET_VALID') {
    return because('the server\'s certificate is not valid yet; see that this clock is right');
  }
  if (/SELF_SIGNED|UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER|CERT_UNTRUSTED|CERT_SIGNATURE_FAILURE/.test(code)) {
    return because('the server\'s certificate is signed by nobody whom this client trusts; give the authority that '
      + `signed it as tls.ca (${message})`);
  }
  if (/ALERT_CERTIFICATE_REQUIRED/.test(code)) {
    return because('the server asks for a certificate of the client\'s; give tls.cert and tls.key');
  }
  if (/ALERT_(.*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)/.test(code)) {
    return because('the server does not accept this client\'s certificate; use one that its authority for clients has '
      + `signed (${message})`);
  }
  if (/WRONG_VERSION_NUMBER|PACKET_LENGTH|UNEXPECTED_MESSAGE|EPROTO/.test(code)) {
    return because('what answers there is not TLS; leave out the option tls, or take the port that speaks it '
      + `(${message})`);
  }
  if (code === 'ECONNRESET' && error.syscall === undefined) {
    return because('the server closed the connection in the TLS handshake; see that this port speaks TLS');
  }
  // Nothing listens, or the connection broke, which has nothing to do with TLS.
  if (error.syscall !== undefined) return error;
  return because(`TLS failed: ${message}`);
}

module.exports = { connectSocket, isAlert, explain };
