//! Listening on TCP and Unix sockets at once, and accepting without ever giving up.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockRef, Type};

use super::socket::{Stream, set_quickack};
use super::unix_socket::UnixSocketFile;
use crate::{Config, Error};

/// Connections the kernel keeps for us until we accept them. It cuts this to its own limit.
pub(super) const BACKLOG: i32 = 4_096;
/// Tries to find a port that is free for IPv4 and IPv6 alike.
const FREE_PORT_TRIES: usize = 16;
/// After an accept error that repeating cannot mend at once.
const RETRY_AFTER: Duration = Duration::from_millis(50);

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

#[derive(Debug)]
pub(super) struct Listeners {
    open: Vec<Listener>,
    addresses: Vec<Address>,
    /// A descriptor held back: when there are no others left, it is given up for as long as
    /// it takes to accept a connection and close it.
    spare: Option<File>,
    retry_at: Option<Duration>,
}

#[derive(Debug)]
struct Listener {
    socket: ListeningSocket,
    /// The kernel reported connections, and no accept has come to their end yet.
    ready: bool,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(TcpListener),
    Unix {
        /// Removes the socket's path when it is dropped, which is before the listener is:
        /// a path that nobody listens on could be taken over, and then be removed.
        _file: UnixSocketFile,
        listener: UnixListener,
    },
}

pub(super) enum Accepted {
    Stream(Stream),
    /// There was no descriptor for it, so it was closed.
    Shed,
    Nothing,
}

impl Listeners {
    pub(super) fn bind(config: &Config, registry: &Registry) -> Result<Self, Error> {
        let mut sockets = Vec::new();
        let mut addresses = Vec::new();
        if let Some(host) = &config.host {
            let resolved = resolve(host, config)?;
            for listener in bind_tcp(&resolved, host, config.port)? {
                let address = listener.local_addr().map_err(|source| Error::Listen {
                    address: format!("{host}:{}", config.port),
                    source,
                })?;
                addresses.push(Address::Tcp(address));
                sockets.push(ListeningSocket::Tcp(TcpListener::from_std(listener)));
            }
        }
        if let Some(unix) = &config.unix {
            let (listener, file) = UnixSocketFile::bind(unix).map_err(|source| Error::Listen {
                address: format!("unix:{}", unix.path.display()),
                source,
            })?;
            addresses.push(Address::Unix(unix.path.clone()));
            sockets.push(ListeningSocket::Unix {
                listener: UnixListener::from_std(listener),
                _file: file,
            });
        }
        if sockets.is_empty() {
            return Err(Error::Config(
                "there is nothing to listen on; give a host, a Unix socket, or both".to_owned(),
            ));
        }
        let mut listeners = Self {
            open: sockets.into_iter().map(|socket| Listener { socket, ready: false }).collect(),
            addresses,
            spare: spare(),
            retry_at: None,
        };
        listeners.register(registry).map_err(Error::system("watching the listening sockets"))?;
        Ok(listeners)
    }

    fn register(&mut self, registry: &Registry) -> io::Result<()> {
        for (at, listener) in self.open.iter_mut().enumerate() {
            let token = token(at);
            match &mut listener.socket {
                ListeningSocket::Tcp(socket) => {
                    registry.register(socket, token, Interest::READABLE)?;
                }
                ListeningSocket::Unix { listener: socket, .. } => {
                    registry.register(socket, token, Interest::READABLE)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Takes note of an event. Returns whether the token is a listener's.
    pub(super) fn note_ready(&mut self, event: Token) -> bool {
        let at = self.open.iter().enumerate().position(|(at, _)| token(at) == event);
        if let Some(at) = at {
            self.open[at].ready = true;
        }
        at.is_some()
    }

    /// Whether somebody waits who could be accepted at once.
    pub(super) fn has_backlog(&self) -> bool {
        self.retry_at.is_none() && self.open.iter().any(|listener| listener.ready)
    }

    /// When accepting is tried again after an error.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.retry_at
    }

    pub(super) fn accept(&mut self, now: Duration) -> Accepted {
        if self.retry_at.is_some_and(|at| now < at) {
            return Accepted::Nothing;
        }
        self.retry_at = None;
        while let Some(listener) = self.open.iter_mut().find(|listener| listener.ready) {
            match listener.socket.accept() {
                Ok(stream) => return Accepted::Stream(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => listener.ready = false,
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) if is_out_of_descriptors(&error) => return self.shed(now),
                // Out of memory, or a firewall: it may pass.
                Err(_) => {
                    self.retry_at = Some(now + RETRY_AFTER);
                    return Accepted::Nothing;
                }
            }
        }
        Accepted::Nothing
    }

    /// Accepts one connection at the cost of the spare descriptor, and closes it.
    fn shed(&mut self, now: Duration) -> Accepted {
        drop(self.spare.take());
        let ready = self.open.iter().find(|listener| listener.ready);
        let shed = ready.is_some_and(|listener| listener.socket.accept().is_ok());
        self.spare = spare();
        if shed && self.spare.is_some() {
            Accepted::Shed
        } else {
            // Somebody else took the descriptor; descriptors come back as connections close.
            self.retry_at = Some(now + RETRY_AFTER);
            Accepted::Nothing
        }
    }

    /// Stops listening: the kernel refuses from here on, and a Unix socket's path is free.
    pub(super) fn close(&mut self, registry: &Registry) {
        for listener in &mut self.open {
            // They are dropped next, which takes them out of the queue anyway.
            let _ = match &mut listener.socket {
                ListeningSocket::Tcp(socket) => registry.deregister(socket),
                ListeningSocket::Unix { listener: socket, .. } => registry.deregister(socket),
            };
        }
        self.open.clear();
        self.retry_at = None;
    }
}

impl ListeningSocket {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix { listener, .. } => {
                listener.accept().map(|(stream, _)| Stream::Unix(stream))
            }
        }
    }
}

/// Below the waker's token, far above any connection's.
fn token(at: usize) -> Token {
    Token(usize::MAX - 1 - at)
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// The connection broke before it was accepted: the next one may be well.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    // EMFILE and ENFILE have no kind of their own.
    matches!(error.raw_os_error(), Some(23 | 24))
}

fn resolve(host: &str, config: &Config) -> Result<Vec<IpAddr>, Error> {
    // As IPv6 addresses are written beside a port.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let addresses: Vec<IpAddr> = if host.eq_ignore_ascii_case("localhost") {
        // Whatever the hosts file says: programs connect to either.
        vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    } else {
        let resolved = (host, config.port).to_socket_addrs().map_err(|error| {
            Error::Config(format!("the host {host:?} has no address: {error}; check its name"))
        })?;
        let mut addresses: Vec<IpAddr> = resolved.map(|address| address.ip()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    };
    let public = addresses.iter().find(|address| !address.is_loopback());
    match public {
        // A token for some applications leaves all others open.
        Some(address) if config.access.default.is_none() && !config.insecure => {
            Err(Error::Unprotected { address: *address })
        }
        _ => Ok(addresses),
    }
}

fn bind_tcp(
    addresses: &[IpAddr],
    host: &str,
    port: u16,
) -> Result<Vec<std::net::TcpListener>, Error> {
    for _ in 0..FREE_PORT_TRIES {
        match try_bind_tcp(addresses, port) {
            // With port 0 the second family may find taken what the first was given.
            Err((_, error)) if port == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err((address, source)) => {
                return Err(Error::Listen { address: address.to_string(), source });
            }
            Ok(listeners) => return Ok(listeners),
        }
    }
    let source = io::Error::other("no port is free for IPv4 and IPv6 alike");
    Err(Error::Listen { address: format!("{host}:0"), source })
}

fn try_bind_tcp(
    addresses: &[IpAddr],
    port: u16,
) -> Result<Vec<std::net::TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners = Vec::new();
    let mut port = port;
    let mut missing = None;
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        match listen(address) {
            Ok(listener) => {
                port = listener.local_addr().map_err(|error| (address, error))?.port();
                listeners.push(listener);
            }
            // A machine without IPv6 still has a localhost.
            Err(error) if addresses.len() > 1 && is_family_missing(&error) => {
                missing = Some((address, error));
            }
            Err(error) => return Err((address, error)),
        }
    }
    match missing {
        Some(missing) if listeners.is_empty() => Err(missing),
        _ => Ok(listeners),
    }
}

fn is_family_missing(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    if let SocketAddr::V6(v6) = address {
        // `::` means both families, as people expect; ::1 stands beside 127.0.0.1.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // Inherited by what is accepted, where the first bytes may come before the accept.
    // Listening resets it, so it comes after.
    set_quickack(&SockRef::from(&socket), false);
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
