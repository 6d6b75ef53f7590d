//! What `ipc serve` is told: by flags, by the environment and by a file, in this order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::ToSocketAddrs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ipc_framework::{Config, Spin, Token, UnixSocket};
use serde::Deserialize;

use super::logging::LogFormat;
use super::{Failure, units};

/// A frame below this fits no message, one above is no message.
const FRAME_BYTES_SENSIBLE: std::ops::RangeInclusive<usize> = 1 << 10..=1 << 30;

/// A file of settings or with a token is small; whatever is larger is another file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The same names on the command line and in the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
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
    #[arg(long, conflicts_with_all = ["host", "port"])]
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
    /// How events are written to standard error [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(super) log_format: Option<LogFormat>,
    /// After work, look for more for this long before sleeping; 0 for never [default: 50us on
    /// more than two cores]
    #[arg(long, value_name = "DURATION", value_parser = units::duration, conflicts_with = "busy")]
    #[serde(deserialize_with = "units::read_duration")]
    spin: Option<Duration>,
    /// Never sleep; for a server that has a core to itself
    #[arg(long)]
    busy: bool,
    /// Run the event loop on this core, counted from 0
    #[arg(long, value_name = "N")]
    pub(super) cpu: Option<usize>,
    /// Write an `HdrHistogram` interval log of all latencies, a line a second and channel
    #[arg(long, value_name = "FILE")]
    pub(super) latency_log: Option<PathBuf>,
    /// Answer Prometheus at this address, under /metrics
    #[arg(long, value_name = "ADDR")]
    pub(super) metrics: Option<String>,
    /// Add the applications of the published ipc-server program, and bench/echo
    #[arg(long)]
    pub(super) demo: bool,
    /// Tokens by application; in the file only.
    #[arg(skip)]
    #[serde(deserialize_with = "read_tokens")]
    tokens: HashMap<String, String>,
}

impl Settings {
    /// Fills in from the file what the command line does not say.
    pub(super) fn or_from_file(self, path: &Path) -> Result<Self, Failure> {
        let (text, is_public) = read_file(path, "configuration")?;
        let file: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let message = error.message().replace('\n', " ");
            Failure::usage(format!("{}, line {line}: {message}", path.display()))
        })?;
        if file.no_tcp && (file.host.is_some() || file.port.is_some()) {
            return Err(Failure::usage(format!(
                "{} says no-tcp and names a host or port; leave out one of them",
                path.display()
            )));
        }
        if is_public && !file.tokens.is_empty() {
            return Err(readable_by_all(path));
        }
        let asks_for_tcp = self.host.is_some() || self.port.is_some();
        Ok(Self {
            host: self.host.or(file.host),
            port: self.port.or(file.port),
            unix: self.unix.or(file.unix),
            unix_mode: self.unix_mode.or(file.unix_mode),
            no_tcp: self.no_tcp || (file.no_tcp && !asks_for_tcp),
            max_connections: self.max_connections.or(file.max_connections),
            max_frame_bytes: self.max_frame_bytes.or(file.max_frame_bytes),
            handshake_timeout: self.handshake_timeout.or(file.handshake_timeout),
            idle_timeout: self.idle_timeout.or(file.idle_timeout),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            token_file: self.token_file.or(file.token_file),
            insecure: self.insecure || file.insecure,
            log_format: self.log_format.or(file.log_format),
            spin: self.spin.or(file.spin),
            busy: self.busy || (file.busy && self.spin.is_none()),
            cpu: self.cpu.or(file.cpu),
            latency_log: self.latency_log.or(file.latency_log),
            metrics: self.metrics.or(file.metrics),
            demo: self.demo || file.demo,
            tokens: file.tokens,
        })
    }

    /// `environment_token` is `IPC_TOKEN`; a token file that was named goes before it.
    pub(super) fn config(&self, environment_token: Option<String>) -> Result<Config, Failure> {
        let mut config = Config::default();
        if self.no_tcp {
            if self.unix.is_none() {
                return Err(Failure::usage(
                    "--no-tcp leaves nothing to listen on; give --unix PATH with it",
                ));
            }
            config.host = None;
        } else if self.host.is_some() {
            config.host.clone_from(&self.host);
        }
        config.port = self.port.unwrap_or(config.port);
        if self.unix.is_none() && self.unix_mode.is_some() {
            return Err(Failure::usage("unix-mode needs a Unix socket; give --unix PATH with it"));
        }
        config.unix = self
            .unix
            .as_ref()
            .map(|path| UnixSocket { mode: self.unix_mode.unwrap_or(0o600), path: path.clone() });
        config.insecure = self.insecure;
        config.spin = match self.spin {
            _ if self.busy => Spin::Always,
            Some(Duration::ZERO) => Spin::Never,
            Some(spin) => Spin::AfterWork(spin),
            None => config.spin,
        };
        if let Some(address) = &self.metrics {
            self.refuse_public_metrics(address)?;
        }
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
        for (app_id, token) in &self.tokens {
            if token.is_empty() {
                return Err(Failure::usage(format!(
                    "the token of application {app_id:?} is empty"
                )));
            }
            config.access.applications.insert(app_id.clone(), Token::new(token.as_str()));
        }
        Ok(config)
    }

    /// Metrics name applications and channels, and ask nobody for a token.
    fn refuse_public_metrics(&self, address: &str) -> Result<(), Failure> {
        let resolved = address.to_socket_addrs().map_err(|error| {
            Failure::usage(format!(
                "metrics at {address:?}: {error}; give an address and a port, such as \
                 127.0.0.1:9090"
            ))
        })?;
        let public = resolved.map(|address| address.ip()).find(|ip| !ip.is_loopback());
        match public {
            Some(ip) if !self.insecure => Err(Failure::usage(format!(
                "metrics at {ip} can be read from other machines; choose 127.0.0.1, or say \
                 --insecure"
            ))),
            _ => Ok(()),
        }
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

/// A token that cannot be read must not turn into none.
pub(super) fn environment_token() -> Result<Option<String>, Failure> {
    match std::env::var("IPC_TOKEN") {
        Ok(token) => Ok(Some(token)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::usage("IPC_TOKEN is not UTF-8; set it to text, or unset it"))
        }
    }
}

/// The token a file holds; a file that everybody may read is refused.
pub(super) fn read_token(path: &Path) -> Result<Token, Failure> {
    let (text, is_public) = read_file(path, "token file")?;
    if is_public {
        return Err(readable_by_all(path));
    }
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() {
        let text = format!("the token file {} is empty; write the token into it", path.display());
        return Err(Failure::usage(text));
    }
    Ok(Token::new(token))
}

/// Reads a small file, and says whether everybody on the machine may do so too.
fn read_file(path: &Path, what: &str) -> Result<(String, bool), Failure> {
    let read = || {
        let file = File::open(path)?;
        // Of the file that is open: the path may mean another one by now.
        let is_public = file.metadata()?.permissions().mode() & 0o004 != 0;
        let mut text = String::new();
        if file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)? as u64 > FILE_BYTES_MAX {
            let why = format!("it is larger than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok((text, is_public))
    };
    read().map_err(|error| {
        Failure::runtime(format!(
            "cannot read the {what} {}: {error}; check its path and permissions",
            path.display()
        ))
    })
}

/// A secret that everybody on the machine can read is none.
fn readable_by_all(path: &Path) -> Failure {
    let path = path.display();
    Failure::runtime(format!(
        "{path} holds a token and everybody may read it; run `chmod 600 {path}`"
    ))
}
