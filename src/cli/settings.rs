//! What `ipc serve` is told: by flags, by the environment and by a file, in this order.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ipc_framework::{Config, Token, UnixSocket};
use serde::Deserialize;

use super::{Failure, units};

/// A frame below this fits no message, one above is no message.
const FRAME_BYTES_SENSIBLE: std::ops::RangeInclusive<usize> = 1 << 10..=1 << 30;

/// The same names on the command line and in the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Settings {
    /// Name or address to listen on; localhost means IPv4 and IPv6 [default: localhost]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// TCP port; 0 takes any free one [default: 8888]
    #[arg(long)]
    port: Option<u16>,
    /// Listen on a Unix socket too
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Permission bits of the Unix socket [default: 0600]
    #[arg(long, value_name = "MODE", value_parser = units::mode)]
    #[serde(deserialize_with = "units::read_mode")]
    unix_mode: Option<u32>,
    /// Listen on the Unix socket only
    #[arg(long)]
    no_tcp: bool,
    /// Connections at a time [default: 10000]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Largest message body, either way [default: 16MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    #[serde(deserialize_with = "units::read_size")]
    max_frame_bytes: Option<usize>,
    /// Time for a new connection to introduce itself [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    #[serde(deserialize_with = "units::read_duration")]
    handshake_timeout: Option<Duration>,
    /// Close connections that send nothing for this long [default: never]
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    #[serde(deserialize_with = "units::read_duration")]
    idle_timeout: Option<Duration>,
    /// Time to answer what is in flight after SIGTERM or SIGINT [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    #[serde(deserialize_with = "units::read_duration")]
    drain_timeout: Option<Duration>,
    /// File with the token that clients must send; or set `IPC_TOKEN`
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// Listen on addresses other machines can reach without asking for a token
    #[arg(long)]
    insecure: bool,
    /// Tokens by application; in the file only.
    #[arg(skip)]
    #[serde(deserialize_with = "read_tokens")]
    tokens: HashMap<String, String>,
}

impl Settings {
    /// Fills in from the file what the command line does not say.
    pub(super) fn or_from_file(self, path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::runtime(format!(
                "cannot read the configuration {}: {error}; check its path and permissions",
                path.display()
            ))
        })?;
        let file: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let message = error.message().replace('\n', " ");
            Failure::usage(format!("{}, line {line}: {message}", path.display()))
        })?;
        if !file.tokens.is_empty() {
            refuse_world_readable(path)?;
        }
        Ok(Self {
            host: self.host.or(file.host),
            port: self.port.or(file.port),
            unix: self.unix.or(file.unix),
            unix_mode: self.unix_mode.or(file.unix_mode),
            no_tcp: self.no_tcp || file.no_tcp,
            max_connections: self.max_connections.or(file.max_connections),
            max_frame_bytes: self.max_frame_bytes.or(file.max_frame_bytes),
            handshake_timeout: self.handshake_timeout.or(file.handshake_timeout),
            idle_timeout: self.idle_timeout.or(file.idle_timeout),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            token_file: self.token_file.or(file.token_file),
            insecure: self.insecure || file.insecure,
            tokens: file.tokens,
        })
    }

    /// `environment_token` is `IPC_TOKEN`; a token file that was named goes before it.
    pub(super) fn into_config(self, environment_token: Option<String>) -> Result<Config, Failure> {
        let mut config = Config::default();
        if self.no_tcp {
            if self.unix.is_none() {
                return Err(Failure::usage(
                    "--no-tcp leaves nothing to listen on; give --unix PATH with it",
                ));
            }
            config.host = None;
        } else if let Some(host) = self.host {
            config.host = Some(host);
        }
        config.port = self.port.unwrap_or(config.port);
        config.unix =
            self.unix.map(|path| UnixSocket { mode: self.unix_mode.unwrap_or(0o600), path });
        config.insecure = self.insecure;
        let limits = &mut config.limits;
        if let Some(connections_max) = self.max_connections {
            if connections_max == 0 {
                return Err(Failure::usage("max-connections is 0; let at least one in"));
            }
            limits.connections_max = connections_max;
        }
        if let Some(frame_bytes_max) = self.max_frame_bytes {
            if !FRAME_BYTES_SENSIBLE.contains(&frame_bytes_max) {
                return Err(Failure::usage("max-frame-bytes is not between 1KiB and 1GiB"));
            }
            limits.frame_bytes_max = frame_bytes_max;
        }
        if let Some(timeout) = self.handshake_timeout {
            if timeout.is_zero() {
                return Err(Failure::usage("handshake-timeout is 0; give clients time to connect"));
            }
            limits.handshake_timeout = timeout;
        }
        limits.idle_timeout = self.idle_timeout.filter(|timeout| !timeout.is_zero());
        limits.drain_timeout = self.drain_timeout.unwrap_or(limits.drain_timeout);
        config.access.default = match &self.token_file {
            Some(path) => Some(read_token(path)?),
            None => environment_token.filter(|token| !token.is_empty()).map(Token::new),
        };
        for (app_id, token) in self.tokens {
            if token.is_empty() {
                return Err(Failure::usage(format!(
                    "the token of application {app_id:?} is empty"
                )));
            }
            config.access.applications.insert(app_id, Token::new(token));
        }
        Ok(config)
    }
}

/// Reads the table without ever repeating a value of it in an error.
fn read_tokens<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<HashMap<String, String>, D::Error> {
    let table = toml::Table::deserialize(deserializer)?;
    let tokens = table.into_iter().map(|(app_id, token)| match token {
        toml::Value::String(token) => Ok((app_id, token)),
        _ => {
            Err(serde::de::Error::custom(format!("the token of {app_id:?} is not text in quotes")))
        }
    });
    tokens.collect()
}

fn read_token(path: &Path) -> Result<Token, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::runtime(format!(
            "cannot read the token file {}: {error}; check its path and permissions",
            path.display()
        ))
    })?;
    refuse_world_readable(path)?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() {
        let text = format!("the token file {} is empty; write the token into it", path.display());
        return Err(Failure::usage(text));
    }
    Ok(Token::new(token))
}

/// A secret that everybody on the machine can read is none.
fn refuse_world_readable(path: &Path) -> Result<(), Failure> {
    let readable = fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0);
    if readable {
        let path = path.display();
        return Err(Failure::runtime(format!(
            "{path} holds a token and everybody may read it; run `chmod 600 {path}`"
        )));
    }
    Ok(())
}
