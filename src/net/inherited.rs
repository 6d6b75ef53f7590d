//! Listening sockets that the process inherits.

use std::os::fd::{AsFd, BorrowedFd};

/// A listening socket that the process inherits, from a service manager for example.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ipc_framework::{Config, Inherited, Server};
///
/// let given = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let config = Config::default().host(None);
/// let server = Server::bind_with(config, vec![Inherited::Tcp(given)])?;
/// assert_eq!(server.addresses().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Inherited {
    /// A TCP socket.
    Tcp(std::net::TcpListener),
    /// A Unix socket. The program that created it chose its path and permissions, and removes it.
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
