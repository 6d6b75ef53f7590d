//! Options of a [`Client`](super::Client).

use std::time::Duration;

use super::options::Options;
use super::reconnect::Reconnect;

/// The fate of messages that are sent while there is no connection.
///
/// ```
/// use ipc_framework::client::{ClientOptions, WhileDisconnected};
///
/// assert_eq!(ClientOptions::new("app").while_disconnected, WhileDisconnected::Wait);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhileDisconnected {
    /// They wait for the next connection, up to [`ClientOptions::queue_bytes_max`].
    Wait,
    /// They fail with [`Error::Disconnected`](crate::client::Error::Disconnected).
    Fail,
}

/// Options from which a [`Client`](super::Client) is made.
///
/// ```
/// use ipc_framework::client::ClientOptions;
///
/// let mut options = ClientOptions::new("app");
/// options.connection.connection_id = Some("reporter".into());
/// options.reconnect = None; // the first loss is the end
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The server to connect to, and the identity to use. `spin` and `kept_messages_max` have no
    /// effect here.
    ///
    /// Without a `connection_id` every connection gets a fresh id.
    pub connection: Options,
    /// The pauses between attempts to reconnect. With `None` the first lost connection ends the
    /// client.
    pub reconnect: Option<Reconnect>,
    /// The fate of messages that are sent without a connection; they wait by default.
    pub while_disconnected: WhileDisconnected,
    /// Bytes of messages that may wait to be sent, with or without a connection; 8 MiB by default.
    /// Refusals of requests that the server sends have a queue of the same size; if it is full the
    /// server does not read, and the client leaves it.
    pub queue_bytes_max: usize,
    /// Bytes of messages that may wait in one subscription that nobody reads, and bytes of requests
    /// that may wait for the busy handler of one served channel; 64 MiB by default. Beyond it a
    /// publication is dropped and counted in [`missed`](super::Subscription::missed), a request is
    /// answered with `limit_exceeded`, and a notification is dropped and counted in
    /// [`missed_notifications`](super::ClientInfo::missed_notifications).
    pub unread_bytes_max: usize,
    /// The time after which a silent server is sent a ping, and the time it has to answer; 5 s by
    /// default, 10 ms at least, `None` for no pings. A ping that stands behind bytes which the
    /// server is not known to have read has as much time again for every 2 MiB of them, up to
    /// 8 MiB. Servers that neither name themselves in their welcome nor have answered a ping
    /// before, such as the published one, are not expected to answer.
    pub heartbeat: Option<Duration>,
}

impl ClientOptions {
    /// Returns the defaults for an application.
    pub fn new(app_id: impl Into<String>) -> Self {
        Self {
            connection: Options::new(app_id),
            reconnect: Some(Reconnect::default()),
            while_disconnected: WhileDisconnected::Wait,
            queue_bytes_max: 8 << 20,
            unread_bytes_max: 64 << 20,
            heartbeat: Some(Duration::from_secs(5)),
        }
    }
}
