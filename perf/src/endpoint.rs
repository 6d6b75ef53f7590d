//! Addresses and sockets that are handled in the same way for TCP and Unix.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Endpoint {
    /// Returns a TCP address of this machine, with a port that the kernel chooses.
    pub(crate) fn any_port() -> Self {
        Self::Tcp((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Connects. A read or a write that waits for longer than `patience` fails.
    pub(crate) fn connect(&self, patience: Duration) -> io::Result<Socket> {
        let (socket, address) = self.open()?;
        socket.connect(&address)?;
        self.send_at_once(&socket)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        Ok(socket)
    }

    fn open(&self) -> io::Result<(Socket, SockAddr)> {
        let (domain, address) = match self {
            Self::Tcp(address) => (Domain::for_address(*address), (*address).into()),
            Self::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        Ok((Socket::new(domain, Type::STREAM, None)?, address))
    }

    fn send_at_once(&self, socket: &Socket) -> io::Result<()> {
        match self {
            Self::Tcp(_) => socket.set_tcp_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    endpoint: Endpoint,
}

impl Listener {
    const BACKLOG: i32 = 1_024;

    pub(crate) fn bind(endpoint: &Endpoint) -> io::Result<Self> {
        let (socket, address) = endpoint.open()?;
        socket.bind(&address)?;
        socket.listen(Self::BACKLOG)?;
        let chosen = socket.local_addr()?.as_socket();
        let endpoint = chosen.map_or_else(|| endpoint.clone(), Endpoint::Tcp);
        Ok(Self { socket, endpoint })
    }

    /// Returns the address, with the port that the kernel chose.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn accept(&self) -> io::Result<Socket> {
        let (socket, _) = self.socket.accept()?;
        self.endpoint.send_at_once(&socket)?;
        Ok(socket)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
