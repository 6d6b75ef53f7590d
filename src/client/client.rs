//! The client for many threads: one connection, kept up by a background thread.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use mio::{Poll, Waker};

use super::background::driver::{Driver, WAKER};
use super::background::shared::Shared;
use super::background::state::Link;
use super::client_options::ClientOptions;
use super::connection::opening::connect;
use super::endpoint::Endpoint;
use super::error::Error;
use super::event::Event;
use super::server_limits::ServerLimits;
use super::servers::Servers;
use super::wire::encoder::Encoder;
use crate::proto::Extensions;

/// A client for any number of threads. Clones share one connection, which a background thread keeps
/// up. If the connection is lost, the client reconnects and restores its subscriptions and served
/// channels, see [`ClientOptions`]; [`on_event`](Self::on_event) reports such changes.
///
/// Messages of one thread arrive in the order in which it sent them. Delivery is at most once:
/// nothing that may have been executed is sent again.
///
/// ```
/// use ipc_framework::client::{ClientOptions, Endpoint};
/// use ipc_framework::{Config, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config::default().port(0))?;
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
/// When the last clone is dropped, the client ends without a drain: messages that have left still
/// arrive, and [`Event::Closed`] tells how many were waiting. [`close`](Self::close) loses nothing.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) owner: Arc<Owner>,
}

/// A reference to a client that does not keep the client alive. Handlers and listeners of the
/// client itself use it: one that owned a [`Client`] would keep the connection open for as long as
/// it exists.
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
/// let weak = client.downgrade();
/// client.on_publication("news", move |message| {
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
    /// Returns the client, if a clone of it is left.
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

/// The state of a client's connection, as [`Client::connection_info`] returns it.
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
    /// The address of the server of the current, or last, connection.
    pub endpoint: Endpoint,
    /// True while messages are sent at once, which they are not without a connection, or on one
    /// whose server is about to end.
    pub is_connected: bool,
    /// The number of connections so far, the current one included.
    pub connections: u64,
    /// The number of attempts in a row that brought no connection, or one that ended without being
    /// of use. Of several servers, an attempt tries each.
    pub failures: u32,
    /// Requests without an answer so far, heartbeats included.
    pub pending_requests: usize,
    /// Bytes of messages that wait to be sent.
    pub waiting_bytes: usize,
    /// Notifications that were dropped because the queue of a served channel was full: it holds
    /// [`ClientOptions::unread_bytes_max`] bytes and 4,096 messages.
    pub missed_notifications: u64,
    /// The channels that the client subscribes to.
    pub subscribed_channels: BTreeSet<String>,
    /// The patterns that the client subscribes to.
    pub subscribed_patterns: BTreeSet<String>,
    /// The channels that the client serves.
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
        let mut servers = Servers::new(&options.connection)?;
        let connection = connect(&options.connection, &mut servers)?;
        let poll = Poll::new().map_err(Error::system("an event queue"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(Error::system("a waker"))?;
        let mut encoder =
            Encoder::new(&options.connection.app_id, options.connection.frame_bytes_max)?;
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(encoder.fresh_id().as_bytes());
        let shared = Arc::new(Shared::new(options.clone(), encoder, waker));
        let driver = Driver::new(Arc::clone(&shared), poll, servers, connection, seed)?;
        let of_driver = Arc::clone(&shared);
        let run = move || {
            // This is the only place that sets it.
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

    /// Returns a reference that does not keep the client alive.
    pub fn downgrade(&self) -> WeakClient {
        WeakClient { owner: Arc::downgrade(&self.owner) }
    }

    /// Calls `listener` on the client's thread with every change of the connection;
    /// [`Event::Closed`] comes last. The listener must not block. If it needs the client it should
    /// own a [`WeakClient`].
    pub fn on_event(&self, listener: impl FnMut(&Event) + Send + 'static) {
        let mut listeners = self.shared().listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listeners) = &mut *listeners {
            listeners.push(Box::new(listener));
        }
    }

    /// Ends the client at once, as if the last clone were dropped: waiting messages are not sent,
    /// and requests without an answer fail, both those sent and those being served.
    /// [`close`](Self::close) drains first, and this may cut it short.
    pub fn abort(&self) {
        self.shared().abort();
    }

    /// Returns once everything that has arrived is read and handed to listeners and callbacks. A
    /// caller whose own deadline has passed looks again after this: the process may have been
    /// stopped, or busy, with the message in the socket. Does not wait for a listener that blocks.
    pub fn catch_up(&self) {
        self.shared().catch_up();
    }

    /// Returns whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        matches!(self.shared().lock().link, Link::Up(_))
    }

    /// Returns a duplicate of the connection's socket, for looking at its addresses and options, or
    /// none without a connection. Bytes read from it are lost to the client, and bytes written to
    /// it ruin the connection.
    pub fn duplicate_socket(&self) -> Option<std::io::Result<OwnedFd>> {
        match &self.shared().lock().link {
            Link::Up(socket) => Some(socket.itself().try_clone_to_owned()),
            _ => None,
        }
    }

    /// Returns whether the server of the current, or last, connection streams answers in parts, and
    /// lets requests have deadlines that travel and be cancelled. Other servers are asked as ever,
    /// and streams from them are refused with [`Error::Unsupported`].
    pub fn has_call(&self) -> bool {
        self.shared().lock().has_call()
    }

    /// Returns whether the server of the current, or last, connection takes attachments: bytes and tensors
    /// beside the JSON of a message. To other servers they are refused with [`Error::Unsupported`] before
    /// anything is sent.
    pub fn has_binary(&self) -> bool {
        self.shared().lock().extensions.contains(Extensions::BINARY)
    }

    /// Returns whether the server of the current, or last, connection knows patterns, last values and
    /// histories of channels. From other servers they are refused with [`Error::Unsupported`] before
    /// anything is sent.
    pub fn has_topic(&self) -> bool {
        self.shared().lock().extensions.contains(Extensions::TOPIC)
    }

    /// Returns the limits that the server of the current, or last, connection announced, if it did.
    pub fn server_limits(&self) -> Option<ServerLimits> {
        self.shared().lock().limits
    }

    /// Returns how many bytes wait to be sent. From [`ClientOptions::queue_bytes_max`] on, sending
    /// blocks or fails.
    pub fn waiting_bytes(&self) -> usize {
        self.shared().lock().outbox.waiting_bytes()
    }

    /// Returns the state of the connection.
    pub fn connection_info(&self) -> ClientInfo {
        let options = &self.shared().options.connection;
        let state = self.shared().lock();
        let subscribed = |is_pattern| {
            let routes = state.routes.iter().filter(|(_, route)| route.subscribed.is_some());
            let names = routes.filter(move |(topic, _)| topic.is_pattern == is_pattern);
            names.map(|(topic, _)| topic.name.to_owned()).collect()
        };
        ClientInfo {
            app_id: options.app_id.clone(),
            connection_id: state.connection_id.clone(),
            endpoint: state.endpoint.clone(),
            is_connected: matches!(state.link, Link::Up(_)),
            connections: state.generation,
            failures: state.failures,
            pending_requests: state.pending.len(),
            waiting_bytes: state.outbox.waiting_bytes(),
            missed_notifications: state.missed_notifications,
            subscribed_channels: subscribed(false),
            subscribed_patterns: subscribed(true),
            served_channels: state.served.keys().cloned().collect(),
        }
    }

    /// Returns how unsuited this client is for the next message, for comparison with others:
    /// whether it is disconnected, and how many requests it has in flight.
    pub(super) fn load(&self) -> (bool, usize) {
        let state = self.shared().lock();
        (!matches!(state.link, Link::Up(_)), state.requests())
    }

    /// Returns whether the client has ended for good, and then how often in a row its connections
    /// failed or were of no use.
    pub(super) fn ended_after_failures(&self) -> Option<u32> {
        let state = self.shared().lock();
        matches!(state.link, Link::Closed).then_some(state.failures)
    }
}
