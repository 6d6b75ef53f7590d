//! Answering a request that came to a worker.

use std::sync::{Arc, Weak};

use super::outbox::Kind;
use super::shared::Shared;
use super::worker::Worker;
use crate::client::error::Error;
use crate::client::payload::Payload;
use crate::client::wire::encoder::Heading;
use crate::proto::system::Failure;
use crate::proto::{ErrorCode, Message, MessageType};

/// What is to be answered.
#[derive(Debug)]
pub(crate) struct Job {
    channel_id: String,
    /// Of a request; a notification is answered with nothing.
    message_id: Option<String>,
    /// The connection it came by: an answer by another one is for nobody.
    generation: u64,
}

impl Job {
    pub(crate) fn new(message: &Message, generation: u64) -> Self {
        let is_request = message.message_type == MessageType::Request;
        let message_id = is_request.then(|| message.message_id.clone());
        Self { channel_id: message.channel_id.clone(), message_id, generation }
    }

    pub(crate) fn is_request(&self) -> bool {
        self.message_id.is_some()
    }

    /// The answer, unless its connection is gone: then the server has told the requester.
    fn send<T: Payload + ?Sized>(
        &self,
        shared: &Shared,
        payload: &T,
        kind: Kind,
    ) -> Result<(), Error> {
        let Some(message_id) = &self.message_id else { return Ok(()) };
        if shared.lock().generation != self.generation {
            return Ok(());
        }
        let heading = Heading::answer(&self.channel_id, message_id);
        match shared.post(heading, payload, kind) {
            Err(Error::Closed | Error::Disconnected | Error::Lost { .. }) => Ok(()),
            sent => sent,
        }
    }

    pub(crate) fn refuse(&self, shared: &Shared, code: ErrorCode, text: &str) {
        // So small an answer cannot fail but for want of random bytes; then the server says
        // when its time is over.
        let _ = self.send(shared, &Failure::new(code, text), Kind::Refusal);
    }

    /// It is no longer among those that a drain waits for.
    pub(crate) fn finish(&self, shared: &Shared) {
        let mut state = shared.lock();
        if state.generation == self.generation {
            state.jobs = state.jobs.saturating_sub(1);
        }
        drop(state);
        shared.progress.notify_all();
    }
}

/// Answers one request of a channel that is [served](crate::client::Client::serve_deferred), from any
/// thread. Dropped without an answer, it answers `handler_failed`. When the requester, or the
/// connection by which the request came, is gone, it does nothing; nor does it for a
/// notification, which counts until this is used or dropped.
///
/// ```
/// # use ipc_framework::client::{ClientOptions, Endpoint};
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config { port: 0, ..Config::default() })?;
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
/// # let mut options = ClientOptions::new("app");
/// # options.connection.endpoint = Endpoint::tcp("localhost", port);
/// let worker = options.connect()?;
/// worker.serve_deferred("square", 100, |request, responder| {
///     // On the client's own thread, so do not work here: let another thread, or a runtime, do.
///     std::thread::spawn(move || match request.payload.decode::<u64>() {
///         Ok(x) => responder.reply(&(x * x)),
///         Err(error) => responder.fail(&error.to_string()),
///     });
/// })?;
/// let square: u64 = worker.request_as("square", &12)?;
/// assert_eq!(square, 144);
/// # worker.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Responder {
    job: Option<Job>,
    worker: Arc<Worker>,
    shared: Weak<Shared>,
}

impl Responder {
    pub(crate) fn new(job: Job, worker: Arc<Worker>, shared: Weak<Shared>) -> Self {
        Self { job: Some(job), worker, shared }
    }

    /// Answers with any value, or with [`Json`](crate::Json) as it is.
    ///
    /// # Errors
    /// [`Error::NotJson`], [`Error::TooLarge`], [`Error::QueueFull`] if it cannot be sent; the
    /// requester then gets that as `handler_failed`.
    pub fn reply<T: Payload + ?Sized>(mut self, payload: &T) -> Result<(), Error> {
        self.answer(payload)
    }

    /// Answers `handler_failed` with a text for the requester.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn fail(self, text: &str) -> Result<(), Error> {
        self.fail_with(ErrorCode::HandlerFailed, text)
    }

    /// Answers an error with a code of your choice.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn fail_with(mut self, code: ErrorCode, text: &str) -> Result<(), Error> {
        self.answer(&Failure::new(code, text))
    }

    fn answer<T: Payload + ?Sized>(&mut self, payload: &T) -> Result<(), Error> {
        let Some(job) = self.job.take() else { return Ok(()) };
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        // The answer is written by the caller's own code, which may panic.
        let done = Done { job, worker: &self.worker, shared: &shared, is_answered: false };
        done.answer(payload)
    }
}

/// Makes room for the next request whatever happens.
struct Done<'a> {
    job: Job,
    worker: &'a Arc<Worker>,
    shared: &'a Shared,
    is_answered: bool,
}

impl Done<'_> {
    fn answer<T: Payload + ?Sized>(mut self, payload: &T) -> Result<(), Error> {
        let sent = self.job.send(self.shared, payload, Kind::Bound);
        if let Err(error) = &sent {
            self.job.refuse(self.shared, ErrorCode::HandlerFailed, &error.to_string());
        }
        self.is_answered = true;
        sent
    }
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            let text = "the handler panicked; see the worker's output";
            self.job.refuse(self.shared, ErrorCode::HandlerFailed, text);
        }
        self.job.finish(self.shared);
        self.worker.finished(self.shared);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let (Some(job), Some(shared)) = (self.job.take(), self.shared.upgrade()) else { return };
        let text = if std::thread::panicking() {
            "the handler panicked; see the worker's output"
        } else {
            "the handler of this channel dropped the request unanswered"
        };
        let failure = Failure::new(ErrorCode::HandlerFailed, text);
        let done = Done { job, worker: &self.worker, shared: &shared, is_answered: false };
        // It is said to the requester; here is nobody to hear it.
        let _ = done.answer(&failure);
    }
}
