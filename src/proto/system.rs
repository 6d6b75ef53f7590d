//! The `system` channel, on which a server and its clients arrange things, and the payloads that
//! both ends of a connection write.

use serde::Serialize;

use super::error_code::ErrorCode;
use super::extensions::Extensions;
use super::position::Position;

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
///
/// # use ipc_framework::proto::Extensions;
/// let connect = Connect::new("worker-7", None).extensions(Extensions::CALL);
/// assert_eq!(
///     Json::from_serialize(&connect).unwrap().as_str(),
///     r#"{"action":"connect","connection_id":"worker-7","extensions":["call"]}"#,
/// );
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Connect<'a> {
    action: &'static str,
    connection_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<Extensions>,
}

impl<'a> Connect<'a> {
    /// Introduces a connection under an id that no other connection of its application has, and
    /// shows the application's token if the server asks for one.
    pub fn new(connection_id: &'a str, token: Option<&'a str>) -> Self {
        Self { action: "connect", connection_id, token, extensions: None }
    }

    /// Asks for extensions. The server then answers with those that the connection has.
    pub fn extensions(self, extensions: Extensions) -> Self {
        Self { extensions: Some(extensions), ..self }
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

/// The payload of the request that asks for shared memory instead of the Unix socket: with the answer come
/// the descriptors, see the chapter "Shared memory" of the protocol.
///
/// ```
/// use ipc_framework::Json;
/// use ipc_framework::proto::system::ShareMemory;
///
/// let payload = Json::from_serialize(&ShareMemory::V1).unwrap();
/// assert_eq!(payload.as_str(), r#"{"action":"share_memory","version":1}"#);
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ShareMemory {
    action: &'static str,
    version: u32,
}

impl ShareMemory {
    /// The first layout of the memory, and so far the only one.
    pub const V1: Self = Self { action: "share_memory", version: 1 };
}

/// The payload of a notification that ends a request: from its requester to the server, and from
/// there, with the reason, to the worker that has it. It needs the extension
/// [`CALL`](Extensions::CALL).
///
/// ```
/// use ipc_framework::Json;
/// use ipc_framework::proto::system::{Cancel, CancelReason};
///
/// let payload = Json::from_serialize(&Cancel::new("m1")).unwrap();
/// assert_eq!(payload.as_str(), r#"{"action":"cancel","message_id":"m1"}"#);
/// let payload = Json::from_serialize(&Cancel::new("m1").reason(CancelReason::Gone)).unwrap();
/// assert_eq!(payload.as_str(), r#"{"action":"cancel","message_id":"m1","reason":"gone"}"#);
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cancel<'a> {
    action: &'static str,
    message_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<CancelReason>,
}

impl<'a> Cancel<'a> {
    /// Names the request by its `message_id`.
    pub fn new(message_id: &'a str) -> Self {
        Self { action: "cancel", message_id, reason: None }
    }

    /// Tells the worker why.
    pub fn reason(self, reason: CancelReason) -> Self {
        Self { reason: Some(reason), ..self }
    }
}

/// The reason for which a worker is told to stop.
///
/// ```
/// use ipc_framework::proto::system::CancelReason;
///
/// assert_eq!(CancelReason::from_wire("deadline"), CancelReason::Deadline);
/// assert_eq!(CancelReason::from_wire("a reason of a newer server"), CancelReason::Gone);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CancelReason {
    /// The requester asked for it.
    Caller,
    /// The time for the request is up.
    Deadline,
    /// The requester has left, or the server cannot take what the worker sent.
    Gone,
    /// The requester does not read what it asked for.
    Limit,
    /// The server ends.
    Drain,
}

impl CancelReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Caller, Self::Deadline, Self::Gone, Self::Limit, Self::Drain];

    /// Reads a reason. An unknown one reads as [`CancelReason::Gone`].
    pub fn from_wire(text: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).unwrap_or(Self::Gone)
    }

    /// The reason as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Deadline => "deadline",
            Self::Gone => "gone",
            Self::Limit => "limit",
            Self::Drain => "drain",
        }
    }
}

/// The payload of a notification that allows a stream more parts: from its requester to the server,
/// and from there to the worker. It needs the extension [`CALL`](Extensions::CALL).
///
/// ```
/// use ipc_framework::Json;
/// use ipc_framework::proto::system::Credit;
///
/// let payload = Json::from_serialize(&Credit::new("m1", 16)).unwrap();
/// assert_eq!(payload.as_str(), r#"{"action":"credit","message_id":"m1","n":16}"#);
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Credit<'a> {
    action: &'static str,
    message_id: &'a str,
    n: u32,
}

impl<'a> Credit<'a> {
    /// Allows `n` more parts, from 1 to [`CREDIT_MAX`](super::CREDIT_MAX), to the request with this
    /// `message_id`.
    pub fn new(message_id: &'a str, n: u32) -> Self {
        Self { action: "credit", message_id, n }
    }
}

/// The payload of a subscribe or unsubscribe.
///
/// ```
/// use ipc_framework::Json;
/// use ipc_framework::proto::OwnedPosition as Position;
/// use ipc_framework::proto::system::Subscribe;
///
/// let payload = Json::from_serialize(&Subscribe::new("me", true)).unwrap();
/// assert_eq!(payload.as_str(), r#"{"connection_id":"me","ack":true}"#);
///
/// let seen = Position::new("k3XmQ81a", 42);
/// let resumed = Subscribe::new("me", true).since(Some(&seen)).conflate(true);
/// assert_eq!(
///     Json::from_serialize(&resumed).unwrap().as_str(),
///     r#"{"connection_id":"me","ack":true,"since":{"epoch":"k3XmQ81a","offset":42},"conflate":true}"#,
/// );
/// ```
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Subscribe<'a> {
    connection_id: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ack: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pattern: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'a Position>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    conflate: bool,
}

impl<'a> Subscribe<'a> {
    /// Names the sender's own connection. With `ack` the server answers, so that the sender knows
    /// from when on it receives what is published.
    pub fn new(connection_id: &'a str, ack: bool) -> Self {
        Self { connection_id, ack, pattern: false, last: None, since: None, conflate: false }
    }

    /// Says whether the channel is a pattern. This and all that follows needs the extension
    /// [`TOPIC`](Extensions::TOPIC).
    pub fn pattern(self, pattern: bool) -> Self {
        Self { pattern, ..self }
    }

    /// Asks for the newest publications that the server kept.
    pub fn last(self, last: Option<u32>) -> Self {
        Self { last, ..self }
    }

    /// Asks for the publications after this one.
    pub fn since(self, since: Option<&'a Position>) -> Self {
        Self { since, ..self }
    }

    /// Asks for the newest publication of each channel alone, whenever the sender reads too slowly.
    pub fn conflate(self, conflate: bool) -> Self {
        Self { conflate, ..self }
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
