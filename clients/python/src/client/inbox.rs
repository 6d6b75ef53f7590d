//! The items that a connection receives, on their way from the client's thread to Python.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ipc_framework::Message;
use ipc_framework::client::Event;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use super::errors::Failure;
use crate::inside::Inside;
use crate::message::{self, payload_bytes};

/// Limits of what may wait for slow handlers; the server has the same ones for a worker.
const MESSAGES_MAX: usize = 64 << 10;
const BYTES_MAX: usize = 64 << 20;
/// Memory of a message besides its payload.
const MESSAGE_BYTES: usize = 256;
/// Items taken at once. No other Python thread runs while they are turned into objects.
const BATCH_MAX: usize = 256;

pub(super) enum Item {
    /// A message that is not an answer for which something waits.
    Message(Message),
    Answer {
        message_id: String,
        answer: Result<Message, Failure>,
    },
    /// The stream with this number may have a part.
    Ready(u64),
    /// Everything that came before it was handed out.
    Mark(u64),
    Event {
        name: &'static str,
        error: Option<Failure>,
        unanswered: usize,
        unconfirmed: u64,
        waiting: usize,
    },
}

/// The queue of items. For event loops it makes a descriptor readable.
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    bell: Option<(UnixStream, UnixStream)>,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    missed: u64,
    is_closed: bool,
}

impl Inbox {
    pub(super) fn new(rings: bool) -> std::io::Result<Self> {
        let bell = rings.then(UnixStream::pair).transpose()?;
        if let Some((inner, outer)) = &bell {
            inner.set_nonblocking(true)?;
            outer.set_nonblocking(true)?;
        }
        Ok(Self { waiting: Mutex::default(), arrived: Condvar::new(), bell })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item. Only messages are dropped if too many items wait: answers have a limit of their
    /// own.
    pub(super) fn put(&self, item: Item) {
        let mut waiting = self.lock();
        let bytes = item.bytes();
        let is_full = waiting.items.len() >= MESSAGES_MAX || waiting.bytes + bytes > BYTES_MAX;
        if waiting.is_closed {
            return;
        }
        if is_full && matches!(item, Item::Message(_)) {
            waiting.missed += 1;
            return;
        }
        waiting.bytes += bytes;
        waiting.items.push_back(item);
        let is_first = waiting.items.len() == 1;
        drop(waiting);
        if is_first {
            self.ring();
        }
    }

    /// Ends the queue. Items in it may still be taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.ring();
    }

    /// Drops the items that were not taken.
    pub(super) fn discard(&self) {
        let dropped = std::mem::take(&mut self.lock().items);
        drop(dropped);
    }

    fn ring(&self) {
        self.arrived.notify_one();
        if let Some((inner, _)) = &self.bell {
            // If the pipe is full it is readable already.
            let _ = { inner }.write(&[0]);
        }
    }

    pub(super) fn descriptor(&self) -> Option<i32> {
        self.bell.as_ref().map(|(_, outer)| outer.as_raw_fd())
    }

    pub(super) fn missed(&self) -> u64 {
        self.lock().missed
    }

    /// Waits for items; `None` at the end.
    pub(super) fn take(&self) -> Option<Vec<Item>> {
        let mut waiting = self.lock();
        while waiting.items.is_empty() {
            if waiting.is_closed {
                return None;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        Some(waiting.batch())
    }

    /// Takes available items, for an event loop whose descriptor became readable; `None` at the
    /// end.
    pub(super) fn take_now(&self) -> Option<Vec<Item>> {
        if let Some((_, outer)) = &self.bell {
            let mut rung = [0; 64];
            while { outer }.read(&mut rung).is_ok_and(|bytes| bytes == rung.len()) {}
        }
        let mut waiting = self.lock();
        if waiting.is_closed && waiting.items.is_empty() {
            return None;
        }
        let batch = waiting.batch();
        let is_left = !waiting.items.is_empty();
        drop(waiting);
        if is_left {
            // The rest comes in the loop's next turn, so that other tasks get theirs.
            self.ring();
        }
        Some(batch)
    }
}

impl Waiting {
    fn batch(&mut self) -> Vec<Item> {
        let count = self.items.len().min(BATCH_MAX);
        let batch: Vec<Item> = self.items.drain(..count).collect();
        let bytes: usize = batch.iter().map(Item::bytes).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        batch
    }
}

impl Item {
    fn bytes(&self) -> usize {
        let of = |message: &Message| payload_bytes(&message.payload) + MESSAGE_BYTES;
        match self {
            Self::Message(message) | Self::Answer { answer: Ok(message), .. } => of(message),
            Self::Answer { .. } | Self::Ready(_) | Self::Mark(_) | Self::Event { .. } => {
                MESSAGE_BYTES
            }
        }
    }

    /// Returns the item as a tuple of its kind and its parts.
    pub(super) fn into_py<'py>(self, inside: &Inside<'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = inside.py();
        let event = |name: &str, error: Option<Failure>, unanswered, unconfirmed, waiting| {
            let error = error.map(|error| error.into_py(py).into_value(py));
            ("event", name, error, unanswered, unconfirmed, waiting).into_bound_py_any(py)
        };
        let bytes = self.bytes();
        match self {
            Self::Message(message) => match message::to_python(py, &(&message).into()) {
                Ok(message) => ("message", message, bytes).into_bound_py_any(py),
                Err(error) => event("undecodable", Some(Failure::of_payload(&error)), 0, 0, 0),
            },
            Self::Answer { message_id, answer } => {
                let answer = answer.and_then(|message| {
                    message::to_python(py, &(&message).into())
                        .map_err(|error| Failure::of_payload(&error))
                });
                match answer {
                    Ok(message) => ("answer", message_id, message, py.None()).into_bound_py_any(py),
                    Err(error) => {
                        let error = error.into_py(py).into_value(py);
                        ("answer", message_id, py.None(), error).into_bound_py_any(py)
                    }
                }
            }
            Self::Ready(number) => ("ready", number).into_bound_py_any(py),
            Self::Mark(number) => ("mark", number).into_bound_py_any(py),
            Self::Event { name, error, unanswered, unconfirmed, waiting } => {
                event(name, error, unanswered, unconfirmed, waiting)
            }
        }
    }
}

impl From<&Event> for Item {
    fn from(event: &Event) -> Self {
        let (mut unanswered, mut unconfirmed, mut waiting) = (0, 0, 0);
        let (name, error) = match event {
            Event::Connected { .. } => ("connected", None),
            Event::Leaving => ("leaving", None),
            Event::Disconnected {
                error,
                unanswered: requests,
                unconfirmed: sent,
                waiting: held,
            } => {
                (unanswered, unconfirmed, waiting) = (*requests, *sent, *held);
                ("disconnected", Some(error))
            }
            Event::Unreachable { error, .. } => ("unreachable", Some(error)),
            Event::Refused { error, .. } => ("refused", Some(error)),
            Event::NotRestored { error, .. } => ("not_restored", Some(error)),
            Event::Closed { error, unsent } => {
                waiting = *unsent;
                ("closed", error.as_ref())
            }
            _ => ("other", None),
        };
        Self::Event { name, error: error.map(Failure::from), unanswered, unconfirmed, waiting }
    }
}
