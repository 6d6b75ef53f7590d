//! The requests of one served channel that wait for Python.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use ipc_framework::client::{Responder, WeakClient};
use ipc_framework::{ErrorCode, Message};
use pyo3::intern;
use pyo3::prelude::*;

use super::errors::Failure;
use super::job::Job;
use crate::inside::Inside;
use crate::message::payload_bytes;
use crate::{errors, message};

/// Bytes of requests that may wait for a handler, as in the other clients.
const BYTES_MAX: usize = 64 << 20;
/// Memory of a request besides its payload.
const JOB_BYTES: usize = 256;

const BUSY: &str = "the worker has too much to do; ask again later, or start more workers";
const NOT_SERVED: &str = "this client no longer serves the channel; ask again";

/// The queue between the client's thread and the handlers. For event loops it makes a descriptor
/// readable.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    bell: Option<(UnixStream, UnixStream)>,
    jobs_max: usize,
    /// The client that answers, once it serves the channel.
    pub(super) client: OnceLock<WeakClient>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<(Message, Responder)>,
    bytes: usize,
    /// Number of threads that wait for a request.
    idle: usize,
    /// The descriptor has been made readable.
    is_rung: bool,
    is_closed: bool,
}

impl Queue {
    fn new(jobs_max: usize, rings: bool) -> std::io::Result<Self> {
        let bell = rings.then(UnixStream::pair).transpose()?;
        if let Some((inner, outer)) = &bell {
            inner.set_nonblocking(true)?;
            outer.set_nonblocking(true)?;
        }
        Ok(Self {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            bell,
            jobs_max,
            client: OnceLock::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request or a notification, or refuses it. Called on the client's thread.
    pub(super) fn put(&self, message: Message, responder: Responder) {
        let bytes = bytes_of(&message);
        let mut waiting = self.lock();
        if self.is_full(&waiting, bytes) {
            let cancelled = waiting.remove_cancelled();
            drop(waiting);
            give_up(cancelled);
            waiting = self.lock();
        }
        if waiting.is_closed || self.is_full(&waiting, bytes) {
            let (code, text) = if waiting.is_closed {
                (ErrorCode::NoHandler, NOT_SERVED)
            } else {
                (ErrorCode::LimitExceeded, BUSY)
            };
            drop(waiting);
            // If it cannot be sent the connection is gone, and the requester knows.
            let _ = responder.fail_with(code, text);
            return;
        }
        waiting.bytes += bytes;
        waiting.jobs.push_back((message, responder));
        let (is_first, has_idle) = (waiting.jobs.len() == 1, waiting.idle > 0);
        if is_first {
            self.ring(&mut waiting);
        }
        drop(waiting);
        if has_idle {
            self.arrived.notify_one();
        }
    }

    fn is_full(&self, waiting: &Waiting, bytes: usize) -> bool {
        waiting.jobs.len() >= self.jobs_max
            || (!waiting.jobs.is_empty() && waiting.bytes + bytes > BYTES_MAX)
    }

    fn ring(&self, waiting: &mut Waiting) {
        if let Some((inner, _)) = &self.bell
            && !waiting.is_rung
        {
            // If the pipe is full it is readable already.
            let _ = { inner }.write(&[0]);
            waiting.is_rung = true;
        }
    }

    /// Has an event loop look at the queue once more, in its next turn.
    fn ring_again(&self) {
        self.ring(&mut self.lock());
    }

    /// Accepts no more requests. Those in the queue may still be taken.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        self.ring(&mut waiting);
        drop(waiting);
        self.arrived.notify_all();
    }

    /// Drops the requests in the queue, which nobody could answer any more.
    pub(super) fn discard(&self) {
        let mut waiting = self.lock();
        let dropped = std::mem::take(&mut waiting.jobs);
        waiting.bytes = 0;
        drop(waiting);
        drop(dropped);
    }

    /// Takes a request that is there, without waiting for one.
    fn try_take(&self) -> Option<Taken> {
        let mut cancelled = Vec::new();
        let taken = self.lock().take(&mut cancelled);
        give_up(cancelled);
        self.set_batching(taken.as_ref().is_some_and(|taken| taken.is_followed));
        taken
    }

    /// Decides whether answers wait for others, to leave together with them.
    fn set_batching(&self, is_batching: bool) {
        if let Some(client) = self.client.get().and_then(WeakClient::upgrade) {
            client.set_batching(is_batching);
        }
    }

    /// Waits for a request; `None` at the end.
    fn take(&self) -> Option<Taken> {
        let mut waiting = self.lock();
        let mut cancelled = Vec::new();
        loop {
            let taken = waiting.take(&mut cancelled);
            if taken.is_some() || !cancelled.is_empty() {
                drop(waiting);
                give_up(std::mem::take(&mut cancelled));
                if taken.is_some() {
                    return taken;
                }
                waiting = self.lock();
                continue;
            }
            if waiting.is_closed {
                return None;
            }
            waiting.idle += 1;
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.idle -= 1;
        }
    }

    /// Takes the requests that are there, at most `max`; `None` at the end.
    fn take_now(&self, max: usize) -> Option<Vec<Taken>> {
        let mut waiting = self.lock();
        if let Some((_, outer)) = &self.bell
            && std::mem::take(&mut waiting.is_rung)
        {
            // Nothing else is written to it.
            let _ = { outer }.read(&mut [0; 8]);
        }
        if waiting.is_closed && waiting.jobs.is_empty() {
            return None;
        }
        let mut cancelled = Vec::new();
        let taken = std::iter::from_fn(|| waiting.take(&mut cancelled));
        let taken: Vec<Taken> = taken.take(max).collect();
        drop(waiting);
        give_up(cancelled);
        if let Some(last) = taken.last() {
            self.set_batching(last.is_followed || taken.len() > 1);
        }
        Some(taken)
    }
}

struct Taken {
    message: Message,
    responder: Responder,
    /// No thread is left that waits for the next one.
    is_last: bool,
    /// Another one waits.
    is_followed: bool,
}

impl Waiting {
    fn remove_cancelled(&mut self) -> Vec<Responder> {
        let (gone, left): (Vec<_>, Vec<_>) =
            self.jobs.drain(..).partition(|(_, responder)| responder.is_cancelled());
        self.jobs = left.into();
        self.bytes -= gone.iter().map(|(message, _)| bytes_of(message)).sum::<usize>();
        gone.into_iter().map(|(_, responder)| responder).collect()
    }

    /// Takes the next request for which somebody waits. Those before it are added to `cancelled`.
    fn take(&mut self, cancelled: &mut Vec<Responder>) -> Option<Taken> {
        let (message, responder) = loop {
            let (message, responder) = self.jobs.pop_front()?;
            self.bytes = self.bytes.saturating_sub(bytes_of(&message));
            if !responder.is_cancelled() {
                break (message, responder);
            }
            cancelled.push(responder);
        };
        let is_followed = !self.jobs.is_empty();
        Some(Taken { message, responder, is_last: self.idle == 0, is_followed })
    }
}

/// Drops requests for which nobody waits any more. No lock may be held, because the client goes on to
/// the next requests.
fn give_up(cancelled: Vec<Responder>) {
    cancelled.into_iter().for_each(Responder::give_up);
}

fn bytes_of(message: &Message) -> usize {
    payload_bytes(&message.payload) + JOB_BYTES
}

/// The requests of one served channel. At most `jobs_max` of them wait, besides those that handlers
/// work on; others are answered with `limit_exceeded`.
#[pyclass(frozen, module = "ipc_framework._native")]
pub(super) struct Jobs {
    pub(super) queue: Arc<Queue>,
    /// In a forked child the requests belong to the parent.
    process_id: u32,
}

#[pymethods]
impl Jobs {
    #[new]
    fn new(py: Python<'_>, jobs_max: usize, rings: bool) -> PyResult<Self> {
        let queue = Queue::new(jobs_max, rings)
            .map_err(|error| errors::system(py, "pair of sockets", &error))?;
        Ok(Self { queue: Arc::new(queue), process_id: std::process::id() })
    }

    /// Waits for a request. Returns it, the way to answer it, and whether no thread is left that
    /// waits for the next one; None at the end.
    fn take<'py>(&self, py: Python<'py>) -> Option<(Bound<'py, PyAny>, Bound<'py, Job>, bool)> {
        let inside = Inside::enter(py);
        if self.is_parents() {
            return None;
        }
        loop {
            let there = self.queue.try_take();
            let taken = match there {
                Some(taken) => taken,
                None => inside.detached(|| self.queue.take())?,
            };
            let is_last = taken.is_last;
            if let Some((message, job)) = taken.into_python(&inside) {
                return Some((message, job, is_last));
            }
        }
    }

    /// Returns the requests that are there, at most `max`, for an event loop whose descriptor
    /// became readable; None at the end.
    fn take_now<'py>(
        &self,
        py: Python<'py>,
        max: usize,
    ) -> Option<Vec<(Bound<'py, PyAny>, Bound<'py, Job>)>> {
        let inside = Inside::enter(py);
        if self.is_parents() {
            return None;
        }
        let taken = self.queue.take_now(max)?;
        let count = taken.len();
        let jobs: Vec<_> =
            taken.into_iter().filter_map(|taken| taken.into_python(&inside)).collect();
        if jobs.len() < count {
            // The handler is free for those that wait, and no answer of it would have them taken.
            self.queue.ring_again();
        }
        Some(jobs)
    }

    /// Sends the answers that wait for others.
    fn send_held(&self, py: Python<'_>) {
        let inside = Inside::enter(py);
        if !self.is_parents() {
            inside.detached(|| self.queue.set_batching(false));
        }
    }

    /// Accepts no more requests. Those that have arrived may still be taken.
    fn close(&self) {
        if !self.is_parents() {
            self.queue.close();
        }
    }

    /// Returns a descriptor that becomes readable when a request arrives, if there is one.
    fn fileno(&self) -> i32 {
        self.queue.bell.as_ref().map_or(-1, |(_, outer)| outer.as_raw_fd())
    }
}

impl Jobs {
    fn is_parents(&self) -> bool {
        self.process_id != std::process::id()
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        if self.is_parents() {
            // The last requests in it must not be answered here, by the parent's connection.
            std::mem::forget(Arc::clone(&self.queue));
        }
    }
}

impl Taken {
    /// Returns the request as Python sees it. If it cannot be a Python object it is refused.
    fn into_python<'py>(
        self,
        inside: &Inside<'py>,
    ) -> Option<(Bound<'py, PyAny>, Bound<'py, Job>)> {
        let py = inside.py();
        let Self { message, responder, .. } = self;
        match message::to_python(py, &(&message).into()) {
            Ok(message) => {
                let job = Bound::new(py, Job::new(responder));
                let carried = job.and_then(|job| {
                    message.setattr(intern!(py, "_origin"), &job)?;
                    Ok((message, job))
                });
                // Without memory for these the requester is told that it was dropped.
                carried.ok()
            }
            Err(error) => {
                let failure = Failure::of_payload(&error);
                // If it cannot be sent the connection is gone, and the requester knows.
                let _ = inside.detached(|| responder.fail(failure.text()));
                None
            }
        }
    }
}
