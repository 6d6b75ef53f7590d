//! Options of a connection: the server, the client's identity, and the limits.

use std::time::Duration;

use super::endpoint::{AddressOrder, Endpoint};
#[cfg(feature = "tls")]
use super::tls::Tls;
use crate::token::Token;

/// Options from which a [`Connection`](super::Connection) is made.
///
/// ```
/// use ipc_framework::client::{Endpoint, Options};
/// use std::time::Duration;
///
/// let mut options = Options::new("app");
/// options.endpoint = Endpoint::unix("/run/ipc.sock");
/// options.timeout = Duration::from_secs(1);
/// assert!(options.connection_id.is_none());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The application; the server creates it if it does not exist.
    pub app_id: String,
    /// The address of the server; `localhost:8888` by default.
    pub endpoint: Endpoint,
    /// The addresses of further servers, none by default. While connecting, each server in turn gets one
    /// try, and the first that welcomes the client is used; a [`Client`](super::Client) that loses its
    /// connection goes on with the next one in turn, and from the last with the first. It does not return
    /// to the first for as long as its connection holds.
    ///
    /// All are hosts or all are Unix sockets, and none is there twice; token and TLS are the same for all.
    /// [`Endpoint::list`] reads addresses from a text.
    pub alternatives: Vec<Endpoint>,
    /// The order of the turns.
    pub address_order: AddressOrder,
    /// The id by which the server knows this connection; a random UUID by default. A second
    /// connection of the application with the same id takes over from the first.
    pub connection_id: Option<String>,
    /// The application's secret, if the server asks for one.
    pub token: Option<Token>,
    /// Speak TLS with the server, over TCP only; off by default.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
    /// Time that connecting may take, handshakes included; 5 s by default. Of several servers each has an
    /// equal share of what is left, so that one which does not answer leaves time for the others.
    pub connect_timeout: Duration,
    /// Time that a request may take, and a write that the server does not accept; 10 s by default.
    pub timeout: Duration,
    /// Never sleep while waiting. This saves the 20 to 50 µs that the system takes to wake a
    /// thread, and uses a core while anything is waited for.
    pub spin: bool,
    /// Exchange messages with the server through shared memory, on a Unix socket whose server has it
    /// (`ipc serve --shm`); the socket goes on if not. Off by default. Linux only. The server has to be
    /// trusted: one that is hostile can stop this process in a write without a timeout.
    pub shared_memory: bool,
    /// Size that the body of a frame may have in either direction; 16 MiB by default, as in the
    /// server.
    pub frame_bytes_max: usize,
    /// Number of messages that are kept for [`receive`](super::Connection::receive) while a request
    /// waits for its answer; 1,024 by default.
    pub kept_messages_max: usize,
}

impl Options {
    /// Returns the defaults for an application.
    pub fn new(app_id: impl Into<String>) -> Self {
        Self {
            app_id: app_id.into(),
            endpoint: Endpoint::default(),
            alternatives: Vec::new(),
            address_order: AddressOrder::Listed,
            connection_id: None,
            token: None,
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            spin: false,
            shared_memory: false,
            frame_bytes_max: 16 << 20,
            kept_messages_max: 1024,
        }
    }
}
