//! Where an answer is waited for: by a thread, by a future, or by a callback.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use uuid::Uuid;

use super::shared::Shared;
use crate::client::error::Error;
use crate::proto::Message;

pub(crate) type Answer = Result<Message, Error>;

/// Room for one answer.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    inside: Mutex<Inside>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

impl Slot {
    pub(crate) fn fill(&self, answer: Answer) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.answer = Some(answer);
        let waker = inside.waker.take();
        drop(inside);
        self.filled.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Blocks until there is an answer, or until the deadline.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<Answer> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(answer) = inside.answer.take() {
                return Some(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            inside =
                self.filled.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Who is told of an answer.
pub(crate) enum Waiter {
    Slot(Arc<Slot>),
    Callback(Box<dyn FnOnce(Answer) + Send>),
    /// As a callback, of one who wants answers that are errors as they came.
    AsItCame(Box<dyn FnOnce(Answer) + Send>),
    /// The driver asked, to see whether the server is alive.
    Heartbeat,
}

impl Waiter {
    /// Not to be called with anything locked: a callback may do what it likes.
    pub(crate) fn tell(self, answer: Answer) {
        match self {
            Self::Slot(slot) => slot.fill(answer),
            Self::Callback(callback) | Self::AsItCame(callback) => {
                super::shared::shielded(|| callback(answer));
            }
            Self::Heartbeat => {}
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slot(_) => "Slot",
            Self::Callback(_) => "Callback",
            Self::AsItCame(_) => "AsItCame",
            Self::Heartbeat => "Heartbeat",
        })
    }
}

/// Names a request, to [`cancel`](crate::client::Client::cancel) it. It is written as the request's
/// `message_id`.
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
pub struct RequestId(pub(crate) Uuid);

impl RequestId {
    /// The request that a message with this id is, if it can be one's name: a UUID.
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

/// The answer to a request, for any executor. Dropped, it is waited for no more: a request that
/// has left is executed all the same, one that has not is never sent.
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
}

impl RequestFuture {
    pub(crate) fn new(slot: Arc<Slot>, id: Uuid, shared: Weak<Shared>) -> Self {
        Self { slot, id, shared }
    }

    /// The request's name.
    pub fn id(&self) -> RequestId {
        RequestId(self.id)
    }
}

impl Future for RequestFuture {
    type Output = Result<Message, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Wakers are the executor's code, which is not to run with anything locked.
        let waker = context.waker().clone();
        let mut inside = self.slot.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = inside.answer.take() {
            return Poll::Ready(answer);
        }
        let older = inside.waker.replace(waker);
        drop(inside);
        drop(older);
        Poll::Pending
    }
}

impl Drop for RequestFuture {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.cancel(self.id);
        }
    }
}
