//! Answers that come later, from other threads.

use std::sync::{Arc, OnceLock};

use serde::Serialize;

use super::publication::Publication;
use crate::broker::flow::{calls, requests};
use crate::broker::state::core::Core;
use crate::broker::state::keys::RequestKey;
use crate::broker::state::mailbox;
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::watch::Watch;
use crate::handler_error::HandlerError;
use crate::proto::{Json, JsonError};

/// The side of the mailbox that other threads hold.
pub(crate) type Remote = mailbox::Remote<Core, Publication>;

/// Answers one request from any thread. If it is dropped without an answer, the request is answered
/// `handler_failed`. After the request's timeout, or if the requester has left, it does nothing.
///
/// ```
/// # fn main() -> Result<(), ipc_framework::Error> {
/// # let mut config = ipc_framework::Config::default();
/// # config.port = 0;
/// # let mut server = ipc_framework::Server::bind(config)?;
/// server.application("math", "Arithmetic").channel("slow_square").on_request(|request| {
///     let x: f64 = request.payload()?;
///     let (reply, responder) = request.defer()?;
///     std::thread::spawn(move || responder.reply(&(x * x)));
///     Ok(reply)
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Responder {
    request: Option<RequestKey>,
    remote: Arc<Remote>,
    /// Made when the thread first asks whether the request is over.
    watch: OnceLock<Arc<Watch>>,
}

impl Responder {
    pub(super) fn new(request: RequestKey, remote: Arc<Remote>) -> Self {
        Self { request: Some(request), remote, watch: OnceLock::new() }
    }

    /// Returns whether the request ended before its answer: its requester cancelled it or left, its
    /// time is up, or the server ends. The first call asks the loop, and tells nothing yet unless that
    /// answers at once; a thread that asks again and again sees it.
    pub fn is_cancelled(&self) -> bool {
        self.watch().is_cancelled()
    }

    /// Calls a function on the thread of the loop as soon as the request is cancelled, or here and
    /// now if that is known already. The function must not wait.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        self.watch().on_cancel(Box::new(hook));
    }

    fn watch(&self) -> &Watch {
        self.watch.get_or_init(|| {
            let watch = Arc::new(Watch::default());
            if let Some(request) = self.request {
                let watch = watch.clone();
                self.remote.post(move |core| calls::watch(core, request, watch));
            }
            watch
        })
    }

    /// Answers with any value.
    ///
    /// # Errors
    /// If the value cannot be written as JSON. The requester then gets that error as
    /// `handler_failed`.
    pub fn reply<T: Serialize + ?Sized>(self, payload: &T) -> Result<(), JsonError> {
        match Json::from_serialize(payload) {
            Ok(json) => self.reply_json(json),
            Err(error) => {
                self.fail(&error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Answers with JSON text.
    pub fn reply_json(mut self, payload: Json<'static>) {
        self.send(Ok(payload));
    }

    /// Answers `handler_failed` with a text for the requester.
    pub fn fail(mut self, message: &str) {
        self.send(Err(refusal::handler_failed(message)));
    }

    /// Answers with a handler's error: one of the application as such, and any other as
    /// `handler_failed`.
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// # let mut server = ipc_framework::Server::bind(ipc_framework::Config::default().port(0))?;
    /// use ipc_framework::HandlerError;
    ///
    /// server.application("math", "Arithmetic").channel("slow_root").on_request(|request| {
    ///     let x: f64 = request.payload()?;
    ///     let (reply, responder) = request.defer()?;
    ///     std::thread::spawn(move || match x.sqrt() {
    ///         root if root.is_nan() => {
    ///             let error = HandlerError::app("bad_input", "it is negative");
    ///             responder.refuse(&error.details(&x));
    ///         }
    ///         root => drop(responder.reply(&root)),
    ///     });
    ///     Ok(reply)
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn refuse(mut self, error: &HandlerError) {
        let Some(payload) = error.payload() else { return self.fail(error.text()) };
        let Some(request) = self.request.take() else { return };
        let payload = payload.clone();
        self.remote.post(move |core| {
            if core.requests.get(request).is_some() {
                core.counters.count_application_error();
            }
            requests::answer_deferred(core, request, Ok(payload));
        });
    }

    fn send(&mut self, answer: Result<Json<'static>, Refusal>) {
        let Some(request) = self.request.take() else { return };
        // There is at most one of these for each pending request, so they need no other bound.
        self.remote.post(move |core| requests::answer_deferred(core, request, answer));
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.send(Err(refusal::handler_dropped()));
    }
}
