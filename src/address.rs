//! Addresses that a server listens on.

use core::net::SocketAddr;
use std::fmt;
use std::path::PathBuf;

/// An address that a server listens on. Shown as `127.0.0.1:8888`, `[::1]:8888` or `unix:/run/ipc.sock`.
///
/// ```
/// use ipc_framework::Address;
///
/// let address = Address::Tcp(([127, 0, 0, 1], 8888).into());
/// assert_eq!((address.to_string().as_str(), address.port()), ("127.0.0.1:8888", Some(8888)));
/// assert_eq!(Address::Unix("/run/ipc.sock".into()).to_string(), "unix:/run/ipc.sock");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The TCP address and port.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The TCP port.
    pub fn port(&self) -> Option<u16> {
        self.tcp().map(|address| address.port())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
