//! The certificates that a client trusts, and the one that it shows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, version};

use super::endpoint::Endpoint;
use crate::tls::{not_together, read_identity, read_roots};

/// TLS 1.3 to a server, see [`Options::tls`](super::Options).
///
/// The files are read again for every connection, so that a client which reconnects uses renewed
/// certificates. If they cannot be read by then, those read before stay in use.
///
/// ```no_run
/// use ipc_framework::client::{ClientOptions, Tls};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut options = ClientOptions::new("app");
/// let tls = Tls::with_ca("ca.pem")?.certificate("client.pem", "client.key")?;
/// options.connection.tls = Some(tls);
/// let client = options.connect()?;
/// # Ok(())
/// # }
/// ```
///
/// ```
/// use ipc_framework::client::Tls;
///
/// let error = Tls::with_ca("ca.pem").unwrap_err();
/// assert!(error.to_string().contains("ca.pem"));
/// ```
#[derive(Clone)]
pub struct Tls {
    roots: Roots,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<ServerName<'static>>,
    /// Made from the files when they could last be read.
    current: Arc<Mutex<Arc<ClientConfig>>>,
}

#[derive(Clone)]
enum Roots {
    File(PathBuf),
    System(Arc<RootCertStore>),
}

impl Tls {
    /// Trusts servers whose certificates were signed by one of the authorities in this PEM file,
    /// and no others. A server of your own usually has an authority of your own.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) for a file that cannot be read,
    /// [`Error::Config`](crate::Error::Config) for one that holds no certificate.
    pub fn with_ca(path: impl Into<PathBuf>) -> Result<Self, crate::Error> {
        Self::new(Roots::File(path.into()), None, None)
    }

    /// Trusts servers whose certificates the operating system trusts, which are those that a public
    /// authority has signed. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's store.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the system has no certificates.
    pub fn with_system_roots() -> Result<Self, crate::Error> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Certificates in the system's store that cannot be parsed are ignored.
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            return Err(crate::Error::Config(
                "this system has no certificates of authorities; install its package of them \
                 (ca-certificates), or name the authority's file"
                    .into(),
            ));
        }
        Self::new(Roots::System(Arc::new(roots)), None, None)
    }

    /// Shows a certificate with its chain to servers that ask for one (mutual TLS). Both files are
    /// PEM.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) for a file that cannot be read, or a key that everybody
    /// on the machine may read; [`Error::Config`](crate::Error::Config) for files that hold
    /// something else, or do not belong together.
    pub fn certificate(
        self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, crate::Error> {
        Self::new(self.roots, Some((certificate.into(), key.into())), self.server_name)
    }

    /// Expects this name or address in the server's certificate, instead of the name or address
    /// that the client connects to.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if it is not the name or address of a host.
    pub fn server_name(mut self, name: &str) -> Result<Self, crate::Error> {
        let parsed = ServerName::try_from(name.to_owned()).map_err(|_| {
            crate::Error::Config(format!("{name:?} is no name or address of a host"))
        })?;
        self.server_name = Some(parsed);
        Ok(self)
    }

    fn new(
        roots: Roots,
        identity: Option<(PathBuf, PathBuf)>,
        server_name: Option<ServerName<'static>>,
    ) -> Result<Self, crate::Error> {
        let current = read(&roots, identity.as_ref())?;
        Ok(Self { roots, identity, server_name, current: Arc::new(Mutex::new(Arc::new(current))) })
    }

    /// Returns the configuration for the next connection.
    fn current(&self) -> Arc<ClientConfig> {
        let read = read(&self.roots, self.identity.as_ref());
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(read) = read {
            *current = Arc::new(read);
        }
        Arc::clone(&current)
    }

    /// Returns the TLS side of a new connection, or a sentence that says why there can be none.
    pub(super) fn session(&self, endpoint: &Endpoint) -> Result<ClientConnection, String> {
        let Endpoint::Tcp { host, .. } = endpoint else {
            return Err("a Unix socket needs none; leave TLS out".into());
        };
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.clone())
                .map_err(|_| "no certificate can have that name; use another")?,
        };
        ClientConnection::new(self.current(), name).map_err(|error| error.to_string())
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::System(_) => f.write_str("the system's authorities"),
        }
    }
}

/// Shows the names of the files, never their content.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("roots", &format_args!("{}", self.roots))
            .field("identity", &self.identity)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

fn read(
    roots: &Roots,
    identity: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, crate::Error> {
    let roots = match roots {
        Roots::File(path) => Arc::new(read_roots(path)?),
        Roots::System(roots) => Arc::clone(roots),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| crate::Error::Config(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let (certificate, key): (&Path, &Path) = (certificate, key);
            let (chain, private_key) = read_identity(certificate, key)?;
            config
                .with_client_auth_cert(chain, private_key)
                .map_err(|error| not_together(certificate, key, &error))?
        }
    };
    // Connections last for long, so resumption would save little.
    config.resumption = Resumption::disabled();
    Ok(config)
}
