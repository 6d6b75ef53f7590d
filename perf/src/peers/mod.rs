//! The server under test and its peers, each started as a process of its own.

mod child;
mod install;
mod python;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use self::child::{Signal, free_port};
use crate::bare::BareKind;
use crate::load::Endpoint;
use crate::pin::Cpus;
use crate::wire::{Dialect, Ipc, Nats, Redis, Wire, Work, Zmtp};

pub(crate) use child::Server;

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `ipc serve --demo` with further flags.
    Ipc(&'static [&'static str]),
    Bare(BareKind),
    Redis,
    Nats,
    /// The published Python package's own server.
    Published,
    /// The same program on the package that takes its place, `clients/python`.
    Python,
    ZeroMq,
}

/// What a server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    Tcp,
    Unix,
}

/// What is there to be measured.
#[derive(Debug)]
pub(crate) struct Peers {
    /// The repository.
    root: PathBuf,
    /// Where sockets, logs and installed peers go.
    state: PathBuf,
    cpus: Cpus,
    ipc: PathBuf,
    ipc_help: String,
    redis: Result<PathBuf, String>,
    nats: Result<PathBuf, String>,
    strace: Result<PathBuf, String>,
    /// A Python with the published package.
    published: Result<PathBuf, String>,
    /// A Python with `clients/python`.
    python: Result<PathBuf, String>,
    /// A Python with pyzmq.
    zeromq: Result<PathBuf, String>,
}

/// Connections that a server must let in.
const CONNECTIONS_MAX: &str = "12000";

impl Peers {
    /// Builds the server, unless there is one, and sees that the peers are installed.
    pub(crate) fn prepare(
        root: &Path,
        server: Option<PathBuf>,
        cpus: Cpus,
        say: &dyn Fn(&str),
    ) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
        let target = own.ancestors().nth(2).ok_or("this program is not in a target directory")?;
        let state = target.join("perf");
        fs::create_dir_all(&state).map_err(|e| format!("{}: {e}", state.display()))?;
        let ipc = if let Some(path) = server {
            path
        } else {
            say("building the server");
            build(root, target)?
        };
        let help = Command::new(&ipc).args(["serve", "--help"]).output();
        let help = help.map_err(|error| format!("cannot start {}: {error}", ipc.display()))?;
        say("looking for Redis, NATS and strace");
        let redis = install::program("redis-server", "redis-server", &state);
        let nats = install::program("nats-server", "nats-server", &state);
        let strace = install::program("strace", "strace", &state);
        say("looking for the Python packages");
        let published = python::with_published_package(root, &state);
        let zeromq = python::with_zeromq(root, &state);
        say("building the Python package");
        let python = python::with_own_package(root, &state);
        Ok(Self {
            root: root.to_owned(),
            state,
            cpus,
            ipc,
            ipc_help: String::from_utf8_lossy(&help.stdout).into_owned(),
            redis,
            nats,
            strace,
            published,
            python,
            zeromq,
        })
    }

    pub(crate) fn cpus(&self) -> Cpus {
        self.cpus
    }

    /// Why a peer cannot take part.
    pub(crate) fn left_out(&self, peer: Peer) -> Option<String> {
        match peer {
            Peer::Ipc(flags) => {
                let missing = flags
                    .iter()
                    .find(|flag| flag.starts_with("--") && !self.ipc_help.contains(*flag))?;
                Some(format!("this build of ipc serve has no {missing}"))
            }
            Peer::Bare(_) => None,
            Peer::Redis => self.redis.clone().err(),
            Peer::Nats => self.nats.clone().err(),
            Peer::Published => self.published.clone().err(),
            Peer::Python => self.python.clone().err(),
            Peer::ZeroMq => self.zeromq.clone().err(),
        }
    }

    /// The versions of those that are there, and why the others are not.
    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        let of = |found: &Result<PathBuf, String>, arguments: &[&str]| match found {
            Ok(program) => first_line(program, arguments),
            Err(reason) => format!("left out: {reason}"),
        };
        let python = "import importlib.metadata as m, sys; print('ipc-framework', \
                      m.version('ipc-framework'), 'on Python', sys.version.split()[0])";
        let own = python.replace("'ipc-framework'", "'ipc-framework-rs'");
        let own = own.as_str();
        let zeromq = "import zmq; print('libzmq', zmq.zmq_version(), 'by pyzmq', zmq.__version__)";
        BTreeMap::from([
            ("ipc".to_owned(), first_line(&self.ipc, &["--version"])),
            ("redis".to_owned(), of(&self.redis, &["--version"])),
            ("nats".to_owned(), of(&self.nats, &["--version"])),
            ("published".to_owned(), of(&self.published, &["-c", python])),
            ("python".to_owned(), of(&self.python, &["-c", own])),
            ("zeromq".to_owned(), of(&self.zeromq, &["-c", zeromq])),
        ])
    }

    /// The command that starts a peer, but for the port it is told.
    fn command(&self, peer: Peer, work: Work, unix: Option<&Path>) -> Result<Launch, String> {
        let mut signal = Signal::Line;
        let command = match peer {
            Peer::Ipc(flags) => {
                let mut command = Command::new(&self.ipc);
                command.args(["serve", "--demo", "--max-connections", CONNECTIONS_MAX]);
                match unix {
                    Some(path) => command.arg("--no-tcp").arg("--unix").arg(path),
                    None => command.args(["--host", "127.0.0.1", "--port", "0"]),
                };
                command.args(flags);
                command
            }
            Peer::Bare(kind) => {
                let own = std::env::current_exe().map_err(|e| format!("where am I: {e}"))?;
                let mut command = Command::new(own);
                let kind = kind.to_possible_value().ok_or("a bare server has no name")?;
                command.args(["bare", kind.get_name()]);
                if let Some(path) = unix {
                    command.arg("--unix").arg(path);
                }
                command
            }
            Peer::Redis => {
                let mut command = install::command(self.redis.as_ref()?, &self.state);
                let address = free_port()?;
                command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
                command.args(["--save", "", "--appendonly", "no"]);
                command.args(["--maxclients", CONNECTIONS_MAX]);
                signal = Signal::Accepts(Endpoint::Tcp(address));
                if let Some(path) = unix {
                    command.arg("--unixsocket").arg(path);
                    signal = Signal::Accepts(Endpoint::Unix(path.to_owned()));
                }
                command.current_dir(&self.state);
                command
            }
            Peer::Nats => {
                let mut command = install::command(self.nats.as_ref()?, &self.state);
                let address = free_port()?;
                command.args(["--addr", "127.0.0.1", "--port", &address.port().to_string()]);
                signal = Signal::Accepts(Endpoint::Tcp(address));
                command
            }
            Peer::Published | Peer::Python => {
                let is_published = peer == Peer::Published;
                let python = if is_published { &self.published } else { &self.python };
                let mut command = Command::new(python.as_ref()?);
                command.arg(python::script(&self.root, "published_server.py"));
                command
            }
            Peer::ZeroMq => {
                let mut command = Command::new(self.zeromq.as_ref()?);
                command.arg(python::script(&self.root, "zeromq_server.py"));
                command.arg(if work == Work::Echo { "echo" } else { "relay" });
                command
            }
        };
        Ok(Launch { command, signal })
    }

    /// Starts a peer, pinned to the server's processor.
    pub(crate) fn start(&self, peer: Peer, socket: Socket, work: Work) -> Result<Server, String> {
        let path = self.state.join("peer.sock");
        let unix = (socket == Socket::Unix).then_some(path.as_path());
        if unix.is_some() && path.exists() {
            fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        let Launch { command, signal } = self.command(peer, work, unix)?;
        Server::start(command, signal, unix, &self.state.join("peer.log"), self.cpus)
    }

    /// The command as it stands in the record.
    pub(crate) fn describe(&self, peer: Peer, socket: Socket, work: Work) -> String {
        let unix = (socket == Socket::Unix).then_some(Path::new("SOCKET"));
        let Ok(Launch { command, .. }) = self.command(peer, work, unix) else {
            return String::new();
        };
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let mut words = vec![program.to_string_lossy().into_owned()];
        for argument in command.get_args() {
            // A path of this machine says nothing to others.
            let path = Path::new(argument).strip_prefix(&self.root).unwrap_or(argument.as_ref());
            let text = path.to_string_lossy().into_owned();
            words.push(if text.is_empty() { "''".to_owned() } else { text });
        }
        format!("taskset -c {} {}", self.cpus.server, words.join(" "))
    }

    /// The Python that has the published client.
    pub(crate) fn published_client(&self) -> Result<Command, String> {
        let mut command = Command::new(self.published.as_ref()?);
        command.arg(python::script(&self.root, "published_client.py"));
        Ok(command)
    }

    pub(crate) fn strace(&self) -> Result<&Path, String> {
        Ok(self.strace.as_ref()?)
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }
}

#[derive(Debug)]
struct Launch {
    command: Command,
    signal: Signal,
}

impl Peer {
    /// How it is spoken to.
    pub(crate) fn wire(self, work: Work, payload_bytes: usize) -> Box<dyn Wire> {
        let ipc = |dialect| Box::new(Ipc::new(dialect, work, payload_bytes));
        match self {
            Self::Ipc(_) => ipc(Dialect::Server),
            Self::Bare(_) => ipc(Dialect::Bare),
            // Publications never enter Python.
            Self::Python if work == Work::Fanout => ipc(Dialect::Server),
            Self::Published | Self::Python => ipc(Dialect::Published),
            Self::Redis => Box::new(Redis::new(work, payload_bytes)),
            Self::Nats => Box::new(Nats::new(work, payload_bytes)),
            Self::ZeroMq => Box::new(Zmtp::new(work, payload_bytes)),
        }
    }
}

fn build(root: &Path, target: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "--features", "cli", "--bin", "ipc"]);
    command.arg("--target-dir").arg(target).current_dir(root);
    match command.status() {
        Ok(status) if status.success() => Ok(target.join("release").join("ipc")),
        Ok(_) => Err("the server does not build; see above".into()),
        Err(error) => Err(format!("cannot start cargo: {error}")),
    }
}

fn first_line(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or("unknown").to_owned()
}
