//! Answers that the protocol defines: the welcome after a connect, and errors.

use serde::Deserialize;

use crate::client::error::Error;
use crate::client::server_limits::ServerLimits;
use crate::handler_error::{APPLICATION_PREFIX, PAYLOAD_BYTES_MAX};
use crate::proto::{
    Envelope, ErrorCode, Extensions, Json, MessageType, exact_members, only_member,
};

/// The members by which welcomes are recognised.
#[derive(Deserialize)]
struct Reply {
    status: String,
}

/// The server's words when it opens a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Welcome {
    /// Servers that give a name answer pings.
    pub(crate) server: Option<String>,
    /// The extensions that the connection has.
    pub(crate) extensions: Extensions,
    pub(crate) limits: Option<ServerLimits>,
}

/// Returns the error that this message is, if it is one: an object with `status` "error", a code and
/// a text, and beside them at most details, whose code the protocol or an application defines. Any
/// other payload is a result.
pub(crate) fn error_of(envelope: &Envelope<'_>) -> Option<Error> {
    let text = envelope.payload_str();
    let may_be = envelope.message_type() == MessageType::Response
        && text.len() <= PAYLOAD_BYTES_MAX
        && begins_as_error(text);
    if may_be { read_error(text) } else { None }
}

/// Returns whether the first member is one that an error has. Most answers cost a look at their first
/// bytes, however long they are.
fn begins_as_error(text: &str) -> bool {
    const QUOTED: [&str; 4] = ["\"status\"", "\"code\"", "\"error\"", "\"details\""];
    let Some(members) = text.strip_prefix('{') else { return false };
    let first = members.trim_ascii_start();
    QUOTED.iter().any(|member| first.starts_with(member))
}

#[cold]
fn read_error(text: &str) -> Option<Error> {
    let [status, code, error, details] =
        exact_members(text, ["status", "code", "error", "details"])?;
    let (status, code, error) = (status?, code?, error?);
    let string = |text: &str| Json::trusted(text).decode_text::<String>().ok();
    string(status).filter(|status| status == "error")?;
    let (code, text) = (string(code)?, string(error)?);
    if code.starts_with(APPLICATION_PREFIX) {
        let details = details.map(|details| Json::trusted(details).into_owned());
        return Some(Error::Application { code, text, details });
    }
    let code = ErrorCode::ALL.into_iter().find(|known| known.as_str() == code)?;
    Some(Error::Answered { code, text })
}

/// Checks that the first frame says that the connection is open.
pub(crate) fn check_connected(envelope: &Envelope<'_>) -> Result<Welcome, Error> {
    if let Some(error) = error_of(envelope) {
        return Err(error);
    }
    let reply = envelope.payload().decode_text::<Reply>().ok();
    if reply.is_none_or(|reply| reply.status != "connected") {
        return Err(Error::Protocol { what: "the first message is not 'connected'".into() });
    }
    let member = |name| only_member(envelope.payload_str(), name).ok().flatten();
    let server = member("server").and_then(|server| Json::trusted(server).decode_text().ok());
    let extensions = member("extensions").and_then(Extensions::from_json).unwrap_or_default();
    let limits = member("limits").filter(|_| !extensions.is_empty());
    let limits = limits.and_then(|limits| ServerLimits::read(&Json::trusted(limits)));
    Ok(Welcome { server, extensions, limits })
}
