//! `ipc serve`

mod histograms;
mod latency_log;
mod metrics;
mod signals;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ipc_framework::{Address, Config, Server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use self::latency_log::LatencyLog;
use super::settings::{self, Settings};
use super::{Failure, demo_applications, logging};

/// Run the server.
#[derive(Args, Debug)]
#[command(after_help = "\
Durations are written 500ms, 5s or 2min, sizes 64KiB or 16MiB. The file given by --config is
TOML with the same names, and a table [tokens] with tokens by application. IPC_TOKEN holds the
token of all other applications, IPC_LOG the level of events: error, warn, info or debug.
SIGTERM and SIGINT drain, a second one ends at once. SIGUSR1 writes counters and latencies to
standard error; SIGUSR2 does so and empties the latencies.

Examples:
  ipc serve --demo
  ipc serve --port 9000 --max-connections 500 --idle-timeout 10min
  ipc serve --no-tcp --unix /run/ipc.sock --unix-mode 0660
  ipc serve --host 0.0.0.0 --token-file /etc/ipc/token

Exit codes: 0 drained and ended, 1 something failed, 2 wrong usage.")]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// Read settings from a TOML file; flags go before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Descriptors the process needs beside its connections: listeners, the event queue, the
/// standard streams, connections that are only told to go, and some to spare.
const OWN_DESCRIPTORS: usize = 128;

impl Serve {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let settings = match &self.config {
            Some(path) => self.settings.or_from_file(path)?,
            None => self.settings,
        };
        let mut config = settings.config(settings::environment_token()?)?;
        logging::init(settings.log_format.unwrap_or_default())?;
        raise_descriptor_limit(&mut config)?;
        let mut server = Server::bind(config)?;
        if settings.demo {
            demo_applications::install(&mut server);
        }
        signals::watch(server.handle())?;
        let metrics = match &settings.metrics {
            Some(address) => Some(metrics::start(address, server.handle())?),
            None => None,
        };
        let latency_log = match &settings.latency_log {
            Some(path) => Some(LatencyLog::start(path, server.handle())?),
            None => None,
        };
        // The other threads are started, so that the loop has its core to itself.
        settings.cpu.map_or(Ok(()), pin)?;
        match greet(server.addresses(), metrics.as_deref(), settings.demo) {
            // Nobody reads it: the server is none the worse.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(Failure::runtime(format!("cannot write to standard output: {error}")));
            }
            _ => {}
        }
        server.run()?;
        if let Some(log) = latency_log {
            log.finish(&server.context())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Keeps the loop's thread on one core.
fn pin(cpu: usize) -> Result<(), Failure> {
    let mut cores = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        cores.set(cpu);
    }
    sched_setaffinity(None, &cores).map_err(|error| {
        Failure::runtime(format!(
            "cannot run on core {cpu}: {error}; cores are counted from 0, see `nproc` and `taskset -p $$`"
        ))
    })
}

fn greet(addresses: &[Address], metrics: Option<&str>, demo: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for address in addresses {
        writeln!(out, "listening on {address}")?;
    }
    if let Some(address) = metrics {
        writeln!(out, "metrics at http://{address}/metrics")?;
    }
    let tcp = addresses.iter().find_map(Address::port);
    match (demo, tcp) {
        (true, Some(8888)) => writeln!(
            out,
            "try: pip install ipc-framework, then `ipc-chat Ada` in one terminal and \
             `ipc-chat Bob` in another"
        )?,
        (_, Some(port)) => writeln!(
            out,
            "try: pip install ipc-framework, then python3 -c 'from ipc_framework import \
             FrameworkClient as C; c = C(\"bench\", port={port}); c.connect(); print(c.ping())'"
        )?,
        (_, None) => {}
    }
    writeln!(out, "stop with Ctrl-C")?;
    out.flush()
}

/// Asks for as many descriptors as the connections may need; where the system gives fewer,
/// fewer connections are let in than were asked for.
fn raise_descriptor_limit(config: &mut Config) -> Result<(), Failure> {
    let asked = config.limits.connections_max;
    let needed = asked.saturating_add(OWN_DESCRIPTORS) as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let granted = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = Rlimit { current: Some(granted), maximum: limit.maximum };
    let granted = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => granted,
        Err(_) => limit.current.unwrap_or(granted),
    };
    let fitting = (granted as usize).saturating_sub(OWN_DESCRIPTORS);
    if fitting == 0 {
        return Err(Failure::runtime(format!(
            "the system allows this process {granted} open files, of which the server itself may \
             need {OWN_DESCRIPTORS}; raise `ulimit -Hn`"
        )));
    }
    if fitting < asked {
        tracing::warn!(
            asked,
            connections_max = fitting,
            "the system allows fewer open files; raise `ulimit -Hn`"
        );
        config.limits.connections_max = fitting;
    }
    Ok(())
}
