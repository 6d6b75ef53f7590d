//! Addresses that a server listens on, and sockets that it was given.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

/// Where a server listens. Shown as `127.0.0.1:8888`, `[::1]:8888` or `unix:/run/ipc.sock`.
///
/// ```
/// use ipc_framework::Address;
///
/// let address = Address::Tcp(([127, 0, 0, 1], 8888).into());
/// assert_eq!((address.to_string().as_str(), address.port()), ("127.0.0.1:8888", Some(8888)));
/// assert_eq!(Address::Unix("/run/ipc.sock".into()).to_string(), "unix:/run/ipc.sock");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The TCP port.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
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

/// A listening socket that the process was given, by a service manager for example.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ipc_framework::{Config, Inherited, Server};
///
/// let given = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let config = Config { host: None, ..Config::default() };
/// let server = Server::bind_with(config, vec![Inherited::Tcp(given)])?;
/// assert_eq!(server.addresses().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum Inherited {
    /// A TCP socket.
    Tcp(std::net::TcpListener),
    /// A Unix socket. Its path and permissions are those of whoever made it, who removes it.
    Unix(std::os::unix::net::UnixListener),
}

impl AsFd for Inherited {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}
