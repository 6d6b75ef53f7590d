//! The `system` channel, on which a server and its clients arrange things, and the payloads that
//! both ends of a connection write.

use serde::Serialize;

use super::error_code::ErrorCode;

/// The name of the channel. It also stands in errors about messages whose channel could not be
/// read.
pub const SYSTEM: &str = "system";

/// The payload of the first message of every connection.
///
/// ```
/// use ipc_framework::Json;
/// use ipc_framework::proto::system::Connect;
///
/// let payload = Json::from_serialize(&Connect::new("worker-7", None)).unwrap();
/// assert_eq!(payload.as_str(), r#"{"action":"connect","connection_id":"worker-7"}"#);
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Connect<'a> {
    action: &'static str,
    connection_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

impl<'a> Connect<'a> {
    /// Introduces a connection under an id that no other connection of its application has, and
    /// shows the application's token if the server asks for one.
    pub fn new(connection_id: &'a str, token: Option<&'a str>) -> Self {
        Self { action: "connect", connection_id, token }
    }
}

/// The payload that makes the sender a worker of a channel, or ends that.
///
/// ```
/// use ipc_framework::Json;
/// use ipc_framework::proto::system::Serve;
///
/// let payload = Json::from_serialize(&Serve::start("square")).unwrap();
/// assert_eq!(payload.as_str(), r#"{"action":"serve","channel":"square"}"#);
/// let payload = Json::from_serialize(&Serve::start("square").concurrency(Some(4))).unwrap();
/// assert_eq!(payload.as_str(), r#"{"action":"serve","channel":"square","concurrency":4}"#);
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Serve<'a> {
    action: &'static str,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
}

impl<'a> Serve<'a> {
    /// Asks for the channel's requests and notifications.
    pub fn start(channel: &'a str) -> Self {
        Self { action: "serve", channel, concurrency: None }
    }

    /// Asks for no more of them.
    pub fn stop(channel: &'a str) -> Self {
        Self { action: "stop_serving", channel, concurrency: None }
    }

    /// Sets the number of unanswered requests that the server hands out at a time, from 1 to 65,536.
    /// With `None` it hands out all at once.
    pub fn concurrency(self, concurrency: Option<u32>) -> Self {
        Self { concurrency, ..self }
    }
}

/// The payload of a request that needs its action and nothing else.
///
/// ```
/// use ipc_framework::Json;
/// use ipc_framework::proto::system::Action;
///
/// let payload = Json::from_serialize(&Action::PING).unwrap();
/// assert_eq!(payload.as_str(), r#"{"action":"ping"}"#);
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Action {
    action: &'static str,
}

impl Action {
    /// Is answered `{"status": "pong"}` once everything before it is processed.
    pub const PING: Self = Self { action: "ping" };
}

/// The payload of a subscribe or unsubscribe.
///
/// ```
/// use ipc_framework::Json;
/// use ipc_framework::proto::system::Subscribe;
///
/// let payload = Json::from_serialize(&Subscribe::new("me", true)).unwrap();
/// assert_eq!(payload.as_str(), r#"{"connection_id":"me","ack":true}"#);
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Subscribe<'a> {
    connection_id: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ack: bool,
}

impl<'a> Subscribe<'a> {
    /// Names the sender's own connection. With `ack` the server answers, so that the sender knows
    /// from when on it receives what is published.
    pub fn new(connection_id: &'a str, ack: bool) -> Self {
        Self { connection_id, ack }
    }
}

/// The payload of a response that is an error.
///
/// ```
/// use ipc_framework::{ErrorCode, Json};
/// use ipc_framework::proto::system::Failure;
///
/// let failure = Failure::new(ErrorCode::HandlerFailed, "there is no tea");
/// assert_eq!(
///     Json::from_serialize(&failure).unwrap().as_str(),
///     r#"{"status":"error","code":"handler_failed","error":"there is no tea"}"#,
/// );
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Failure<'a> {
    status: &'static str,
    code: &'static str,
    error: &'a str,
}

impl<'a> Failure<'a> {
    /// An error with one sentence that says what happened and what to do.
    pub fn new(code: ErrorCode, error: &'a str) -> Self {
        Self { status: "error", code: code.as_str(), error }
    }
}
