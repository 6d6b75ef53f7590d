//! The parts of an answer, one after another.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use uuid::Uuid;

use super::background::parts::{Parts, Taken};
use super::background::shared::Shared;
use super::cancel_token::Listening;
use super::error::Error;
use super::request_future::RequestId;
use crate::proto::Message;

/// The parts of an answer, as an iterator that blocks and as a [`Stream`] that does not. Both end
/// after the last part, or after one error. An answer that does not come in parts is the only part.
/// Dropping this cancels the request, and the worker stops.
///
/// At most [`RequestOptions::credit`](super::RequestOptions) parts wait here for their reader; then
/// the worker waits. A reader that is slow, or stops, holds up neither the client nor its other
/// streams.
///
/// A stream belongs to one connection: if that is lost the stream ends with
/// [`Error::Lost`], and is not resumed.
///
/// ```
/// # use ipc_framework::client::{ClientOptions, Endpoint};
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut server = Server::bind(Config::default().port(0))?;
/// # server.application("app", "").channel("echo").on_request(|request| {
/// #     let payload = request.json();
/// #     request.reply_json(&payload)
/// # });
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || server.run());
/// # let mut options = ClientOptions::new("app");
/// # options.connection.endpoint = Endpoint::tcp("localhost", port);
/// # let client = options.connect()?;
/// # if client.has_call() {
/// let parts = client.request_stream("echo", &"only one")?;
/// let parts: Result<Vec<_>, _> = parts.collect();
/// assert_eq!(parts?[0].payload.as_str(), "\"only one\"");
/// # }
/// # client.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RequestStream {
    parts: Arc<Parts>,
    id: Uuid,
    shared: Weak<Shared>,
    /// Cancels the request when its token is cancelled.
    _listening: Option<Listening>,
}

impl RequestStream {
    pub(super) fn new(
        parts: Arc<Parts>,
        id: Uuid,
        shared: Weak<Shared>,
        listening: Option<Listening>,
    ) -> Self {
        Self { parts, id, shared, _listening: listening }
    }

    /// Returns the name of the request.
    pub fn id(&self) -> RequestId {
        RequestId(self.id)
    }

    /// Returns the next part as the iterator does, or `Pending` if none has come in time. The stream
    /// goes on then; only dropping it cancels the request.
    pub fn next_timeout(&self, timeout: Duration) -> Poll<Option<Result<Message, Error>>> {
        // A timeout that no clock can express means no timeout.
        let deadline = Instant::now().checked_add(timeout);
        if let Some(taken) = self.parts.try_take() {
            return Poll::Ready(self.credit(taken));
        }
        if self.is_driver() {
            return Poll::Ready(Some(Err(self.refuse())));
        }
        let mut taken = self.parts.wait(deadline);
        if taken.is_none()
            && let Some(shared) = self.shared.upgrade()
        {
            // It may have arrived while the process was stopped or busy.
            shared.catch_up();
            taken = self.parts.try_take();
        }
        taken.map_or(Poll::Pending, |taken| Poll::Ready(self.credit(taken)))
    }

    /// Returns the next part if it has come, as the iterator does, and never blocks.
    pub fn try_next(&self) -> Poll<Option<Result<Message, Error>>> {
        let taken = self.parts.try_take();
        taken.map_or(Poll::Pending, |taken| Poll::Ready(self.credit(taken)))
    }

    /// Calls `listener` whenever there is something to take after there was nothing, and at the end:
    /// on the client's thread, which it must not block, and once now if there is something already.
    /// The listener takes nothing itself; it wakes whoever calls [`try_next`](Self::try_next) until
    /// that is `Pending`. A new listener replaces the one before.
    pub fn on_ready(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.parts.listen(listener);
    }

    fn is_driver(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.is_driver())
    }

    /// Ends the stream for a reader that would wait for its own thread.
    fn refuse(&self) -> Error {
        self.parts.discard();
        Error::OnClientThread
    }

    /// Lets the worker go on after enough parts were taken.
    fn credit(&self, taken: Taken) -> Option<Result<Message, Error>> {
        if let Some(credit) = taken.credit
            && let Some(shared) = self.shared.upgrade()
        {
            shared.give_credit(self.id, credit);
        }
        taken.part
    }
}

impl Iterator for RequestStream {
    type Item = Result<Message, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let taken = match self.parts.try_take() {
            Some(taken) => taken,
            None if self.is_driver() => return Some(Err(self.refuse())),
            None => self.parts.wait(None)?,
        };
        self.credit(taken)
    }
}

impl Stream for RequestStream {
    type Item = Result<Message, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.parts.poll(context).map(|taken| self.credit(taken))
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        self.parts.discard();
        if let Some(shared) = self.shared.upgrade() {
            shared.cancel(self.id);
        }
    }
}
