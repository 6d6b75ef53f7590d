//! Payloads with a meaning of their own: the handshake's, and errors.

use serde::{Deserialize, Serialize};

use crate::client::error::Error;
use crate::client::options::Options;
use crate::proto::{Envelope, ErrorCode, MessageType};

/// Longer than any error of the server; longer answers are not looked into.
pub(crate) const ERROR_BYTES_MAX: usize = 4 << 10;

#[derive(Serialize)]
pub(crate) struct Connect<'a> {
    action: &'static str,
    connection_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

impl<'a> Connect<'a> {
    pub(crate) fn new(options: &'a Options, connection_id: &'a str) -> Self {
        let token = options.token.as_ref().map(crate::Token::secret);
        Self { action: "connect", connection_id, token }
    }
}

/// Asks the server to be (or be no more) a worker of a channel.
#[derive(Serialize)]
pub(crate) struct Serve<'a> {
    pub(crate) action: &'static str,
    pub(crate) channel: &'a str,
}

#[derive(Serialize)]
pub(crate) struct Action {
    pub(crate) action: &'static str,
}

pub(crate) const PING: Action = Action { action: "ping" };

#[derive(Serialize)]
pub(crate) struct Subscription<'a> {
    pub(crate) connection_id: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ack: bool,
}

/// An error as the protocol has it.
#[derive(Serialize)]
pub(crate) struct Failure<'a> {
    status: &'static str,
    code: &'static str,
    error: &'a str,
}

impl<'a> Failure<'a> {
    pub(crate) fn new(code: ErrorCode, error: &'a str) -> Self {
        Self { status: "error", code: code.as_str(), error }
    }
}

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
