//! The scenarios, and the entrants of each.

use crate::bare::BareKind;
use crate::peers::{Peer, Program, Socket};
use crate::poller::Wait;
use crate::wire::{Wire, Work};

/// The shape of the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Load {
    /// One client with one request in flight, which does as little as possible.
    OneClient,
    /// Clients with a window of requests each.
    Closed { clients: usize, window: usize },
    /// Clients that send at half of the rate that the slower of this server and Redis
    /// reaches in a closed loop.
    OpenAtHalfPeak { clients: usize },
    /// A window of publications in flight to all subscribers.
    Fanout { subscribers: usize, window: usize },
    /// The same on a channel with a history, beside a client that asks for something else. The latencies
    /// are its.
    History { subscribers: usize },
    /// One client with one request in flight, which a worker answers.
    Forwarded,
    /// The published Python client, one request after the other.
    PublishedClient,
    /// The work of this name in `perf/python/clients.py`, by the client that the entrant names.
    Client(&'static str),
    /// The work of this name in a script of `perf/node`, which may start a worker in Python.
    Node { script: &'static str, work: &'static str },
    /// Clients whose load causes the system calls that are counted.
    Syscalls { clients: usize },
}

/// How the subscribers of a contestant subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscribers {
    /// To the channel, before anything is published on it.
    Live,
    /// To patterns, among nearly 10,000 others that [`PATTERN_HOLDERS`] connections hold.
    Patterns,
    /// To the channel, over and over, and each time they ask for all that it has kept.
    Kept,
}

/// One contestant of a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entrant {
    pub(crate) name: &'static str,
    pub(crate) peer: Peer,
    pub(crate) socket: Socket,
    /// Idle connections in addition to the working ones, each with a channel of its own.
    pub(crate) idle: usize,
    pub(crate) subscribers: Subscribers,
    /// The Python that runs the client, if that is what is measured.
    pub(crate) client: Option<Program>,
}

impl Entrant {
    const fn client(self, client: Program) -> Self {
        Self { client: Some(client), ..self }
    }

    /// Returns the programs that it needs.
    pub(crate) fn programs(&self) -> impl Iterator<Item = Program> {
        self.peer.programs().iter().copied().chain(self.client)
    }
}

/// Entrants that do the same work and are compared.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) load: Load,
    pub(crate) wait: Wait,
    pub(crate) payload_bytes: usize,
    /// The payload is an attachment, where the peer has them.
    pub(crate) is_attached: bool,
    pub(crate) entrants: Vec<Entrant>,
    /// A goal depends on it. A quick run leaves out the others.
    pub(crate) is_goal: bool,
}

impl Scenario {
    pub(crate) fn work(&self, entrant: &Entrant) -> Work {
        match self.load {
            Load::Fanout { .. } if entrant.subscribers == Subscribers::Patterns => Work::Patterns,
            Load::Fanout { .. } => Work::Fanout,
            Load::History { .. } => Work::History,
            _ => Work::Echo,
        }
    }

    /// Returns the protocol in which the generator speaks with a peer.
    pub(crate) fn wire(&self, entrant: &Entrant) -> Box<dyn Wire> {
        if self.load == Load::Forwarded {
            return entrant.peer.forwarded_wire(self.payload_bytes);
        }
        let wire = if self.is_attached { Peer::attached_wire } else { Peer::wire };
        wire(entrant.peer, self.work(entrant), self.payload_bytes)
    }

    /// Returns the programs that its peers need.
    pub(crate) fn programs(&self) -> impl Iterator<Item = Program> {
        let own = match self.load {
            Load::Syscalls { .. } => Some(Program::Strace),
            Load::PublishedClient => Some(Program::Published),
            Load::Node { .. } => Some(Program::Node),
            _ => None,
        };
        self.entrants.iter().flat_map(Entrant::programs).chain(own)
    }

    /// Returns whether a user who says `name` means it.
    fn is_called(&self, name: &str) -> bool {
        self.name == name || GROUPS.contains(&name) && self.name.starts_with(name)
    }

    fn new(name: &'static str, title: &'static str, load: Load, entrants: &[Entrant]) -> Self {
        Self {
            name,
            title,
            load,
            wait: Wait::Block,
            payload_bytes: PAYLOAD_BYTES,
            is_attached: false,
            entrants: entrants.to_vec(),
            is_goal: true,
        }
    }

    fn payload(self, payload_bytes: usize) -> Self {
        Self { payload_bytes, ..self }
    }

    fn attached(self, data_bytes: usize) -> Self {
        Self { payload_bytes: data_bytes, is_attached: true, ..self }
    }

    fn spinning(self) -> Self {
        Self { wait: Wait::Spin, ..self }
    }

    fn beside_the_goals(self) -> Self {
        Self { is_goal: false, ..self }
    }
}

/// The length of a payload, with which a frame of this server has about 300 bytes, and one of Redis
/// about 150.
const PAYLOAD_BYTES: usize = 128;
const HUNDRED_KB: usize = 100_000;
const MEGABYTE: usize = 1 << 20;
const ONE_CLOSED: Load = Load::Closed { clients: 1, window: 1 };
const HUNDRED_CLOSED: Load = Load::Closed { clients: 100, window: 1 };
/// The names of several scenarios: those that measure the clients, those of streams, those of
/// attachments, those of patterns and histories, and those of several servers.
const GROUPS: [&str; 5] = ["clients", "streams", "binary", "topics", "bridge"];
/// Idle connections, and channels, of the scenario with many.
pub(crate) const IDLE: usize = 10_000;
/// Connections that hold the patterns, nearly 10,000, of which none matches.
pub(crate) const PATTERN_HOLDERS: usize = 10;

const fn tcp(name: &'static str, peer: Peer) -> Entrant {
    Entrant {
        name,
        peer,
        socket: Socket::Tcp,
        idle: 0,
        subscribers: Subscribers::Live,
        client: None,
    }
}

const fn unix(name: &'static str, peer: Peer) -> Entrant {
    Entrant {
        name,
        peer,
        socket: Socket::Unix,
        idle: 0,
        subscribers: Subscribers::Live,
        client: None,
    }
}

const IPC: Entrant = tcp("ipc", Peer::Ipc(&[]));
const IPC_UNIX: Entrant = unix("ipc-unix", Peer::Ipc(&[]));
const BUSY: &[&str] = &["--busy"];
const BARE: Entrant = tcp("bare", Peer::Bare(BareKind::Echo));
const BARE_UNIX: Entrant = unix("bare-unix", Peer::Bare(BareKind::Echo));
const BARE_FRAMES: Entrant = tcp("bare-frames", Peer::Bare(BareKind::FrameEcho));
const RELAY: Entrant = tcp("bare", Peer::Bare(BareKind::Relay));
const REDIS: Entrant = tcp("redis", Peer::Redis);
const REDIS_UNIX: Entrant = unix("redis-unix", Peer::Redis);
const NATS: Entrant = tcp("nats", Peer::Nats);
const ZEROMQ: Entrant = tcp("zeromq", Peer::ZeroMq);
const PUBLISHED: Entrant = tcp("published", Peer::Published);
const PYTHON: Entrant = tcp("python", Peer::Python);

/// Returns all scenarios, in the order of the goals.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = goals();
    all.extend(python());
    all.extend(clients());
    all.extend(streams());
    all.extend(binary());
    all.extend(topics());
    all.extend(bridge());
    all.extend(beside_the_goals());
    all
}

/// Returns the loads under which two builds of this server are compared.
pub(crate) fn guarded() -> Vec<Scenario> {
    let fanout = |subscribers, window| Load::Fanout { subscribers, window };
    let load = |name, title, load| Scenario::new(name, title, load, &[IPC]);
    let unix = |name, title, load| Scenario::new(name, title, load, &[IPC_UNIX]);
    vec![
        load("one-tcp", "Requests of 1 blocking client, TCP", Load::OneClient),
        unix("one-unix", "Requests of 1 blocking client, Unix socket", Load::OneClient),
        load("hundred-tcp", "Requests of 100 clients, TCP", HUNDRED_CLOSED),
        unix("hundred-unix", "Requests of 100 clients, Unix socket", HUNDRED_CLOSED),
        load("100-kb", "Requests of 100 KB, 1 client", ONE_CLOSED).payload(HUNDRED_KB),
        load("1-mb", "Requests of 1 MB, 1 client", ONE_CLOSED).payload(MEGABYTE),
        load("fan-out-one", "Fan-out to 100, one publication at a time", fanout(100, 1)),
        load("fan-out-hundred", "Fan-out to 100, 100 publications in flight", fanout(100, 100)),
        load("forwarded", "Requests of 1 client that a worker answers", Load::Forwarded),
        load("publication", "Publications to 1 subscriber", fanout(1, 1)),
    ]
}

/// Returns the named scenarios, or all of them if none is named.
pub(crate) fn choose(all: Vec<Scenario>, names: &[String]) -> Result<Vec<Scenario>, String> {
    if let Some(name) = names.iter().find(|name| all.iter().all(|s| !s.is_called(name))) {
        let mut known: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
        known.extend(GROUPS);
        return Err(format!("there is no {name}; there are {}", known.join(", ")));
    }
    let is_chosen =
        |scenario: &Scenario| names.is_empty() || names.iter().any(|name| scenario.is_called(name));
    Ok(all.into_iter().filter(is_chosen).collect())
}

fn goals() -> Vec<Scenario> {
    let fanout = |window| Load::Fanout { subscribers: 100, window };
    vec![
        Scenario::new(
            "one-client",
            "Request/response, 1 client, both sides blocking",
            Load::OneClient,
            &[
                IPC,
                BARE,
                tcp("bare-read", Peer::Bare(BareKind::ReadWriteEcho)),
                REDIS,
                NATS,
                ZEROMQ,
                IPC_UNIX,
                BARE_UNIX,
                REDIS_UNIX,
            ],
        ),
        Scenario::new(
            "one-client-spinning",
            "Request/response, 1 client, both sides spinning",
            Load::OneClient,
            &[
                tcp("ipc", Peer::Ipc(BUSY)),
                tcp("bare", Peer::Bare(BareKind::SpinningEcho)),
                unix("ipc-unix", Peer::Ipc(BUSY)),
                unix("bare-unix", Peer::Bare(BareKind::SpinningEcho)),
            ],
        )
        .spinning(),
        Scenario::new(
            "server-spins",
            "Request/response, 1 blocking client, a server that spins before it sleeps",
            Load::OneClient,
            &[tcp("ipc-spin", Peer::Ipc(&["--spin", "50us"])), IPC, REDIS],
        ),
        Scenario::new(
            "hundred-clients",
            "Request/response, 100 clients, closed loop",
            HUNDRED_CLOSED,
            &[IPC, BARE, REDIS, NATS, ZEROMQ, IPC_UNIX, BARE_UNIX],
        ),
        Scenario::new(
            "open-loop",
            "Request/response, 100 clients, open loop at half of the peak rate",
            Load::OpenAtHalfPeak { clients: 100 },
            &[IPC, BARE, REDIS, NATS],
        ),
        Scenario::new(
            "fan-out-one",
            "Fan-out to 100, one publication at a time",
            fanout(1),
            &[IPC, RELAY, REDIS, NATS, ZEROMQ, PUBLISHED],
        ),
        Scenario::new(
            "fan-out-hundred",
            "Fan-out to 100, 100 publications in flight",
            fanout(100),
            &[IPC, RELAY, REDIS, NATS, ZEROMQ],
        ),
        Scenario::new(
            "hundred-kb",
            "100 KB payloads, 1 client",
            ONE_CLOSED,
            &[IPC, BARE, BARE_FRAMES, REDIS],
        )
        .payload(HUNDRED_KB),
        Scenario::new(
            "megabyte",
            "1 MB payloads, 1 client",
            ONE_CLOSED,
            &[IPC, BARE, BARE_FRAMES, REDIS],
        )
        .payload(MEGABYTE),
        Scenario::new(
            "idle",
            "1 blocking client beside 10,000 idle connections and 10,000 channels",
            Load::OneClient,
            &[IPC, Entrant { idle: IDLE, ..tcp("ipc-idle", Peer::Ipc(&[])) }],
        ),
        Scenario::new(
            "published-client",
            "The unmodified Python client, callback round trips",
            Load::PublishedClient,
            &[IPC, PUBLISHED],
        ),
        Scenario::new(
            "syscalls-one-client",
            "System calls of the server for a request, 1 client",
            Load::Syscalls { clients: 1 },
            &[IPC, BARE, REDIS],
        ),
        Scenario::new(
            "syscalls-hundred-clients",
            "System calls of the server for a request, 100 clients",
            Load::Syscalls { clients: 100 },
            &[IPC, BARE, REDIS],
        ),
    ]
}

/// Returns the scenarios with servers in Python.
fn python() -> Vec<Scenario> {
    let fanout = Load::Fanout { subscribers: 100, window: 1 };
    vec![
        Scenario::new(
            "python-handler",
            "An echo handler in Python, 1 blocking client",
            Load::OneClient,
            &[PYTHON, PUBLISHED, IPC],
        ),
        Scenario::new(
            "python-handler-hundred",
            "An echo handler in Python, 100 clients, closed loop",
            HUNDRED_CLOSED,
            &[PYTHON, PUBLISHED, IPC],
        ),
        Scenario::new(
            "python-fan-out",
            "A server in Python, fan-out to 100, one publication at a time",
            fanout,
            &[PYTHON, PUBLISHED, IPC],
        ),
    ]
}

/// Returns the scenarios that measure the Python client and handlers beside clients of other brokers.
fn clients() -> Vec<Scenario> {
    let own = |name| tcp(name, Peer::Ipc(&[])).client(Program::Python);
    let own_unix = |name| unix(name, Peer::Ipc(&[])).client(Program::Python);
    let nats = |name| tcp(name, Peer::Nats).client(Program::NatsPy);
    let (nats, bytes) = (nats("nats-py"), nats("nats-py-bytes"));
    vec![
        Scenario::new(
            "clients-blocking",
            "A Python client, one blocking request after the other",
            Load::Client("blocking"),
            &[own("client"), own("frames"), own_unix("client-unix"), own_unix("frames-unix")],
        ),
        Scenario::new(
            "clients-megabyte",
            "A Python client, requests with 1 MB of text",
            Load::Client("megabyte"),
            &[own("client"), tcp("pyzmq", Peer::ZeroMq).client(Program::ZeroMq)],
        )
        .payload(MEGABYTE),
        Scenario::new(
            "clients-aio",
            "A Python client on asyncio, 64 requests in flight",
            Load::Client("aio"),
            &[own("client"), tcp("streams", Peer::Bare(BareKind::Echo)).client(Program::Python)],
        ),
        Scenario::new(
            "clients-worker",
            "A Python worker, 64 requests in flight",
            Load::Client("worker"),
            &[own("serve"), own("serve-async"), nats, bytes],
        ),
        Scenario::new(
            "clients-publish",
            "A Python publisher, one subscriber",
            Load::Client("publish"),
            &[own("client"), nats, bytes],
        ),
        Scenario::new(
            "clients-handler",
            "An echo handler in Python, 64 requests in flight",
            Load::Client("handler"),
            &[own("plain"), own("async")],
        ),
        Scenario::new(
            "clients-import",
            "The import of the Python client by a fresh process",
            Load::Client("import"),
            &[own("python"), tcp("published", Peer::Ipc(&[])).client(Program::Published)],
        ),
    ]
}

/// A script of `perf/node`.
const STREAMS: &str = "streams.js";
/// The bytes of a picture of 224 by 224 by 3 numbers of 32 bits.
const PICTURE_BYTES: usize = 4 * 224 * 224 * 3;

/// Returns the scenarios of attachments.
fn binary() -> Vec<Scenario> {
    let own = |name| tcp(name, Peer::Ipc(&[])).client(Program::Python);
    let sockets = tcp("sockets", Peer::Bare(BareKind::Pair)).client(Program::Python);
    let client = |name, peer, program| tcp(name, peer).client(program);
    vec![
        Scenario::new(
            "binary-megabyte",
            "1 MB as an attachment, 1 client",
            ONE_CLOSED,
            &[IPC, BARE, BARE_FRAMES],
        )
        .attached(MEGABYTE),
        Scenario::new(
            "binary-fan-out",
            "1 MB as an attachment, fan-out to 100, one publication at a time",
            Load::Fanout { subscribers: 100, window: 1 },
            &[IPC, RELAY],
        )
        .attached(MEGABYTE),
        Scenario::new(
            "binary-node-python",
            "A tensor of 602,112 bytes from Node to a handler in Python and back",
            Load::Node { script: "tensors.js", work: "picture" },
            &[own("ipc"), own("ipc-base64"), sockets],
        )
        .payload(PICTURE_BYTES),
        Scenario::new(
            "binary-python",
            "A Python client, requests with 1 MB of bytes",
            Load::Client("bytes"),
            &[
                own("client"),
                client("redis-py", Peer::Redis, Program::RedisPy),
                client("nats-py", Peer::Nats, Program::NatsPy),
                client("pyzmq", Peer::ZeroMq, Program::ZeroMq),
                client("grpcio", Peer::Grpc, Program::GrpcPy),
            ],
        )
        .payload(MEGABYTE),
    ]
}

/// Returns the scenarios in which Node asks a worker in Python for streams.
fn streams() -> Vec<Scenario> {
    let own = tcp("ipc", Peer::Ipc(&[])).client(Program::Python);
    vec![
        Scenario::new(
            "streams-parts",
            "100 streams side by side from one Python worker to Node; latencies to the first part",
            Load::Node { script: STREAMS, work: "parts" },
            &[own, tcp("nats", Peer::Nats).client(Program::NatsPy), tcp("grpc", Peer::Grpc)],
        ),
        Scenario::new(
            "streams-leaving",
            "From the end of a requester's connection in Node to a Python worker that knows of it",
            Load::Node { script: STREAMS, work: "leaving" },
            &[own],
        ),
    ]
}

/// Returns the scenarios of patterns and histories.
fn topics() -> Vec<Scenario> {
    let among = |name, peer| Entrant { subscribers: Subscribers::Patterns, ..tcp(name, peer) };
    let patterns = [
        among("ipc", Peer::Ipc(&[])),
        tcp("ipc-plain", Peer::Ipc(&[])),
        among("nats", Peer::Nats),
        among("redis", Peer::Redis),
    ];
    let fanout = |window| Load::Fanout { subscribers: 10, window };
    let live = tcp("ipc-live", Peer::IpcWithHistory);
    vec![
        Scenario::new(
            "topics-patterns-one",
            "A channel that 10 of 10,000 patterns match, one publication at a time",
            fanout(1),
            &patterns,
        ),
        Scenario::new(
            "topics-patterns",
            "A channel that 10 of 10,000 patterns match, 100 publications in flight",
            fanout(100),
            &patterns,
        ),
        Scenario::new(
            "topics-history",
            "A history of 1,000 messages that 100 clients read at once; latencies of another client",
            Load::History { subscribers: 100 },
            &[Entrant { name: "ipc-kept", subscribers: Subscribers::Kept, ..live }, live],
        ),
    ]
}

/// Returns the scenarios of servers that NATS joins.
fn bridge() -> Vec<Scenario> {
    let (bridged, apart) = (tcp("ipc-bridged", Peer::Bridged), tcp("ipc-nats", Peer::Apart));
    let fanout = |subscribers, window| Load::Fanout { subscribers, window };
    vec![
        Scenario::new(
            "bridge-requests",
            "Requests of 1 client at one server that a worker at another one answers",
            Load::Forwarded,
            &[bridged, NATS, IPC],
        ),
        Scenario::new(
            "bridge-fan-out",
            "Publications at one server to 100 subscribers of another one, 100 in flight",
            fanout(100, 100),
            &[bridged, NATS, IPC],
        ),
        Scenario::new(
            "bridge-local-requests",
            "Requests beside NATS, on a channel that is not shared",
            Load::OneClient,
            &[apart, IPC],
        ),
        Scenario::new(
            "bridge-local-publications",
            "Publications to 1 subscriber beside NATS, on a channel that is not shared",
            fanout(1, 1),
            &[apart, IPC],
        ),
    ]
}

fn beside_the_goals() -> Vec<Scenario> {
    let few = [IPC, BARE, REDIS];
    let one = |name, title, bytes| {
        Scenario::new(name, title, Load::OneClient, &few).payload(bytes).beside_the_goals()
    };
    let closed = |name, title, clients, window| {
        let load = Load::Closed { clients, window };
        Scenario::new(name, title, load, &few).beside_the_goals()
    };
    vec![
        one("payload-16", "Request/response, 1 blocking client, 16 B", 16),
        one("payload-1k", "Request/response, 1 blocking client, 1 KiB", 1 << 10),
        one("payload-16k", "Request/response, 1 blocking client, 16 KiB", 16 << 10),
        one("payload-64k", "Request/response, 1 blocking client, 64 KiB", 64 << 10),
        Scenario::new(
            "fan-out-one-spinning",
            "Fan-out to 100, one publication at a time, a generator that never sleeps",
            Load::Fanout { subscribers: 100, window: 1 },
            &[IPC, RELAY, REDIS],
        )
        .spinning()
        .beside_the_goals(),
        closed("pipelined", "Request/response, 1 client, 32 requests outstanding", 1, 32),
        closed("thousand-clients", "Request/response, 1,000 clients, closed loop", 1_000, 1),
        closed("ten-thousand-clients", "Request/response, 10,000 clients, closed loop", 10_000, 1),
        Scenario::new(
            "megabyte-four",
            "1 MB payloads, 4 clients",
            Load::Closed { clients: 4, window: 1 },
            &[IPC, BARE, BARE_FRAMES, REDIS],
        )
        .payload(MEGABYTE)
        .beside_the_goals(),
        Scenario::new(
            "published-server",
            "Request/response, 1 blocking client, the published server",
            Load::OneClient,
            &[IPC, PUBLISHED],
        )
        .beside_the_goals(),
    ]
}
