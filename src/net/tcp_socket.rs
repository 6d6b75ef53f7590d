//! Listening TCP sockets on all addresses of a host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::quickack::set_quickack;
use super::unix_socket::BACKLOG;
use crate::Error;

/// The number of attempts to find a port that is free for IPv4 and IPv6 alike.
const FREE_PORT_TRIES: usize = 16;

/// Returns the addresses of a host name, each once.
pub(super) fn resolve(host: &str, port: u16) -> Result<Vec<IpAddr>, Error> {
    // An IPv6 address may be written in brackets, as it is in front of a port.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.eq_ignore_ascii_case("localhost") {
        // This means both addresses, whatever the hosts file says: programs connect to either.
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let resolved = (host, port).to_socket_addrs().map_err(|error| {
        Error::Config(format!("the host {host:?} has no address: {error}; check its name"))
    })?;
    let mut addresses: Vec<IpAddr> = resolved.map(|address| address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Listens on all of these addresses with the same port.
pub(super) fn bind(addresses: &[IpAddr], host: &str, port: u16) -> Result<Vec<TcpListener>, Error> {
    for _ in 0..FREE_PORT_TRIES {
        match try_bind(addresses, port) {
            // With port 0, the port that the first family was given may be taken for the second.
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

fn try_bind(addresses: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
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
            // On a machine without IPv6, `localhost` is the IPv4 address alone.
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
    error.kind() == io::ErrorKind::AddrNotAvailable
        || Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // Without this, a restart would have to wait for the connections of the last run to leave
    // TIME-WAIT.
    socket.set_reuse_address(true)?;
    if let SocketAddr::V6(v6) = address {
        // `::` means both families, as people expect, whereas ::1 has its own socket beside
        // 127.0.0.1.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // Accepted sockets inherit this option, which matters because their first bytes may arrive
    // before the accept. `listen` resets it, so it is set afterwards.
    set_quickack(&SockRef::from(&socket), false);
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
