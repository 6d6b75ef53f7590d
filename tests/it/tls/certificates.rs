//! A certificate authority and certificates for a server and a client, in files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use ipc_framework::{Tls, client};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::scratch::Scratch;

pub(crate) struct Certificates {
    scratch: Scratch,
    /// The server's private key.
    pub(super) key: String,
}

impl Certificates {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    /// Changes the server's certificate before it is signed.
    pub(crate) fn with(name: &str, change: impl Fn(&mut CertificateParams)) -> Self {
        let scratch = Scratch::new(&format!("tls-{name}").replace(' ', "-"));
        let mut made = Self { scratch, key: String::new() };

        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, made.scratch.0.to_str().unwrap());
        let ca = params.self_signed(&ca_key).unwrap();
        made.private_file("ca.pem", &ca.pem());
        made.set_mode("ca.pem", 0o644);
        let issuer = Issuer::new(params, ca_key);
        for (name, purpose) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.extended_key_usages = vec![purpose];
            if name == "server" {
                change(&mut params);
            }
            let signed = params.signed_by(&key, &issuer).unwrap();
            made.private_file(&format!("{name}.pem"), &signed.pem());
            made.set_mode(&format!("{name}.pem"), 0o644);
            made.private_file(&format!("{name}.key"), &key.serialize_pem());
            if name == "server" {
                made.key = key.serialize_pem();
            }
        }
        made
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    pub(super) fn private_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        self.set_mode(name, 0o600);
        path
    }

    pub(super) fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Returns a piece of the server's private key.
    pub(super) fn secret(&self) -> &str {
        self.key.lines().nth(1).unwrap()
    }

    /// Returns the settings by which a client of this crate trusts the server.
    pub(super) fn trust(&self) -> client::Tls {
        client::Tls::with_ca(self.path("ca.pem")).unwrap()
    }

    /// Returns the same settings with the client's own certificate.
    pub(super) fn trust_and_show(&self) -> client::Tls {
        self.trust().certificate(self.path("client.pem"), self.path("client.key")).unwrap()
    }

    /// Returns the settings of a server that uses rustls alone.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        let certificate = CertificateDer::from_pem_file(self.path("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())
    }

    pub(super) fn tls(&self) -> Tls {
        Tls::from_files(self.path("server.pem"), self.path("server.key"), None).unwrap()
    }

    pub(super) fn mutual_tls(&self) -> Tls {
        let ca = Some(self.path("ca.pem"));
        Tls::from_files(self.path("server.pem"), self.path("server.key"), ca).unwrap()
    }

    /// Returns the settings of a client that trusts this authority and shows no certificate.
    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::new(self.trusting().with_no_client_auth())
    }

    /// Returns the settings of a client that shows its certificate, too.
    pub(super) fn known_client(&self) -> Arc<ClientConfig> {
        self.client_with(self)
    }

    /// Returns the settings of a client that shows the certificate of `others`.
    pub(super) fn client_with(&self, others: &Self) -> Arc<ClientConfig> {
        let certificate = CertificateDer::from_pem_file(others.path("client.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(others.path("client.key")).unwrap();
        Arc::new(self.trusting().with_client_auth_cert(vec![certificate], key).unwrap())
    }

    fn trusting(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots)
    }

    /// Overwrites the server's certificate and key with those of others.
    pub(super) fn replace_by(&self, others: &Self) {
        self.copy(others, &["server.pem", "server.key"]);
    }

    /// Overwrites the authority and the client's certificate and key as well.
    pub(super) fn renew(&self, others: &Self) {
        self.replace_by(others);
        self.copy(others, &["ca.pem", "client.pem", "client.key"]);
    }

    fn copy(&self, others: &Self, names: &[&str]) {
        for name in names {
            fs::copy(others.path(name), self.path(name)).unwrap();
        }
    }

    /// Makes the server's certificate unusable.
    pub(super) fn spoil(&self) {
        fs::write(self.path("server.pem"), "-----BEGIN CERTIFICATE-----\nnone").unwrap();
    }
}
