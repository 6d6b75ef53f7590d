//! Requests in flight, their deadlines, and what answers prove about messages that were sent
//! before.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use uuid::Uuid;

use super::outbox::Kind;
use super::waiter::Waiter;
use crate::client::error::{Error, Execution};

/// The size up to which a request is kept until its answer comes. If the server refuses to look at
/// it, it can be sent by the next connection.
const KEPT_FRAME_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
struct Request {
    waiter: Waiter,
    deadline: Option<Instant>,
    begin: Instant,
    /// Set when all of the request has left, after which it may be executed: the number of messages
    /// without an answer that had left before it.
    left: Option<u64>,
    /// The frame and its number, if it may be sent again.
    kept: Option<(Vec<u8>, u64)>,
}

/// Invariants: `confirmed <= posted`; `kept_bytes` is the size of all kept frames.
#[derive(Debug)]
pub(crate) struct Pending {
    requests: HashMap<Uuid, Request>,
    /// The deadlines that the driver watches.
    deadlines: BTreeSet<(Instant, Uuid)>,
    /// The number of messages without an answer that left by this connection, and the number of
    /// them that the server is known to have processed, because it answered a request that left
    /// after them.
    posted: u64,
    confirmed: u64,
    kept_bytes: usize,
    /// With zero no frame is kept.
    kept_bytes_max: usize,
    /// Set when a caller stops waiting for a request that has not left.
    has_abandoned: bool,
}

impl Pending {
    pub(crate) fn new(kept_bytes_max: usize) -> Self {
        Self {
            requests: HashMap::new(),
            deadlines: BTreeSet::new(),
            posted: 0,
            confirmed: 0,
            kept_bytes: 0,
            kept_bytes_max,
            has_abandoned: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn contains(&self, id: Uuid) -> bool {
        self.requests.contains_key(&id)
    }

    pub(crate) fn insert(&mut self, id: Uuid, waiter: Waiter, deadline: Option<Instant>) {
        let begin = Instant::now();
        let request = Request { waiter, deadline, begin, left: None, kept: None };
        self.requests.insert(id, request);
    }

    /// Makes the driver watch the request's deadline, and returns it.
    pub(crate) fn watch(&mut self, id: Uuid) -> Option<Instant> {
        let deadline = self.requests.get(&id)?.deadline?;
        self.deadlines.insert((deadline, id));
        Some(deadline)
    }

    /// Notes that all of a message has left.
    pub(crate) fn note_sent(
        &mut self,
        kind: Kind,
        request: Option<Uuid>,
        number: u64,
        frame_bytes: usize,
        frame: impl FnOnce() -> Vec<u8>,
    ) {
        let Some(id) = request else {
            self.posted += u64::from(kind == Kind::AnyConnection);
            return;
        };
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.left = Some(self.posted);
        let is_kept = kind == Kind::AnyConnection
            && frame_bytes <= KEPT_FRAME_BYTES_MAX
            && self.kept_bytes + frame_bytes <= self.kept_bytes_max;
        if is_kept {
            self.kept_bytes += frame_bytes;
            request.kept = Some((frame(), number));
        }
    }

    /// Removes a request for whose answer nobody waits any more.
    pub(crate) fn forget(&mut self, id: Uuid) -> Option<(Waiter, Execution)> {
        let request = self.requests.remove(&id)?;
        if let Some(deadline) = request.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        self.kept_bytes -= request.kept.map_or(0, |(frame, _)| frame.len());
        let has_left = request.left.is_some();
        self.has_abandoned |= !has_left;
        let execution = if has_left { Execution::Possible } else { Execution::Never };
        Some((request.waiter, execution))
    }

    /// Removes a request whose answer has come. The server has then processed what left before it.
    pub(crate) fn answered(&mut self, id: Uuid) -> Option<Waiter> {
        if let Some(before) = self.requests.get(&id)?.left {
            self.confirmed = self.confirmed.max(before);
        }
        self.forget(id).map(|(waiter, _)| waiter)
    }

    /// Handles the refusal of a request at which the server did not look. Returns its frame for
    /// sending it again, if it was kept.
    pub(crate) fn refused(&mut self, id: Uuid) -> Option<(Vec<u8>, u64)> {
        let request = self.requests.get_mut(&id)?;
        let before = request.left?;
        let kept = request.kept.take()?;
        request.left = None;
        self.kept_bytes -= kept.0.len();
        self.confirmed = self.confirmed.max(before);
        Some(kept)
    }

    /// Returns whether a caller has stopped waiting for an unsent request since the last call.
    pub(crate) fn take_abandoned(&mut self) -> bool {
        std::mem::take(&mut self.has_abandoned)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Removes the requests whose deadline has passed. A part of the request `torn` has left.
    pub(crate) fn expired(&mut self, now: Instant, torn: Option<Uuid>) -> Vec<(Waiter, Error)> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let begin = self.requests.get(&id).map(|request| request.begin);
            if let (Some(begin), Some((waiter, execution))) = (begin, self.forget(id)) {
                let waited = deadline.duration_since(begin);
                let execution = if torn == Some(id) { Execution::Possible } else { execution };
                let error = Error::Deadline { waiting_for: "the answer", waited, execution };
                expired.push((waiter, error));
            }
        }
        expired
    }

    /// Removes the requests that left by a lost connection, or all requests.
    pub(crate) fn lost(&mut self, all: bool) -> Vec<(Waiter, Execution)> {
        let gone = self.requests.iter().filter(|(_, request)| all || request.left.is_some());
        let gone: Vec<Uuid> = gone.map(|(id, _)| *id).collect();
        gone.into_iter().filter_map(|id| self.forget(id)).collect()
    }

    /// Returns how many messages without an answer may not have been processed.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.posted - self.confirmed
    }

    /// Returns that number for a lost connection, and starts counting anew.
    pub(crate) fn take_unconfirmed(&mut self) -> u64 {
        let unconfirmed = self.unconfirmed();
        (self.posted, self.confirmed) = (0, 0);
        unconfirmed
    }
}
