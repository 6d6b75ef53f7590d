//! The address of a server, as a client names it.

use std::fmt;
use std::path::PathBuf;

/// The address at which a server listens.
///
/// ```
/// use ipc_framework::client::Endpoint;
///
/// assert_eq!(Endpoint::default().to_string(), "localhost:8888");
/// assert_eq!(Endpoint::unix("/run/ipc.sock").to_string(), "/run/ipc.sock");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// An address of TCP.
    Tcp {
        /// A name or an IP address; a name is resolved for every attempt to connect.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// An address of TCP.
    ///
    /// ```
    /// use ipc_framework::client::Endpoint;
    ///
    /// // A URL puts brackets around an address of IPv6.
    /// assert_eq!(Endpoint::tcp("[::1]", 8888), Endpoint::tcp("::1", 8888));
    /// assert_eq!(Endpoint::tcp("::1", 8888).to_string(), "[::1]:8888");
    /// ```
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        let mut host = host.into();
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(address) = address.filter(|address| address.contains(':')) {
            host = address.to_owned();
        }
        Self::Tcp { host, port }
    }

    /// Returns the address of a Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(path.into())
    }
}

/// `localhost:8888`.
impl Default for Endpoint {
    fn default() -> Self {
        Self::tcp("localhost", 8888)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The order in which a client takes its turns with several servers.
///
/// ```
/// use ipc_framework::client::{AddressOrder, Options};
///
/// assert_eq!(Options::new("app").address_order, AddressOrder::Listed);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressOrder {
    /// As they are listed. All clients with the same list begin at its first server.
    Listed,
    /// Each client has a random order of its own, so that many clients spread over the servers, and those of a
    /// server that ends spread over the others.
    Random,
}
