//! Where a server listens, whom it admits and what it allows.

use std::path::PathBuf;
use std::time::Duration;

use crate::Error;
#[cfg(feature = "tls")]
use crate::Tls;
use crate::broker::{Access, Limits};
use crate::setters::setters;

/// Everything a [`Server`](crate::Server) is built from.
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
    /// Name or address to listen on by TCP, `localhost` by default, which means IPv4 and
    /// IPv6. `None`: no TCP.
    pub host: Option<String>,
    /// TCP port, 8888 by default; 0 takes any free one.
    pub port: u16,
    /// A Unix socket to listen on, beside TCP or instead of it.
    pub unix: Option<UnixSocket>,
    /// Tokens asked of clients; none by default.
    pub access: Access,
    /// Encrypts what goes over TCP, on all addresses; not on Unix sockets, which never leave the
    /// machine. None by default.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
    /// Listen on addresses that other machines can reach although no token is asked for.
    pub insecure: bool,
    /// What peers may use.
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
    /// Faults of the values themselves, wherever the server is to listen.
    pub(crate) fn own_problems(&self) -> impl Iterator<Item = Error> {
        let texts = self.limits.problems().into_iter().chain(self.access.problems());
        texts.map(Error::Config)
    }
}

/// Whether the loop stays awake before it sleeps. To wake a sleeping thread takes the system
/// 20 to 50 µs, which is most of a round trip; awake, it takes a core.
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
    /// After work, look for more for up to this long, and sleep then. Where that is in vain
    /// again and again it is tried less and less, so that an idle server uses no core.
    AfterWork(Duration),
    /// Never sleep: for a server that has a core to itself.
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
    /// Where it is created. A stale one is replaced, a live one never.
    pub path: PathBuf,
    /// Its permission bits, 0600 by default: only the same user connects.
    pub mode: u32,
}

setters! {
    UnixSocket {
        into [path: PathBuf]
        [mode: u32]
    }
}

impl UnixSocket {
    /// A socket that only the same user can connect to.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o600 }
    }
}
