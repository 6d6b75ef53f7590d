//! Answers that the protocol defines: the welcome after a connect, and errors.

use serde::Deserialize;

use crate::client::error::Error;
use crate::proto::{Envelope, ErrorCode, MessageType};

/// No error of the server is longer. Longer answers are not searched for one.
pub(crate) const ERROR_BYTES_MAX: usize = 4 << 10;

/// The members by which errors and welcomes are recognised.
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

/// Returns the error that this message is, if it is one. A payload with a code that the protocol
/// does not define belongs to the application.
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

/// Checks that the first frame says that the connection is open, and returns the server's name if
/// it gives one. Servers that do answer pings.
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
