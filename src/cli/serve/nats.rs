//! The settings with which the server joins others over NATS.

use ipc_framework::Server;

use super::settings::{Problems, Settings};
use crate::cli::failure::Failure;

/// What the settings ask for. Builds without NATS refuse to be asked.
pub(super) struct Nats(#[cfg(feature = "nats")] ipc_framework::NatsOptions);

impl Nats {
    /// Returns what is asked for, if anything is, or everything that is wrong with it. The files that are named
    /// are read for that.
    pub(super) fn read(settings: &Settings) -> Result<Option<Self>, Problems> {
        let others = others(settings);
        match (settings.nats.is_empty(), others.first()) {
            (true, None) => Ok(None),
            (true, Some(name)) => Err(vec![Failure::usage(format!(
                "{name} says how NATS is used, and no NATS server is named; give --nats with it"
            ))]),
            (false, _) => Self::asked(settings).map(Some),
        }
    }

    #[cfg(feature = "nats")]
    fn asked(settings: &Settings) -> Result<Self, Problems> {
        let mut options = ipc_framework::NatsOptions::new(settings.nats.iter().cloned())
            .credentials(settings.nats_creds.clone())
            .ca(settings.nats_tls_ca.clone());
        if let Some(prefix) = &settings.nats_prefix {
            options = options.prefix(prefix.clone());
        }
        if !settings.nats_channels.is_empty() {
            options = options.channels(settings.nats_channels.clone());
        }
        options.queue_bytes = settings.nats_queue.unwrap_or(options.queue_bytes);
        options.certificate = match (&settings.nats_tls_cert, &settings.nats_tls_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => {
                return Err(vec![Failure::usage(
                    "a certificate and its key belong together; give --nats-tls-cert and \
                     --nats-tls-key",
                )]);
            }
        };
        let problems: Problems = options.problems().into_iter().map(Failure::from).collect();
        if problems.is_empty() { Ok(Self(options)) } else { Err(problems) }
    }

    #[cfg(not(feature = "nats"))]
    fn asked(_settings: &Settings) -> Result<Self, Problems> {
        Err(vec![Failure::usage(
            "this build of ipc cannot use NATS; leave out --nats, or build ipc with \
             `--features cli,nats`",
        )])
    }

    /// Joins. NATS need not be there yet.
    #[cfg(feature = "nats")]
    pub(super) fn join(&self, server: &mut Server) -> Result<(), Failure> {
        server.join_nats(&self.0).map_err(Failure::from)
    }

    #[cfg(not(feature = "nats"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "builds with NATS need both")]
    pub(super) fn join(&self, _server: &mut Server) -> Result<(), Failure> {
        Ok(())
    }
}

/// Returns the names of the settings that are of no use without a NATS server.
fn others(settings: &Settings) -> Vec<&'static str> {
    let given = [
        ("nats-creds", settings.nats_creds.is_some()),
        ("nats-tls-ca", settings.nats_tls_ca.is_some()),
        ("nats-tls-cert", settings.nats_tls_cert.is_some()),
        ("nats-tls-key", settings.nats_tls_key.is_some()),
        ("nats-prefix", settings.nats_prefix.is_some()),
        ("nats-channels", !settings.nats_channels.is_empty()),
        ("nats-queue", settings.nats_queue.is_some()),
    ];
    given.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name).collect()
}
