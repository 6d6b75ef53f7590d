//! The parts of one stream on their way from the driver to its reader.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::shield::shielded;
use crate::client::error::Error;
use crate::proto::Message;

type Part = Result<Message, Error>;

/// A part that the reader has taken, and the number of parts that the worker may now send more.
pub(crate) struct Taken {
    pub(crate) part: Option<Part>,
    pub(crate) credit: Option<u32>,
}

/// A reader that is called when there is something to take.
type Listener = Arc<dyn Fn() + Send + Sync>;

/// Invariant: the parts that wait, the credit that the worker has and the parts that were taken
/// since credit was last given are `window` together.
pub(crate) struct Parts {
    inside: Mutex<Inside>,
    arrived: Condvar,
    window: u32,
}

struct Inside {
    waiting: VecDeque<Message>,
    next_seq: u64,
    /// Parts that the worker may still send.
    credit: u32,
    /// Parts that were taken since credit was last given.
    taken: u32,
    end: Option<Result<(), Error>>,
    is_over: bool,
    waker: Option<Waker>,
    listener: Option<Listener>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("window", &self.window).finish_non_exhaustive()
    }
}

impl Parts {
    /// At most `window` parts wait for the reader.
    pub(crate) fn new(window: u32) -> Arc<Self> {
        let inside = Inside {
            waiting: VecDeque::new(),
            next_seq: 0,
            credit: window,
            taken: 0,
            end: None,
            is_over: false,
            waker: None,
            listener: None,
        };
        Arc::new(Self { inside: Mutex::new(inside), arrived: Condvar::new(), window })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the part with this number, or returns what is wrong with it.
    pub(crate) fn put(&self, seq: u64, part: Message) -> Result<(), &'static str> {
        self.change(|inside| {
            inside.check(seq)?;
            inside.credit = inside.credit.checked_sub(1).ok_or("a part without credit")?;
            inside.next_seq += 1;
            inside.waiting.push_back(part);
            Ok(())
        })
    }

    /// Ends the stream, whose last part came before the one with this number.
    pub(crate) fn end(&self, seq: u64) -> Result<(), &'static str> {
        self.change(|inside| {
            inside.check(seq)?;
            inside.end.get_or_insert(Ok(()));
            Ok(())
        })
    }

    /// Ends the stream by an answer that is no part: an error, or the only part.
    pub(crate) fn finish(&self, answer: Part) {
        self.change(|inside| {
            let end = match answer {
                Ok(only) if inside.next_seq == 0 => {
                    inside.waiting.push_back(only);
                    Ok(())
                }
                Ok(_) => Err(Error::broken_stream("an answer after parts of a stream")),
                Err(error) => Err(error),
            };
            inside.end.get_or_insert(end);
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        let mut inside = self.lock();
        let was_empty = inside.waiting.is_empty();
        let changed = change(&mut inside);
        let waker = inside.waker.take();
        // A reader that has not taken everything looks again without being called.
        let is_news = was_empty || inside.end.is_some();
        let listener = inside.listener.as_ref().filter(|_| is_news).map(Arc::clone);
        drop(inside);
        self.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(listener) = listener {
            shielded(|| listener());
        }
        changed
    }

    /// Returns the next part, or `None` within if the stream is over; `None` if neither came before
    /// the deadline.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<Taken> {
        let mut inside = self.lock();
        loop {
            if let Some(taken) = inside.take(self.window) {
                return Some(taken);
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

    /// As [`wait`](Self::wait), for readers that do not wait.
    pub(crate) fn try_take(&self) -> Option<Taken> {
        self.lock().take(self.window)
    }

    /// As [`wait`](Self::wait), for an executor.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Taken> {
        // A waker is the executor's code, which must not run with the lock held.
        let waker = context.waker().clone();
        let mut inside = self.lock();
        if let Some(taken) = inside.take(self.window) {
            return Poll::Ready(taken);
        }
        let older = inside.waker.replace(waker);
        drop(inside);
        drop(older);
        Poll::Pending
    }

    /// Calls the listener whenever there is something to take after there was nothing, and once now
    /// if there is.
    pub(crate) fn listen(&self, listener: impl Fn() + Send + Sync + 'static) {
        let listener: Listener = Arc::new(listener);
        let mut inside = self.lock();
        let is_ready = !inside.waiting.is_empty() || inside.end.is_some();
        let older = inside.listener.replace(Arc::clone(&listener));
        drop(inside);
        drop(older);
        if is_ready {
            shielded(|| listener());
        }
    }

    /// Drops what nobody reads any more.
    pub(crate) fn discard(&self) {
        let mut inside = self.lock();
        let waiting = std::mem::take(&mut inside.waiting);
        let (waker, listener) = (inside.waker.take(), inside.listener.take());
        inside.is_over = true;
        drop(inside);
        drop((waiting, waker, listener));
    }
}

impl Inside {
    fn check(&self, seq: u64) -> Result<(), &'static str> {
        if seq == self.next_seq { Ok(()) } else { Err("a part of a stream out of order") }
    }

    fn take(&mut self, window: u32) -> Option<Taken> {
        if self.is_over {
            return Some(Taken { part: None, credit: None });
        }
        if let Some(part) = self.waiting.pop_front() {
            self.taken += 1;
            // Credit is given in batches, each a message of its own.
            let is_due = self.taken >= window.div_ceil(2) && self.end.is_none();
            let credit = is_due.then(|| std::mem::take(&mut self.taken));
            self.credit += credit.unwrap_or_default();
            return Some(Taken { part: Some(Ok(part)), credit });
        }
        let end = self.end.take()?;
        self.is_over = true;
        Some(Taken { part: end.err().map(Err), credit: None })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::proto::{Json, MessageType};

    fn part(n: u32) -> Message {
        let payload = Json::from_serialize(&n).unwrap();
        Message::new(MessageType::Response, "app", "tokens", payload)
    }

    fn number(taken: &Taken) -> Option<u32> {
        let part = taken.part.as_ref()?.as_ref().ok()?;
        part.payload.decode().ok()
    }

    #[test]
    fn parts_come_in_order_within_their_credit_and_credit_is_given_in_batches() {
        let parts = Parts::new(4);
        assert!(parts.try_take().is_none());
        for n in 0..4 {
            parts.put(n.into(), part(n)).unwrap();
        }
        assert!(parts.put(4, part(4)).unwrap_err().contains("credit"));
        assert!(parts.put(3, part(3)).unwrap_err().contains("order"));
        let credits: Vec<Option<u32>> = (0..4)
            .map(|n| {
                let taken = parts.wait(None).unwrap();
                assert_eq!(number(&taken), Some(n));
                taken.credit
            })
            .collect();
        assert_eq!(credits, [None, Some(2), None, Some(2)]);
        parts.put(4, part(4)).unwrap();
        assert!(parts.end(4).unwrap_err().contains("order"));
        parts.end(5).unwrap();
        let last = parts.try_take().unwrap();
        assert_eq!((number(&last), last.credit), (Some(4), None));
        for _ in 0..2 {
            assert!(parts.wait(None).unwrap().part.is_none());
        }
    }

    #[test]
    fn an_answer_that_is_no_part_ends_the_stream() {
        let only = Parts::new(1);
        only.finish(Ok(part(7)));
        assert_eq!(number(&only.try_take().unwrap()), Some(7));
        assert!(only.try_take().unwrap().part.is_none());

        let failed = Parts::new(2);
        failed.put(0, part(0)).unwrap();
        failed.finish(Err(Error::Closed));
        // The first end counts.
        failed.finish(Err(Error::Disconnected));
        assert_eq!(number(&failed.try_take().unwrap()), Some(0));
        assert!(matches!(failed.try_take().unwrap().part, Some(Err(Error::Closed))));
        assert!(failed.try_take().unwrap().part.is_none());

        let broken = Parts::new(2);
        broken.put(0, part(0)).unwrap();
        broken.finish(Ok(part(1)));
        assert_eq!(number(&broken.try_take().unwrap()), Some(0));
        assert!(matches!(broken.try_take().unwrap().part, Some(Err(Error::Protocol { .. }))));
    }

    #[test]
    fn a_listener_is_called_when_there_is_something_again() {
        let parts = Parts::new(8);
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        parts.put(0, part(0)).unwrap();
        parts.listen(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        parts.put(1, part(1)).unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        while parts.try_take().is_some() {}
        parts.put(2, part(2)).unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        parts.end(3).unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 3);
        parts.discard();
        assert!(parts.try_take().unwrap().part.is_none());
        assert_eq!(Arc::strong_count(&calls), 1);
    }
}
