//! Listening on TCP and Unix sockets at once.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use socket2::{Domain, Protocol, SockRef, Type};

use super::quickack::set_quickack;
use super::stream::SocketStream;
#[cfg(feature = "tls")]
use super::tls_stream::TlsStream;
use super::unix_socket::{self, BACKLOG, UnixSocketFile};
use super::user_namespace;
#[cfg(feature = "tls")]
use crate::Tls;
use crate::{Config, Error};

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

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp {
        listener: TcpListener,
        #[cfg(feature = "tls")]
        tls: Option<Tls>,
    },
    Unix {
        /// Removes the socket's path when it is dropped, which is before the listener is:
        /// a path that nobody listens on could be taken over, and then be removed.
        _file: Option<UnixSocketFile>,
        listener: UnixListener,
    },
}

/// Listens on all that the configuration names. Returns the addresses as well, with the port
/// that the system chose.
pub(super) fn bind(
    config: &Config,
    inherited: Vec<Inherited>,
) -> Result<(Vec<Listener>, Vec<Address>), Error> {
    let is_tcp = |given: &Inherited| matches!(given, Inherited::Tcp(_));
    let has_tcp = config.host.is_some() || inherited.iter().any(is_tcp);
    let has_unix = config.unix.is_some() || !inherited.iter().all(is_tcp);
    check_users(config, has_tcp, has_unix)?;
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    check_inherited(&inherited).map_err(unusable)?;
    for given in inherited {
        let (listener, address) = adopt(given, config)?;
        listeners.push(listener);
        addresses.push(address);
    }
    if let Some(host) = &config.host {
        let resolved = resolve(host, config)?;
        for listener in bind_tcp(&resolved, host, config.port)? {
            let address = listener.local_addr().map_err(|source| Error::Listen {
                address: format!("{host}:{}", config.port),
                source,
            })?;
            addresses.push(Address::Tcp(address));
            listeners.push(tcp(listener, config));
        }
    }
    if let Some(unix) = &config.unix {
        let (listener, file) = UnixSocketFile::bind(unix).map_err(|source| Error::Listen {
            address: format!("unix:{}", unix.path.display()),
            source,
        })?;
        addresses.push(Address::Unix(unix.path.clone()));
        let listener = UnixListener::from_std(listener);
        listeners.push(Listener::Unix { listener, _file: Some(file) });
    }
    if listeners.is_empty() {
        return Err(nothing_to_listen_on());
    }
    Ok((listeners, addresses))
}

fn nothing_to_listen_on() -> Error {
    let text = "there is nothing to listen on; give a host, a Unix socket, or both";
    Error::Config(text.to_owned())
}

/// What is wrong with the addresses of a configuration, without listening on them.
pub(crate) fn problems(config: &Config) -> Vec<Error> {
    let mut problems = Vec::new();
    if config.host.is_none() && config.unix.is_none() {
        problems.push(nothing_to_listen_on());
    }
    problems.extend(check_users(config, config.host.is_some(), config.unix.is_some()).err());
    problems.extend(config.host.as_ref().and_then(|host| resolve(host, config).err()));
    problems.extend(config.unix.as_ref().and_then(|unix| {
        let source = unix_socket::check(&unix.path).err()?;
        Some(Error::Listen { address: format!("unix:{}", unix.path.display()), source })
    }));
    problems
}

/// Whether a server that listens there may have these access rules.
pub(crate) fn check_access(config: &Config, addresses: &[Address]) -> Result<(), Error> {
    for address in addresses {
        if let Address::Tcp(address) = address {
            check_exposure(address.ip(), config)?;
        }
    }
    let has_tcp = addresses.iter().any(|address| matches!(address, Address::Tcp(_)));
    let has_unix = addresses.iter().any(|address| matches!(address, Address::Unix(_)));
    check_users(config, has_tcp, has_unix)
}

fn check_exposure(ip: IpAddr, config: &Config) -> Result<(), Error> {
    if ip.is_loopback() || is_protected(config) {
        return Ok(());
    }
    Err(Error::Unprotected { address: ip })
}

/// Users are known on Unix sockets alone: whoever is not on the list must not come in by TCP.
fn check_users(config: &Config, has_tcp: bool, has_unix: bool) -> Result<(), Error> {
    if !config.access.asks_for_users() {
        return Ok(());
    }
    if cfg!(not(target_os = "linux")) {
        return Err(Error::Config("users can only be told apart on Linux".to_owned()));
    }
    user_namespace::check(&config.access)?;
    if !has_unix {
        return Err(Error::Config(
            "users can only be told apart on a Unix socket; give one, or no list of users"
                .to_owned(),
        ));
    }
    if has_tcp && !is_protected(config) {
        return Err(Error::Config(
            "a list of users does not keep anybody off the TCP port; listen on the Unix socket \
             alone, set a token for all applications, or say that it shall be insecure"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Whether whoever can reach a TCP address needs something to be let in.
fn is_protected(config: &Config) -> bool {
    #[cfg(feature = "tls")]
    let asks_for_certificates = config.tls.as_ref().is_some_and(Tls::asks_for_certificates);
    #[cfg(not(feature = "tls"))]
    let asks_for_certificates = false;
    // A token for some applications leaves all others open.
    config.access.default.is_some() || config.insecure || asks_for_certificates
}

fn tcp(listener: std::net::TcpListener, config: &Config) -> Listener {
    #[cfg(not(feature = "tls"))]
    let _ = config;
    Listener::Tcp {
        listener: TcpListener::from_std(listener),
        #[cfg(feature = "tls")]
        tls: config.tls.clone(),
    }
}

fn unusable(source: io::Error) -> Error {
    Error::Listen { address: "an inherited socket".to_owned(), source }
}

/// Each of them listens, and is there once: on any other nobody would ever be accepted.
fn check_inherited(inherited: &[Inherited]) -> io::Result<()> {
    let mut seen = HashSet::new();
    for given in inherited {
        #[cfg(target_os = "linux")]
        if !SockRef::from(given).is_listener()? {
            return Err(io::Error::other("it does not listen; pass sockets that do"));
        }
        let socket = File::from(given.as_fd().try_clone_to_owned()?).metadata()?;
        if !seen.insert((socket.dev(), socket.ino())) {
            return Err(io::Error::other("it was passed twice; pass each of them once"));
        }
    }
    Ok(())
}

/// Takes over a socket that listens already.
fn adopt(given: Inherited, config: &Config) -> Result<(Listener, Address), Error> {
    match given {
        Inherited::Tcp(listener) => {
            let address = listener.local_addr().map_err(unusable)?;
            check_exposure(address.ip(), config)?;
            listener.set_nonblocking(true).map_err(unusable)?;
            set_quickack(&SockRef::from(&listener), false);
            Ok((tcp(listener, config), Address::Tcp(address)))
        }
        Inherited::Unix(listener) => {
            let address = listener.local_addr().map_err(unusable)?;
            listener.set_nonblocking(true).map_err(unusable)?;
            let listener = UnixListener::from_std(listener);
            let path = address.as_pathname().unwrap_or(Path::new("(unnamed)")).to_owned();
            Ok((Listener::Unix { listener, _file: None }, Address::Unix(path)))
        }
    }
}

impl Listener {
    pub(super) fn accept(&self) -> io::Result<SocketStream> {
        match self {
            #[cfg(feature = "tls")]
            Self::Tcp { listener, tls: Some(tls) } => {
                let (stream, _) = listener.accept()?;
                Ok(SocketStream::Tls(Box::new(TlsStream::accept(stream, tls)?)))
            }
            Self::Tcp { listener, .. } => {
                listener.accept().map(|(stream, _)| SocketStream::Tcp(stream))
            }
            Self::Unix { listener, .. } => {
                listener.accept().map(|(stream, _)| SocketStream::Unix(stream))
            }
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn has_handshakes(&self) -> bool {
        matches!(self, Self::Tcp { tls: Some(_), .. })
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "with TLS it depends")]
    pub(super) fn has_handshakes(&self) -> bool {
        false
    }

    pub(super) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp { listener, .. } => listener,
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
    addresses.iter().try_for_each(|address| check_exposure(*address, config))?;
    Ok(addresses)
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
