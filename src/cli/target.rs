//! The server to which a subcommand connects, and the flags for it that all subcommands share.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use ipc_framework::client::{AddressOrder, Connection, Endpoint, Error, Options};
use ipc_framework::{Message, MessageType, Token};
use serde::Deserialize;

use super::failure::Failure;
use super::tls::{self, TlsFlags};
use super::{token, units};

const HOST: &str = "localhost";
const PORT: u16 = 8888;
const TIMEOUT: Duration = Duration::from_secs(5);

/// The connection flags of every subcommand except `serve`.
#[derive(Clone, Debug)]
pub(super) struct Target(Flags);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
struct Flags {
    /// Application to join [default: `bench`; `chat_app` for `ipc chat`]
    #[arg(long, env = "IPC_APP", value_name = "APP", hide_env_values = true)]
    app: Option<String>,
    /// Names or addresses of servers, with commas between them; each may have a :PORT of its own
    /// [default: localhost]
    #[arg(long, env = "IPC_HOST", value_name = "HOST,…", hide_env_values = true)]
    #[arg(value_parser = hosts)]
    host: Option<String>,
    /// TCP port of the servers [default: 8888]
    #[arg(long, env = "IPC_PORT", value_name = "PORT", hide_env_values = true)]
    #[arg(value_parser = units::number(1_u16..=65_535))]
    port: Option<u16>,
    /// Connect to this Unix socket instead of TCP; give it again for more servers
    #[arg(long, env = "IPC_UNIX", value_name = "PATH", hide_env_values = true)]
    unix: Vec<PathBuf>,
    /// Exchange messages through shared memory, if the server behind the Unix socket has it
    #[arg(long, requires = "unix")]
    shm: bool,
    /// Order in which several servers are tried [default: listed]
    #[arg(long, env = "IPC_ADDRESS_ORDER", value_name = "ORDER", hide_env_values = true)]
    address_order: Option<Order>,
    #[command(flatten)]
    tls: TlsFlags,
    /// File with the token of the application; or set `IPC_TOKEN`
    #[arg(long, env = "IPC_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// Longest wait for the connection, and for an answer [default: 5s]
    #[arg(long, env = "IPC_TIMEOUT", value_name = "DURATION", hide_env_values = true)]
    #[arg(value_parser = units::timeout)]
    timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// From the first to the last
    Listed,
    /// At random
    Random,
}

/// Checks a list of hosts. Their port comes with another flag.
fn hosts(text: &str) -> Result<String, String> {
    Endpoint::list(text, PORT).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// The application in which `ipc serve --demo` answers `echo`.
const APP: &str = "bench";

impl Target {
    /// Uses another application if none was named.
    pub(super) fn or_app(mut self, app: &str) -> Self {
        self.0.app.get_or_insert_with(|| app.to_owned());
        self
    }

    pub(super) fn app(&self) -> &str {
        self.0.app.as_deref().unwrap_or(APP)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout.unwrap_or(TIMEOUT)
    }

    /// Returns the timeout, if one was given.
    pub(super) fn given_timeout(&self) -> Option<Duration> {
        self.0.timeout
    }

    /// Connects as the flags say.
    pub(super) fn connect(&self) -> Result<Connection, Failure> {
        Ok(self.options()?.connect()?)
    }

    /// Connects, and refuses the published server, which would not answer such requests.
    pub(super) fn connect_for(&self, what: &str) -> Result<Connection, Failure> {
        let connection = self.connect()?;
        match connection.server() {
            Some(_) => Ok(connection),
            None => Err(Failure::runtime(format!(
                "the server at {} is the published one, which knows no {what}; run `ipc serve` \
                 in its place, programs written for it work as they are",
                connection.endpoint()
            ))),
        }
    }

    /// Returns the options, for subcommands that make several connections.
    pub(super) fn options(&self) -> Result<Options, Failure> {
        let mut options = Options::new(self.app());
        let host = self.0.host.as_deref().unwrap_or(HOST);
        let mut servers: Vec<Endpoint> = self.0.unix.iter().map(Endpoint::unix).collect();
        if servers.is_empty() {
            servers = Endpoint::list(host, self.0.port.unwrap_or(PORT))?;
            options.tls = self.0.tls.read()?;
        }
        options.endpoint = servers.remove(0);
        options.alternatives = servers;
        options.address_order = match self.0.address_order {
            Some(Order::Random) => AddressOrder::Random,
            Some(Order::Listed) | None => AddressOrder::Listed,
        };
        options.token = match &self.0.token_file {
            Some(path) => Some(token::from_file(path)?),
            None => token::from_environment()?.filter(|token| !token.is_empty()).map(Token::new),
        };
        options.shared_memory = self.0.shm;
        options.connect_timeout = self.timeout();
        options.timeout = self.timeout();
        Ok(options)
    }
}

impl Args for Target {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}

impl FromArgMatches for Target {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        let is_tls = tls::NAMES.into_iter().any(is_typed);
        let is_tcp = is_typed("host") || is_typed("port");
        let conflict = |text| Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
        if is_tcp && is_typed("unix") {
            return conflict(
                "--unix takes the place of --host and --port; give one or the other\n",
            );
        }
        if is_tls && is_typed("unix") {
            return conflict("a Unix socket takes no TLS; give --unix or the --tls flags\n");
        }
        let mut flags = Flags::from_arg_matches(matches)?;
        if is_tcp || is_tls {
            // Flags on the command line override `IPC_UNIX`.
            flags.unix.clear();
        }
        Ok(Self(flags))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Subscribes, and returns once every later publication will be received. The published server does
/// not confirm that, so there the first ones may be missed.
pub(super) fn subscribe(connection: &mut Connection, channel: &str) -> Result<(), Error> {
    match connection.server() {
        Some(_) => connection.subscribe_confirmed(channel),
        None => connection.subscribe(channel),
    }
}

/// Closes the connection after everything was sent, and calls `last` before that. Returns whether the
/// server confirmed that it processed all of it; the published server only shows that it has read
/// everything, by closing its end.
pub(super) fn finish(
    mut connection: Connection,
    last: impl FnOnce(&mut Connection),
) -> Result<bool, Failure> {
    let confirms = connection.server().is_some();
    if confirms {
        connection.ping()?;
    }
    while let Some(message) = connection.try_receive()? {
        refusal(&message).map_or(Ok(()), Err)?;
    }
    last(&mut connection);
    connection.close()?;
    Ok(confirms)
}

/// No error of the server is longer. Longer answers are not searched for one.
const REFUSAL_BYTES_MAX: usize = 16 << 10;

#[derive(Deserialize)]
pub(super) struct Refused {
    status: String,
    pub(super) code: String,
    pub(super) error: String,
}

/// Returns the failure that this message is, if it answers one that was sent without waiting.
pub(super) fn refusal(message: &Message) -> Option<Failure> {
    refused(message).map(|refused| refused.failure())
}

impl Refused {
    pub(super) fn failure(&self) -> Failure {
        Failure::runtime(format!("{} ({})", self.error, self.code))
    }
}

/// Returns the error that this message is.
pub(super) fn refused(message: &Message) -> Option<Refused> {
    let text = message.payload.as_str();
    let may_be = message.message_type == MessageType::Response
        && text.len() <= REFUSAL_BYTES_MAX
        && text.starts_with('{')
        && text.contains("\"error\"");
    let refused: Refused = if may_be { serde_json::from_str(text).ok()? } else { return None };
    (refused.status == "error").then_some(refused)
}
