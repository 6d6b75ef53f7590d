//! Handles, by which other threads reach a running server.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;

use serde::Serialize;

use super::context::{Context, SendError};
use super::publication::{Publication, Topic};
use super::responder::Remote;
use crate::address::Address;
use crate::broker::flow::drain;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::mailbox::Letter;
use crate::broker::state::stats::Stats;
use crate::proto::{Json, JsonError, Message};

/// Publishes to, queries and stops a server from any thread.
///
/// The calls of one thread take effect in their order. Only [`Handle::with`], and the methods that
/// use it, wait for the loop.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ipc_framework::{Config, Server};
///
/// let mut server = Server::bind(Config::default().port(0))?;
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
    pub(crate) remote: Arc<Remote>,
    /// The addresses that the server listens on.
    #[cfg_attr(not(feature = "net"), expect(dead_code, reason = "a broker alone listens on none"))]
    pub(crate) addresses: Arc<[Address]>,
}

impl Handle {
    pub(crate) fn new(remote: Arc<Remote>, addresses: Arc<[Address]>) -> Self {
        Self { remote, addresses }
    }

    /// Publishes a value to the subscribers of a channel, in the loop's next turn, without waiting
    /// for that. [`Handle::publisher`] is faster for many publications to one channel.
    ///
    /// # Errors
    /// [`HandleError::Stopped`] if the server has ended, [`HandleError::Full`] while more than 64 MiB
    /// wait for the loop, [`HandleError::NotJson`] if JSON cannot express the value.
    pub fn publish<T: Serialize + ?Sized>(
        &self,
        app_id: &str,
        channel_id: &str,
        payload: &T,
    ) -> Result<(), HandleError> {
        let payload = Json::from_serialize(payload).map_err(HandleError::NotJson)?;
        send(&self.remote, Publication::named(app_id, channel_id, payload))
    }

    /// Returns a publisher for one channel, which is looked up once and not for each publication. The
    /// channel need not exist yet.
    pub fn publisher(&self, app_id: &str, channel_id: &str) -> Publisher {
        Publisher { topic: Topic::new(app_id, channel_id), remote: self.remote.clone() }
    }

    /// Runs `run` on the loop's thread in its next turn, without waiting for it. It may do everything
    /// that a handler may, and set handlers. If it panics, that is counted and the server goes on.
    ///
    /// # Errors
    /// [`HandleError::Stopped`] if the server has ended, [`HandleError::Full`] while too much waits
    /// for the loop.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use ipc_framework::{Config, Server};
    /// # let mut server = Server::bind(Config::default().port(0))?;
    /// # let handle = server.handle();
    /// handle.post(|context| {
    ///     let mut app = context.application("shop", "The Shop");
    ///     app.channel("price").on_request(|request| request.reply(&9.5));
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn post(
        &self,
        run: impl FnOnce(&mut Context<'_>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.command(0, move |context| {
            context.call(run);
        })
    }

    /// Sends a message to the subscribers of a channel, even if the message names another one, in the
    /// loop's next turn.
    ///
    /// # Errors
    /// The same as [`Handle::publish`].
    pub fn publish_to(
        &self,
        app_id: &str,
        channel_id: &str,
        message: Message,
    ) -> Result<(), HandleError> {
        let (app_id, channel_id) = (app_id.to_owned(), channel_id.to_owned());
        self.command(message.payload.bytes(), move |context| {
            note_unsent(context.publish_to(&app_id, &channel_id, &message).err());
        })
    }

    /// Sends a message to all connections of its application, in the loop's next turn.
    ///
    /// # Errors
    /// The same as [`Handle::publish`].
    pub fn broadcast_to_application(&self, message: Message) -> Result<(), HandleError> {
        self.command(message.payload.bytes(), move |context| {
            note_unsent(context.broadcast_to_application(&message.app_id, &message).err());
        })
    }

    /// Sends a message to one connection, in the loop's next turn. If the connection is closed by
    /// then, the message is dropped.
    ///
    /// # Errors
    /// The same as [`Handle::publish`].
    pub fn send_to_connection(
        &self,
        connection: ConnectionKey,
        message: Message,
    ) -> Result<(), HandleError> {
        self.command(message.payload.bytes(), move |context| {
            note_unsent(context.send_to_connection(connection, &message).err());
        })
    }

    /// Runs `ask` on the loop's thread and waits for its result.
    ///
    /// # Errors
    /// [`HandleError::OnLoopThread`] inside a handler, which has a [`Context`] already;
    /// [`HandleError::Stopped`] if the server ends before, or `ask` panics.
    ///
    /// The thread that runs the turns must not call this between two of them, because it would wait
    /// for itself. It has `Server::context`, or [`Broker::context`](crate::broker::Broker::context).
    pub fn with<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Context<'_>) -> T + Send + 'static,
    ) -> Result<T, HandleError> {
        if is_inside(&self.remote) {
            return Err(HandleError::OnLoopThread);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        self.command(0, move |context| {
            if let Some(answer) = context.call(ask) {
                // The thread that asked may have ended, and then nobody needs the result.
                let _ = sender.send(answer);
            }
        })?;
        receiver.recv().map_err(|_| HandleError::Stopped)
    }

    /// Returns counters and totals.
    ///
    /// # Errors
    /// The same as [`Handle::with`].
    #[doc(alias = "get_stats")]
    pub fn stats(&self) -> Result<Stats, HandleError> {
        self.with(|context| context.stats())
    }

    /// Begins to drain: the server refuses new connections and requests, answers those in flight, and
    /// sends all queues. Then `Server::run` returns, at the latest after
    /// [`Limits::drain_timeout`](crate::Limits::drain_timeout). A second call changes nothing.
    pub fn stop(&self) {
        self.remote.post(drain::begin);
    }

    pub(super) fn command(
        &self,
        payload_bytes: usize,
        run: impl FnOnce(&mut Context<'_>) + Send + 'static,
    ) -> Result<(), HandleError> {
        check_room(&self.remote, payload_bytes)?;
        let command = Letter::Command(Box::new(|core: &mut _| run(&mut Context::new(core))));
        self.remote.send(payload_bytes, command);
        Ok(())
    }
}

/// Publishes to one channel from any thread. [`Handle::publisher`] creates it. Publications of its
/// clones and of the handle on the same thread arrive in the order of the calls.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use ipc_framework::{Config, Server};
/// let server = Server::bind(Config::default().port(0))?;
/// let prices = server.handle().publisher("shop", "prices");
/// std::thread::spawn(move || {
///     for price in 0..100 {
///         prices.publish(&price)?;
///     }
///     Ok::<_, ipc_framework::HandleError>(())
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Publisher {
    topic: Arc<Topic>,
    remote: Arc<Remote>,
}

impl Publisher {
    /// Publishes a value to the subscribers of the channel, in the loop's next turn.
    ///
    /// # Errors
    /// The same as [`Handle::publish`].
    pub fn publish<T: Serialize + ?Sized>(&self, payload: &T) -> Result<(), HandleError> {
        self.publish_json(Json::from_serialize(payload).map_err(HandleError::NotJson)?)
    }

    /// Publishes JSON text unchanged.
    ///
    /// # Errors
    /// The same as [`Handle::publish`].
    pub fn publish_json(&self, payload: Json<'static>) -> Result<(), HandleError> {
        send(&self.remote, Publication::to(self.topic.clone(), payload))
    }

    /// Returns the application of the channel.
    pub fn app_id(&self) -> &str {
        self.topic.app_id()
    }

    /// Returns the id of the channel.
    pub fn channel_id(&self) -> &str {
        self.topic.channel_id()
    }
}

fn send(remote: &Remote, publication: Publication) -> Result<(), HandleError> {
    let bytes = publication.bytes();
    check_room(remote, bytes)?;
    remote.send(bytes, Letter::Publication(publication));
    Ok(())
}

fn check_room(remote: &Remote, payload_bytes: usize) -> Result<(), HandleError> {
    if remote.is_stopped() {
        return Err(HandleError::Stopped);
    }
    if !remote.has_room(payload_bytes) {
        return Err(HandleError::Full);
    }
    Ok(())
}

/// Logs the reason why a message was not sent, because the thread that posted it does not wait.
#[inline]
pub(crate) fn note_unsent(error: Option<SendError>) {
    if let Some(error) = error {
        trace_unsent(&error);
    }
}

#[cold]
fn trace_unsent(error: &SendError) {
    crate::trace::unsent(&error.to_string());
}

/// The reason why a call of a [`Handle`] failed.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
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
    /// The server has ended, so the handle is of no more use.
    Stopped,
    /// Other threads publish faster than the loop can send. Try again later, or drop the message.
    Full,
    /// The loop's thread cannot wait for itself. Use the handler's own context.
    OnLoopThread,
    /// The value cannot be written as JSON, which is the caller's fault.
    NotJson(JsonError),
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

/// The server whose turn was interrupted by another one's, if any.
#[derive(Debug)]
pub(crate) struct Outer(usize);

/// Marks this thread as the loop's. Returns what it was marked as before, unless it is this loop's
/// already.
pub(crate) fn enter(remote: &Arc<Remote>) -> Option<Outer> {
    let own = Arc::as_ptr(remote) as usize;
    let outer = RUNNING.replace(own);
    (outer != own).then_some(Outer(outer))
}

pub(crate) fn leave(outer: &Outer) {
    RUNNING.set(outer.0);
}

/// Does what [`leave`] does, on the thread that was marked. A broker may have been moved to another
/// one in its turn.
pub(crate) fn leave_if_inside(remote: &Arc<Remote>, outer: &Outer) {
    if is_inside(remote) {
        leave(outer);
    }
}

pub(crate) fn is_inside(remote: &Arc<Remote>) -> bool {
    RUNNING.get() == Arc::as_ptr(remote) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Access, Broker, Limits, Now};

    /// Another broker may be allocated where the dropped one was.
    #[test]
    fn a_broker_that_is_dropped_in_its_turn_leaves_no_mark_on_the_thread() {
        let new = || Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
        let mut outer = new();
        outer.begin_turn(Now::default());
        let mut inner = new();
        inner.begin_turn(Now::default());
        assert!(is_inside(&inner.handle().remote));
        drop(inner);
        assert!(is_inside(&outer.handle().remote), "its turn goes on");
        drop(outer);
        assert_eq!(RUNNING.get(), 0);
    }

    #[test]
    fn the_names_of_a_channel_count_while_a_publication_waits() {
        let named = Publication::named("app", "channel", Json::null());
        assert_eq!(named.bytes(), "app".len() + "channel".len() + "null".len());
    }
}
