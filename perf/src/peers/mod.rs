//! The server under test and its peers, each started as a process of its own.

mod child;
mod install;
mod node;
mod python;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;

use self::child::{Signal, free_port};
use crate::bare::BareKind;
use crate::endpoint::Endpoint;
use crate::pin::Cpus;
use crate::scenario::Entrant;
use crate::wire::{Attached, Dialect, Ipc, Nats, Redis, Wire, Work, Zmtp};

pub(crate) use child::Server;

/// A server that can take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `ipc serve --demo` with further flags.
    Ipc(&'static [&'static str]),
    /// The same, with a history of its channel `kept`.
    IpcWithHistory,
    /// Two of them that a server of NATS joins. Senders are at one, workers and subscribers at the other.
    Bridged,
    /// One of them that shares other channels over NATS.
    Apart,
    Bare(BareKind),
    Redis,
    Nats,
    /// The published Python package's own server.
    Published,
    /// The same program on the package that takes its place, `clients/python`.
    Python,
    ZeroMq,
    /// A server of grpcio.
    Grpc,
}

/// The kind of socket that a server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    Tcp,
    Unix,
}

/// A program that a peer or a measurement needs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Program {
    /// This server with the feature `nats`.
    Ipc,
    Redis,
    Nats,
    Strace,
    /// A Python with the published package.
    Published,
    /// A Python with `clients/python`.
    Python,
    /// A Python with pyzmq.
    ZeroMq,
    /// A Python with nats-py.
    NatsPy,
    /// A Python with redis-py.
    RedisPy,
    /// A Python with grpcio.
    GrpcPy,
    /// Node, with the clients of the peers.
    Node,
}

/// The servers that can be measured on this machine.
#[derive(Debug)]
pub(crate) struct Peers {
    /// The repository.
    root: PathBuf,
    /// The directory for sockets, logs and installed peers.
    state: PathBuf,
    cpus: Cpus,
    ipc: PathBuf,
    ipc_help: String,
    programs: BTreeMap<Program, Result<PathBuf, String>>,
}

/// The settings of a server with a history, and their file.
const HISTORY_SETTINGS: &str =
    "[[history]]\napp = \"bench\"\nchannel = \"kept\"\nmessages = 1000\n";
const HISTORY: &str = "history.toml";
/// The channels that [`Peer::Apart`] shares.
const SHARED: &str = "shared.>";
/// The time after which servers know one another, and what each of them has.
const SETTLED: Duration = Duration::from_secs(1);
/// The number of connections that a server must accept.
const CONNECTIONS_MAX: &str = "12000";

impl Peers {
    /// Builds the server, unless one is given, and installs the programs that are missing.
    pub(crate) fn prepare(
        root: &Path,
        server: Option<PathBuf>,
        cpus: Cpus,
        programs: impl IntoIterator<Item = Program>,
    ) -> Result<Self, String> {
        let own = own_path()?;
        let target = own.ancestors().nth(2).ok_or("this program is not in a target directory")?;
        let state = target.join("perf");
        fs::create_dir_all(&state).map_err(|e| format!("{}: {e}", state.display()))?;
        let ipc = if let Some(path) = server {
            path
        } else {
            eprintln!("building the server …");
            build(root, target, "cli")?
        };
        let help = Command::new(&ipc).args(["serve", "--help"]).output();
        let help = help.map_err(|error| format!("cannot start {}: {error}", ipc.display()))?;
        if !help.status.success() {
            return Err(format!("{} serve --help fails: is it the program `ipc`?", ipc.display()));
        }
        fs::write(state.join(HISTORY), HISTORY_SETTINGS).map_err(|e| format!("{HISTORY}: {e}"))?;
        let programs: BTreeSet<Program> = programs.into_iter().collect();
        let programs = programs.into_iter().map(|program| (program, program.find(root, &state)));
        Ok(Self {
            cpus,
            ipc,
            ipc_help: String::from_utf8_lossy(&help.stdout).into_owned(),
            programs: programs.collect(),
            root: root.to_owned(),
            state,
        })
    }

    pub(crate) fn cpus(&self) -> Cpus {
        self.cpus
    }

    /// Returns the path of a program, or the reason why it is missing.
    fn program(&self, program: Program) -> Result<&Path, String> {
        match self.programs.get(&program) {
            Some(found) => Ok(found.as_ref()?),
            None => Err(format!("nobody looked for {program:?}")),
        }
    }

    /// Returns the reason why an entrant cannot take part, if there is one.
    pub(crate) fn left_out(&self, entrant: &Entrant) -> Option<String> {
        if let Peer::Ipc(flags) = entrant.peer {
            let is_missing =
                |flag: &&&str| flag.starts_with("--") && !self.ipc_help.contains(**flag);
            if let Some(missing) = flags.iter().find(is_missing) {
                return Some(format!("this build of ipc serve has no {missing}"));
            }
        }
        entrant.programs().find_map(|program| self.program(program).err())
    }

    /// Returns the versions of the programs, or the reasons why they are missing.
    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        let server = ("ipc".to_owned(), first_line(&self.ipc, &["--version"]));
        let of = |(program, found): (&Program, &Result<PathBuf, String>)| {
            let (name, arguments) = program.version()?;
            let version = match found {
                Ok(path) => first_line(path, arguments),
                Err(reason) => format!("left out: {reason}"),
            };
            Some((name.to_owned(), version))
        };
        self.programs.iter().filter_map(of).chain([server]).collect()
    }

    /// Returns the command that starts a peer, without its port.
    fn command(&self, peer: Peer, work: Work, unix: Option<&Path>) -> Result<Launch, String> {
        let mut signal = Signal::Line;
        let command = match peer {
            Peer::Ipc(_) | Peer::IpcWithHistory | Peer::Bridged | Peer::Apart => {
                let is_joined = matches!(peer, Peer::Bridged | Peer::Apart);
                let program = if is_joined { self.program(Program::Ipc)? } else { &self.ipc };
                let mut command = Command::new(program);
                command.args(["serve", "--demo", "--max-connections", CONNECTIONS_MAX]);
                match unix {
                    Some(path) => command.arg("--no-tcp").arg("--unix").arg(path),
                    None => command.args(["--host", "127.0.0.1", "--port", "0"]),
                };
                match peer {
                    Peer::Ipc(flags) => command.args(flags),
                    Peer::Apart => command.args(["--nats-channels", SHARED]),
                    Peer::Bridged => &mut command,
                    _ => command.arg("--config").arg(self.state.join(HISTORY)),
                };
                command
            }
            Peer::Bare(kind) => {
                let mut command = Command::new(own_path()?);
                let kind = kind.to_possible_value().ok_or("a bare server has no name")?;
                command.args(["bare", kind.get_name()]);
                if let Some(path) = unix {
                    command.arg("--unix").arg(path);
                }
                command
            }
            Peer::Redis => {
                let mut command = install::command(self.program(Program::Redis)?, &self.state);
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
                let mut command = install::command(self.program(Program::Nats)?, &self.state);
                let address = free_port()?;
                command.args(["--addr", "127.0.0.1", "--port", &address.port().to_string()]);
                signal = Signal::Accepts(Endpoint::Tcp(address));
                command
            }
            Peer::Published | Peer::Python => {
                let is_published = peer == Peer::Published;
                let python = if is_published { Program::Published } else { Program::Python };
                let mut command = Command::new(self.program(python)?);
                command.arg(python::script(&self.root, "published_server.py"));
                command
            }
            Peer::ZeroMq => {
                let mut command = Command::new(self.program(Program::ZeroMq)?);
                command.arg(python::script(&self.root, "zeromq_server.py"));
                command.arg(if work == Work::Echo { "echo" } else { "relay" });
                command
            }
            Peer::Grpc => {
                let mut command = Command::new(self.program(Program::GrpcPy)?);
                command.arg(python::script(&self.root, "streams.py")).args(["grpc", "127.0.0.1:0"]);
                command
            }
        };
        Ok(Launch { command, signal })
    }

    /// Starts a peer, pinned to the server's processor.
    pub(crate) fn start(&self, peer: Peer, socket: Socket, work: Work) -> Result<Server, String> {
        if matches!(peer, Peer::Bridged | Peer::Apart) {
            return self.start_with_nats(peer, work);
        }
        let path = self.state.join("peer.sock");
        let unix = (socket == Socket::Unix).then_some(path.as_path());
        if unix.is_some() && path.exists() {
            fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        let Launch { command, signal } = self.command(peer, work, unix)?;
        Server::start(command, signal, unix, &self.state.join("peer.log"), self.cpus)
    }

    /// Starts servers that speak with NATS, and NATS.
    fn start_with_nats(&self, peer: Peer, work: Work) -> Result<Server, String> {
        let broker = self.start(Peer::Nats, Socket::Tcp, work)?;
        let start = |log: &str| {
            let Launch { mut command, signal } = self.command(peer, work, None)?;
            command.arg("--nats").arg(format!("nats://{}", broker.endpoint));
            Server::start(command, signal, None, &self.state.join(log), self.cpus)
        };
        let mut near = start("near.log")?;
        if peer == Peer::Bridged {
            near.far = Some(Box::new(start("far.log")?));
        }
        near.broker = Some(Box::new(broker));
        Ok(near)
    }

    /// Returns the command in the form that the record shows.
    pub(crate) fn describe(&self, peer: Peer, socket: Socket, work: Work) -> String {
        let unix = (socket == Socket::Unix).then_some(Path::new("SOCKET"));
        let Ok(Launch { command, .. }) = self.command(peer, work, unix) else {
            return String::new();
        };
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let mut words = vec![program.to_string_lossy().into_owned()];
        for argument in command.get_args() {
            // Absolute paths of this machine mean nothing elsewhere.
            let path = Path::new(argument).strip_prefix(&self.root).unwrap_or(argument.as_ref());
            let text = path.to_string_lossy().into_owned();
            words.push(if text.is_empty() { "''".to_owned() } else { text });
        }
        format!("taskset -c {} {}", self.cpus.server, words.join(" "))
    }

    /// Returns a command for the Python with the published client.
    pub(crate) fn published_client(&self) -> Result<Command, String> {
        let mut command = Command::new(self.program(Program::Published)?);
        command.arg(python::script(&self.root, "published_client.py"));
        Ok(command)
    }

    /// Returns a command that measures `work` done by `client` to a server at this address.
    pub(crate) fn client(
        &self,
        python: Program,
        [work, client]: [&str; 2],
        server: &Endpoint,
        seconds: f64,
    ) -> Result<Command, String> {
        let mut command = Command::new(self.program(python)?);
        command.arg(python::script(&self.root, "clients.py")).args([work, client]);
        command.arg(server.to_string()).arg(seconds.to_string());
        command.arg(self.cpus.server.to_string());
        Ok(command)
    }

    /// Returns a command by which Node does `work` with a script, with a worker that the Python of
    /// `client` runs, or with the server itself.
    pub(crate) fn node(
        &self,
        name: &str,
        client: Option<Program>,
        [work, peer]: [&str; 2],
        server: &Endpoint,
        seconds: f64,
    ) -> Result<Command, String> {
        let mut command = Command::new(self.program(Program::Node)?);
        command.env("NODE_PATH", node::modules(&self.state));
        command.arg(node::script(&self.root, name)).args([work, peer]);
        command.arg(server.to_string()).arg(seconds.to_string());
        command.arg(self.cpus.server.to_string());
        if let Some(python) = client {
            command.arg(self.program(python)?);
        }
        Ok(command)
    }

    pub(crate) fn strace(&self) -> Result<&Path, String> {
        self.program(Program::Strace)
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

impl Program {
    /// Finds or installs the program. The error says why it is left out.
    fn find(self, root: &Path, state: &Path) -> Result<PathBuf, String> {
        eprintln!("looking for {self:?} …");
        match self {
            Self::Ipc => build(root, &state.join("with-nats"), "cli,nats"),
            Self::Redis => install::program("redis-server", "redis-server", state),
            Self::Nats => install::program("nats-server", "nats-server", state),
            Self::Strace => install::program("strace", "strace", state),
            Self::Published => python::with_published_package(root, state),
            Self::Python => python::with_own_package(root, state),
            Self::ZeroMq => python::with_zeromq(root, state),
            Self::NatsPy => python::with_nats(root, state),
            Self::RedisPy => python::with_redis(root, state),
            Self::GrpcPy => python::with_grpc(root, state),
            Self::Node => node::with_peers(root, state),
        }
    }

    /// Returns the peer's name, and the arguments that make the program print its version.
    fn version(self) -> Option<(&'static str, &'static [&'static str])> {
        const PUBLISHED: &str = "import importlib.metadata as m, sys; print('ipc-framework', \
                                 m.version('ipc-framework'), 'on Python', sys.version.split()[0])";
        const PYTHON: &str = "import importlib.metadata as m, sys; print('ipc-framework-rs', \
                              m.version('ipc-framework-rs'), 'on Python', sys.version.split()[0])";
        const ZEROMQ: &str =
            "import zmq; print('libzmq', zmq.zmq_version(), 'by pyzmq', zmq.__version__)";
        const NATS: &str = "import importlib.metadata as m; print('nats-py', m.version('nats-py'))";
        const REDIS: &str = "import redis; print('redis-py', redis.__version__)";
        const GRPC: &str = "import grpc; print('grpcio', grpc.__version__)";
        Some(match self {
            Self::Redis => ("redis", &["--version"]),
            Self::Nats => ("nats", &["--version"]),
            Self::Ipc | Self::Strace => return None,
            Self::Published => ("published", &["-c", PUBLISHED]),
            Self::Python => ("python", &["-c", PYTHON]),
            Self::ZeroMq => ("zeromq", &["-c", ZEROMQ]),
            Self::NatsPy => ("nats-py", &["-c", NATS]),
            Self::RedisPy => ("redis-py", &["-c", REDIS]),
            Self::GrpcPy => ("grpc", &["-c", GRPC]),
            Self::Node => ("node", &["--version"]),
        })
    }
}

impl Peer {
    /// Returns the programs that the peer needs beside this server.
    pub(crate) fn programs(self) -> &'static [Program] {
        match self {
            Self::Ipc(_) | Self::IpcWithHistory | Self::Bare(_) => &[],
            Self::Bridged | Self::Apart => &[Program::Ipc, Program::Nats],
            Self::Redis => &[Program::Redis],
            Self::Nats => &[Program::Nats],
            Self::Published => &[Program::Published],
            Self::Python => &[Program::Python],
            Self::ZeroMq => &[Program::ZeroMq],
            Self::Grpc => &[Program::GrpcPy],
        }
    }

    /// Returns the time after which what a worker or subscriber has said is known to all servers.
    pub(crate) fn settling(self) -> Duration {
        if self == Self::Bridged { SETTLED } else { Duration::ZERO }
    }

    /// Returns the protocol of requests that a worker answers.
    pub(crate) fn forwarded_wire(self, payload_bytes: usize) -> Box<dyn Wire> {
        match self {
            Self::Nats => Box::new(Nats::forwarded(payload_bytes)),
            _ => Box::new(Ipc::forwarded(payload_bytes)),
        }
    }

    /// Returns the protocol that the peer speaks for messages whose data is an attachment.
    pub(crate) fn attached_wire(self, work: Work, data_bytes: usize) -> Box<dyn Wire> {
        let attached = |dialect| Box::new(Attached::new(dialect, work, data_bytes));
        match self {
            Self::Ipc(_) | Self::IpcWithHistory | Self::Bridged | Self::Apart => {
                attached(Dialect::Server)
            }
            Self::Bare(_) => attached(Dialect::Bare),
            // The others know nothing but bytes.
            _ => self.wire(work, data_bytes),
        }
    }

    /// Returns the protocol that the peer speaks.
    pub(crate) fn wire(self, work: Work, payload_bytes: usize) -> Box<dyn Wire> {
        let ipc = |dialect| Box::new(Ipc::new(dialect, work, payload_bytes));
        match self {
            Self::Ipc(_) | Self::IpcWithHistory | Self::Bridged | Self::Apart => {
                ipc(Dialect::Server)
            }
            // The clients of gRPC speak with it themselves.
            Self::Bare(_) | Self::Grpc => ipc(Dialect::Bare),
            // Publications are handled without Python.
            Self::Python if work == Work::Fanout => ipc(Dialect::Server),
            Self::Published | Self::Python => ipc(Dialect::Published),
            Self::Redis => Box::new(Redis::new(work, payload_bytes)),
            Self::Nats => Box::new(Nats::new(work, payload_bytes)),
            Self::ZeroMq => Box::new(Zmtp::new(work, payload_bytes)),
        }
    }
}

fn own_path() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("this program does not find itself: {error}"))
}

fn build(root: &Path, target: &Path, features: &str) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "--features", features, "--bin", "ipc"]);
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
