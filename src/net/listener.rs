//! Listens on TCP and Unix sockets at once.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
#[cfg(target_os = "linux")]
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mio::event::Source;
use mio::net::{TcpListener, UnixListener, UnixStream};
use socket2::SockRef;

use super::inherited::Inherited;
use super::protection::{check_exposure, check_users};
use super::quickack::set_quickack;
use super::stream::SocketStream;
use super::tcp_socket;
#[cfg(feature = "tls")]
use super::tls_stream::TlsStream;
use super::unix_socket::{self, UnixSocketFile};
#[cfg(feature = "tls")]
use crate::Tls;
use crate::address::Address;
use crate::broker::Peer;
#[cfg(target_os = "linux")]
use crate::broker::User;
use crate::descriptors::Noted;
use crate::{Config, Error};

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp {
        /// Dropped before the socket is closed, as in `Unix`.
        _noted: Noted,
        listener: TcpListener,
        #[cfg(feature = "tls")]
        tls: Option<Tls>,
    },
    Unix {
        /// Removes the socket's path when it is dropped. That happens before the listener is
        /// dropped: otherwise another server could take over the path in between, and lose it.
        _file: Option<UnixSocketFile>,
        _noted: Noted,
        listener: UnixListener,
    },
}

/// Listens on all addresses that the configuration names and on the inherited sockets. Returns the
/// addresses as well, with the port that the system chose.
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
        for listener in tcp_socket::bind(&resolved, host, config.port)? {
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
        listeners.push(unix_listener(listener, Some(file)));
    }
    if listeners.is_empty() {
        return Err(nothing_to_listen_on());
    }
    Ok((listeners, addresses))
}

fn nothing_to_listen_on() -> Error {
    let text = "there is nothing to listen on; configure a host, a Unix socket, or both";
    Error::Config(text.to_owned())
}

/// Returns the faults of the addresses of a configuration, without listening on them.
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

fn resolve(host: &str, config: &Config) -> Result<Vec<IpAddr>, Error> {
    let addresses = tcp_socket::resolve(host, config.port)?;
    addresses.iter().try_for_each(|address| check_exposure(*address, config))?;
    Ok(addresses)
}

fn tcp(listener: std::net::TcpListener, config: &Config) -> Listener {
    #[cfg(not(feature = "tls"))]
    let _ = config;
    Listener::Tcp {
        _noted: Noted::new(&listener),
        listener: TcpListener::from_std(listener),
        #[cfg(feature = "tls")]
        tls: config.tls.clone(),
    }
}

fn unix_listener(listener: UnixListener, file: Option<UnixSocketFile>) -> Listener {
    Listener::Unix { _file: file, _noted: Noted::new(&listener), listener }
}

fn unusable(source: io::Error) -> Error {
    Error::Listen { address: "an inherited socket".to_owned(), source }
}

/// Checks that each socket listens and was passed once. On any other, no connection would ever be
/// accepted.
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

/// Takes over a socket that already listens.
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
            Ok((unix_listener(listener, None), Address::Unix(path)))
        }
    }
}

impl Listener {
    /// Accepts the next connection. Returns its peer as well.
    pub(super) fn accept(&self) -> io::Result<(SocketStream, Peer)> {
        match self {
            #[cfg(feature = "tls")]
            Self::Tcp { listener, tls: Some(tls), .. } => {
                let (stream, address) = listener.accept()?;
                let stream = TlsStream::accept(stream, tls)?;
                Ok((SocketStream::tls(stream), Peer::Tcp(address)))
            }
            Self::Tcp { listener, .. } => {
                let (stream, address) = listener.accept()?;
                Ok((SocketStream::tcp(stream), Peer::Tcp(address)))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                let peer = process_of(&stream);
                Ok((SocketStream::unix(stream), peer))
            }
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn has_handshakes(&self) -> bool {
        matches!(self, Self::Tcp { tls: Some(_), .. })
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "with TLS the answer depends on the listener")]
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

/// Returns the process that connected, as the kernel recorded it at that time.
#[cfg(target_os = "linux")]
fn process_of(stream: &UnixStream) -> Peer {
    let Ok(found) = rustix::net::sockopt::socket_peercred(stream) else {
        return Peer::Unix { user: None, pid: None };
    };
    let user = user_of(&found);
    // The kernel reports zero for a process of a PID namespace that is not visible here.
    let pid = found.pid.as_raw_nonzero().get().try_into().ok().and_then(NonZeroU32::new);
    Peer::Unix { user: Some(user), pid }
}

#[cfg(target_os = "linux")]
fn user_of(found: &rustix::net::UCred) -> User {
    User { uid: found.uid.as_raw(), gid: found.gid.as_raw() }
}

#[cfg(not(target_os = "linux"))]
fn process_of(_: &UnixStream) -> Peer {
    Peer::Unix { user: None, pid: None }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::net::UCred;
    use rustix::process::{Gid, Pid, Uid};

    use super::*;

    #[test]
    fn a_user_and_its_group_are_not_taken_for_one_another() {
        let found = UCred { pid: Pid::INIT, uid: Uid::from_raw(7), gid: Gid::from_raw(8) };
        assert_eq!(user_of(&found), User { uid: 7, gid: 8 });
    }
}
