//! Whom a client connects to, as whom, and how long it waits.

use std::time::Duration;

use super::endpoint::Endpoint;
#[cfg(feature = "tls")]
use super::tls::Tls;
use crate::token::Token;

/// What a [`Connection`] is made from.
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
pub struct Options {
    /// The application; the server creates it if it does not exist.
    pub app_id: String,
    /// Where the server listens; `localhost:8888` by default.
    pub endpoint: Endpoint,
    /// What the server knows this connection by; a random UUID by default. A second connection
    /// of the application with the same id takes the first one's place.
    pub connection_id: Option<String>,
    /// The application's secret, where the server asks for one.
    pub token: Option<Token>,
    /// Speak TLS, by TCP alone; not by default.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
    /// How long connecting may take, all handshakes included; 5 s by default.
    pub connect_timeout: Duration,
    /// How long a request may take, and a write the server does not accept; 10 s by default.
    pub timeout: Duration,
    /// Never sleep while waiting: saves the 20 to 50 µs that the system takes to wake a thread,
    /// and uses a core as long as something is waited for.
    pub spin: bool,
    /// The largest body of a frame, either way; 16 MiB by default, as the server's.
    pub frame_bytes_max: usize,
    /// How many messages that come while a request waits are kept for
    /// [`receive`](Connection::receive); 1,024 by default.
    pub kept_messages_max: usize,
}

impl Options {
    /// The defaults for an application.
    pub fn new(app_id: impl Into<String>) -> Self {
        Self {
            app_id: app_id.into(),
            endpoint: Endpoint::default(),
            connection_id: None,
            token: None,
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            spin: false,
            frame_bytes_max: 16 << 20,
            kept_messages_max: 1024,
        }
    }
}
