//! The unread messages of one subscription.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::proto::{Message, MessageType};

/// Messages that may wait in a subscription that nobody reads.
pub(crate) const WAITING_MAX: usize = 64 << 10;

/// Messages on their way from the driver to a reader.
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
    /// The number of messages that were taken.
    taken: u64,
    /// The places of the unread publications by channel, counted with those that were taken, if only
    /// the newest of each channel is kept.
    newest: Option<HashMap<String, u64>>,
    missed: u64,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Inside {
    fn pop(&mut self) -> Option<Message> {
        let message = self.waiting.pop_front()?;
        self.waiting_bytes -= size(&message);
        if let Some(newest) = &mut self.newest {
            // Another message of the channel may have come that is no publication.
            if newest.get(&message.channel_id) == Some(&self.taken) {
                newest.remove(&message.channel_id);
            }
            self.taken += 1;
        }
        Some(message)
    }

    /// Puts a publication in the place of an unread one of its channel, if there is one and it is to be
    /// replaced. Otherwise returns it.
    fn replace(&mut self, message: Message) -> Option<Message> {
        let Some(newest) = &self.newest else { return Some(message) };
        let at = newest.get(&message.channel_id).map(|at| (at - self.taken) as usize);
        let older = at.and_then(|at| self.waiting.get_mut(at));
        let Some(older) = older.filter(|_| message.message_type == MessageType::Publish) else {
            return Some(message);
        };
        self.waiting_bytes = self.waiting_bytes - size(older) + size(&message);
        *older = message;
        None
    }

    fn push(&mut self, message: Message) {
        if let Some(newest) = &mut self.newest
            && message.message_type == MessageType::Publish
        {
            let at = self.taken + self.waiting.len() as u64;
            newest.insert(message.channel_id.clone(), at);
        }
        self.waiting_bytes += size(&message);
        self.waiting.push_back(message);
    }
}

/// Returns roughly how much memory a message takes.
fn size(message: &Message) -> usize {
    size_of::<Message>() + message.payload_bytes() + message.channel_id.len()
}

impl Inbox {
    pub(crate) fn new(waiting_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), arrived: Condvar::new(), waiting_bytes_max })
    }

    /// One that keeps the newest unread publication of each channel, and nothing older.
    pub(crate) fn conflating(waiting_bytes_max: usize) -> Arc<Self> {
        let inside = Inside { newest: Some(HashMap::new()), ..Inside::default() };
        Arc::new(Self { inside: Mutex::new(inside), arrived: Condvar::new(), waiting_bytes_max })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, message: Message) {
        let bytes = size(&message);
        let bytes_max = self.waiting_bytes_max;
        self.change(|inside| {
            let Some(message) = inside.replace(message) else { return };
            // An empty inbox accepts a message of any size.
            let has_room = inside.waiting.is_empty()
                || (inside.waiting.len() < WAITING_MAX
                    && inside.waiting_bytes + bytes <= bytes_max);
            if has_room {
                inside.push(message);
            } else {
                inside.missed += 1;
            }
        });
    }

    pub(crate) fn close(&self) {
        self.change(|inside| inside.is_closed = true);
        // A message is for one waiting reader, the end is for all of them.
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

    /// Returns the next message, or `None` after the deadline or the end.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Option<Message> {
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

    /// As [`take`](Self::take), for an executor.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Option<Message>> {
        // A waker is the executor's code, which must not run with the lock held.
        let waker = context.waker().clone();
        let mut inside = self.lock();
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

    /// Returns how many messages were dropped because there was no room for them.
    pub(crate) fn missed(&self) -> u64 {
        self.lock().missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Json;

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

    #[test]
    fn a_conflating_inbox_keeps_the_newest_of_each_channel_in_its_place() {
        let inbox = Inbox::conflating(usize::MAX);
        let message = |channel: &str, message_type, payload: u32| {
            let payload = Json::from_serialize(&payload).unwrap();
            Message::new(message_type, "app", channel, payload)
        };
        let now = Some(Instant::now());
        let take = || inbox.take(now).map(|it| (it.channel_id, it.payload.as_str().to_owned()));
        let publish = MessageType::Publish;
        for round in 0..3 {
            for n in 0..50 {
                for channel in ["a", "b"] {
                    inbox.put(message(channel, publish, 100 * round + n));
                }
                if n % 25 == 0 {
                    inbox.put(message("a", MessageType::Notification, n));
                }
            }
            let expected = [("a", 100 * round + 49), ("b", 100 * round + 49), ("a", 0), ("a", 25)];
            for (channel, payload) in expected {
                assert_eq!(take(), Some((channel.to_owned(), payload.to_string())));
            }
            assert_eq!(take(), None);
        }
        let inside = inbox.lock();
        assert_eq!((inside.waiting_bytes, inside.missed), (0, 0));
        assert!(inside.newest.as_ref().unwrap().is_empty());
    }
}
