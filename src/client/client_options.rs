//! What a client does by itself.

use std::time::Duration;

use super::options::Options;
use super::reconnect::Reconnect;

/// What becomes of messages that are sent while there is no connection.
///
/// ```
/// use ipc_framework::client::{ClientOptions, WhileDisconnected};
///
/// assert_eq!(ClientOptions::new("app").while_disconnected, WhileDisconnected::Wait);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileDisconnected {
    /// They wait for the next connection, up to [`ClientOptions::queue_bytes_max`].
    Wait,
    /// They fail with [`Error::Disconnected`].
    Fail,
}

/// What a [`Client`] is made from.
///
/// ```
/// use ipc_framework::client::ClientOptions;
///
/// let mut options = ClientOptions::new("app");
/// options.connection.connection_id = Some("reporter".into());
/// options.reconnect = None; // the first loss is the end
/// ```
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Whom to connect to, as whom. `spin` and `kept_messages_max` have no meaning here.
    ///
    /// Without a `connection_id` every connection gets a fresh one.
    pub connection: Options,
    /// How to come back; `None`: not at all.
    pub reconnect: Option<Reconnect>,
    /// What becomes of messages that are sent in between; they wait by default.
    pub while_disconnected: WhileDisconnected,
    /// How many bytes may wait to be sent, connected or not; 8 MiB by default. As much may wait of
    /// refusals of what a server asks for; one that still does not read is left.
    pub queue_bytes_max: usize,
    /// How many bytes of messages may wait in one subscription that nobody reads, and of requests
    /// in one served channel whose handler is busy; 64 MiB by default. What comes beyond it is
    /// counted as [`missed`](super::Subscription::missed), or answered as `limit_exceeded`, or, a
    /// notification, counted as [`missed`](super::ClientInfo::missed_notifications) too.
    pub unread_bytes_max: usize,
    /// How often a silent server is asked whether it is alive, and how long it may take to say
    /// so; 5 s by default, 10 ms at least, `None`: never. A server that neither names itself in its
    /// welcome nor has answered a ping is not expected to, as the published one does not.
    pub heartbeat: Option<Duration>,
}

impl ClientOptions {
    /// The defaults for an application.
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
