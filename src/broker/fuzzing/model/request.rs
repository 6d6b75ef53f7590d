//! A request, and the way of messages to workers.

use std::time::Duration;

use serde_json::Value;

use crate::broker::fuzzing::attached::Extended;
use crate::broker::fuzzing::script::{Channel, PEERS, Said, What};

/// A request that a worker has.
pub(super) struct Request {
    /// By which the worker knows it.
    pub(super) id: String,
    pub(super) requester: usize,
    pub(super) message_id: String,
    pub(super) worker: usize,
    /// As its requester said it.
    pub(super) said: Said,
    pub(super) deadline: Duration,
    pub(super) ttl_until: Option<Duration>,
    pub(super) stream: Option<Stream>,
    /// It is idempotent, and has had one worker.
    pub(super) may_be_retried: bool,
}

/// What a worker has to be told: that a request is over, for one of these reasons.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) to: usize,
    pub(super) id: String,
    pub(super) reasons: &'static [&'static str],
}

impl Told {
    pub(super) fn is(&self, payload: &Value) -> bool {
        payload["action"] == "cancel"
            && payload["message_id"] == self.id.as_str()
            && self.reasons.iter().any(|reason| payload["reason"] == *reason)
    }
}

/// The most parts that a requester may allow at a time.
pub(super) const CREDIT_MAX: u32 = 65_536;

/// A stream as its requester and its worker know it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) initial: u32,
    pub(super) unused: u32,
    /// The share of it that the worker does not know of.
    pub(super) owed: u32,
    pub(super) next_seq: u64,
    pub(super) active_at: Duration,
}

impl Stream {
    fn new(initial: u32, active_at: Duration) -> Self {
        Self { initial, unused: initial, owed: 0, next_seq: 0, active_at }
    }
}

impl Request {
    /// Notes what the `meta` of a request asks for.
    pub(super) fn take_meta(&mut self, said: &Said, now: Duration) {
        let Some(meta) = &said.meta else { return };
        let stream = meta["stream"].as_u64().map(|credit| Stream::new(credit as u32, now));
        self.stream = stream;
        self.ttl_until = ttl_of(said).map(|ttl| said.arrived + ttl);
        self.may_be_retried = meta["idempotent"] == true;
    }

    /// Returns the time at which it is given up, and whether its requester or the server does so.
    pub(super) fn is_over(&self, now: Duration, timeout: Duration) -> bool {
        let is_late = match &self.stream {
            Some(stream) => stream.active_at + timeout <= now,
            None => self.deadline <= now,
        };
        is_late || self.ttl_until.is_some_and(|until| until <= now)
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.stream.as_ref().map_or(0, |stream| stream.next_seq)
    }

    pub(super) fn has_begun(&self) -> bool {
        self.next_seq() > 0
    }
}

/// Returns the time that a requester gives a request.
pub(super) fn ttl_of(said: &Said) -> Option<Duration> {
    let millis = said.meta.as_ref()?.get("ttl")?.as_u64()?;
    Some(Duration::from_millis(millis))
}

/// Returns whether a request was held back for its whole time.
pub(super) fn is_late(said: &Said, now: Duration) -> bool {
    ttl_of(said).is_some_and(|ttl| said.arrived + ttl <= now)
}

/// Returns whether the `meta` of a request or publication of a peer with these extensions is bad.
pub(super) fn is_bad(said: &Said, from: Extended) -> bool {
    let is_unread = said.what == What::Publish(Channel(3)) && !said.attached.is_empty();
    let asks_for_none = said.meta.as_ref().is_some_and(|meta| meta["stream"] == 0);
    let has_place = said.meta.as_ref().is_some_and(|meta| meta.get("epoch").is_some());
    is_unread || asks_for_none || has_place || said.exceeds(from)
}

/// Takes the one message out of the news that was passed on to one of the workers.
pub(super) fn take_forwarded(
    workers: &[usize],
    message_type: &str,
    said: &Said,
    news: &mut [Vec<Value>; PEERS],
) -> Option<(usize, Value)> {
    workers.iter().find_map(|&worker| {
        let is_it = |m: &Value| {
            m["message_type"] == message_type && m["payload"]["serial"] == said.payload["serial"]
        };
        let at = news[worker].iter().position(is_it)?;
        Some((worker, news[worker].remove(at)))
    })
}

/// Takes the request with this id out of the news.
pub(super) fn take_retried(id: &str, news: &mut [Vec<Value>; PEERS]) -> Option<(usize, Value)> {
    news.iter_mut().enumerate().find_map(|(worker, news)| {
        let is_it = |m: &Value| m["message_type"] == "request" && m["message_id"] == id;
        let at = news.iter().position(is_it)?;
        Some((worker, news.remove(at)))
    })
}
