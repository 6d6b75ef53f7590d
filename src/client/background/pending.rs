//! Who waits for an answer, until when, and what answers prove of what was sent before.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use uuid::Uuid;

use super::outbox::Kind;
use super::waiter::Waiter;
use crate::client::error::{Error, Execution};

/// Requests up to here are kept until they are answered, so that one which the server refuses
/// to look at can go by the next connection.
const KEPT_FRAME_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
struct Request {
    waiter: Waiter,
    deadline: Option<Instant>,
    begin: Instant,
    /// All of it is with the kernel, so it may be executed: how many messages without an answer
    /// had left before it.
    left: Option<u64>,
    /// What left, and its number, if it may go again.
    kept: Option<(Vec<u8>, u64)>,
}

/// Invariant: `confirmed <= posted`, `kept_bytes` is what the kept frames have together.
#[derive(Debug)]
pub(crate) struct Pending {
    requests: HashMap<Uuid, Request>,
    /// Of those that the driver watches.
    deadlines: BTreeSet<(Instant, Uuid)>,
    /// Messages without an answer that left by this connection, and how many of them the server
    /// has proved to have processed: it answered a request that left after them.
    posted: u64,
    confirmed: u64,
    kept_bytes: usize,
    /// Zero: none is kept.
    kept_bytes_max: usize,
    /// Somebody gave up waiting for a request that has not left.
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

    /// Has the driver see to the deadline, which is returned.
    pub(crate) fn watch(&mut self, id: Uuid) -> Option<Instant> {
        let deadline = self.requests.get(&id)?.deadline?;
        self.deadlines.insert((deadline, id));
        Some(deadline)
    }

    /// A message is with the kernel.
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

    /// Nobody waits for this answer any more.
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

    /// The answer is there: what left before its request has been processed too.
    pub(crate) fn answered(&mut self, id: Uuid) -> Option<Waiter> {
        if let Some(before) = self.requests.get(&id)?.left {
            self.confirmed = self.confirmed.max(before);
        }
        self.forget(id).map(|(waiter, _)| waiter)
    }

    /// The server did not look at the request: what is to be sent again, if it was kept.
    pub(crate) fn refused(&mut self, id: Uuid) -> Option<(Vec<u8>, u64)> {
        let request = self.requests.get_mut(&id)?;
        let before = request.left?;
        let kept = request.kept.take()?;
        request.left = None;
        self.kept_bytes -= kept.0.len();
        self.confirmed = self.confirmed.max(before);
        Some(kept)
    }

    /// Whether some request on its way may be nobody's, since this was asked last.
    pub(crate) fn take_abandoned(&mut self) -> bool {
        std::mem::take(&mut self.has_abandoned)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out who has waited too long. Of `torn` a part has left.
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

    /// The connection is gone: takes out those that left by it, or all.
    pub(crate) fn lost(&mut self, all: bool) -> Vec<(Waiter, Execution)> {
        let gone = self.requests.iter().filter(|(_, request)| all || request.left.is_some());
        let gone: Vec<Uuid> = gone.map(|(id, _)| *id).collect();
        gone.into_iter().filter_map(|id| self.forget(id)).collect()
    }

    /// How many messages without an answer may not have been processed.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.posted - self.confirmed
    }

    /// The count for a connection that is gone; the next one begins anew.
    pub(crate) fn take_unconfirmed(&mut self) -> u64 {
        let unconfirmed = self.unconfirmed();
        (self.posted, self.confirmed) = (0, 0);
        unconfirmed
    }
}
