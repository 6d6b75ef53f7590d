//! The configuration of a server: its addresses, access rules and limits.

use std::path::PathBuf;
use std::time::Duration;

use crate::Error;
#[cfg(feature = "tls")]
use crate::Tls;
use crate::broker::{Access, Limits};
use crate::setters::setters;

/// The configuration of a [`Server`](crate::Server).
///
/// ```
/// use ipc_framework::{Config, UnixSocket};
///
/// let config = Config::default();
/// assert_eq!((config.host.as_deref(), config.port), (Some("localhost"), 8888));
/// // Any free port, see `Server::addresses`.
/// let mut config = config.port(0).unix(UnixSocket::at("/run/ipc.sock"));
/// config.limits.connections_max = 100;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The host name or address to listen on by TCP. The default is `localhost`, which means IPv4
    /// and IPv6. With `None`, the server does not listen on TCP.
    pub host: Option<String>,
    /// The TCP port, 8888 by default. With 0, the system chooses a free one.
    pub port: u16,
    /// A Unix socket to listen on, in addition to TCP or instead of it.
    pub unix: Option<UnixSocket>,
    /// The tokens and users that are let in. By default, no token is required and every user is let
    /// in.
    pub access: Access,
    /// TLS for all TCP connections; none by default. Unix sockets are never encrypted, because
    /// their bytes do not leave the machine.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
    /// Allows addresses that other machines can reach even if no token is required.
    pub insecure: bool,
    /// The limits on resources that peers may use.
    pub limits: Limits,
    /// Whether the loop stays awake for a while before it sleeps.
    pub spin: Spin,
}

setters! {
    Config {
        into [host: Option<String>]
        [port: u16]
        into [unix: Option<UnixSocket>]
        [access: Access]
        #[cfg(feature = "tls")] into [tls: Option<Tls>]
        [insecure: bool]
        [limits: Limits]
        [spin: Spin]
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: Some("localhost".to_owned()),
            port: 8888,
            unix: None,
            access: Access::default(),
            #[cfg(feature = "tls")]
            tls: None,
            insecure: false,
            limits: Limits::default(),
            spin: Spin::default(),
        }
    }
}

impl Config {
    /// Returns the faults of the values alone, without regard to the addresses.
    pub(crate) fn own_problems(&self) -> impl Iterator<Item = Error> {
        let texts = self.limits.problems().into_iter().chain(self.access.problems());
        texts.map(Error::Config)
    }
}

/// The time that the loop stays awake before it sleeps. The system takes 20 to 50 µs to wake a
/// sleeping thread, which is most of a round trip. A loop that stays awake occupies a core.
///
/// ```
/// use ipc_framework::{Config, Spin};
/// use std::time::Duration;
///
/// let config = Config::default().spin(Spin::AfterWork(Duration::from_micros(50)));
/// assert_ne!(config.spin, Spin::Never);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spin {
    /// Sleep at once.
    Never,
    /// Look for more work for up to this time before sleeping. Each attempt that finds none halves
    /// the next one, so that an idle server occupies no core.
    AfterWork(Duration),
    /// Never sleep. This is for a server that has a core to itself.
    Always,
}

/// [`Spin::AfterWork`] 50 µs on machines with more than two cores, [`Spin::Never`] on others.
impl Default for Spin {
    fn default() -> Self {
        match std::thread::available_parallelism() {
            Ok(cores) if cores.get() > 2 => Self::AfterWork(Duration::from_micros(50)),
            _ => Self::Never,
        }
    }
}

/// A Unix socket in the file system.
///
/// ```
/// let socket = ipc_framework::UnixSocket::at("/run/a").mode(0o660);
/// assert_eq!(socket.mode, 0o660);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnixSocket {
    /// The path of the socket. A stale socket there is replaced; one that another server listens on
    /// is not.
    pub path: PathBuf,
    /// The permission bits. With the default of 0600, only the same user can connect.
    pub mode: u32,
}

setters! {
    UnixSocket {
        into [path: PathBuf]
        [mode: u32]
    }
}

impl UnixSocket {
    /// Returns a socket at this path that only the same user can connect to.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o600 }
    }
}
