//! The way from a handler to the requester: the answer to one request, in one piece or in parts.

use std::fmt;
use std::sync::{Arc, Weak};

use super::job::Job;
use super::outbox::Kind;
use super::shared::Shared;
use crate::client::error::Error;
use crate::client::payload::Payload;
use crate::client::wire::encoder::Heading;
use crate::proto::ErrorCode;
use crate::proto::system::Failure;

/// The error that a requester gets when the handler panicked.
const PANICKED: &str = "the handler panicked; see the worker's output";
const DROPPED: &str = "the handler of this channel dropped the request unanswered";

/// The handler of a served channel, which has room for the next request after each answer.
pub(crate) trait Crew: Send + Sync {
    fn client(&self) -> &Weak<Shared>;

    /// Makes room for the next request after one was answered.
    fn freed(self: Arc<Self>, shared: &Shared);
}

/// A request that waits for its answer. Dropped without one, it is answered `handler_failed`.
pub(crate) struct Answering {
    job: Arc<Job>,
    crew: Arc<dyn Crew>,
    is_answered: bool,
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").field("job", &self.job).finish_non_exhaustive()
    }
}

impl Answering {
    pub(crate) fn new(job: Arc<Job>, crew: Arc<dyn Crew>) -> Self {
        Self { job, crew, is_answered: false }
    }

    pub(crate) fn job(&self) -> &Arc<Job> {
        &self.job
    }

    pub(crate) fn client(&self) -> Option<Arc<Shared>> {
        self.crew.client().upgrade()
    }

    /// Sends a part of the answer. Returns false if nobody wants it any more.
    pub(crate) fn send<T: Payload + ?Sized>(
        &self,
        payload: &T,
        meta: &[u8],
    ) -> Result<bool, Error> {
        match self.client() {
            Some(shared) => post(&self.job, &shared, payload, Some(meta), Kind::ThisConnection),
            None => Ok(false),
        }
    }

    /// Sends the answer, or the end of one that came in parts. If that is not possible the requester
    /// gets the reason.
    pub(crate) fn finish<T: Payload + ?Sized>(
        self,
        payload: &T,
        meta: Option<&[u8]>,
    ) -> Result<(), Error> {
        self.finish_or_refuse(payload, meta, ErrorCode::HandlerFailed)
    }

    /// As [`finish`](Self::finish), with the code of the reason that the requester gets instead.
    pub(crate) fn finish_or_refuse<T: Payload + ?Sized>(
        mut self,
        payload: &T,
        meta: Option<&[u8]>,
        code: ErrorCode,
    ) -> Result<(), Error> {
        let Some(shared) = self.client() else { return Ok(()) };
        // The payload is written by code of the caller, which may panic.
        let sent = post(&self.job, &shared, payload, meta, Kind::ThisConnection);
        if let Err(error) = &sent {
            refuse(&self.job, &shared, code, &error.to_string());
        }
        self.is_answered = true;
        sent.map(drop)
    }

    /// Gives a request up that its requester has cancelled before the handler began.
    pub(crate) fn give_up(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let Some(shared) = self.client() else { return };
        if !self.is_answered {
            let text = if std::thread::panicking() { PANICKED } else { DROPPED };
            refuse(&self.job, &shared, ErrorCode::HandlerFailed, text);
        }
        finish(&self.job, &shared);
        Arc::clone(&self.crew).freed(&shared);
    }
}

/// Sends an answer, unless nobody wants it: if its connection is gone, the server has told the
/// requester.
fn post<T: Payload + ?Sized>(
    job: &Job,
    shared: &Shared,
    payload: &T,
    meta: Option<&[u8]>,
    kind: Kind,
) -> Result<bool, Error> {
    let is_wanted = job.is_request() && !job.is_cancelled();
    if !is_wanted || shared.lock().generation != job.generation {
        return Ok(false);
    }
    let heading = Heading { meta, ..Heading::answer(job.channel_id(), job.message_id()) };
    match shared.post(heading, payload, kind) {
        Ok(()) => Ok(true),
        Err(
            Error::Closed | Error::Disconnected | Error::Lost { .. } | Error::Unsupported { .. },
        ) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Answers with an error of the client library.
pub(crate) fn refuse(job: &Job, shared: &Shared, code: ErrorCode, text: &str) {
    // So small an answer fails only for lack of random bytes. Then the requester's timeout at
    // the server answers it.
    let _ = post(job, shared, &Failure::new(code, text), None, Kind::Refusal);
}

/// Takes a request from those that the server may cancel and that a drain waits for.
pub(crate) fn finish(job: &Job, shared: &Shared) {
    let mut state = shared.lock();
    if state.generation == job.generation {
        state.jobs = state.jobs.saturating_sub(1);
        if let Some(key) = job.key() {
            state.running.remove(&key);
        }
    }
    drop(state);
    job.forget_listeners();
    shared.progress.notify_all();
}
