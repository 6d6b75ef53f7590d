//! The answer to a request as a future, and the name of a request.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use uuid::Uuid;

use super::background::shared::Shared;
use super::background::waiter::Slot;
use super::cancel_token::Listening;
use super::error::Error;
use crate::proto::Message;

/// The name of a request, with which [`cancel`](super::Client::cancel) finds it. It is displayed as
/// the request's `message_id`.
///
/// ```
/// # use ipc_framework::client::{ClientOptions, Endpoint};
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config::default().port(0))?;
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
/// # let mut options = ClientOptions::new("app");
/// # options.connection.endpoint = Endpoint::tcp("localhost", port);
/// let client = options.connect()?;
/// client.serve_deferred("silence", 1, |_request, responder| std::mem::forget(responder))?;
/// let id = client.send_request_async("silence", &1, |_answer| unreachable!("cancelled"))?;
/// assert_eq!(id.to_string().len(), 36);
/// assert!(client.cancel(id));
/// # drop(client);
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub(super) Uuid);

impl RequestId {
    /// Returns the name of the request with this message id, if the id is a UUID.
    ///
    /// ```
    /// # use ipc_framework::client::RequestId;
    /// assert!(RequestId::of_message_id("67e55044-10b1-426f-9247-bb680e5fe0c8").is_some());
    /// assert!(RequestId::of_message_id("job 7").is_none());
    /// ```
    pub fn of_message_id(message_id: &str) -> Option<Self> {
        Uuid::try_parse(message_id).ok().map(Self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The answer to a request, as a future for any executor. Dropping it cancels the request: one that
/// has not left is never sent, and of one that has, a server that knows the extension `call` is
/// told, and tells the worker. With another server it is executed all the same.
///
/// ```
/// # use ipc_framework::client::{ClientOptions, Endpoint};
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config::default().port(0))?;
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
/// # let mut options = ClientOptions::new("app");
/// # options.connection.endpoint = Endpoint::tcp("localhost", port);
/// let client = options.connect()?;
/// let mut answer = std::pin::pin!(client.request_future("nobody", &1)?);
/// # struct Unpark(std::thread::Thread);
/// # impl std::task::Wake for Unpark {
/// #     fn wake(self: std::sync::Arc<Self>) { self.0.unpark() }
/// # }
/// # let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
/// # let mut context = std::task::Context::from_waker(&waker);
/// # let answer = loop {
/// #     match std::future::Future::poll(answer.as_mut(), &mut context) {
/// #         std::task::Poll::Ready(answer) => break answer,
/// #         std::task::Poll::Pending => std::thread::park(),
/// #     }
/// # };
/// // let answer = answer.await;
/// assert!(answer.is_err(), "nobody serves that channel");
/// # client.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "futures do nothing unless they are polled"]
pub struct RequestFuture {
    slot: Arc<Slot>,
    id: Uuid,
    shared: Weak<Shared>,
    /// Cancels the request when its token is cancelled.
    _listening: Option<Listening>,
}

impl RequestFuture {
    pub(super) fn new(
        slot: Arc<Slot>,
        id: Uuid,
        shared: Weak<Shared>,
        listening: Option<Listening>,
    ) -> Self {
        Self { slot, id, shared, _listening: listening }
    }

    /// Returns the name of the request.
    pub fn id(&self) -> RequestId {
        RequestId(self.id)
    }
}

impl Future for RequestFuture {
    type Output = Result<Message, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.slot.poll(context)
    }
}

impl Drop for RequestFuture {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.cancel(self.id);
        }
    }
}
