//! The settings of `ipc serve`, from flags, the environment and a file, in this order.

use std::collections::HashMap;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, Args, ValueEnum};
use ipc_framework::{Access, Config, HistoryRule, Limits, Spin, Tls, Token, UnixSocket};
use serde::{Deserialize, Deserializer, de};

use crate::cli::failure::Failure;
use crate::cli::token;
use crate::cli::units::{self, TimeoutOrNever};

/// All problems, in the order in which they were found.
pub(super) type Problems = Vec<Failure>;

/// The settings, which have the same names on the command line, in the environment (after `IPC_`) and
/// in the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Settings {
    /// Name or address to listen on; localhost means IPv4 and IPv6 [default: localhost]
    #[arg(long, env = "IPC_HOST", value_name = "HOST")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(super) host: Option<String>,
    /// TCP port; 0 takes any free one [default: 8888]
    #[arg(long, env = "IPC_PORT", value_parser = units::number(0_u16..=65_535))]
    pub(super) port: Option<u16>,
    /// Listen on a Unix socket too
    #[arg(long, env = "IPC_UNIX", value_name = "PATH")]
    pub(super) unix: Option<PathBuf>,
    /// Permission bits of the Unix socket [default: 0600]
    #[arg(long, env = "IPC_UNIX_MODE", value_name = "MODE", value_parser = units::mode)]
    #[serde(deserialize_with = "units::read_mode")]
    unix_mode: Option<u32>,
    /// Listen on the Unix socket only
    #[arg(long, env = "IPC_NO_TCP")]
    #[arg(action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(super) no_tcp: Option<bool>,
    /// Let clients on the Unix socket go over to shared memory
    #[arg(long, env = "IPC_SHM")]
    #[arg(action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(super) shm: Option<bool>,
    /// Keep all clients on sockets, as it is by default
    #[arg(long, env = "IPC_NO_SHM")]
    #[arg(action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(super) no_shm: Option<bool>,
    /// Each of the two rings of a connection in shared memory, a power of two [default: 256KiB]
    #[arg(long, env = "IPC_SHM_RING", value_name = "SIZE", value_parser = units::size)]
    #[serde(deserialize_with = "units::read_size")]
    shm_ring: Option<usize>,
    /// Connections at a time [default: 10000]
    #[arg(long, env = "IPC_MAX_CONNECTIONS", value_name = "N", value_parser = units::count)]
    max_connections: Option<usize>,
    /// Largest message body, either way [default: 16MiB]
    #[arg(long, env = "IPC_MAX_FRAME_BYTES", value_name = "SIZE", value_parser = units::size)]
    #[serde(deserialize_with = "units::read_size")]
    max_frame_bytes: Option<usize>,
    /// Channels of all applications together [default: 65536]
    #[arg(long, env = "IPC_MAX_CHANNELS", value_name = "N", value_parser = units::count)]
    #[serde(deserialize_with = "units::read_count")]
    max_channels: Option<usize>,
    /// Subscriptions of one connection [default: 4096]
    #[arg(long, env = "IPC_MAX_SUBSCRIPTIONS", value_name = "N", value_parser = units::count)]
    #[serde(deserialize_with = "units::read_count")]
    max_subscriptions: Option<usize>,
    /// Memory for all that clients make the server hold [default: 1GiB]
    #[arg(long, env = "IPC_MAX_MEMORY", value_name = "SIZE", value_parser = units::size)]
    #[serde(deserialize_with = "units::read_size")]
    max_memory: Option<usize>,
    /// Memory for the last values of channels, within that [default: 64MiB]
    #[arg(long, env = "IPC_RETAINED_MAX", value_name = "SIZE", value_parser = units::size)]
    #[serde(deserialize_with = "units::read_size")]
    retained_max: Option<usize>,
    /// Time for a new connection to complete its handshake [default: 5s]
    #[arg(long, env = "IPC_HANDSHAKE_TIMEOUT")]
    #[arg(value_name = "DURATION", value_parser = units::duration)]
    #[serde(deserialize_with = "units::read_duration")]
    handshake_timeout: Option<Duration>,
    /// Close connections that send nothing for this long [default: never]
    #[arg(long, env = "IPC_IDLE_TIMEOUT", value_name = "DURATION", value_parser = units::duration)]
    #[serde(deserialize_with = "units::read_duration")]
    idle_timeout: Option<Duration>,
    /// Time for workers to answer a request, or never [default: 30s]
    #[arg(long, env = "IPC_REQUEST_TIMEOUT")]
    #[arg(value_name = "DURATION", value_parser = units::timeout_or_never)]
    #[serde(deserialize_with = "units::read_timeout_or_never")]
    request_timeout: Option<TimeoutOrNever>,
    /// Unsent bytes of a connection above which senders wait for it [default: 1MiB]
    #[arg(long, env = "IPC_QUEUE_HIGH_WATER", value_name = "SIZE", value_parser = units::size)]
    #[serde(deserialize_with = "units::read_size")]
    queue_high_water: Option<usize>,
    /// Time for a slow consumer to get below that before it is closed [default: 5s]
    #[arg(long, env = "IPC_SLOW_CONSUMER_GRACE")]
    #[arg(value_name = "DURATION", value_parser = units::timeout)]
    #[serde(deserialize_with = "units::read_timeout")]
    slow_consumer_grace: Option<Duration>,
    /// Time to answer what is in flight after SIGTERM or SIGINT [default: 10s]
    #[arg(long, env = "IPC_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = units::duration)]
    #[serde(deserialize_with = "units::read_duration")]
    drain_timeout: Option<Duration>,
    /// File with the token that clients must send; or set `IPC_TOKEN`
    #[arg(long, env = "IPC_TOKEN_FILE", value_name = "PATH")]
    #[serde(deserialize_with = "read_secret_path")]
    pub(super) token_file: Option<PathBuf>,
    /// Let only this user connect to the Unix socket; may be given again, or several with commas
    #[arg(long, env = "IPC_ALLOW_UID", value_name = "UID", value_delimiter = ',')]
    #[arg(value_parser = units::user)]
    allow_uid: Vec<u32>,
    /// Let this group connect to the Unix socket, too; may be given again, or several with commas
    #[arg(long, env = "IPC_ALLOW_GID", value_name = "GID", value_delimiter = ',')]
    #[arg(value_parser = units::user)]
    allow_gid: Vec<u32>,
    /// Certificate in PEM, with its chain: speak TLS 1.3 on TCP
    #[arg(long, env = "IPC_TLS_CERT", value_name = "PATH")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, env = "IPC_TLS_KEY", value_name = "PATH")]
    #[serde(deserialize_with = "read_secret_path")]
    tls_key: Option<PathBuf>,
    /// Certificates in PEM; clients must show one that is signed by one of them
    #[arg(long, env = "IPC_TLS_CLIENT_CA", value_name = "PATH")]
    pub(super) tls_client_ca: Option<PathBuf>,
    /// Listen on addresses other machines can reach without asking for a token
    #[arg(long, env = "IPC_INSECURE")]
    #[arg(action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    insecure: Option<bool>,
    /// Format of events on standard error [default: text]
    #[arg(long, env = "IPC_LOG_FORMAT", value_name = "FORMAT")]
    pub(super) log_format: Option<LogFormat>,
    /// After work, look for more for this long before sleeping; 0 for never [default: 50us on
    /// more than two cores]
    #[arg(long, env = "IPC_SPIN", value_name = "DURATION", value_parser = units::duration)]
    #[serde(deserialize_with = "units::read_duration")]
    pub(super) spin: Option<Duration>,
    /// Never sleep; for a server that has a core to itself
    #[arg(long, env = "IPC_BUSY")]
    #[arg(action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(super) busy: Option<bool>,
    /// Run the event loop on this core, counted from 0
    #[arg(long, env = "IPC_CPU", value_name = "N", value_parser = units::at_least(0_usize))]
    pub(super) cpu: Option<usize>,
    /// Write an `HdrHistogram` interval log of all latencies, a line for each second and channel
    #[arg(long, env = "IPC_LATENCY_LOG", value_name = "FILE")]
    pub(super) latency_log: Option<PathBuf>,
    /// Show a status page at this address, and answer /metrics to Prometheus and /healthz to health
    /// checks
    #[arg(long, env = "IPC_METRICS", value_name = "ADDR")]
    pub(super) metrics: Option<String>,
    /// Channels with series of their own in /metrics, or none [default: 1024]
    #[arg(long, env = "IPC_METRICS_CHANNELS", value_name = "N", value_parser = units::count_or_none)]
    #[serde(deserialize_with = "units::read_count_or_none")]
    pub(super) metrics_channels: Option<usize>,
    /// Join other servers over these NATS servers, such as `nats://host:4222`; several with commas
    #[arg(long, env = "IPC_NATS", value_name = "ADDRESS", value_delimiter = ',')]
    pub(super) nats: Vec<String>,
    /// File of credentials for NATS, as `nsc generate creds` makes it
    #[arg(long, env = "IPC_NATS_CREDS", value_name = "PATH")]
    #[serde(deserialize_with = "read_secret_path")]
    pub(super) nats_creds: Option<PathBuf>,
    /// Certificates in PEM: trust NATS servers that one of them has signed, and no others
    #[arg(long, env = "IPC_NATS_TLS_CA", value_name = "PATH")]
    pub(super) nats_tls_ca: Option<PathBuf>,
    /// Certificate in PEM, with its chain, to show to NATS servers that ask for one
    #[arg(long, env = "IPC_NATS_TLS_CERT", value_name = "PATH")]
    pub(super) nats_tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, env = "IPC_NATS_TLS_KEY", value_name = "PATH")]
    #[serde(deserialize_with = "read_secret_path")]
    pub(super) nats_tls_key: Option<PathBuf>,
    /// What the subjects at NATS begin with; servers with other prefixes are not joined [default: ipc]
    #[arg(long, env = "IPC_NATS_PREFIX", value_name = "PREFIX")]
    pub(super) nats_prefix: Option<String>,
    /// Patterns of the channels that are shared over NATS; several with commas [default: all but $…]
    #[arg(long, env = "IPC_NATS_CHANNELS", value_name = "PATTERN", value_delimiter = ',')]
    pub(super) nats_channels: Vec<String>,
    /// Publications that may wait for NATS; what comes then is lost, and counted [default: 64MiB]
    #[arg(long, env = "IPC_NATS_QUEUE", value_name = "SIZE", value_parser = units::size)]
    #[serde(deserialize_with = "units::read_size")]
    pub(super) nats_queue: Option<usize>,
    /// Add the applications of the published ipc-server program, and bench/echo
    #[arg(long, env = "IPC_DEMO")]
    #[arg(action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(super) demo: Option<bool>,
    /// Tokens by application; in the file only.
    #[arg(skip)]
    #[serde(deserialize_with = "read_tokens")]
    pub(super) tokens: HashMap<String, Token>,
    /// The channels that keep a history; in the file only.
    #[arg(skip)]
    history: Vec<HistorySettings>,
}

/// A table `[[history]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct HistorySettings {
    app: String,
    channel: String,
    #[serde(default, deserialize_with = "units::read_count")]
    messages: Option<usize>,
    #[serde(default, deserialize_with = "units::read_size")]
    bytes: Option<usize>,
    #[serde(default, deserialize_with = "units::read_timeout")]
    age: Option<Duration>,
}

impl HistorySettings {
    fn rule(&self) -> HistoryRule {
        let rule = HistoryRule::new(&self.app, &self.channel).age(self.age);
        let (messages, bytes) = (rule.messages, rule.bytes);
        rule.messages(self.messages.unwrap_or(messages)).bytes(self.bytes.unwrap_or(bytes))
    }
}

/// The format of the events on standard error.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Settings {
    /// Fills in settings of the file that neither the command line nor the environment contains.
    pub(super) fn or(self, file: Self) -> Self {
        let asks_for_tcp = self.host.is_some() || self.port.is_some();
        Self {
            host: self.host.or(file.host),
            port: self.port.or(file.port),
            unix: self.unix.or(file.unix),
            unix_mode: self.unix_mode.or(file.unix_mode),
            no_tcp: self.no_tcp.or(file.no_tcp.filter(|_| !asks_for_tcp)),
            shm: self.shm.or(file.shm.filter(|_| self.no_shm != Some(true))),
            no_shm: self.no_shm.or(file.no_shm.filter(|_| self.shm != Some(true))),
            shm_ring: self.shm_ring.or(file.shm_ring),
            max_connections: self.max_connections.or(file.max_connections),
            max_frame_bytes: self.max_frame_bytes.or(file.max_frame_bytes),
            max_channels: self.max_channels.or(file.max_channels),
            max_subscriptions: self.max_subscriptions.or(file.max_subscriptions),
            max_memory: self.max_memory.or(file.max_memory),
            retained_max: self.retained_max.or(file.retained_max),
            handshake_timeout: self.handshake_timeout.or(file.handshake_timeout),
            idle_timeout: self.idle_timeout.or(file.idle_timeout),
            request_timeout: self.request_timeout.or(file.request_timeout),
            queue_high_water: self.queue_high_water.or(file.queue_high_water),
            slow_consumer_grace: self.slow_consumer_grace.or(file.slow_consumer_grace),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            token_file: self.token_file.or(file.token_file),
            allow_uid: either(self.allow_uid, file.allow_uid),
            allow_gid: either(self.allow_gid, file.allow_gid),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            tls_client_ca: self.tls_client_ca.or(file.tls_client_ca),
            insecure: self.insecure.or(file.insecure),
            log_format: self.log_format.or(file.log_format),
            spin: self.spin.or(file.spin),
            busy: self.busy.or(file.busy.filter(|_| self.spin.is_none())),
            cpu: self.cpu.or(file.cpu),
            latency_log: self.latency_log.or(file.latency_log),
            metrics: self.metrics.or(file.metrics),
            metrics_channels: self.metrics_channels.or(file.metrics_channels),
            nats: either(self.nats, file.nats),
            nats_creds: self.nats_creds.or(file.nats_creds),
            nats_tls_ca: self.nats_tls_ca.or(file.nats_tls_ca),
            nats_tls_cert: self.nats_tls_cert.or(file.nats_tls_cert),
            nats_tls_key: self.nats_tls_key.or(file.nats_tls_key),
            nats_prefix: self.nats_prefix.or(file.nats_prefix),
            nats_channels: either(self.nats_channels, file.nats_channels),
            nats_queue: self.nats_queue.or(file.nats_queue),
            demo: self.demo.or(file.demo),
            tokens: file.tokens,
            history: file.history,
        }
    }

    /// Returns the configuration, or all problems. `environment_token` is `IPC_TOKEN`, which a
    /// token file overrides.
    pub(super) fn config(&self, environment_token: Option<String>) -> Result<Config, Problems> {
        let mut config = Config::default();
        let mut problems = Problems::new();
        if self.is_without_tcp() {
            config.host = None;
        } else if self.host.is_some() {
            config.host.clone_from(&self.host);
        }
        if self.is_without_tcp() && self.unix.is_none() {
            problems.push(Failure::usage(
                "--no-tcp leaves nothing to listen on; give --unix PATH with it",
            ));
        }
        config.port = self.port.unwrap_or(config.port);
        if self.unix.is_none() && self.unix_mode.is_some() {
            problems
                .push(Failure::usage("unix-mode needs a Unix socket; give --unix PATH with it"));
        }
        config.unix = self
            .unix
            .as_ref()
            .map(|path| UnixSocket::at(path.clone()).mode(self.unix_mode.unwrap_or(0o600)));
        config.insecure = self.is_insecure();
        config.spin = match self.spin {
            _ if self.busy == Some(true) => Spin::Always,
            Some(Duration::ZERO) => Spin::Never,
            Some(spin) => Spin::AfterWork(spin),
            None => config.spin,
        };
        if let Some(address) = &self.metrics {
            problems.extend(self.refuse_public_metrics(address).err());
        }
        self.set_limits(&mut config.limits);
        problems.extend(config.limits.problems().into_iter().map(Failure::Usage));
        self.set_access(&mut config.access, environment_token, &mut problems);
        if let Err(problem) = self.set_tls(&mut config) {
            problems.push(problem);
        }
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    fn set_limits(&self, limits: &mut Limits) {
        limits.connections_max = self.max_connections.unwrap_or(limits.connections_max);
        limits.frame_bytes_max = self.max_frame_bytes.unwrap_or(limits.frame_bytes_max);
        limits.channels_max = self.max_channels.unwrap_or(limits.channels_max);
        limits.subscriptions_per_connection_max =
            self.max_subscriptions.unwrap_or(limits.subscriptions_per_connection_max);
        limits.memory_bytes_max = self.max_memory.unwrap_or(limits.memory_bytes_max);
        limits.retained_bytes_max = self.retained_max.unwrap_or(limits.retained_bytes_max);
        limits.shared_memory = self.shm == Some(true) && self.no_shm != Some(true);
        limits.ring_bytes = self.shm_ring.unwrap_or(limits.ring_bytes);
        limits.histories = self.history.iter().map(HistorySettings::rule).collect();
        limits.handshake_timeout = self.handshake_timeout.unwrap_or(limits.handshake_timeout);
        limits.idle_timeout = self.idle_timeout.filter(|timeout| !timeout.is_zero());
        if let Some(TimeoutOrNever(timeout)) = self.request_timeout {
            limits.request_timeout = timeout;
        }
        limits.queue_high_water_bytes =
            self.queue_high_water.unwrap_or(limits.queue_high_water_bytes);
        limits.slow_consumer_grace = self.slow_consumer_grace.unwrap_or(limits.slow_consumer_grace);
        limits.drain_timeout = self.drain_timeout.unwrap_or(limits.drain_timeout);
    }

    fn set_access(
        &self,
        access: &mut Access,
        environment_token: Option<String>,
        problems: &mut Problems,
    ) {
        if environment_token.as_ref().is_some_and(|token| token.trim().is_empty()) {
            problems.push(Failure::usage("IPC_TOKEN is empty; set it to a token, or unset it"));
        } else if let Some(path) = &self.token_file {
            match token::from_file(path) {
                Ok(token) => access.default = Some(token),
                Err(problem) => problems.push(problem),
            }
        } else {
            access.default = environment_token.map(Token::new);
        }
        access.applications.clone_from(&self.tokens);
        access.uids.clone_from(&self.allow_uid);
        access.gids.clone_from(&self.allow_gid);
        problems.extend(access.problems().into_iter().map(Failure::Usage));
    }

    fn set_tls(&self, config: &mut Config) -> Result<(), Failure> {
        config.tls = match (&self.tls_cert, &self.tls_key) {
            (None, None) if self.tls_client_ca.is_none() => None,
            (Some(certificate), Some(key)) => {
                Some(Tls::from_files(certificate, key, self.tls_client_ca.clone())?)
            }
            _ => {
                return Err(Failure::usage(
                    "TLS takes a certificate and a key; give --tls-cert and --tls-key",
                ));
            }
        };
        Ok(())
    }

    /// Returns the settings without a value, by their names.
    pub(super) fn switches(&mut self) -> [(&'static str, &mut Option<bool>); 6] {
        [
            ("no_tcp", &mut self.no_tcp),
            ("shm", &mut self.shm),
            ("no_shm", &mut self.no_shm),
            ("insecure", &mut self.insecure),
            ("busy", &mut self.busy),
            ("demo", &mut self.demo),
        ]
    }

    /// Returns the names of settings that differ and that a running server cannot change.
    pub(super) fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let differences = [
            ("host", self.host != other.host),
            ("port", self.port != other.port),
            ("unix", self.unix != other.unix),
            ("unix-mode", self.unix_mode != other.unix_mode),
            ("no-tcp", self.is_without_tcp() != other.is_without_tcp()),
            ("tls-cert", self.tls_cert != other.tls_cert),
            ("tls-key", self.tls_key != other.tls_key),
            ("tls-client-ca", self.tls_client_ca != other.tls_client_ca),
            ("insecure", self.insecure.unwrap_or_default() != other.insecure.unwrap_or_default()),
            ("log-format", self.log_format != other.log_format),
            ("spin", self.spin != other.spin),
            ("busy", self.busy.unwrap_or_default() != other.busy.unwrap_or_default()),
            ("cpu", self.cpu != other.cpu),
            ("latency-log", self.latency_log != other.latency_log),
            ("metrics", self.metrics != other.metrics),
            ("metrics-channels", self.metrics_channels != other.metrics_channels),
            ("nats", self.nats != other.nats),
            ("nats-creds", self.nats_creds != other.nats_creds),
            ("nats-tls-ca", self.nats_tls_ca != other.nats_tls_ca),
            ("nats-tls-cert", self.nats_tls_cert != other.nats_tls_cert),
            ("nats-tls-key", self.nats_tls_key != other.nats_tls_key),
            ("nats-prefix", self.nats_prefix != other.nats_prefix),
            ("nats-channels", self.nats_channels != other.nats_channels),
            ("nats-queue", self.nats_queue != other.nats_queue),
            ("demo", self.demo.unwrap_or_default() != other.demo.unwrap_or_default()),
        ];
        differences.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
    }

    /// Returns whether the server may listen on public addresses without asking for tokens.
    pub(super) fn is_insecure(&self) -> bool {
        self.insecure == Some(true)
    }

    /// Returns whether the server listens on no TCP port.
    pub(super) fn is_without_tcp(&self) -> bool {
        self.no_tcp == Some(true)
    }

    /// Returns whether the demo's applications are wanted.
    pub(super) fn is_demo(&self) -> bool {
        self.demo == Some(true)
    }

    /// Returns whether the settings say whose processes may use the Unix socket.
    pub(super) fn names_users(&self) -> bool {
        !(self.allow_uid.is_empty() && self.allow_gid.is_empty())
    }

    /// Returns whether the settings name an address to listen on.
    pub(super) fn names_addresses(&self) -> bool {
        self.host.is_some() || self.port.is_some() || self.unix.is_some() || self.is_without_tcp()
    }

    /// Refuses a public address for metrics, because they name applications and channels, and need
    /// no token.
    fn refuse_public_metrics(&self, address: &str) -> Result<(), Failure> {
        let resolved = address.to_socket_addrs().map_err(|error| {
            Failure::usage(format!(
                "metrics at {address:?}: {error}; give an address and a port, such as \
                 127.0.0.1:9090"
            ))
        })?;
        let public = resolved.map(|address| address.ip()).find(|ip| !ip.is_loopback());
        match public {
            Some(ip) if !self.is_insecure() => Err(Failure::usage(format!(
                "metrics at {ip} can be read from other machines; choose 127.0.0.1, or say \
                 --insecure"
            ))),
            _ => Ok(()),
        }
    }
}

/// Picks the list on the command line if there is one, and otherwise that of the file.
fn either<T>(flags: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flags.is_empty() { file } else { flags }
}

/// Reads the table of tokens. No error repeats a value of it, as serde's own errors would.
fn read_tokens<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<HashMap<String, Token>, D::Error> {
    let toml::Value::Table(table) = toml::Value::deserialize(deserializer)? else {
        return Err(de::Error::custom(
            "tokens is no table; write [tokens], and below it a line for each application",
        ));
    };
    let tokens = table.into_iter().map(|(app_id, token)| match token {
        toml::Value::String(token) => Ok((app_id, Token::new(token))),
        _ => Err(de::Error::custom(format!("the token of {app_id:?} is not text in quotes"))),
    });
    tokens.collect()
}

/// Reads the path of a file with a secret. No error repeats the value, which may be the secret
/// itself.
fn read_secret_path<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(path) if !path.contains('\n') => Ok(Some(path.into())),
        _ => Err(de::Error::custom("give the path of a file in quotes, not what is in it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Limits {
        let settings: Settings = toml::from_str(text).unwrap();
        settings.config(None).unwrap().limits
    }

    #[test]
    fn each_limit_of_the_file_is_the_one_of_that_name() {
        assert_eq!(limits(""), Limits::default());
        let text = "max-connections = 2\nmax-channels = 3\nmax-subscriptions = 4\n\
                    max-frame-bytes = \"5KiB\"\nmax-memory = \"6MiB\"\n\
                    handshake-timeout = \"7s\"\nidle-timeout = \"8s\"\n\
                    request-timeout = \"9s\"\nqueue-high-water = \"10KiB\"\n\
                    slow-consumer-grace = \"11s\"\ndrain-timeout = \"12s\"\n\
                    retained-max = \"13MiB\"\nshm = true\nshm-ring = \"32KiB\"\n\
                    [[history]]\napp = \"shop\"\nchannel = \"prices.*\"\nmessages = 14\n\
                    bytes = \"15KiB\"\nage = \"16min\"\n\
                    [[history]]\napp = \"shop\"\nchannel = \"orders\"\n";
        let seconds = Duration::from_secs;
        let expected = Limits::default()
            .connections_max(2)
            .channels_max(3)
            .subscriptions_per_connection_max(4)
            .frame_bytes_max(5 << 10)
            .memory_bytes_max(6 << 20)
            .handshake_timeout(seconds(7))
            .idle_timeout(seconds(8))
            .request_timeout(seconds(9))
            .queue_high_water_bytes(10 << 10)
            .slow_consumer_grace(seconds(11))
            .drain_timeout(seconds(12))
            .retained_bytes_max(13 << 20)
            .shared_memory(true)
            .ring_bytes(32 << 10)
            .histories([
                HistoryRule::new("shop", "prices.*")
                    .messages(14)
                    .bytes(15 << 10)
                    .age(seconds(16 * 60)),
                HistoryRule::new("shop", "orders"),
            ]);
        assert_eq!(limits(text), expected);
        let never = "request-timeout = \"never\"\nidle-timeout = \"never\"\n";
        assert_eq!(limits(never), Limits::default().request_timeout(None));
    }

    #[test]
    fn a_flag_goes_before_the_file() {
        let flags = Settings {
            request_timeout: Some(TimeoutOrNever(None)),
            queue_high_water: Some(1 << 10),
            ..Settings::default()
        };
        let file = "request-timeout = \"9s\"\nqueue-high-water = 2\nmax-channels = 3";
        let both = flags.or(toml::from_str(file).unwrap()).config(None).unwrap().limits;
        let expected = Limits::default().request_timeout(None).queue_high_water_bytes(1 << 10);
        assert_eq!(both, expected.channels_max(3));
        let of_file = |text| toml::from_str::<Settings>(text).unwrap();
        for (flags, file, is_shared) in [
            (Settings::default(), "shm = true", true),
            (Settings { shm: Some(true), ..Settings::default() }, "no-shm = true", true),
            (Settings { no_shm: Some(true), ..Settings::default() }, "shm = true", false),
            (Settings::default(), "shm = true\nno-shm = true", false),
        ] {
            let both = flags.or(of_file(file)).config(None).unwrap().limits;
            assert_eq!(both.shared_memory, is_shared, "{file}");
        }
    }
}
