//! The client for many threads: one connection, kept up by a thread of its own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Poll, Waker};
use serde::Serialize;

use super::answer::{PING, Serve};
use super::client_options::ClientOptions;
use super::driver::{Driver, WAKER};
use super::encoder::{Encoder, Heading, check_id};
use super::error::{Error, Execution};
use super::event::Event;
use super::options::Endpoint;
use super::shared::{SYSTEM, Shared};
use super::slot::{RequestFuture, Slot, Waiter};
use super::state::{Kind, Link, Sink};
use super::subscription::{Inbox, Subscription};
use super::worker::Worker;
use crate::HandlerError;
use crate::broker::Message;
use crate::proto::MessageType;

/// A client for any number of threads: clones share one connection, which a background thread
/// keeps up. Lost, it comes back by itself with its subscriptions and served channels, see
/// [`ClientOptions`]; what happens is told to [`on_event`](Self::on_event).
///
/// What one thread sends arrives in that order. Delivery is at most once: nothing that may have
/// been executed is sent again.
///
/// ```
/// use ipc_framework::client::{ClientOptions, Endpoint};
/// use ipc_framework::{Config, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config { port: 0, ..Config::default() })?;
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
/// let mut options = ClientOptions::new("app");
/// options.connection.endpoint = Endpoint::tcp("localhost", port);
/// let worker = options.connect()?;
/// worker.serve("square", 2, |request| {
///     let x: u64 = request.payload.decode()?;
///     Ok(x * x)
/// })?;
///
/// let client = options.connect()?;
/// let answer = client.request("square", &7)?;
/// assert_eq!(answer.payload.decode::<u64>()?, 49);
/// client.close()?;
/// worker.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    owner: Arc<Owner>,
}

/// Ends the driver when the last clone is gone.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().link = Link::Closed;
        self.shared.wake();
    }
}

/// A client's connection, as [`Client::connection_info`] tells it.
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
/// let info = client.connection_info();
/// assert!(info.is_connected && info.connections == 1);
/// # client.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientInfo {
    /// The application.
    pub app_id: String,
    /// The id of the current, or last, connection.
    pub connection_id: String,
    /// Where the server is.
    pub endpoint: Endpoint,
    /// Whether messages go out.
    pub is_connected: bool,
    /// How many connections there have been.
    pub connections: u64,
    /// Requests without an answer so far.
    pub pending_requests: usize,
    /// Bytes that wait to be sent.
    pub waiting_bytes: usize,
    /// Channels subscribed to.
    pub subscribed_channels: BTreeSet<String>,
    /// Channels served.
    pub served_channels: BTreeSet<String>,
}

impl Client {
    pub(super) fn open(options: &ClientOptions) -> Result<Self, Error> {
        let connection = options.connection.connect()?;
        let poll = Poll::new().map_err(Error::system("an event queue"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(Error::system("a waker"))?;
        let mut encoder =
            Encoder::new(&options.connection.app_id, options.connection.frame_bytes_max)?;
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(encoder.fresh_id().as_bytes());
        let shared = Arc::new(Shared::new(options.clone(), encoder, waker));
        let driver = Driver::new(Arc::clone(&shared), poll, connection, seed)?;
        let of_driver = Arc::clone(&shared);
        let run = move || {
            // Set once, here.
            let _ = of_driver.driver.set(std::thread::current().id());
            driver.run();
        };
        let thread = std::thread::Builder::new().name("ipc-client".into()).spawn(run);
        let thread = thread.map_err(Error::system("a thread"))?;
        Ok(Self { owner: Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) }) })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// [`send_request`](Self::send_request) with the timeout of the options.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request).
    pub fn request<T: Serialize + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<Message, Error> {
        self.send_request(channel_id, payload, self.shared().options.connection.timeout)
    }

    /// Asks whoever serves the channel, and waits for the answer.
    ///
    /// # Errors
    /// [`Error::Answered`] if the answer is an error, [`Error::Deadline`] if there is none in
    /// time, [`Error::Lost`] if the connection was lost meanwhile (which says whether the
    /// request may have been executed), [`Error::Disconnected`] or [`Error::QueueFull`] if it
    /// cannot wait for a connection, [`Error::OnClientThread`] in a handler of a subscription.
    pub fn send_request<T: Serialize + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        timeout: Duration,
    ) -> Result<Message, Error> {
        let heading = Heading::new(MessageType::Request, channel_id);
        self.shared().ask_and_wait(heading, payload, timeout)
    }

    /// Asks, and calls `callback` with the answer or the error on the client's thread.
    ///
    /// # Errors
    /// If it cannot be sent; then the callback is not called.
    pub fn send_request_async<T: Serialize + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        callback: impl FnOnce(Result<Message, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let heading = Heading::new(MessageType::Request, channel_id);
        let waiter = Waiter::Callback(Box::new(callback));
        let timeout = self.shared().options.connection.timeout;
        self.shared().ask(heading, payload, Kind::Free, waiter, timeout).map(|_id| ())
    }

    /// Asks at once, and returns the answer as a future for any executor.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn request_future<T: Serialize + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<RequestFuture, Error> {
        let heading = Heading::new(MessageType::Request, channel_id);
        let slot = Arc::new(Slot::default());
        let timeout = self.shared().options.connection.timeout;
        self.shared().ask_watched(heading, payload, Arc::clone(&slot), timeout)?;
        Ok(RequestFuture::new(slot))
    }

    /// Sends a value to all subscribers of the channel.
    ///
    /// # Errors
    /// If it cannot be sent, and cannot wait for a connection.
    pub fn publish<T: Serialize + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<(), Error> {
        let heading = Heading::new(MessageType::Publish, channel_id);
        self.shared().post(heading, payload, Kind::Free)
    }

    /// Sends a value to whoever serves the channel; nothing is answered.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn notify<T: Serialize + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<(), Error> {
        let heading = Heading::new(MessageType::Notification, channel_id);
        self.shared().post(heading, payload, Kind::Free)
    }

    /// Subscribes to the channel: its messages as an iterator or a stream.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::BadId`].
    pub fn subscribe(&self, channel_id: &str) -> Result<Subscription, Error> {
        let inbox = Arc::new(Inbox::default());
        let key = self.shared().listen(channel_id, Sink::Inbox(Arc::clone(&inbox)), true)?;
        Ok(Subscription::new(inbox, channel_id, key, Arc::clone(self.shared())))
    }

    /// Subscribes to the channel, and calls `handler` on the client's thread for every message,
    /// until [`unsubscribe`](Self::unsubscribe). The handler must not block; one that owns a clone
    /// of the client keeps it alive until then, or until [`close`](Self::close).
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub fn subscribe_with(
        &self,
        channel_id: &str,
        handler: impl FnMut(Message) + Send + 'static,
    ) -> Result<(), Error> {
        let sink = Sink::Handler(Arc::new(Mutex::new(handler)));
        self.shared().listen(channel_id, sink, true).map(|_key| ())
    }

    /// Ends all subscriptions of this client and its clones to the channel.
    pub fn unsubscribe(&self, channel_id: &str) {
        self.shared().unsubscribe(channel_id);
    }

    /// The next message on the channel that answers nothing, if one comes in time. It does not
    /// subscribe.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::BadId`], [`Error::OnClientThread`].
    pub fn wait_for_message(
        &self,
        channel_id: &str,
        timeout: Duration,
    ) -> Result<Option<Message>, Error> {
        if self.shared().is_driver() {
            return Err(Error::OnClientThread);
        }
        let inbox = Arc::new(Inbox::default());
        let key = self.shared().listen(channel_id, Sink::Inbox(Arc::clone(&inbox)), false)?;
        let message = inbox.take(Instant::now().checked_add(timeout));
        self.shared().remove_listener(channel_id, key);
        Ok(message)
    }

    /// Becomes a worker of the channel: `threads` threads call `handler` for its requests, and
    /// send what it returns. An error or a panic is answered as `handler_failed`. For
    /// notifications the result is dropped.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request). The published server has no workers: there it
    /// is [`Error::Deadline`].
    pub fn serve<T, F>(&self, channel_id: &str, threads: usize, handler: F) -> Result<(), Error>
    where
        T: Serialize,
        F: Fn(&Message) -> Result<T, HandlerError> + Send + Sync + 'static,
    {
        check_id("channel_id", channel_id)?;
        let worker = Worker::start(self.shared(), threads, handler)?;
        // Before the server knows: its first request may come with its answer.
        let older = self.shared().lock().served.insert(channel_id.to_owned(), worker);
        drop(older);
        match self.system(&Serve { action: "serve", channel: channel_id }) {
            Ok(_serving) => Ok(()),
            // With the next connection it is taken up like all others.
            Err(Error::Lost { .. }) if self.shared().options.reconnect.is_some() => Ok(()),
            Err(error) => {
                let worker = self.shared().lock().served.remove(channel_id);
                drop(worker);
                Err(error)
            }
        }
    }

    /// Is a worker of the channel no longer. What it has is still answered.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request).
    pub fn stop_serving(&self, channel_id: &str) -> Result<(), Error> {
        check_id("channel_id", channel_id)?;
        let stopped = self.system(&Serve { action: "stop_serving", channel: channel_id });
        // Dropped last, for requests may come until the answer does.
        let worker = self.shared().lock().served.remove(channel_id);
        drop(worker);
        stopped.map(|_stopped| ())
    }

    /// Asks the server itself, with a payload such as `{"action": "get_stats"}`.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request).
    pub fn system<T: Serialize + ?Sized>(&self, payload: &T) -> Result<Message, Error> {
        self.request(SYSTEM, payload)
    }

    /// How long the server takes to answer. The published one does not: there it is
    /// [`Error::Deadline`].
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request).
    pub fn ping(&self) -> Result<Duration, Error> {
        let begin = Instant::now();
        self.system(&PING)?;
        Ok(begin.elapsed())
    }

    /// Returns when the server has processed all that was sent before. The published server
    /// cannot say so: there it is [`Error::Deadline`].
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request).
    pub fn flush(&self) -> Result<(), Error> {
        self.ping().map(|_rtt| ())
    }

    /// Calls `listener` on the client's thread with what happens to the connection.
    pub fn on_event(&self, listener: impl FnMut(&Event) + Send + 'static) {
        let mut listeners = self.shared().listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Box::new(listener));
    }

    /// The state of the connection.
    pub fn connection_info(&self) -> ClientInfo {
        let options = &self.shared().options.connection;
        let state = self.shared().lock();
        let subscribed = state.routes.iter().filter(|(_, route)| route.is_subscribed);
        ClientInfo {
            app_id: options.app_id.clone(),
            connection_id: state.connection_id.clone(),
            endpoint: options.endpoint.clone(),
            is_connected: matches!(state.link, Link::Up(_)),
            connections: state.generation,
            pending_requests: state.pending.len(),
            waiting_bytes: state.waiting_bytes(),
            subscribed_channels: subscribed.map(|(channel_id, _)| channel_id.clone()).collect(),
            served_channels: state.served.keys().cloned().collect(),
        }
    }

    /// Drains and closes: takes no more requests to serve, answers those it has, sends what
    /// waits, and ends the connection and its thread. Requests of other threads that are
    /// without an answer then fail with [`Error::Lost`]; on a closed client all else is
    /// [`Error::Closed`].
    ///
    /// # Errors
    /// [`Error::Deadline`] if that took longer than a request may; it is closed all the same.
    /// [`Error::OnClientThread`] in a handler: nothing is done then.
    #[doc(alias = "disconnect")]
    pub fn close(&self) -> Result<(), Error> {
        let shared = self.shared();
        if shared.is_driver() {
            return Err(Error::OnClientThread);
        }
        let drained = self.drain();
        let mut state = shared.lock();
        let link = std::mem::replace(&mut state.link, Link::Closed);
        drop(state);
        let timeout = shared.options.connection.timeout;
        shared.wake();
        let thread = self.owner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It catches what handlers do; a panic of its own was told by the panic hook.
            let _ = thread.join();
        }
        if let Link::Up(socket) | Link::Leaving(socket) = link
            && let Some(socket) = Arc::into_inner(socket)
        {
            // The server may be gone by now; then there is nothing to wait for.
            let _ = socket.end(timeout);
        }
        match drained {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Deadline { waiting_for: "the last answer", waited: timeout }),
            Err(error) if error.execution() == Execution::Never => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What speaks against sending by this one: that it is not connected, and how many requests
    /// it waits for.
    pub(super) fn load(&self) -> (bool, usize) {
        let state = self.shared().lock();
        (!matches!(state.link, Link::Up(_)), state.requests())
    }

    /// Whether it does not come back.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.shared().lock().link, Link::Closed)
    }

    /// False if it took too long.
    fn drain(&self) -> Result<bool, Error> {
        let shared = self.shared();
        let served: Vec<String> = shared.lock().served.keys().cloned().collect();
        for channel_id in served {
            self.stop_serving(&channel_id)?;
        }
        let deadline = Instant::now().checked_add(shared.options.connection.timeout);
        let mut state = shared.lock();
        loop {
            let is_up = matches!(state.link, Link::Up(_) | Link::Leaving(_));
            let is_done = state.jobs == 0 && !state.has_queued() && state.held() == 0;
            if is_done || matches!(state.link, Link::Closed) {
                return Ok(true);
            }
            let left = deadline.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok(false);
            }
            if !is_up && shared.options.reconnect.is_none() {
                return Ok(false);
            }
            let woken = shared.progress.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
