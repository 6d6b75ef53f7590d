//! The certificate that a server presents, and the authorities of the clients' certificates.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, version};

use crate::{Error, secret_file};

/// TLS 1.3 for the TCP listeners of a server, see [`Config::tls`](crate::Config).
///
/// Clones share the certificates: [`Tls::reload`] on one of them changes the certificate that all of
/// them present to connections made from then on.
///
/// ```
/// use ipc_framework::Tls;
///
/// let error = Tls::from_files("server.pem", "server.key", None).unwrap_err();
/// assert!(error.to_string().contains("server.pem"));
/// ```
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads a certificate, followed by its chain, and its private key, both in PEM. With
    /// `client_ca`, a client has to present a certificate that is signed by one of the authorities
    /// in that file (mutual TLS). The certificate only lets it connect; it does not identify it.
    ///
    /// # Errors
    /// - [`Error::File`]: a file cannot be read, or every user of the machine may read the key.
    /// - [`Error::Config`]: a file holds no certificate or key, or the two do not belong together.
    pub fn from_files(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let (certificate, key) = (certificate.into(), key.into());
        let read = read(&certificate, &key, client_ca.as_deref())?;
        let current = RwLock::new(Arc::new(read));
        Ok(Self(Arc::new(Shared { certificate, key, client_ca, current })))
    }

    /// Reads the files again. Existing connections stay open.
    ///
    /// # Errors
    /// The same as [`Tls::from_files`]. The certificates stay as they were then.
    pub fn reload(&self) -> Result<(), Error> {
        let Shared { certificate, key, client_ca, current } = &*self.0;
        let read = read(certificate, key, client_ca.as_deref())?;
        *current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        Ok(())
    }

    /// Takes over the certificates that `other` has read from the same files. This cannot fail, so
    /// that a program can read the certificates first, then change other settings (see
    /// [`Handle::reload`](crate::Handle::reload)), and apply the certificates only if that succeeds.
    /// Existing connections stay open. If `other` was read from different files, nothing changes and
    /// the result is `false`.
    pub fn take_over(&self, other: &Self) -> bool {
        let (to, from) = (&*self.0, &*other.0);
        let files = |shared: &Shared| {
            (shared.certificate.clone(), shared.key.clone(), shared.client_ca.clone())
        };
        let are_the_same = files(to) == files(from);
        if are_the_same {
            let read = other.current();
            *to.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        }
        are_the_same
    }

    /// Returns whether clients have to present a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.0.client_ca.is_some()
    }

    /// Returns the configuration for the next connection.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Shows the names of the files, and never their contents.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { certificate, key, client_ca, .. } = &*self.0;
        f.debug_struct("Tls")
            .field("certificate", certificate)
            .field("key", key)
            .field("client_ca", client_ca)
            .finish_non_exhaustive()
    }
}

fn read(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<ServerConfig, Error> {
    let (chain, private_key) = read_identity(certificate, key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| Error::Config(format!("TLS cannot be set up: {error}")))?;
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(read_roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            config.with_client_cert_verifier(verifier.map_err(|error| unusable(path, &error))?)
        }
    };
    let mut config = config
        .with_single_cert(chain, private_key)
        .map_err(|error| not_together(certificate, key, &error))?;
    // Connections are long-lived, so resumption would save little, and it would cost memory and
    // tickets for every connection.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Reads the authorities whose signatures are accepted.
pub(crate) fn read_roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok(roots)
}

/// Reads a certificate, followed by its chain, and its private key.
pub(crate) fn read_identity(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = read_certificates(certificate)?;
    let text = secret_file::read(key, true)?;
    // The parser's error is dropped, because it could show parts of the file.
    let private_key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        Error::Config(format!("{} holds no private key in PEM; check its path", key.display()))
    })?;
    Ok((chain, private_key))
}

pub(crate) fn not_together(certificate: &Path, key: &Path, error: &rustls::Error) -> Error {
    let (certificate, key) = (certificate.display(), key.display());
    Error::Config(format!(
        "the certificate {certificate} and the key {key} do not work together: {error}"
    ))
}

fn unusable(path: &Path, error: &dyn fmt::Display) -> Error {
    let path = path.display();
    Error::Config(format!("{path} cannot be used to check certificates: {error}"))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = secret_file::read(path, false)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::Config(format!(
            "{} holds no certificate in PEM; check its path",
            path.display()
        ))),
    }
}
