//! Where a server listens, whom it admits and what it allows.

use std::path::PathBuf;

use crate::broker::{Access, Limits};

/// Everything a [`Server`](crate::Server) is built from.
///
/// ```
/// use ipc_framework::{Config, UnixSocket};
///
/// let mut config = Config::default();
/// assert_eq!((config.host.as_deref(), config.port), (Some("localhost"), 8888));
/// config.port = 0; // any free port, see `Server::addresses`
/// config.unix = Some(UnixSocket::at("/run/ipc.sock"));
/// config.limits.connections_max = 100;
/// ```
#[derive(Clone, Debug)]
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
    /// Listen on addresses that other machines can reach although no token is asked for.
    pub insecure: bool,
    /// What peers may use.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: Some("localhost".to_owned()),
            port: 8888,
            unix: None,
            access: Access::default(),
            insecure: false,
            limits: Limits::default(),
        }
    }
}

/// A Unix socket in the file system.
///
/// ```
/// let socket = ipc_framework::UnixSocket { mode: 0o660, ..ipc_framework::UnixSocket::at("/run/a") };
/// assert_eq!(socket.mode, 0o660);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// Where it is created. A stale one is replaced, a live one never.
    pub path: PathBuf,
    /// Its permission bits, 0600 by default: only the same user connects.
    pub mode: u32,
}

impl UnixSocket {
    /// A socket that only the same user can connect to.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o600 }
    }
}
