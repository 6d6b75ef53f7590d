//! The reasons why a TLS handshake fails, and the side that can change that.

use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError};

use crate::client::endpoint::Endpoint;
use crate::client::error::{Error, Fault};
use crate::client::options::Options;

/// An error of the options.
pub(crate) fn of_caller(endpoint: &Endpoint, what: String) -> Error {
    Error::Tls { endpoint: endpoint.clone(), fault: Fault::Caller, what }
}

/// An error during the handshake.
pub(crate) fn of_handshake(source: &io::Error, options: &Options) -> Error {
    let of_server = |what: String| failure(options, Fault::Server, what);
    match source.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Error::deadline(
            "the server's part of the TLS handshake, which a port without TLS never sends,",
            options.connect_timeout,
        ),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => of_server(
            "the server closed the connection in the handshake; see that this port speaks TLS"
                .into(),
        ),
        _ => match of_rustls(source) {
            Some(error) => explain(error, options),
            None => of_server(format!("{source}; try again")),
        },
    }
}

/// An error after the handshake: only then does the server report what it thinks of the client's
/// certificate.
pub(crate) fn of_welcome(error: Error, options: &Options) -> Error {
    let explained = match &error {
        Error::Lost { source: Some(source), .. } => {
            of_rustls(source).map(|source| explain(source, options))
        }
        _ => None,
    };
    explained.unwrap_or(error)
}

fn of_rustls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn failure(options: &Options, fault: Fault, what: String) -> Error {
    Error::Tls { endpoint: options.endpoint.clone(), fault, what }
}

fn explain(error: &rustls::Error, options: &Options) -> Error {
    let (fault, what) = match error {
        rustls::Error::InvalidMessage(_) => (
            Fault::Server,
            "what answers there is not TLS; connect without it, or to the port that speaks it"
                .to_owned(),
        ),
        rustls::Error::InvalidCertificate(error) => (Fault::Server, certificate(error)),
        rustls::Error::AlertReceived(alert) => alert_text(*alert),
        error => (Fault::Server, format!("{error}; see that the server speaks TLS 1.3")),
    };
    failure(options, fault, what)
}

fn certificate(error: &CertificateError) -> String {
    match error {
        // A new authority under the name of an old one shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is signed by nobody whom \
             this client trusts; give the authority that signed it (--tls-ca)"
                .into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the server's certificate is not for {} but for {}; connect by a name that it has, \
             or say which one to expect (`server_name`, --tls-name)",
            expected.to_str(),
            if presented.is_empty() { "nobody".into() } else { presented.join(", ") },
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired; renew it, and see that this clock is right"
                .into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; see that this clock is right".into()
        }
        // The error's type belongs to a crate below rustls.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the server shows the certificate of an authority as its own; have the authority sign \
             another one for the server, and give that to it"
                .into()
        }
        error => format!("the server's certificate cannot be used ({error}); make another one"),
    }
}

/// Explains an alert, which is the server's opinion of the client.
fn alert_text(alert: AlertDescription) -> (Fault, String) {
    match alert {
        AlertDescription::CertificateRequired => (
            Fault::Caller,
            "the server asks for a certificate of the client's; give one with its key (--tls-cert, \
             --tls-key)"
                .into(),
        ),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => (
            Fault::Caller,
            format!(
                "the server does not accept this client's certificate ({alert:?}); use one that \
                 its authority for clients has signed"
            ),
        ),
        AlertDescription::ProtocolVersion => {
            (Fault::Server, "the server does not speak TLS 1.3; have it brought up to date".into())
        }
        alert => (Fault::Server, format!("the server refuses ({alert:?}); see its log")),
    }
}
