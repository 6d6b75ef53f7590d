//! What happens to a client's connection.

use std::time::Duration;

use super::error::Error;

/// What [`Client::on_event`](super::Client::on_event) tells.
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
    /// There is a connection again, and what was subscribed and served is so again.
    Connected {
        /// Its id.
        connection_id: String,
    },
    /// The server is about to end: nothing new is sent to it, and the client moves away.
    Leaving,
    /// The connection is gone.
    Disconnected {
        /// Why.
        error: Error,
        /// Requests that failed for it.
        unanswered: usize,
        /// At most so many publications and notifications may be lost: they left after the
        /// server last proved that it had processed everything.
        unconfirmed: u64,
        /// Messages that wait for the next connection.
        waiting: usize,
    },
    /// An attempt to come back failed.
    Unreachable {
        /// Why.
        error: Error,
        /// When the next one is made.
        pause: Duration,
    },
    /// A served channel could not be taken up again. It is tried with the next connection.
    NotRestored {
        /// Which.
        channel_id: String,
        /// Why.
        error: Error,
    },
    /// The server refused a publication, a notification, a subscription, or a message sent as it
    /// is: nobody waits for its answer.
    Refused {
        /// The channel it was for.
        channel_id: String,
        /// Its id, where the server could read it.
        message_id: Option<String>,
        /// What the server says.
        error: Error,
    },
    /// The client does not come back.
    Closed {
        /// Why, unless it was asked to.
        error: Option<Error>,
        /// Messages that waited and were never sent.
        unsent: usize,
    },
}
