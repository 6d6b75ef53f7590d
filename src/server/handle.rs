//! The way into a running server from other threads.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;

use serde::Serialize;

use crate::Address;
use crate::broker::{ConnectionKey, Context, Remote, SendError, Stats};
use crate::proto::{Json, Message, MessageType};

/// Publishes to, asks and stops a server from any thread.
///
/// What one thread does through handles happens in the order in which it does it.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ipc_framework::{Config, Server};
///
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// let handle = server.handle();
/// let running = std::thread::spawn(move || server.run());
///
/// handle.publish("news", "flash", &"hello")?;
/// assert!(handle.stats()?.running);
/// let applications = handle.with(|context| context.list_applications().len())?;
/// assert_eq!(applications, 0);
/// handle.stop();
/// running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) remote: Arc<Remote>,
    pub(super) addresses: Arc<[Address]>,
}

impl Handle {
    pub(crate) fn new(remote: Arc<Remote>, addresses: Arc<[Address]>) -> Self {
        Self { remote, addresses }
    }

    /// Publishes a value to the subscribers of a channel, soon: it does not wait for that.
    ///
    /// # Errors
    /// [`HandleError::Stopped`] after the server's end, [`HandleError::Full`] while more
    /// than 64 MiB wait for the loop, [`HandleError::NotJson`] for a value that JSON cannot
    /// express.
    pub fn publish<T: Serialize + ?Sized>(
        &self,
        app_id: &str,
        channel_id: &str,
        payload: &T,
    ) -> Result<(), HandleError> {
        let payload = Json::from_serialize(payload).map_err(HandleError::NotJson)?;
        let message = Message::new(MessageType::Publish, app_id, channel_id, payload);
        self.post(message.payload.as_str().len(), move |context| {
            note_unsent(context.publish_message(&message).err());
        })
    }

    /// Sends a message to the subscribers of a channel, whatever channel the message itself
    /// names, soon.
    ///
    /// # Errors
    /// As [`Handle::publish`].
    pub fn publish_to(
        &self,
        app_id: &str,
        channel_id: &str,
        message: Message,
    ) -> Result<(), HandleError> {
        let (app_id, channel_id) = (app_id.to_owned(), channel_id.to_owned());
        self.post(message.payload.as_str().len(), move |context| {
            note_unsent(context.publish_to(&app_id, &channel_id, &message).err());
        })
    }

    /// Sends a message to all connections of its application, soon.
    ///
    /// # Errors
    /// As [`Handle::publish`].
    pub fn broadcast_to_application(&self, message: Message) -> Result<(), HandleError> {
        self.post(message.payload.as_str().len(), move |context| {
            note_unsent(context.broadcast_to_application(&message.app_id, &message).err());
        })
    }

    /// Sends a message to one connection, soon. If it is gone by then, so is the message.
    ///
    /// # Errors
    /// As [`Handle::publish`].
    pub fn send_to_connection(
        &self,
        connection: ConnectionKey,
        message: Message,
    ) -> Result<(), HandleError> {
        self.post(message.payload.as_str().len(), move |context| {
            note_unsent(context.send_to_connection(connection, &message).err());
        })
    }

    /// Runs `ask` on the loop's thread and waits for what it returns.
    ///
    /// # Errors
    /// [`HandleError::OnLoopThread`] from inside a handler, which has a [`Context`]
    /// already; [`HandleError::Stopped`] if the server ends before, or `ask` panics.
    ///
    /// Between two turns, the thread that calls [`Server::poll_once`](crate::Server::poll_once)
    /// would wait here for itself: it has [`Server::context`](crate::Server::context).
    pub fn with<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Context<'_>) -> T + Send + 'static,
    ) -> Result<T, HandleError> {
        if is_inside(&self.remote) {
            return Err(HandleError::OnLoopThread);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        self.post(0, move |context| {
            if let Some(answer) = context.call(ask) {
                // Who asked may have gone away; then nobody wants to know.
                let _ = sender.send(answer);
            }
        })?;
        receiver.recv().map_err(|_| HandleError::Stopped)
    }

    /// Counters and totals.
    ///
    /// # Errors
    /// As [`Handle::with`].
    #[doc(alias = "get_stats")]
    pub fn stats(&self) -> Result<Stats, HandleError> {
        self.with(|context| context.stats())
    }

    /// Begins to drain: no new connections, no new requests; what is in flight is answered,
    /// everything is flushed, then [`Server::run`](crate::Server::run) returns, after
    /// [`Limits::drain_timeout`](crate::Limits::drain_timeout) at the latest. A second call
    /// changes nothing.
    pub fn stop(&self) {
        self.remote.post(crate::broker::begin_drain);
    }

    fn post(
        &self,
        payload_bytes: usize,
        run: impl FnOnce(&mut Context<'_>) + Send + 'static,
    ) -> Result<(), HandleError> {
        if self.remote.is_stopped() {
            return Err(HandleError::Stopped);
        }
        if !self.remote.has_room(payload_bytes) {
            return Err(HandleError::Full);
        }
        self.remote.post_sized(payload_bytes, |core| run(&mut Context::new(core)));
        Ok(())
    }
}

/// Whoever posted the message is not there to be told.
fn note_unsent(error: Option<SendError>) {
    if let Some(error) = error {
        crate::trace::unsent(&error.to_string());
    }
}

/// Why a [`Handle`] could not do what it was asked.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// let handle = server.handle();
/// handle.stop();
/// server.run()?;
/// assert!(matches!(handle.stats(), Err(ipc_framework::HandleError::Stopped)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum HandleError {
    /// The server has ended. Nothing can be done with this handle any more.
    Stopped,
    /// Other threads publish faster than the loop can send. Try again later, or drop.
    Full,
    /// The loop cannot wait for itself. Use the handler's own context.
    OnLoopThread,
    /// The value cannot be written as JSON. The caller's fault.
    NotJson(crate::JsonError),
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the server has ended; build a new one"),
            Self::Full => f.write_str(
                "too much is waiting for the event loop; publish less, or try again later",
            ),
            Self::OnLoopThread => f.write_str(
                "the event loop cannot wait for itself; use the context the handler was given",
            ),
            Self::NotJson(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HandleError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotJson(error) => Some(error),
            _ => None,
        }
    }
}

thread_local! {
    /// The server whose turn runs on this thread, by the address of its mailbox.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// Marks this thread as the loop's until the guard is dropped.
pub(super) fn enter(remote: &Arc<Remote>) -> impl Drop + use<> {
    struct Leave(usize);
    impl Drop for Leave {
        fn drop(&mut self) {
            RUNNING.set(self.0);
        }
    }
    Leave(RUNNING.replace(Arc::as_ptr(remote) as usize))
}

fn is_inside(remote: &Arc<Remote>) -> bool {
    RUNNING.get() == Arc::as_ptr(remote) as usize
}
