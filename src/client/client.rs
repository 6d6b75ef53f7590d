//! The client for many threads: one connection, kept up by a thread of its own.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use mio::{Poll, Waker};

use super::background::driver::{Driver, WAKER};
use super::background::shared::Shared;
use super::background::state::Link;
use super::client_options::ClientOptions;
use super::endpoint::Endpoint;
use super::error::Error;
use super::event::Event;
use super::wire::encoder::Encoder;

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
///
/// Dropped with its last clone it ends without a drain: what has left still arrives, what waits
/// is told by [`Event::Closed`]. [`close`](Self::close) loses nothing.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) owner: Arc<Owner>,
}

/// A client that it does not keep alive, for its own handlers and listeners: one that owns a
/// [`Client`] would keep the connection open for as long as it is there itself.
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
/// let weak = client.downgrade();
/// client.subscribe_with("news", move |message| {
///     if let Some(client) = weak.upgrade() {
///         let _ = client.publish("archive", &message.payload);
///     }
/// })?;
/// drop(client); // and the connection ends
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WeakClient {
    owner: Weak<Owner>,
}

impl WeakClient {
    /// The client, if a clone of it is left.
    pub fn upgrade(&self) -> Option<Client> {
        self.owner.upgrade().map(|owner| Client { owner })
    }
}

/// Ends the driver when the last clone is gone.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) shared: Arc<Shared>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.abort();
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
    /// How often in a row no connection came about, or none that was of use.
    pub failures: u32,
    /// Requests without an answer so far, heartbeats included.
    pub pending_requests: usize,
    /// Bytes that wait to be sent.
    pub waiting_bytes: usize,
    /// Notifications that were dropped because those that waited for a served channel's handler
    /// were as many as [`ClientOptions::unread_bytes_max`] allows, or 4,096.
    pub missed_notifications: u64,
    /// Channels subscribed to.
    pub subscribed_channels: BTreeSet<String>,
    /// Channels served.
    pub served_channels: BTreeSet<String>,
}

impl ClientOptions {
    /// Connects, and starts the thread that drives the client.
    ///
    /// # Errors
    /// As [`Options::connect`](super::Options::connect): the first attempt is not repeated.
    pub fn connect(&self) -> Result<Client, Error> {
        Client::open(self)
    }
}

impl Client {
    fn open(options: &ClientOptions) -> Result<Self, Error> {
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

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// Itself, without keeping it alive.
    pub fn downgrade(&self) -> WeakClient {
        WeakClient { owner: Arc::downgrade(&self.owner) }
    }

    /// Calls `listener` on the client's thread with what happens to the connection,
    /// [`Event::Closed`] last. It must not block; one that needs the client takes a
    /// [`WeakClient`].
    pub fn on_event(&self, listener: impl FnMut(&Event) + Send + 'static) {
        let mut listeners = self.shared().listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listeners) = &mut *listeners {
            listeners.push(Box::new(listener));
        }
    }

    /// Ends at once, as when the last clone is dropped: what waits is not sent, and requests
    /// without an answer, here or served, fail. [`close`](Self::close) drains first, and may be
    /// cut short by this.
    pub fn abort(&self) {
        self.shared().abort();
    }

    /// Whether there is a connection just now.
    pub fn is_connected(&self) -> bool {
        matches!(self.shared().lock().link, Link::Up(_))
    }

    /// A duplicate of the connection's socket, for looking at its addresses and options; none
    /// without a connection. What is read from it is lost for the client, and what is written
    /// to it ruins the connection.
    pub fn duplicate_socket(&self) -> Option<std::io::Result<OwnedFd>> {
        match &self.shared().lock().link {
            Link::Up(socket) => Some(socket.as_fd().try_clone_to_owned()),
            _ => None,
        }
    }

    /// How many bytes wait to be sent; with [`ClientOptions::queue_bytes_max`] and more, sending
    /// blocks or fails.
    pub fn waiting_bytes(&self) -> usize {
        self.shared().lock().outbox.waiting_bytes()
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
            failures: state.failures,
            pending_requests: state.pending.len(),
            waiting_bytes: state.outbox.waiting_bytes(),
            missed_notifications: state.missed_notifications,
            subscribed_channels: subscribed.map(|(channel_id, _)| channel_id.clone()).collect(),
            served_channels: state.served.keys().cloned().collect(),
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
}
