//! Listening on TCP and Unix sockets at once.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use socket2::{Domain, Protocol, SockRef, Type};

use super::stream::{SocketStream, set_quickack};
use super::unix_socket::UnixSocketFile;
use crate::{Config, Error};

/// Connections the kernel keeps for us until we accept them. It cuts this to its own limit.
pub(super) const BACKLOG: i32 = 4_096;
/// Tries to find a port that is free for IPv4 and IPv6 alike.
const FREE_PORT_TRIES: usize = 16;

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
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix {
        /// Removes the socket's path when it is dropped, which is before the listener is:
        /// a path that nobody listens on could be taken over, and then be removed.
        _file: UnixSocketFile,
        listener: UnixListener,
    },
}

/// Listens on all that the configuration names. Returns the addresses as well, with the port
/// that the system chose.
pub(super) fn bind(config: &Config) -> Result<(Vec<Listener>, Vec<Address>), Error> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    if let Some(host) = &config.host {
        let resolved = resolve(host, config)?;
        for listener in bind_tcp(&resolved, host, config.port)? {
            let address = listener.local_addr().map_err(|source| Error::Listen {
                address: format!("{host}:{}", config.port),
                source,
            })?;
            addresses.push(Address::Tcp(address));
            listeners.push(Listener::Tcp(TcpListener::from_std(listener)));
        }
    }
    if let Some(unix) = &config.unix {
        let (listener, file) = UnixSocketFile::bind(unix).map_err(|source| Error::Listen {
            address: format!("unix:{}", unix.path.display()),
            source,
        })?;
        addresses.push(Address::Unix(unix.path.clone()));
        listeners.push(Listener::Unix { listener: UnixListener::from_std(listener), _file: file });
    }
    if listeners.is_empty() {
        return Err(Error::Config(
            "there is nothing to listen on; give a host, a Unix socket, or both".to_owned(),
        ));
    }
    Ok((listeners, addresses))
}

impl Listener {
    pub(super) fn accept(&self) -> io::Result<SocketStream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| SocketStream::Tcp(stream)),
            Self::Unix { listener, .. } => {
                listener.accept().map(|(stream, _)| SocketStream::Unix(stream))
            }
        }
    }

    pub(super) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(listener) => listener,
            Self::Unix { listener, .. } => listener,
        }
    }
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
