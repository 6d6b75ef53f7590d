//! The other end of a connection, as far as the operating system knows it.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use crate::broker::access::User;
use crate::trace::Origin;

/// The other end of a connection, as the operating system named it when the connection was
/// accepted.
///
/// ```
/// # use ipc_framework::{Access, Limits};
/// # use ipc_framework::broker::{Broker, Now};
/// use ipc_framework::Peer;
///
/// # let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
/// broker.on_connect(|info, _| match info.peer {
///     Peer::Tcp(address) => println!("{} comes from {address}", info.connection_id),
///     Peer::Unix { pid: Some(pid), .. } => println!("{} is process {pid}", info.connection_id),
///     _ => println!("{} comes from nowhere", info.connection_id),
/// });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// The driver does not know.
    #[default]
    Unknown,
    /// An address and port. The zone of an IPv6 address is not kept.
    Tcp(SocketAddr),
    /// A process on the same machine, which only Linux identifies.
    Unix {
        /// The user and group that the process had when it connected.
        user: Option<User>,
        /// The process that connected. It may have ended since, or passed its socket to another one.
        /// `None` if it is in a PID namespace that is not visible here.
        pid: Option<NonZeroU32>,
    },
    /// A link: a connection to another server, which the process itself has made. It needs no token,
    /// counts towards no limit on connections, and is no client: see `Broker::accept_from`.
    Link,
}

/// A [`Peer`] in 20 bytes, because each connection has one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum PackedPeer {
    #[default]
    Unknown,
    TcpV4(Ipv4Addr, u16),
    TcpV6(Ipv6Addr, u16),
    Unix,
    UnixUser {
        uid: u32,
        gid: u32,
        pid: Option<NonZeroU32>,
    },
    Link,
}

impl From<Peer> for PackedPeer {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Unknown => Self::Unknown,
            Peer::Tcp(SocketAddr::V4(address)) => Self::TcpV4(*address.ip(), address.port()),
            Peer::Tcp(SocketAddr::V6(address)) => Self::TcpV6(*address.ip(), address.port()),
            Peer::Unix { user: None, .. } => Self::Unix,
            Peer::Unix { user: Some(User { uid, gid }), pid } => Self::UnixUser { uid, gid, pid },
            Peer::Link => Self::Link,
        }
    }
}

impl From<PackedPeer> for Peer {
    fn from(packed: PackedPeer) -> Self {
        match packed {
            PackedPeer::Unknown => Self::Unknown,
            PackedPeer::TcpV4(ip, port) => Self::Tcp((ip, port).into()),
            PackedPeer::TcpV6(ip, port) => Self::Tcp((ip, port).into()),
            PackedPeer::Unix => Self::Unix { user: None, pid: None },
            PackedPeer::UnixUser { uid, gid, pid } => {
                Self::Unix { user: Some(User { uid, gid }), pid }
            }
            PackedPeer::Link => Self::Link,
        }
    }
}

impl PackedPeer {
    /// Returns whether it is on a Unix socket, and so on this machine.
    pub(crate) fn is_on_unix_socket(self) -> bool {
        matches!(self, Self::Unix | Self::UnixUser { .. })
    }

    /// Returns the same for the log.
    pub(crate) fn origin(self) -> Origin {
        match self {
            Self::Unknown => Origin::Unknown,
            Self::TcpV4(ip, port) => Origin::Tcp((ip, port).into()),
            Self::TcpV6(ip, port) => Origin::Tcp((ip, port).into()),
            Self::Unix => Origin::Unix { uid: None, pid: None },
            Self::UnixUser { uid, pid, .. } => Origin::Unix { uid: Some(uid), pid },
            Self::Link => Origin::Link,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_the_same_after_it_was_packed() {
        let user = User { uid: 1_000, gid: 100 };
        for peer in [
            Peer::Unknown,
            Peer::Tcp(([127, 0, 0, 1], 8_888).into()),
            Peer::Tcp((Ipv6Addr::LOCALHOST, 1).into()),
            Peer::Unix { user: None, pid: None },
            Peer::Unix { user: Some(user), pid: None },
            Peer::Unix { user: Some(user), pid: NonZeroU32::new(7) },
            Peer::Link,
        ] {
            assert_eq!(Peer::from(PackedPeer::from(peer)), peer);
        }
        assert_eq!(size_of::<PackedPeer>(), 20);
    }
}
