//! Answers with a meaning of their own: the welcome after a connect, and errors.

use serde::Deserialize;

use crate::client::error::Error;
use crate::proto::{Envelope, ErrorCode, MessageType};

/// Longer than any error of the server; longer answers are not looked into.
pub(crate) const ERROR_BYTES_MAX: usize = 4 << 10;

/// The parts of an error, or of a welcome, that say which it is.
#[derive(Deserialize)]
struct Reply {
    status: String,
    code: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Welcome {
    server: String,
}

/// The error that a response is, if it is one. A code the protocol does not have is the
/// payload of somebody's own.
pub(crate) fn error_of(envelope: &Envelope<'_>) -> Option<Error> {
    let text = envelope.payload_str();
    let may_be = envelope.message_type() == MessageType::Response
        && text.len() <= ERROR_BYTES_MAX
        && text.starts_with('{')
        && text.contains("\"error\"");
    if !may_be {
        return None;
    }
    let reply: Reply = envelope.payload().decode().ok()?;
    let code = reply.code.filter(|_| reply.status == "error")?;
    let code = ErrorCode::ALL.into_iter().find(|known| known.as_str() == code)?;
    Some(Error::Answered { code, text: reply.error? })
}

/// What the server calls itself in the first frame, if that says that the connection is open. Those
/// that name themselves answer pings.
pub(crate) fn check_connected(envelope: &Envelope<'_>) -> Result<Option<String>, Error> {
    if let Some(error) = error_of(envelope) {
        return Err(error);
    }
    let reply = envelope.payload().decode::<Reply>().ok();
    if reply.is_some_and(|reply| reply.status == "connected") {
        Ok(envelope.payload().decode::<Welcome>().ok().map(|welcome| welcome.server))
    } else {
        Err(Error::Protocol { what: "the first message is not 'connected'".into() })
    }
}
