//! The flags with which a subcommand speaks TLS.

use std::path::PathBuf;

use clap::Args;
use clap::builder::FalseyValueParser;
use ipc_framework::client::Tls;

use super::failure::Failure;

/// The names of the fields of [`TlsFlags`].
pub(super) const NAMES: [&str; 5] = ["tls", "tls_ca", "tls_name", "tls_cert", "tls_key"];

#[derive(Args, Clone, Debug, Default)]
pub(super) struct TlsFlags {
    /// Speak TLS, to a server whose certificate this system trusts; the other --tls flags turn it
    /// on as well
    #[arg(long, env = "IPC_TLS", hide_env_values = true, value_parser = FalseyValueParser::new())]
    tls: bool,
    /// Certificates in PEM: trust servers that one of them has signed, and no others
    #[arg(long, env = "IPC_TLS_CA", value_name = "FILE", hide_env_values = true)]
    tls_ca: Option<PathBuf>,
    /// Name to expect in the server's certificate [default: that of --host]
    #[arg(long, env = "IPC_TLS_NAME", value_name = "NAME", hide_env_values = true)]
    tls_name: Option<String>,
    /// Certificate in PEM, with its chain, to show to a server that asks for one
    #[arg(long, env = "IPC_TLS_CERT", value_name = "FILE", hide_env_values = true)]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, env = "IPC_TLS_KEY", value_name = "FILE", hide_env_values = true)]
    tls_key: Option<PathBuf>,
}

impl TlsFlags {
    /// Returns the TLS options, or none if no flag asks for TLS.
    pub(super) fn read(&self) -> Result<Option<Tls>, Failure> {
        let Self { tls, tls_ca, tls_name, tls_cert, tls_key } = self;
        let is_wanted = *tls
            || tls_ca.is_some()
            || tls_name.is_some()
            || tls_cert.is_some()
            || tls_key.is_some();
        if !is_wanted {
            return Ok(None);
        }
        let mut tls = match tls_ca {
            Some(path) => Tls::with_ca(path)?,
            None => Tls::with_system_roots()?,
        };
        if let Some(name) = tls_name {
            tls = tls.server_name(name)?;
        }
        match (tls_cert, tls_key) {
            (None, None) => Ok(Some(tls)),
            (Some(certificate), Some(key)) => Ok(Some(tls.certificate(certificate, key)?)),
            _ => Err(Failure::usage(
                "a certificate and its key belong together; give --tls-cert and --tls-key",
            )),
        }
    }
}
