//! The unread messages of one subscription.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::proto::Message;

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

/// Returns roughly how much memory a message takes.
fn size(message: &Message) -> usize {
    size_of::<Message>() + message.payload_bytes() + message.channel_id.len()
}

impl Inbox {
    pub(crate) fn new(waiting_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), arrived: Condvar::new(), waiting_bytes_max })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, message: Message) {
        let bytes = size(&message);
        let bytes_max = self.waiting_bytes_max;
        self.change(|inside| {
            // An empty inbox accepts a message of any size.
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
