//! Requests in flight, their deadlines, and what answers prove about messages that were sent
//! before.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use uuid::Uuid;

use super::outbox::Kind;
use super::waiter::Waiter;
use crate::client::error::{Error, Execution};
use crate::client::wire::encoded_frame::EncodedFrame;
use crate::proto::ErrorCode;
use crate::proto::frame::HEADER_BYTES;

/// The size up to which a request is kept until its answer comes. If the server refuses to look at
/// it, it can be sent by the next connection.
const KEPT_FRAME_BYTES_MAX: usize = 1 << 20;

/// The size from which messages without an answer are remembered, and the number of those that are:
/// one of them may be too large for the server.
const LARGE_BYTES_MIN: usize = 64 << 10;
const LARGE_MAX: usize = 64;

#[derive(Debug)]
struct Request {
    waiter: Waiter,
    deadline: Option<Instant>,
    begin: Instant,
    /// Set when all of the request has left, after which it may be executed.
    left: Option<Left>,
    /// The frame and its number, if it may be sent again.
    kept: Option<Kept>,
    /// Set if the caller gave the deadline, and not the client's own timeout.
    is_given: bool,
    /// Set if the server knows the deadline, and ends the request by itself.
    is_told: bool,
}

/// A frame that may be sent again.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) frame: EncodedFrame,
    pub(crate) number: u64,
    pub(crate) meta_bytes: usize,
}

/// A request that nobody waits for any more.
#[derive(Debug)]
pub(crate) struct Forgotten {
    pub(crate) waiter: Waiter,
    pub(crate) execution: Execution,
    /// Set if the server knows the deadline, and ends the request by itself when that has passed.
    pub(crate) is_told: bool,
}

/// A request whose deadline has passed.
#[derive(Debug)]
pub(crate) struct Expired {
    pub(crate) id: Uuid,
    pub(crate) waiter: Waiter,
    pub(crate) error: Error,
    /// Set if the server has to be told that nobody waits any more.
    pub(crate) needs_cancel: bool,
}

/// A request that has left.
#[derive(Clone, Copy, Debug)]
struct Left {
    /// The number of messages without an answer that had left before it.
    posted_before: u64,
    /// The bytes that had left up to its end.
    sent_bytes: u64,
    /// Its place in the order in which callers sent messages.
    number: u64,
    body_bytes: usize,
}

/// The message for which a server closes a connection because it is over the limit. The server has
/// not looked at it, nor at any message after it.
#[derive(Debug)]
pub(crate) struct TooLarge {
    text: String,
    pub(crate) body_bytes: usize,
    body_bytes_max: usize,
    /// Its place in the order, if it is known.
    pub(crate) number: Option<u64>,
}

/// Invariants: `confirmed <= posted`; `read_bytes <= sent_bytes`; `kept_bytes` is the size of all kept frames.
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
    /// The bytes that left by this connection, and those of them that the server is known to have
    /// read.
    sent_bytes: u64,
    read_bytes: u64,
    kept_bytes: usize,
    /// With zero no frame is kept.
    kept_bytes_max: usize,
    /// Set when a caller stops waiting for a request that has not left.
    has_abandoned: bool,
    /// Large messages without an answer that left by this connection: their numbers and sizes.
    large: VecDeque<(u64, usize)>,
}

impl Pending {
    pub(crate) fn new(kept_bytes_max: usize) -> Self {
        Self {
            requests: HashMap::new(),
            deadlines: BTreeSet::new(),
            posted: 0,
            confirmed: 0,
            sent_bytes: 0,
            read_bytes: 0,
            kept_bytes: 0,
            kept_bytes_max,
            has_abandoned: false,
            large: VecDeque::new(),
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
        let request = Request {
            waiter,
            deadline,
            begin,
            left: None,
            kept: None,
            is_given: false,
            is_told: false,
        };
        self.requests.insert(id, request);
    }

    /// Notes that the caller gave the request's deadline, and whether its `meta` tells the server.
    pub(crate) fn note_given(&mut self, id: Uuid, is_told: bool) {
        if let Some(request) = self.requests.get_mut(&id) {
            (request.is_given, request.is_told) = (true, is_told);
        }
    }

    /// Notes that the request has to wait, so that what its `meta` says of its deadline is wrong by
    /// the time it leaves.
    pub(crate) fn note_delayed(&mut self, id: Uuid) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.is_told = false;
        }
    }

    /// Returns the error of a request's answer as its waiter sees it, see [`Error::or_deadline`].
    pub(crate) fn error_of(&self, id: Uuid, error: Error) -> Error {
        match self.requests.get(&id) {
            Some(request) if request.is_given => error.or_deadline(request.begin, request.deadline),
            _ => error,
        }
    }

    /// Returns the waiter of a request.
    pub(crate) fn waiter(&self, id: Uuid) -> Option<&Waiter> {
        self.requests.get(&id).map(|request| &request.waiter)
    }

    /// Notes that a part of a request's answer has come. The client's own timeout is over with it.
    pub(crate) fn note_part(&mut self, id: Uuid) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        if let Some(left) = request.left {
            self.confirmed = self.confirmed.max(left.posted_before);
            self.read_bytes = self.read_bytes.max(left.sent_bytes);
        }
        if !request.is_given
            && let Some(deadline) = request.deadline.take()
        {
            self.deadlines.remove(&(deadline, id));
        }
        // It was begun, and must not be sent again.
        let kept = request.kept.take();
        self.kept_bytes -= kept.map_or(0, |kept| kept.frame.len());
    }

    /// Removes the streams that have not left, which a connection without extensions cannot take.
    pub(crate) fn take_streams(&mut self) -> Vec<Waiter> {
        let is_stream = |request: &Request| matches!(request.waiter, Waiter::Stream(_));
        let unsent = |request: &&Request| request.left.is_none();
        let streams = self.requests.iter().filter(|(_, request)| is_stream(request));
        let streams = streams.filter(|(_, request)| unsent(request)).map(|(id, _)| *id);
        let streams: Vec<Uuid> = streams.collect();
        streams.into_iter().filter_map(|id| Some(self.forget(id)?.waiter)).collect()
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
        frame: impl FnOnce() -> (EncodedFrame, usize),
    ) {
        let body_bytes = frame_bytes - HEADER_BYTES;
        self.sent_bytes += frame_bytes as u64;
        let Some(id) = request else {
            self.posted += u64::from(kind == Kind::AnyConnection);
            if body_bytes >= LARGE_BYTES_MIN {
                self.large.truncate(LARGE_MAX - 1);
                self.large.push_front((number, body_bytes));
            }
            return;
        };
        let Some(request) = self.requests.get_mut(&id) else { return };
        let (posted_before, sent_bytes) = (self.posted, self.sent_bytes);
        request.left = Some(Left { posted_before, sent_bytes, number, body_bytes });
        let is_kept = kind == Kind::AnyConnection
            && frame_bytes <= KEPT_FRAME_BYTES_MAX
            && self.kept_bytes + frame_bytes <= self.kept_bytes_max;
        if is_kept {
            self.kept_bytes += frame_bytes;
            let (frame, meta_bytes) = frame();
            request.kept = Some(Kept { frame, number, meta_bytes });
        }
    }

    /// Removes a request for whose answer nobody waits any more.
    pub(crate) fn forget(&mut self, id: Uuid) -> Option<Forgotten> {
        let request = self.requests.remove(&id)?;
        if let Some(deadline) = request.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        self.kept_bytes -= request.kept.map_or(0, |kept| kept.frame.len());
        let has_left = request.left.is_some();
        self.has_abandoned |= !has_left;
        let execution = if has_left { Execution::Possible } else { Execution::Never };
        Some(Forgotten { waiter: request.waiter, execution, is_told: request.is_told })
    }

    /// Removes a request whose answer has come. The server has then processed what left before it.
    pub(crate) fn answered(&mut self, id: Uuid) -> Option<Waiter> {
        if let Some(left) = self.requests.get(&id)?.left {
            self.confirmed = self.confirmed.max(left.posted_before);
            self.read_bytes = self.read_bytes.max(left.sent_bytes);
        }
        self.forget(id).map(|forgotten| forgotten.waiter)
    }

    /// Handles the refusal of a request at which the server did not look. Returns its frame for
    /// sending it again, if it was kept.
    pub(crate) fn refused(&mut self, id: Uuid) -> Option<Kept> {
        let request = self.requests.get_mut(&id)?;
        let before = request.left?.posted_before;
        let kept = request.kept.take()?;
        request.left = None;
        self.kept_bytes -= kept.frame.len();
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
    pub(crate) fn expired(&mut self, now: Instant, torn: Option<Uuid>) -> Vec<Expired> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let begin = self.requests.get(&id).map(|request| request.begin);
            if let (Some(begin), Some(forgotten)) = (begin, self.forget(id)) {
                let Forgotten { waiter, execution, is_told } = forgotten;
                let waited = deadline.duration_since(begin);
                let execution = if torn == Some(id) { Execution::Possible } else { execution };
                let error = Error::Deadline { waiting_for: "the answer", waited, execution };
                let has_left = execution == Execution::Possible;
                let needs_cancel = has_left && !is_told && !waiter.is_own();
                expired.push(Expired { id, waiter, error, needs_cancel });
            }
        }
        expired
    }

    /// Finds the message of which the server said that it is too large.
    pub(crate) fn too_large(&self, error: &Error) -> Option<TooLarge> {
        let Error::Answered { code: ErrorCode::FrameTooLarge, text } = error else { return None };
        let mut numbers = text
            .split(|char: char| !char.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok());
        let (body_bytes, body_bytes_max) = (numbers.next()?, numbers.next()?);
        let requests = self.requests.values().filter_map(|request| request.left);
        let requests = requests.map(|left| (left.number, left.body_bytes));
        let all = requests.chain(self.large.iter().copied());
        let number = all.filter(|(_, bytes)| *bytes == body_bytes).map(|(number, _)| number).min();
        Some(TooLarge { text: text.clone(), body_bytes, body_bytes_max, number })
    }

    /// Removes the requests that left by a lost connection, or all requests, and returns their
    /// errors.
    pub(crate) fn lost(&mut self, all: bool, too_large: Option<&TooLarge>) -> Vec<(Waiter, Error)> {
        let gone = self.requests.iter().filter(|(_, request)| all || request.left.is_some());
        let gone: Vec<(Uuid, Option<Left>)> =
            gone.map(|(id, request)| (*id, request.left)).collect();
        let end = |(id, left): (Uuid, Option<Left>)| {
            let Forgotten { waiter, execution, .. } = self.forget(id)?;
            let error = match (too_large, left) {
                (Some(too_large), Some(left)) => too_large.error_of(left),
                _ => Error::lost(execution, None),
            };
            Some((waiter, error))
        };
        gone.into_iter().filter_map(end).collect()
    }

    /// Returns how many messages without an answer may not have been processed.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.posted - self.confirmed
    }

    /// Returns how many bytes have left and may not have been read by the server.
    pub(crate) fn unread_bytes(&self) -> u64 {
        self.sent_bytes - self.read_bytes
    }

    /// Returns the number of unconfirmed messages of a lost connection, and starts counting anew.
    pub(crate) fn take_unconfirmed(&mut self) -> u64 {
        let unconfirmed = self.unconfirmed();
        (self.posted, self.confirmed) = (0, 0);
        (self.sent_bytes, self.read_bytes) = (0, 0);
        self.large.clear();
        unconfirmed
    }
}

impl TooLarge {
    /// Returns the error of the message itself.
    pub(crate) fn own_error(&self) -> Error {
        Error::Answered { code: ErrorCode::FrameTooLarge, text: self.text.clone() }
    }

    /// Returns the error of a request that had left by the same connection.
    fn error_of(&self, left: Left) -> Error {
        let Self { body_bytes, body_bytes_max, number, .. } = self;
        let execution = match *number {
            Some(number) if number == left.number => return self.own_error(),
            Some(number) if number < left.number => Execution::Never,
            _ => Execution::Possible,
        };
        let text = format!(
            "the server closed it because another message has {body_bytes} bytes, over its limit \
             of {body_bytes_max}; raise its --max-frame-bytes, or send that message in parts"
        );
        Error::lost(execution, std::io::Error::other(text))
    }
}
