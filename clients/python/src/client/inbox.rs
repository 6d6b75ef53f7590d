//! The items that a connection receives, on their way from the client's thread to Python.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ipc_framework::Message;
use ipc_framework::client::{Event, Position};
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
    Matched(Matched),
    Answer {
        message_id: String,
        answer: Result<Answer, Failure>,
    },
    /// The stream with this number may have a part.
    Ready(u64),
    /// Everything that came before it was handed out.
    Mark(u64),
    Event(Box<Change>),
}

/// A publication of a subscription that is no plain one.
pub(super) struct Matched {
    pub(super) message: Message,
    /// The number of the pattern, if it is one.
    pub(super) number: Option<u64>,
    /// Only the newest one of each channel is wanted.
    pub(super) conflates: bool,
}

pub(super) enum Answer {
    Message(Message),
    /// The place of a publication that the server has taken.
    Place(Option<Position>),
}

/// An event of the connection or of a subscription.
#[derive(Default)]
pub(super) struct Change {
    name: &'static str,
    error: Option<Failure>,
    address: Option<String>,
    unanswered: usize,
    unconfirmed: u64,
    waiting: usize,
    channel_id: Option<String>,
    seen: Option<Position>,
    newest: Option<Position>,
    missed: Option<u64>,
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
    /// Number of items that were taken before those that wait.
    taken: u64,
    /// Numbers of the publications that a newer one of the same channel replaces.
    replaceable: HashMap<(Option<u64>, String), u64>,
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
        if waiting.is_closed {
            return;
        }
        let item = match item {
            Item::Matched(matched) if matched.conflates => match waiting.replace(matched) {
                Some(item) => item,
                None => return,
            },
            item => item,
        };
        let bytes = item.bytes();
        let is_full = waiting.items.len() >= MESSAGES_MAX || waiting.bytes + bytes > BYTES_MAX;
        if is_full && matches!(item, Item::Message(_) | Item::Matched(_)) {
            waiting.missed += 1;
            return;
        }
        waiting.push(item, bytes);
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
        let mut waiting = self.lock();
        let dropped = std::mem::take(&mut waiting.items);
        waiting.replaceable.clear();
        drop(waiting);
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
        // Nothing in a batch is replaced any more, while slow handlers are called with it.
        let may_replace = !waiting.replaceable.is_empty();
        let first =
            may_replace.then(|| waiting.items.iter().take(BATCH_MAX).position(Item::conflates));
        Some(waiting.batch(first.flatten().map_or(BATCH_MAX, |at| at + 1)))
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
        let batch = waiting.batch(BATCH_MAX);
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
    fn push(&mut self, item: Item, bytes: usize) {
        if let Item::Matched(matched) = &item
            && matched.conflates
        {
            let number = self.taken + self.items.len() as u64;
            self.replaceable.insert(matched.key(), number);
        }
        self.bytes += bytes;
        self.items.push_back(item);
    }

    /// Puts a publication in the place of an older one of its channel. Returns it if none waits.
    fn replace(&mut self, newer: Matched) -> Option<Item> {
        let older = self.replaceable.get(&newer.key()).and_then(|number| {
            let at = usize::try_from(number.checked_sub(self.taken)?).ok()?;
            self.items.get_mut(at)
        });
        let newer = Item::Matched(newer);
        let Some(older) = older else { return Some(newer) };
        let bytes = self.bytes.saturating_sub(older.bytes()) + newer.bytes();
        if bytes > BYTES_MAX {
            self.missed += 1;
            return None;
        }
        self.bytes = bytes;
        *older = newer;
        None
    }

    fn batch(&mut self, count_max: usize) -> Vec<Item> {
        let count = self.items.len().min(count_max);
        let batch: Vec<Item> = self.items.drain(..count).collect();
        self.taken += count as u64;
        let bytes: usize = batch.iter().map(Item::bytes).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        if !self.replaceable.is_empty() {
            for item in &batch {
                if let Item::Matched(matched) = item {
                    self.replaceable.remove(&matched.key());
                }
            }
        }
        batch
    }
}

impl Matched {
    fn key(&self) -> (Option<u64>, String) {
        (self.number, self.message.channel_id.clone())
    }
}

impl Answer {
    pub(super) fn into_py(self, py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
        match self {
            Self::Message(message) => message::to_python(py, &(&message).into()).map(Some),
            Self::Place(None) => Ok(None),
            Self::Place(Some(place)) => message::position(py, &place).map(Some),
        }
    }
}

impl Item {
    fn conflates(&self) -> bool {
        matches!(self, Self::Matched(Matched { conflates: true, .. }))
    }

    fn bytes(&self) -> usize {
        let of = |message: &Message| payload_bytes(&message.payload) + MESSAGE_BYTES;
        match self {
            Self::Message(message)
            | Self::Matched(Matched { message, .. })
            | Self::Answer { answer: Ok(Answer::Message(message)), .. } => of(message),
            Self::Answer { .. } | Self::Ready(_) | Self::Mark(_) | Self::Event(_) => MESSAGE_BYTES,
        }
    }

    /// Returns the item as a tuple of its kind and its parts.
    pub(super) fn into_py<'py>(self, inside: &Inside<'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = inside.py();
        let bytes = self.bytes();
        let undecodable = |error: &PyErr| {
            let error = Some(Failure::of_payload(error));
            Change { name: "undecodable", error, ..Change::default() }.into_py(py)
        };
        match self {
            Self::Message(message) => match message::to_python(py, &(&message).into()) {
                Ok(message) => ("message", message, bytes).into_bound_py_any(py),
                Err(error) => undecodable(&error),
            },
            Self::Matched(Matched { message, number, conflates }) => {
                match message::to_python(py, &(&message).into()) {
                    Ok(message) => {
                        ("matched", message, bytes, number, conflates).into_bound_py_any(py)
                    }
                    Err(error) => undecodable(&error),
                }
            }
            Self::Answer { message_id, answer } => {
                let answer = answer.and_then(|answer| {
                    answer.into_py(py).map_err(|error| Failure::of_payload(&error))
                });
                match answer {
                    Ok(answer) => ("answer", message_id, answer, py.None()).into_bound_py_any(py),
                    Err(error) => {
                        let error = error.into_py(py).into_value(py);
                        ("answer", message_id, py.None(), error).into_bound_py_any(py)
                    }
                }
            }
            Self::Ready(number) => ("ready", number).into_bound_py_any(py),
            Self::Mark(number) => ("mark", number).into_bound_py_any(py),
            Self::Event(change) => change.into_py(py),
        }
    }
}

impl Change {
    fn into_py(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let place =
            |place: Option<Position>| place.map(|place| message::position(py, &place)).transpose();
        let error = self.error.map(|error| error.into_py(py).into_value(py));
        let (seen, newest) = (place(self.seen)?, place(self.newest)?);
        let Self { name, address, unanswered, unconfirmed, waiting, channel_id, missed, .. } = self;
        let counts = (unanswered, unconfirmed, waiting);
        let of_channel = (channel_id, seen, newest, missed);
        ("event", name, error, counts, of_channel, address).into_bound_py_any(py)
    }
}

impl From<&Event> for Item {
    fn from(event: &Event) -> Self {
        let mut change = Change::default();
        let mut note = |name, error: Option<&_>, channel_id: Option<&String>| {
            change.name = name;
            change.error = error.map(Failure::from);
            change.channel_id = channel_id.cloned();
        };
        match event {
            Event::Connected { endpoint, .. } => {
                note("connected", None, None);
                change.address = Some(endpoint.to_string());
            }
            Event::Leaving => note("leaving", None, None),
            Event::Disconnected { error, endpoint, unanswered, unconfirmed, waiting } => {
                note("disconnected", Some(error), None);
                change.address = Some(endpoint.to_string());
                change.unanswered = *unanswered;
                change.unconfirmed = *unconfirmed;
                change.waiting = *waiting;
            }
            Event::Unreachable { error, .. } => note("unreachable", Some(error), None),
            Event::Refused { channel_id, error, .. } => {
                note("refused", Some(error), Some(channel_id));
            }
            Event::NotRestored { channel_id, error } => {
                note("not_restored", Some(error), Some(channel_id));
            }
            Event::Resumed { channel_id } => note("resumed", None, Some(channel_id)),
            Event::Gap { channel_id, seen, newest, missed } => {
                note("gap", None, Some(channel_id));
                change.seen.clone_from(seen);
                change.newest.clone_from(newest);
                change.missed = *missed;
            }
            Event::LooksLikePattern { channel_id } => {
                note("looks_like_pattern", None, Some(channel_id));
            }
            Event::Closed { error, unsent } => {
                note("closed", error.as_ref(), None);
                change.waiting = *unsent;
            }
            _ => note("other", None, None),
        }
        Self::Event(Box::new(change))
    }
}
