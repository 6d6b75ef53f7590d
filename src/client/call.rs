//! What a handler knows of the request that it serves, besides the message.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::background::job::Job;
use super::request_options::RequestOptions;
use crate::proto::system::CancelReason;
use crate::proto::{Json, Message, Trace};

/// What a handler knows of the request that it serves, besides the message: whether somebody still
/// wants the answer, and until when. Clones are the same request.
///
/// A server that does not know the extension `call` tells none of it; then no request is cancelled,
/// and none has a deadline.
#[derive(Clone, Debug)]
pub struct Call {
    job: Arc<Job>,
}

impl Call {
    pub(super) fn new(job: Arc<Job>) -> Self {
        Self { job }
    }

    /// Returns whether nobody wants the answer any more, because the requester has cancelled the
    /// request or left, its time is up, or the connection is lost. A handler that works for long
    /// looks at this now and then, and stops. Its answer is not sent.
    pub fn is_cancelled(&self) -> bool {
        self.job.is_cancelled()
    }

    /// Returns the reason, once it is cancelled.
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.job.reason()
    }

    /// Calls `listener` when the request is cancelled, on the client's thread, which it must not
    /// block, or at once if it is already. After the answer it is dropped without a call.
    pub fn on_cancel(&self, listener: impl FnOnce() + Send + 'static) {
        self.job.on_cancel(listener);
    }

    /// Returns the moment until which the requester waits, if it told.
    pub fn deadline(&self) -> Option<Instant> {
        self.job.deadline()
    }

    /// Returns the time for which the requester still waits, if it told. It is zero when the time is
    /// up.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Returns whether the requester takes the answer in parts.
    pub fn wants_parts(&self) -> bool {
        self.job.credit().is_some()
    }

    /// Returns the trace that the request belongs to.
    pub fn trace(&self) -> Option<Trace> {
        Json::trusted(self.job.trace()?).decode_text().ok()
    }

    /// Returns the headers that the requester sent.
    pub fn headers(&self) -> BTreeMap<String, String> {
        let headers = self.job.headers().and_then(|it| Json::trusted(it).decode_text().ok());
        headers.unwrap_or_default()
    }

    /// Returns options for requests that the handler makes in order to serve this one. They have what
    /// is left of its time, belong to its trace, and are cancelled with it.
    ///
    /// ```
    /// # use ipc_framework::client::{ClientOptions, Endpoint, RequestOptions};
    /// # use ipc_framework::{Config, Server};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut server = Server::bind(Config::default().port(0))?;
    /// # server.application("app", "").channel("rate").on_request(|request| request.reply(&2));
    /// # let port = server.addresses()[0].port().unwrap();
    /// # let handle = server.handle();
    /// # let running = std::thread::spawn(move || server.run());
    /// # let mut options = ClientOptions::new("app");
    /// # options.connection.endpoint = Endpoint::tcp("localhost", port);
    /// let worker = options.connect()?;
    /// let client = worker.downgrade();
    /// worker.serve("price", 1, move |request| {
    ///     let client = client.upgrade().ok_or("the worker ends")?;
    ///     let rate = client.request_with("rate", &(), &request.nested())?;
    ///     Ok(request.payload.decode::<u32>()? * rate.payload.decode::<u32>()?)
    /// })?;
    /// let patient = RequestOptions::default().timeout(Duration::from_secs(60));
    /// let price = worker.request_with("price", &21, &patient)?;
    /// assert_eq!(price.payload.decode::<u32>()?, 42);
    /// # worker.close()?;
    /// # handle.stop();
    /// # running.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn nested(&self) -> RequestOptions {
        let mut options = RequestOptions::default().cancel(self.job.nested());
        (options.deadline, options.trace) = (self.deadline(), self.trace());
        options
    }
}

/// A request, or a notification, for a handler: the message, and the [`Call`] that belongs to it.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = ipc_framework::client::ClientOptions::new("app").connect()?;
/// # fn step(_: &str) -> Option<String> { None }
/// client.serve("search", 4, |request| {
///     let query: String = request.payload.decode()?;
///     while !request.is_cancelled() {
///         if let Some(found) = step(&query) {
///             return Ok(found);
///         }
///     }
///     Err("nobody waits any more".into())
/// })?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Request {
    message: Message,
    call: Call,
}

impl Request {
    pub(super) fn new(message: Message, call: Call) -> Self {
        Self { message, call }
    }

    /// Returns what is known besides the message, for another thread for example.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// See [`Call::is_cancelled`].
    pub fn is_cancelled(&self) -> bool {
        self.call.is_cancelled()
    }

    /// See [`Call::on_cancel`].
    pub fn on_cancel(&self, listener: impl FnOnce() + Send + 'static) {
        self.call.on_cancel(listener);
    }

    /// See [`Call::deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        self.call.deadline()
    }

    /// See [`Call::remaining`].
    pub fn remaining(&self) -> Option<Duration> {
        self.call.remaining()
    }

    /// See [`Call::nested`].
    pub fn nested(&self) -> RequestOptions {
        self.call.nested()
    }
}

/// The message.
impl Deref for Request {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}
