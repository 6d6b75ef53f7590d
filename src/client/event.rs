//! Changes of a client's connection.

use std::time::Duration;

use super::endpoint::Endpoint;
use super::error::Error;
use crate::proto::position::Position;

/// A change that [`Client::on_event`](super::Client::on_event) reports.
///
/// ```
/// use ipc_framework::client::Event;
///
/// fn log(event: &Event) {
///     match event {
///         Event::Disconnected { unanswered, .. } => eprintln!("{unanswered} requests failed"),
///         other => eprintln!("{other:?}"),
///     }
/// }
/// log(&Event::Leaving);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The client is connected again, and its subscriptions and served channels are being restored.
    Connected {
        /// The id of the connection.
        connection_id: String,
        /// The address of the server.
        endpoint: Endpoint,
    },
    /// The server is about to end. Nothing new is sent to it, and the client connects anew.
    Leaving,
    /// The connection was lost.
    Disconnected {
        /// The reason.
        error: Error,
        /// The address of the server.
        endpoint: Endpoint,
        /// Number of requests that failed because of it.
        unanswered: usize,
        /// Upper bound of the publications and notifications that may be lost: they left after the
        /// server last proved that it had processed everything.
        unconfirmed: u64,
        /// Number of messages that wait for the next connection.
        waiting: usize,
    },
    /// An attempt to reconnect failed: each server was tried once.
    Unreachable {
        /// The reason, of several servers [`Error::NoServer`].
        error: Error,
        /// Time until the next attempt.
        pause: Duration,
    },
    /// A subscription goes on after the publication that came last, and none is missing: the server had
    /// kept those that were made in between, and they come next. Also reported where
    /// [`SubscribeOptions::since`](super::SubscribeOptions::since) asked for it.
    Resumed {
        /// The channel.
        channel_id: String,
    },
    /// A subscription goes on, and publications may be missing. Without a history of the channel at the
    /// server, this is so after every reconnect.
    Gap {
        /// The channel, or the pattern.
        channel_id: String,
        /// The place in the channel's history up to which publications had come, if it was known.
        seen: Option<Position>,
        /// The place up to which publications had been made when the server subscribed the client
        /// again, if the channel has a history.
        newest: Option<Position>,
        /// The number of publications between the two, if they are of the same epoch. The newest of
        /// them still come where [`SubscribeOptions::last`](super::SubscribeOptions::last) asks for
        /// them.
        missed: Option<u64>,
    },
    /// The program subscribed to a channel under a name that reads like a pattern, and gets the
    /// publications of no other channel: a pattern is subscribed to by
    /// [`Client::subscribe_pattern`](super::Client::subscribe_pattern). Reported once for each client.
    LooksLikePattern {
        /// The channel.
        channel_id: String,
    },
    /// A served channel, or a pattern, could not be restored. The client tries again with its next
    /// connection.
    NotRestored {
        /// The channel or pattern.
        channel_id: String,
        /// The reason.
        error: Error,
    },
    /// The server refused a publication, a notification, a subscription, or a message of
    /// [`send_message`](super::Client::send_message), for whose answer nobody waits.
    Refused {
        /// The channel it was for.
        channel_id: String,
        /// Its id, if the server could read it.
        message_id: Option<String>,
        /// The error that the server sent.
        error: Error,
    },
    /// The client has ended for good.
    Closed {
        /// The reason, unless the program closed the client.
        error: Option<Error>,
        /// Number of messages that waited and were never sent.
        unsent: usize,
    },
}
