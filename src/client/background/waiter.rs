//! The ways to wait for an answer: a thread, a future, or a callback.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::parts::Parts;
use super::shield::shielded;
use crate::client::error::Error;
use crate::proto::Message;

pub(crate) type Answer = Result<Message, Error>;

/// A place for one answer.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    inside: Mutex<Inside>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

impl Slot {
    pub(crate) fn fill(&self, answer: Answer) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.answer = Some(answer);
        let waker = inside.waker.take();
        drop(inside);
        self.filled.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Blocks until there is an answer, or until the deadline.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<Answer> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(answer) = inside.answer.take() {
                return Some(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            inside =
                self.filled.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// As [`wait`](Self::wait), for an executor.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Answer> {
        // A waker is the executor's code, which must not run with the lock held.
        let waker = context.waker().clone();
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = inside.answer.take() {
            return Poll::Ready(answer);
        }
        let older = inside.waker.replace(waker);
        drop(inside);
        drop(older);
        Poll::Pending
    }
}

/// Receives an answer.
pub(crate) enum Waiter {
    Slot(Arc<Slot>),
    Callback(Box<dyn FnOnce(Answer) + Send>),
    Stream(Arc<Parts>),
    /// As `Callback`, for callers that want an answer as it came even if it is an error.
    AsItCame(Box<dyn FnOnce(Answer) + Send>),
    /// As `Callback`, for a request with which the driver restores something.
    Restored(Box<dyn FnOnce(Answer) + Send>),
    /// The driver sent it, to find out whether the server is alive.
    Heartbeat,
}

impl Waiter {
    /// Must not be called with a lock held, because a callback may do anything.
    pub(crate) fn tell(self, answer: Answer) {
        match self {
            Self::Slot(slot) => slot.fill(answer),
            Self::Stream(parts) => parts.finish(answer),
            Self::Callback(callback) | Self::AsItCame(callback) | Self::Restored(callback) => {
                shielded(|| callback(answer));
            }
            Self::Heartbeat => {}
        }
    }

    /// Returns whether the driver itself waits, and no caller.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Restored(_) | Self::Heartbeat)
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slot(_) => "Slot",
            Self::Callback(_) => "Callback",
            Self::Stream(_) => "Stream",
            Self::AsItCame(_) => "AsItCame",
            Self::Restored(_) => "Restored",
            Self::Heartbeat => "Heartbeat",
        })
    }
}
