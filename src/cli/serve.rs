//! `ipc serve`

mod channels;
mod crash;
mod exposition;
mod flags;
mod health;
mod hints;
mod histograms;
mod http;
mod latency_log;
mod log_queue;
mod logging;
mod metrics;
mod nats;
mod nats_metrics;
mod rate_limit;
mod series;
mod service_manager;
mod settings;
mod settings_file;
mod signals;
mod status;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ipc_framework::{Access, Config, Handle, Inherited, Limits, Server, UnixSocket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::flags::Flags;
use self::hints::Hints;
use self::latency_log::LatencyLog;
use self::nats::Nats;
use self::settings::{LogFormat, Problems, Settings};
use super::failure::Failure;
use super::output::printable;
use super::{demo_applications, token};

/// Run the server.
#[derive(Args, Debug)]
#[command(after_help = "\
Durations are written 500ms, 5s or 2min, sizes 64KiB or 16MiB. A flag goes before its variable, \
such as IPC_PORT for --port, and the variable before the --config file, which is TOML with the same \
names, and a table [tokens] with tokens by application. The other subcommands read IPC_HOST, \
IPC_PORT, IPC_UNIX, IPC_TOKEN, IPC_TOKEN_FILE, IPC_TLS_CERT and IPC_TLS_KEY as well. IPC_TOKEN holds \
the token of all applications that have no other one, IPC_LOG the level of events: error, warn, info \
or debug. A flag without a value is set by 1 or true, and unset by 0 or false.

At the address of --metrics, / is a status page with the numbers of `ipc top`, /metrics is for \
Prometheus, and /healthz answers 200 while the server takes requests, and 503 when it drains or its \
loop does not answer. They name all applications and channels, and ask for no token. They are \
therefore refused on addresses other machines can reach, unless --insecure is given.

SIGTERM and SIGINT drain, a second one ends at once. SIGHUP reads the files again: \
limits, tokens, users and certificates change, all or none of them, and no connection \
is closed by it: frames that have begun keep the limit with which they began, and if \
more memory is in use than the new limit allows, senders wait for \
--slow-consumer-grace before the connection that holds the most is closed. SIGUSR1 \
writes counters and latencies to standard error; SIGUSR2 does so and resets the \
latencies.

Examples:
  ipc serve --demo
  ipc serve --port 9000 --max-connections 500 --idle-timeout 10min
  ipc serve --no-tcp --unix /run/ipc.sock --unix-mode 0660
  ipc serve --unix /run/ipc.sock --shm
  ipc serve --host 0.0.0.0 --token-file /etc/ipc/token
  ipc serve --nats nats://10.0.0.1,nats://10.0.0.2 --nats-channels 'prices.*'
  ipc serve --config /etc/ipc/ipc.toml --check-config

Exit codes: 0 drained and ended, 1 something failed, 2 wrong usage.")]
pub(super) struct Serve {
    #[command(flatten)]
    flags: Flags,
    /// Read settings from a TOML file, for all that neither a flag nor a variable gives
    #[arg(long, env = "IPC_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Report everything that keeps the server from starting, and end; with exit code 2 if there is
    /// anything
    #[arg(long)]
    check_config: bool,
}

/// Descriptors that the process needs besides its connections: listeners, the event queue, the
/// standard streams, connections that are only told to leave, and some to spare.
const OWN_DESCRIPTORS: usize = 128;
/// Descriptors of a connection over shared memory besides its socket: the memory, and one for each side to
/// sleep on.
const RING_DESCRIPTORS: usize = 3;

impl Serve {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if self.check_config {
            return self.check();
        }
        let inherited = service_manager::inherited()?;
        let (settings, mut config) = self.read().map_err(first)?;
        if !inherited.is_empty() {
            if settings.names_addresses() {
                return Err(Failure::usage(
                    "sockets were passed to listen on, and the settings name others; leave out \
                     host, port, unix and no-tcp, or the socket unit",
                ));
            }
            config.host = None;
        }
        logging::init(settings.log_format.unwrap_or_default())?;
        crash::note_panics();
        let is_json = settings.log_format == Some(LogFormat::Json);
        let served = self.serve(&settings, config, inherited);
        let failed = served.as_ref().err().and_then(Failure::sentence);
        let failed = failed.map(|sentence| printable(&sentence).into_owned());
        if let Some(reason) = failed.as_ref().filter(|_| is_json) {
            tracing::error!(%reason, "the server has failed");
        }
        logging::finish();
        if let Some(reason) = failed.filter(|_| !is_json) {
            crash::last_words(&format!("ipc: {reason}\n"));
        }
        Ok(served.err().map_or(ExitCode::SUCCESS, |failure| failure.exit_code()))
    }

    fn serve(
        self,
        settings: &Settings,
        mut config: Config,
        inherited: Vec<Inherited>,
    ) -> Result<(), Failure> {
        let problems = problems_of_machine(settings, &mut config.limits);
        if !problems.is_empty() {
            return Err(first(problems));
        }
        let nats = Nats::read(settings).map_err(first)?;
        let tls = config.tls.clone();
        let access = config.access.clone();
        let default_token = access.default.is_some();
        let mut server = Server::bind_with(config, inherited)?;
        if settings.is_demo() {
            demo_applications::install(&mut server);
        }
        if let Some(nats) = nats {
            nats.join(&mut server)?;
        }
        let mut reload =
            Reload { handle: server.handle(), flags: self, running: settings.clone(), access, tls };
        let cannot =
            |error: io::Error| Failure::runtime(format!("cannot watch for signals: {error}"));
        signals::watch(server.handle(), move || reload.run()).map_err(cannot)?;
        let metrics = match &settings.metrics {
            Some(address) => {
                let channels_max = settings.metrics_channels.unwrap_or(channels::CHANNELS_MAX);
                Some(http::start(address, server.handle(), channels_max)?)
            }
            None => None,
        };
        let latency_log = match &settings.latency_log {
            Some(path) => Some(LatencyLog::start(path, server.handle())?),
            None => None,
        };
        service_manager::watch(server.handle()).map_err(|error| {
            Failure::runtime(format!("cannot start the thread of the watchdog: {error}"))
        })?;
        // All other threads have been started by now, so the loop has the core to itself.
        settings.cpu.map_or(Ok(()), pin)?;
        let hints = Hints {
            addresses: server.addresses(),
            metrics: metrics.as_deref(),
            settings,
            default_token,
        };
        match greet(&hints) {
            // A closed standard output does not affect the server.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(Failure::runtime(format!("cannot write to standard output: {error}")));
            }
            _ => {}
        }
        service_manager::ready();
        crash::or_abort(|| run_loop(&mut server))?;
        // The thread that handles signals may be slower than the end of the loop.
        service_manager::stopping();
        if let Some(log) = latency_log {
            log.finish(&server.context())?;
        }
        Ok(())
    }

    /// Combines the flags, the environment and the file.
    fn settings(&self) -> Result<Settings, Problems> {
        let Flags(given) = self.flags.clone();
        let Some(path) = &self.config else { return Ok(given) };
        let mut file = settings_file::read(path)?;
        if token::is_in_environment() {
            // The variable holds the token itself, and goes before the file like all others.
            file.token_file = None;
        }
        Ok(given.or(file))
    }

    fn read(&self) -> Result<(Settings, Config), Problems> {
        let settings = self.settings()?;
        let config = config(&settings)?;
        Ok((settings, config))
    }

    /// Returns everything that is wrong with the configuration, without listening on anything.
    fn problems(&self) -> Problems {
        let settings = match self.settings() {
            Ok(settings) => settings,
            Err(problems) => return problems,
        };
        let nats = Nats::read(&settings).err().unwrap_or_default();
        let mut problems = match config(&settings) {
            Ok(mut config) => {
                let mut problems = problems_of_machine(&settings, &mut config.limits);
                if settings.names_users() && !settings.names_addresses() {
                    // A service manager may pass sockets, which shows only at the start. The check
                    // assumes a Unix socket, to which all rules apply.
                    config.host = None;
                    config.unix = Some(UnixSocket::at("/passed"));
                }
                problems.extend(config.problems().into_iter().map(Failure::from));
                problems
            }
            Err(mut problems) => {
                problems.extend(problems_of_machine(&settings, &mut Limits::default()));
                problems
            }
        };
        problems.extend(nats);
        problems
    }

    fn check(&self) -> Result<ExitCode, Failure> {
        let problems = self.problems();
        for problem in &problems {
            let sentence = problem.sentence().unwrap_or_default();
            // If standard error is closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "ipc: {}", printable(&sentence));
        }
        if !problems.is_empty() {
            return Ok(ExitCode::from(2));
        }
        writeln!(io::stdout(), "nothing is wrong with the configuration")
            .map_err(Failure::writing)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn config(settings: &Settings) -> Result<Config, Problems> {
    let token = token::from_environment().map_err(|failure| vec![failure])?;
    settings.config(token)
}

/// Returns the settings that this machine cannot fulfil. With fewer file descriptors than
/// connections the limit on connections is lowered.
fn problems_of_machine(settings: &Settings, limits: &mut Limits) -> Problems {
    let checks = [
        logging::level().map(drop),
        raise_descriptor_limit(limits),
        settings.latency_log.as_deref().map_or(Ok(()), latency_log::check),
        settings.cpu.map_or(Ok(()), check_cpu),
    ];
    checks.into_iter().filter_map(Result::err).collect()
}

/// Picks the problem to report if there can be only one.
fn first(problems: Problems) -> Failure {
    let first = problems.into_iter().next();
    first.unwrap_or_else(|| unreachable!("there is at least one problem"))
}

fn run_loop(server: &mut Server) -> Result<(), ipc_framework::Error> {
    let panics = crash::is_wanted("loop");
    while server.poll_once(None)? {
        assert!(!panics, "a test wants this");
    }
    Ok(())
}

/// Reads the files again on SIGHUP.
struct Reload {
    handle: Handle,
    flags: Serve,
    /// The settings with which the server was started.
    running: Settings,
    /// The access rules in force.
    access: Access,
    tls: Option<ipc_framework::Tls>,
}

impl Reload {
    fn run(&mut self) {
        service_manager::reloading();
        match self.apply() {
            Ok(()) => tracing::info!("the settings were read again"),
            Err(problems) => {
                for problem in &problems {
                    let sentence = problem.sentence().unwrap_or_default();
                    let reason = printable(&sentence);
                    tracing::error!(%reason, "the settings stay as they were");
                }
            }
        }
        service_manager::ready();
    }

    /// Does everything that can fail first, reading certificates included; then applies all
    /// changes.
    fn apply(&mut self) -> Result<(), Problems> {
        let (settings, mut config) = self.flags.read()?;
        let one = |failure| vec![failure];
        raise_descriptor_limit(&mut config.limits).map_err(one)?;
        // The server listens already, so its own rule about public addresses applies.
        config.insecure = self.running.is_insecure();
        let read = std::mem::replace(&mut config.tls, self.tls.clone());
        self.handle.reload(&config).map_err(|error| one(error.into()))?;
        if let (Some(tls), Some(read)) = (&self.tls, &read) {
            // Certificates at other paths are for the next start.
            tls.take_over(read);
        }
        // Waits until the loop has applied the changes, so that the log tells the truth. If the
        // server has ended that does not matter.
        let _ = self.handle.with(|_| ());
        let before = std::mem::replace(&mut self.access, config.access);
        self.warn_of_what_is_open(&before);
        for name in settings.fixed_differences(&self.running) {
            tracing::warn!(name, "this setting changes with the next start only");
        }
        Ok(())
    }

    /// Warns if tokens or users are no longer checked, because a line of the file may have been
    /// lost by mistake.
    fn warn_of_what_is_open(&self, before: &Access) {
        let now = &self.access;
        let is_opened = |app_id| !now.applications.contains_key(app_id);
        let asked_less = before.default.is_some() || before.applications.keys().any(is_opened);
        if now.default.is_none() && asked_less {
            let except = now.applications.len();
            tracing::warn!(except, "from now on applications are open to clients without a token");
        }
        let asks_for_users = |access: &Access| !(access.uids.is_empty() && access.gids.is_empty());
        if asks_for_users(before) && !asks_for_users(now) {
            tracing::warn!("from now on no user is kept off the Unix socket but by its mode");
        }
    }
}

/// Checks whether a thread can be kept on this core, by trying it on a thread that ends.
fn check_cpu(cpu: usize) -> Result<(), Failure> {
    let named = std::thread::Builder::new().name("cpu".to_owned());
    let trying = named.spawn(move || pin(cpu)).map_err(|error| {
        Failure::runtime(format!("cannot start a thread to try core {cpu}: {error}"))
    })?;
    trying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Pins the calling thread to one core.
#[cfg(target_os = "linux")]
fn pin(cpu: usize) -> Result<(), Failure> {
    use rustix::thread::{CpuSet, sched_setaffinity};

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

#[cfg(not(target_os = "linux"))]
fn pin(_cpu: usize) -> Result<(), Failure> {
    Err(Failure::usage("--cpu works on Linux alone; leave it out"))
}

fn greet(hints: &Hints<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{hints}")?;
    out.flush()
}

/// Returns the descriptors that connections over shared memory may need: those that fit into the memory.
fn descriptors_of_rings(limits: &Limits) -> usize {
    let rings_max = limits.memory_bytes_max / 4 / (2 * limits.ring_bytes).max(1);
    if limits.shared_memory { RING_DESCRIPTORS * rings_max.min(limits.connections_max) } else { 0 }
}

/// Raises the limit on file descriptors to what the connections may need. If the system allows
/// fewer, the limit on connections is lowered.
fn raise_descriptor_limit(limits: &mut Limits) -> Result<(), Failure> {
    let asked = limits.connections_max;
    let of_rings = descriptors_of_rings(limits);
    let needed = asked.saturating_add(OWN_DESCRIPTORS + of_rings) as u64;
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
    // Where they are short, a connection is worth more than that of another one's rings.
    let fitting = (granted as usize).saturating_sub(OWN_DESCRIPTORS);
    if fitting >= asked {
        tracing::warn!(
            missing = needed - granted,
            "the system allows too few open files for shared memory; some clients will stay on their \
             sockets unless `ulimit -Hn` is raised"
        );
    }
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
        limits.connections_max = fitting;
    }
    Ok(())
}
