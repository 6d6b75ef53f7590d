'use strict';

// Errors of the network and of TLS, in words that say what happened and what to do.

const { NotConnectedError, ConnectionLostError, FrameError, TLSError } = require('./errors.js');

const ADVICE = {
  ECONNREFUSED: 'no server listens there; start it, or check the address',
  ENOENT: 'there is no such socket; start the server with --unix, or check path',
  ENOTSOCK: 'that is no socket; check path',
  EACCES: 'this process may not use that socket; ask whoever runs the server for access',
  EPERM: 'this process may not use that socket; ask whoever runs the server for access',
  ENOTFOUND: 'the name is not known; check host',
  EAI_AGAIN: 'the name could not be looked up; check host and the network',
  EHOSTUNREACH: 'the host cannot be reached; check host and the network',
  ENETUNREACH: 'the host cannot be reached; check host and the network',
  ETIMEDOUT: 'nothing answers there; check host, port and firewalls',
  EAGAIN: 'the server accepts no more connections; see whether it is stopped or overloaded',
};

/** Returns a name for the server in errors. */
function placeOf({ host, port, path }) {
  if (path) return path;
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/**
 * Explains why no connection was made. A host with several addresses fails with one error for each.
 * @param {Error[]} errors of the attempts
 * @param {object} options of the client
 */
function notConnected(errors, options) {
  const reasons = [...new Set(errors.map(({ message, code }) => message || code))];
  const codes = new Set(errors.map(({ code }) => code));
  const advice = codes.size === 1 ? ADVICE[errors[0].code] : undefined;
  const cause = errors.length === 1 ? errors[0] : new AggregateError(errors, reasons.join(', '));
  return new NotConnectedError(
    `no connection to ${placeOf(options)}: ${reasons.join(', ')}${advice ? `; ${advice}` : ''}`, { cause });
}

/**
 * Explains why none of several servers could be used.
 * @param {{ address: object, error: Error }[]} failures
 */
function notOne(failures) {
  const reasons = failures.map(({ address, error }) => {
    const place = placeOf(address);
    const start = `no connection to ${place}: `;
    return `${place} (${error.message.startsWith(start) ? error.message.slice(start.length) : error.message})`;
  });
  const cause = new AggregateError(failures.map(({ error }) => error), reasons.join(', '));
  return new NotConnectedError(`none of ${failures.length} servers can be used: ${reasons.join(', ')}; see that one of `
    + 'them runs, and that the addresses are right', { cause });
}

/** Explains an error of a socket that was connected. */
function broken(error, options, isOpen) {
  if (options.tls && error.syscall === undefined) return tlsFailure(error);
  if (!isOpen) return notConnected([error], options);
  return new ConnectionLostError(`the connection to ${placeOf(options)} broke: ${error.message}`, { cause: error });
}

/** Explains an answer to connect that no server of the protocol gives, such as a web server's. */
function foreign(cause, options) {
  return new FrameError('BAD_MESSAGE', `what listens at ${placeOf(options)} does not answer connect as a server of `
    + 'ipc-framework does; check the address', { fatal: true, cause });
}

/** Explains a failed handshake of TLS. */
function tlsFailure(error) {
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
  if (code === 'ECONNRESET') {
    return because('the server closed the connection in the TLS handshake; see that this port speaks TLS');
  }
  return because(`TLS failed: ${message}`);
}

module.exports = { placeOf, notConnected, notOne, broken, foreign, tlsFailure };
