//! Errors outside the protocol, which are faults of the caller or of the system. A peer's faults are
//! [`ErrorCode`](crate::ErrorCode)s and never appear here.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// An error that keeps a server from starting or running. Its text says what to do.
///
/// ```
/// use ipc_framework::{Config, Error, Server};
///
/// let public = Config::default().host("0.0.0.0".to_owned()).port(0);
/// let error = Server::bind(public).unwrap_err();
/// assert!(matches!(error, Error::Unprotected { .. }));
/// assert!(error.to_string().contains("set a token"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The caller's fault: the configuration contradicts itself or is unsafe.
    Config(String),
    /// The caller's fault: other machines can reach the address, and not every application requires
    /// a token. Set [`Access::default`](crate::Access), listen on localhost, or set
    /// [`Config::insecure`](crate::Config).
    Unprotected {
        /// The address that other machines can reach.
        address: IpAddr,
    },
    /// A file with a secret or a certificate cannot be read, or other users may read it too.
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the system, or a description of the fault.
        source: io::Error,
    },
    /// The server cannot listen on an address.
    Listen {
        /// The address as configured.
        address: String,
        /// The error of the system, or a description of the fault.
        source: io::Error,
    },
    /// The system's fault: the event loop cannot work.
    System {
        /// The operation that failed.
        doing: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(text) => f.write_str(text),
            Self::Unprotected { address } => write!(
                f,
                "{address} can be reached from other machines, and no token is required; set a \
                 token for all applications, listen on localhost, or say that it shall be insecure"
            ),
            Self::File { path, source } => {
                let path = path.display();
                write!(f, "cannot use the file {path}: {source}")?;
                // What this library finds wrong itself says already what mends it.
                match (source.raw_os_error(), source.kind()) {
                    (None, _) => Ok(()),
                    (_, io::ErrorKind::PermissionDenied) => {
                        f.write_str("; run as a user who may read it, or let this user read it")
                    }
                    _ => f.write_str("; check its path"),
                }
            }
            Self::Listen { address, source } => match source.kind() {
                io::ErrorKind::AddrInUse => write!(
                    f,
                    "cannot listen on {address}: another process listens there already; stop it \
                     or choose another address"
                ),
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "cannot listen on {address}: permission denied; choose a port above 1023 or \
                     a directory you may write to"
                ),
                io::ErrorKind::AddrNotAvailable => write!(
                    f,
                    "cannot listen on {address}: this machine does not have that address; use one \
                     that it has, or localhost"
                ),
                _ => write!(f, "cannot listen on {address}: {source}"),
            },
            Self::System { doing, source } => write!(f, "the system refused {doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(_) | Self::Unprotected { .. } => None,
            Self::File { source, .. }
            | Self::Listen { source, .. }
            | Self::System { source, .. } => Some(source),
        }
    }
}
