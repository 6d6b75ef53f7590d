//! The messages of a subscribed channel, one after another.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;

use super::background::inbox::Inbox;
use super::background::shared::Shared;
use super::background::topic::Topic;
use crate::proto::Message;

/// The messages of a subscribed channel or pattern, as an iterator that blocks and as a [`Stream`] that does
/// not. Both end when the client is closed or the channel is unsubscribed. Dropping it
/// unsubscribes, unless something else in this client listens to the channel.
///
/// A subscription survives reconnects. If the channel has a history at the server, it goes on with the
/// publications made in between, and none comes twice; [`Event::Resumed`](super::Event::Resumed) or
/// [`Event::Gap`](super::Event::Gap) says whether any are missing. Without a history they are lost, and
/// nobody knows whether there were any, which is a gap too.
///
/// ```
/// # use ipc_framework::client::{ClientOptions, Endpoint};
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config::default().port(0))?;
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
/// # let mut options = ClientOptions::new("app");
/// # options.connection.endpoint = Endpoint::tcp("localhost", port);
/// let client = options.connect()?;
/// let news = client.subscribe("news")?;
/// for n in 0..3 {
///     client.publish("news", &n)?;
/// }
/// let sum: u32 = news.take(3).map(|message| message.payload.decode::<u32>().unwrap()).sum();
/// assert_eq!(sum, 3);
/// # client.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Subscription {
    inbox: Arc<Inbox>,
    channel_id: String,
    is_pattern: bool,
    key: u64,
    shared: Arc<Shared>,
}

impl Subscription {
    pub(super) fn new(inbox: Arc<Inbox>, topic: Topic<'_>, key: u64, shared: Arc<Shared>) -> Self {
        let Topic { name, is_pattern } = topic;
        Self { inbox, channel_id: name.to_owned(), is_pattern, key, shared }
    }

    /// Returns the channel, or the pattern.
    pub fn channel_id(&self) -> &str {
        &self.channel_id
    }

    /// Returns the next message, or `None` if none comes before the timeout or the end.
    pub fn next_timeout(&self, timeout: Duration) -> Option<Message> {
        // A timeout that no clock can express means no timeout.
        let deadline = Instant::now().checked_add(timeout);
        let taken = self.inbox.take(deadline);
        if taken.is_some() || timeout.is_zero() || deadline.is_none() {
            return taken;
        }
        // It may have arrived while the process was stopped or busy.
        self.shared.catch_up();
        self.inbox.take(deadline)
    }

    /// Returns how many messages were dropped because the subscription was full: it holds 65,536
    /// messages and [`ClientOptions::unread_bytes_max`](super::ClientOptions) bytes.
    pub fn missed(&self) -> u64 {
        self.inbox.missed()
    }
}

impl Iterator for Subscription {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.inbox.take(None)
    }
}

impl Stream for Subscription {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.inbox.poll(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let topic = Topic { name: &self.channel_id, is_pattern: self.is_pattern };
        self.shared.remove_listener(topic, self.key);
    }
}
