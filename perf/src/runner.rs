//! Carries out one repetition of one entrant.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::endpoint::Endpoint;
use crate::figures::{Figure, Sample};
use crate::load::{
    Connection, Cpu, Outcome, Parties, Phases, Reading, closed_loop, connect, fanout, forwarded,
    history, new_histogram, one_client, open_loop,
};
use crate::peers::{Peer, Peers, Server};
use crate::poller::Wait;
use crate::proc;
use crate::scenario::{Entrant, Load, PATTERN_HOLDERS, Scenario, Subscribers};
use crate::syscalls;
use crate::wire::{Dialect, Ipc, Role, Wire, Work};

/// The figures of one repetition.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) figures: Sample,
    /// The latencies in nanoseconds; empty if none were measured.
    pub(crate) latency: Histogram<u64>,
}

/// Settings for all repetitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
    /// The rate of the open loop, of all clients together.
    pub(crate) open_per_second: f64,
}

/// The pause between the subscriptions and the first publication. A socket that has just answered
/// delays its acknowledgements, at the publisher's cost, until its timer of 40 ms has expired once.
/// Without the pause, a peer would be faster the fewer messages its handshake has. Subscriptions
/// that are not acknowledged are in place by then, too.
const SUBSCRIBED: Duration = Duration::from_millis(150);
/// The pause before memory is measured, in which the server comes to rest.
const REST: Duration = Duration::from_millis(100);

/// Starts the entrant's server, puts load on it, and ends it.
pub(crate) fn run(
    peers: &Peers,
    scenario: &Scenario,
    entrant: &Entrant,
    settings: Settings,
) -> Result<Run, String> {
    let server = peers.start(entrant.peer, entrant.socket, scenario.work(entrant))?;
    load(peers, scenario, entrant, settings, &server).map_err(|error| {
        let words = server.last_words();
        if words.is_empty() { error } else { format!("{error}; its log ends: {words}") }
    })
}

fn load(
    peers: &Peers,
    scenario: &Scenario,
    entrant: &Entrant,
    settings: Settings,
    server: &Server,
) -> Result<Run, String> {
    let wire = scenario.wire(entrant);
    let wire = wire.as_ref();
    let phases =
        Phases { warm_up: settings.warm_up, measure: settings.measure, server: Some(server.pid()) };
    let senders = |count: usize| senders(&server.endpoint, wire, count);
    let wait = scenario.wait;
    let mut extra = Sample::new();
    let outcome = match scenario.load {
        Load::OneClient => {
            let mut client = connect(&server.endpoint, wire, Role::Sender, 0)?;
            let idle = hold_idle(server, wire, entrant.idle, &mut client, &mut extra)?;
            let outcome = one_client(&mut client, wire, wait, phases)?;
            drop(idle);
            outcome
        }
        Load::Closed { clients, window } => {
            closed_loop(senders(clients)?, wire, wait, window, phases)?
        }
        Load::OpenAtHalfPeak { clients } => {
            open_loop(senders(clients)?, wire, settings.open_per_second, phases)?
        }
        Load::Fanout { subscribers, window } => {
            let subscriber = |index| {
                let endpoint = subscriber_endpoint(entrant.peer, server.far());
                connect(&endpoint, wire, Role::Subscriber, index)
            };
            let receivers = (1..=subscribers).map(subscriber).collect::<Result<_, _>>()?;
            let holder =
                |at| connect(&server.endpoint, wire, Role::PatternHolder, subscribers + 1 + at);
            let has_patterns = entrant.subscribers == Subscribers::Patterns;
            let holders = (0..if has_patterns { PATTERN_HOLDERS } else { 0 }).map(holder);
            let holders = holders.collect::<Result<Vec<_>, _>>()?;
            thread::sleep(SUBSCRIBED + entrant.peer.settling());
            let publisher = connect(&server.endpoint, wire, Role::Sender, 0)?;
            let outcome = fanout(publisher, receivers, wire, wait, window, phases)?;
            drop(holders);
            outcome
        }
        Load::History { subscribers } => {
            return read_history(scenario, entrant, subscribers, server, phases);
        }
        Load::Forwarded => {
            let mut worker = connect(server.far(), wire, Role::Worker, 1)?;
            thread::sleep(entrant.peer.settling());
            let mut client = connect(&server.endpoint, wire, Role::Sender, 0)?;
            forwarded(&mut client, &mut worker, wire, phases)?
        }
        Load::Client(work) => {
            let figures = client(peers, work, entrant, &server.endpoint, settings)?;
            return Ok(Run { figures, latency: new_histogram() });
        }
        Load::Node { script, work } => {
            return node(peers, script, work, entrant, &server.endpoint, settings);
        }
        Load::PublishedClient => published_client(peers, &server.endpoint, settings)?,
        Load::Syscalls { clients } => {
            let connections = senders(clients)?;
            let strace = peers.strace()?;
            let figures = syscalls::count(strace, server.pid(), peers.state(), || {
                closed_loop(connections, wire, wait, 1, phases)
            })?;
            return Ok(Run { figures, latency: new_histogram() });
        }
    };
    let mut figures = figures(scenario, &outcome);
    figures.extend(extra);
    Ok(Run { figures, latency: outcome.latency })
}

fn senders(endpoint: &Endpoint, wire: &dyn Wire, count: usize) -> Result<Vec<Connection>, String> {
    (0..count).map(|index| connect(endpoint, wire, Role::Sender, index)).collect()
}

/// Returns the address for subscribers, which `ZeroMQ` has a separate socket for.
fn subscriber_endpoint(peer: Peer, endpoint: &Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Tcp(address) if peer == Peer::ZeroMq => {
            let mut address = *address;
            address.set_port(address.port() + 1);
            Endpoint::Tcp(address)
        }
        endpoint => endpoint.clone(),
    }
}

/// Opens `count` connections, gives each a channel of its own, and records the memory of both.
fn hold_idle(
    server: &Server,
    wire: &dyn Wire,
    count: usize,
    client: &mut Connection,
    extra: &mut Sample,
) -> Result<Vec<Connection>, String> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let memory = || -> Result<f64, String> {
        thread::sleep(REST);
        let bytes = proc::resident_bytes(server.pid());
        bytes.map(|bytes| bytes as f64).ok_or("the server's memory cannot be read".into())
    };
    // The memory that the first served client takes is not part of an idle connection's.
    let warm = Phases { warm_up: REST, measure: Duration::ZERO, server: None };
    one_client(client, wire, Wait::Block, warm)?;
    let alone = memory()?;
    let connect = |index| connect(&server.endpoint, wire, Role::Idle, index);
    let mut idle = (1..=count).map(connect).collect::<Result<Vec<_>, _>>()?;
    let with_connections = memory()?;
    for (at, connection) in idle.iter_mut().enumerate() {
        connection.join_further(wire, Role::Idle, Role::IdleSubscriber, at + 1)?;
    }
    let with_channels = memory()?;
    let each = |from: f64, to: f64| (to - from) / count as f64;
    extra.insert(Figure::BytesPerIdleConnection, each(alone, with_connections));
    extra.insert(Figure::BytesPerIdleChannel, each(with_connections, with_channels));
    Ok(idle)
}

/// Lets subscribers read a history while another client asks the server something else.
fn read_history(
    scenario: &Scenario,
    entrant: &Entrant,
    subscribers: usize,
    server: &Server,
    phases: Phases,
) -> Result<Run, String> {
    let endpoint = &server.endpoint;
    let [wire, asked] = [Work::History, Work::Echo]
        .map(|work| Ipc::new(Dialect::Server, work, scenario.payload_bytes));
    let (reading, role) = match entrant.subscribers {
        Subscribers::Kept => (Reading::Kept, Role::Idle),
        _ => (Reading::Live, Role::Subscriber),
    };
    let readers = (1..=subscribers).map(|index| connect(endpoint, &wire, role, index));
    let parties = Parties {
        readers: readers.collect::<Result<_, _>>()?,
        publisher: connect(endpoint, &wire, Role::Sender, 0)?,
        bystander: connect(endpoint, &asked, Role::Sender, subscribers + 1)?,
    };
    thread::sleep(SUBSCRIBED);
    let (outcome, deliveries) = history(parties, [&wire, &asked], reading, phases)?;
    let mut figures = figures(scenario, &outcome);
    let seconds = outcome.elapsed.as_secs_f64();
    figures.insert(Figure::PerSecond, deliveries as f64 / seconds);
    let cpu = outcome.cpu.server.as_secs_f64() * 1e6 / deliveries.max(1) as f64;
    figures.insert(Figure::ServerCpuUs, cpu);
    Ok(Run { figures, latency: outcome.latency })
}

fn figures(scenario: &Scenario, outcome: &Outcome) -> Sample {
    let seconds = outcome.elapsed.as_secs_f64();
    let per_second = outcome.completed as f64 / seconds;
    let deliveries = match scenario.load {
        Load::Fanout { subscribers, .. } => subscribers as f64,
        _ => 1.0,
    };
    let mut figures = percentiles(&outcome.latency);
    figures.insert(Figure::PerSecond, per_second * deliveries);
    if scenario.load == Load::PublishedClient {
        return figures;
    }
    if scenario.payload_bytes >= 1 << 14 {
        // The payload goes there and back.
        let bytes = 2.0 * scenario.payload_bytes as f64;
        figures.insert(Figure::MegabytesPerSecond, per_second * bytes / 1e6);
    }
    let server = outcome.cpu.server.as_secs_f64();
    figures.insert(Figure::ServerCpuUs, server * 1e6 / outcome.completed.max(1) as f64);
    figures.insert(Figure::ServerBusy, server / seconds);
    let generator = outcome.cpu.generator.as_secs_f64();
    figures.insert(Figure::GeneratorBusy, generator / seconds);
    let others = outcome.cpu.machine.as_secs_f64() - server - generator;
    figures.insert(Figure::OthersBusy, others.max(0.0) / seconds);
    figures
}

fn percentiles(latency: &Histogram<u64>) -> Sample {
    let micros = |nanos: u64| nanos as f64 / 1_000.0;
    Sample::from([
        (Figure::P50Us, micros(latency.value_at_quantile(0.5))),
        (Figure::P90Us, micros(latency.value_at_quantile(0.9))),
        (Figure::P99Us, micros(latency.value_at_quantile(0.99))),
        (Figure::P999Us, micros(latency.value_at_quantile(0.999))),
        (Figure::MaxUs, micros(latency.max())),
    ])
}

/// Runs a Python client, on the generator's processor, which measures itself.
fn client(
    peers: &Peers,
    work: &str,
    entrant: &Entrant,
    server: &Endpoint,
    settings: Settings,
) -> Result<Sample, String> {
    let python = entrant.client.ok_or("the entrant names no client")?;
    let seconds = settings.measure.as_secs_f64();
    let mut command = peers.client(python, [work, entrant.name], server, seconds)?;
    reported(&mut command, entrant)
}

/// Returns what a client that measures itself prints.
fn reported<T: DeserializeOwned>(command: &mut Command, entrant: &Entrant) -> Result<T, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("the client {}: {error}", entrant.name))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let last: Vec<&str> = words.lines().rev().take(3).collect();
        format!("the client {} failed: {}", entrant.name, last.join(" / "))
    })
}

/// The report of a script that Node runs.
#[derive(Deserialize)]
struct Reported {
    figures: Sample,
    latency_nanos: Vec<u64>,
}

/// Runs a script by Node, on the generator's processor, which measures itself.
fn node(
    peers: &Peers,
    script: &str,
    work: &str,
    entrant: &Entrant,
    server: &Endpoint,
    settings: Settings,
) -> Result<Run, String> {
    let seconds = settings.measure.as_secs_f64();
    let mut command = peers.node(script, entrant.client, [work, entrant.name], server, seconds)?;
    let Reported { mut figures, latency_nanos } = reported(&mut command, entrant)?;
    let mut latency = new_histogram();
    for nanos in latency_nanos {
        latency.saturating_record(nanos);
    }
    figures.extend(percentiles(&latency));
    Ok(Run { figures, latency })
}

/// Runs the published client, on the generator's processor.
fn published_client(
    peers: &Peers,
    endpoint: &Endpoint,
    settings: Settings,
) -> Result<Outcome, String> {
    let Endpoint::Tcp(address) = endpoint else {
        return Err("the published client knows TCP only".into());
    };
    let seconds = settings.measure.as_secs_f64();
    let mut command = peers.published_client()?;
    command.arg(address.port().to_string()).arg(seconds.to_string()).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("cannot start Python: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The published client prints other lines before this one.
    let samples = text.split_once("samples:").map(|(_, samples)| samples);
    let (true, Some(samples)) = (output.status.success(), samples) else {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("the published client failed: {}", words.trim()));
    };
    let mut latency = new_histogram();
    for sample in samples.split_whitespace() {
        let nanos = sample.parse().map_err(|_| format!("the published client said {sample}"))?;
        latency.saturating_record(nanos);
    }
    let completed = latency.len();
    let elapsed = settings.measure.mul_f64(0.9);
    let cpu = Cpu::default();
    Ok(Outcome { latency, completed, answered: completed, elapsed, cpu })
}
