//! The messages of a channel, one after another.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;

use super::background::shared::Shared;
use crate::proto::Message;

/// How many messages may wait in a subscription that nobody reads.
pub(super) const WAITING_MAX: usize = 64 << 10;

/// Messages on their way from the driver to whoever reads them.
#[derive(Debug)]
pub(crate) struct Inbox {
    inside: Mutex<Inside>,
    arrived: Condvar,
    waiting_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inside {
    waiting: VecDeque<Message>,
    waiting_bytes: usize,
    missed: u64,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Inside {
    fn pop(&mut self) -> Option<Message> {
        let message = self.waiting.pop_front()?;
        self.waiting_bytes -= size(&message);
        Some(message)
    }
}

/// What a message takes, or nearly.
fn size(message: &Message) -> usize {
    size_of::<Message>() + message.payload.as_str().len() + message.channel_id.len()
}

impl Inbox {
    pub(super) fn new(waiting_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), arrived: Condvar::new(), waiting_bytes_max })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, message: Message) {
        let bytes = size(&message);
        let bytes_max = self.waiting_bytes_max;
        self.change(|inside| {
            // One is always taken, however large it is.
            let has_room = inside.waiting.is_empty()
                || (inside.waiting.len() < WAITING_MAX
                    && inside.waiting_bytes + bytes <= bytes_max);
            if has_room {
                inside.waiting_bytes += bytes;
                inside.waiting.push_back(message);
            } else {
                inside.missed += 1;
            }
        });
    }

    pub(super) fn close(&self) {
        self.change(|inside| inside.is_closed = true);
        // A message is for one of those who wait, the end is for all.
        self.arrived.notify_all();
    }

    fn change(&self, change: impl FnOnce(&mut Inside)) {
        let mut inside = self.lock();
        change(&mut inside);
        let waker = inside.waker.take();
        drop(inside);
        self.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next message; none after the deadline or the end.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Option<Message> {
        let mut inside = self.lock();
        loop {
            if let Some(message) = inside.pop() {
                return Some(message);
            }
            if inside.is_closed {
                return None;
            }
            inside = match deadline {
                None => self.arrived.wait(inside).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let woken = self.arrived.wait_timeout(inside, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// The messages of a channel: an iterator that blocks, and a [`Stream`] that does not. Both end
/// when the client is closed or the channel unsubscribed. Dropped, it unsubscribes unless
/// somebody else of this client listens to the channel.
///
/// It lives through reconnects. Whether something was published in between, nobody can say:
/// [`Event::Disconnected`](super::Event) and [`Event::Connected`](super::Event) tell of the gap.
///
/// ```
/// # use ipc_framework::client::{ClientOptions, Endpoint};
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config { port: 0, ..Config::default() })?;
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
    key: u64,
    shared: Arc<Shared>,
}

impl Subscription {
    pub(super) fn new(inbox: Arc<Inbox>, channel_id: &str, key: u64, shared: Arc<Shared>) -> Self {
        Self { inbox, channel_id: channel_id.to_owned(), key, shared }
    }

    /// The channel.
    pub fn channel_id(&self) -> &str {
        &self.channel_id
    }

    /// The next message, waited for as long as `timeout`.
    pub fn next_timeout(&self, timeout: Duration) -> Option<Message> {
        // What no clock can express is forever.
        self.inbox.take(Instant::now().checked_add(timeout))
    }

    /// How many messages were dropped because nobody read those that waited: 65,536, or as much as
    /// [`ClientOptions::unread_bytes_max`](super::ClientOptions) allows.
    pub fn missed(&self) -> u64 {
        self.inbox.lock().missed
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
        // Wakers are the executor's code, which is not to run with anything locked.
        let waker = context.waker().clone();
        let mut inside = self.inbox.lock();
        if let Some(message) = inside.pop() {
            return Poll::Ready(Some(message));
        }
        if inside.is_closed {
            return Poll::Ready(None);
        }
        let older = inside.waker.replace(waker);
        drop(inside);
        drop(older);
        Poll::Pending
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.remove_listener(&self.channel_id, self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Json, MessageType};

    #[test]
    fn however_small_messages_are_no_more_than_so_many_wait() {
        let inbox = Inbox::new(usize::MAX);
        let message = Message::new(MessageType::Publish, "app", "news", Json::default());
        for _ in 0..WAITING_MAX + 3 {
            inbox.put(message.clone());
        }
        assert_eq!(inbox.lock().missed, 3);
        let now = Some(Instant::now());
        assert_eq!(std::iter::from_fn(|| inbox.take(now)).count(), WAITING_MAX);
        inbox.put(message);
        assert!(inbox.take(now).is_some());
        assert_eq!(inbox.lock().waiting_bytes, 0);
    }
}
