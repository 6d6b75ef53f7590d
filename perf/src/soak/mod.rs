//! Puts mixed load and faults on the built server for a given time. Every answer is checked, and
//! every message must have an outcome.

mod account;
mod alarm;
mod context;
mod ending;
mod expected;
mod peer;
mod record;
mod restarts;
mod roles;
mod samples;
mod server;

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use self::account::Account;
use self::alarm::Alarm;
use self::context::{Context, Harness, Random};
use self::ending::{Witness, settle, until_descriptors};
use self::record::Record;
use self::roles::{ROLES, Role};
use self::samples::{Sample, check_growth};
use self::server::{LastWords, Orders, Scratch, Server};

pub(crate) use self::roles::Reader;

/// Load a server with everything at once, faults too, and check every answer
#[derive(Args, Debug)]
pub(crate) struct Soak {
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    minutes: Option<u64>,
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u64,
    /// The schedule of each role follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// These roles only, to find what is to blame; `restarts` is one
    #[arg(long, value_name = "ROLE", num_args = 1..)]
    only: Vec<String>,
    /// A built `ipc` [default: target/release/ipc, else target/debug/ipc]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Print the record as JSON
    #[arg(long)]
    json: bool,
    /// Leave soak.json, soak.md and memory.svg here
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// The beginning of reports about the server that is restarted.
const RESTARTS: &str = "restarts";
/// The random stream of the restarts, which no role uses.
const RESTARTS_STREAM: u64 = 1 << 32;

impl Soak {
    pub(crate) fn run(&self, root: &Path) -> Result<(), String> {
        let known = |name: &&String| *name == RESTARTS || ROLES.iter().any(|r| r.name == **name);
        if let Some(name) = self.only.iter().find(|name| !known(name)) {
            let names = ROLES.map(|role| role.name).join(", ");
            return Err(format!("there is no role {name}; there are {names} and {RESTARTS}"));
        }
        let outcome =
            self.load_and_check(root).map_err(|what| format!("soak --seed {}: {what}", self.seed));
        let record = outcome?;
        if let Some(directory) = &self.output {
            record.save(directory)?;
        }
        if self.json {
            println!("{}", record.json()?);
        } else {
            print!("{}", record.summary());
        }
        Ok(())
    }

    fn load_and_check(&self, root: &Path) -> Result<Record, String> {
        let scratch = Scratch::new()?;
        let seconds = self.minutes.map_or(self.seconds, |minutes| minutes * 60);
        let program = self.program(root)?;
        let settings = scratch.path("settings.toml");
        roles::prepare(&settings)?;
        let orders = Orders {
            program,
            host: "localhost",
            port: 0,
            unix: scratch.path("ipc.sock"),
            settings: Some(settings.clone()),
            words: LastWords::default(),
        };
        let restarted = Orders {
            host: "127.0.0.1",
            unix: scratch.path("restarted.sock"),
            settings: None,
            words: LastWords::default(),
            ..orders.clone()
        };
        let said = |what: String| {
            let of_restarted = what.starts_with(RESTARTS);
            let words = if of_restarted { &restarted.words } else { &orders.words };
            format!("{what}\n{words}")
        };
        let mut server = Server::start(&orders)?;
        let ended = self.load(&mut server, &settings, &restarted, seconds).and_then(|done| {
            let Load { samples, mut account, empty, idle } = done;
            account.check()?;
            let counters = settle(&server, &mut account, &empty)?;
            check_growth(idle, &samples)?;
            until_descriptors(&mut server, idle.descriptors)?;
            Ok((samples, account, counters))
        });
        let (samples, account, counters) = ended.map_err(said)?;
        server.end().map_err(said)?;
        Ok(Record::new(root, self.seed, seconds, account, counters, &samples))
    }

    fn program(&self, root: &Path) -> Result<PathBuf, String> {
        let built = ["target/release/ipc", "target/debug/ipc"].map(|path| root.join(path));
        let found = self.server.clone().or_else(|| built.into_iter().find(|path| path.exists()));
        found.ok_or_else(|| "no server is built: cargo build --features cli".to_owned())
    }

    fn plays(&self, role: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == role)
    }

    fn load(
        &self,
        server: &mut Server,
        settings: &Path,
        restarted: &Orders,
        seconds: u64,
    ) -> Result<Load, String> {
        let idle = server.sample(Duration::ZERO)?;
        let account = Rc::<RefCell<Account>>::default();
        let empty = Witness::appear(&server.targets[0], &account)?.look()?;
        let total = Mutex::new(account.take());
        let alarm = Arc::new(Alarm::default());
        let kept = settings.with_file_name("restarted.toml");
        let targets = server.targets.clone();
        let harness =
            Harness { targets: &targets, server: server.pid(), settings, stop: &alarm.stop };
        let samples = thread::scope(|scope| {
            let roles = ROLES.into_iter().filter(|role| role.seconds_min <= seconds);
            let roles = roles.filter(|role| self.plays(role.name));
            let threads = roles.flat_map(|role| (0..role.threads).map(move |at| (role, at)));
            for (stream, (role, at)) in threads.enumerate() {
                let random = Random::new(self.seed, stream as u64);
                let (total, alarm) = (&total, &alarm);
                scope.spawn(move || {
                    let name = format!("{}-{at}", role.name);
                    match repeat(role, harness, &name, random) {
                        Ok(account) => lock(total).merge(account),
                        Err(what) => alarm.raise(format!("{name}, {what}")),
                    }
                });
            }
            let (total, alarm) = (&total, &alarm);
            if self.plays(RESTARTS) {
                let kept = &kept;
                let random = Random::new(self.seed, RESTARTS_STREAM);
                scope.spawn(move || match restarts::run(restarted.clone(), kept, random, alarm) {
                    Ok(account) => lock(total).merge(account),
                    Err(what) => alarm.raise(format!("{RESTARTS}: {what}")),
                });
            }
            let samples = watch(server, Duration::from_secs(seconds), alarm);
            alarm.end();
            if alarm.is_raised() || samples.is_err() {
                // Peers that still wait for an answer fail at once.
                server.kill();
            }
            samples
        });
        // If the server is gone, that is reported before the errors of its peers.
        let samples = samples?;
        alarm.what()?;
        let account = total.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Load { samples, account, empty, idle })
    }
}

/// The results of the load, before they are checked.
struct Load {
    samples: Vec<Sample>,
    account: Account,
    /// The server's statistics before any peer connected.
    empty: Value,
    idle: Sample,
}

/// Locks a mutex. A thread that panicked while it held the lock has already ended the run.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Repeats a role's rounds until the time is over. Returns the outcomes of all its messages.
fn repeat(
    role: Role,
    harness: Harness<'_>,
    name: &str,
    mut random: Random,
) -> Result<Account, String> {
    let mut context = Context {
        harness,
        application: name.to_owned(),
        round: String::new(),
        account: Rc::default(),
    };
    for round in 0.. {
        if context.is_over() {
            break;
        }
        context.round = format!("round-{round}");
        (role.script)(&context, &mut random).map_err(|what| format!("round {round}: {what}"))?;
    }
    Ok(context.account.take())
}

fn watch(server: &mut Server, duration: Duration, alarm: &Alarm) -> Result<Vec<Sample>, String> {
    let begin = Instant::now();
    let mut samples = Vec::new();
    while begin.elapsed() < duration && !alarm.is_over() {
        thread::sleep(SAMPLE_INTERVAL);
        let sample = server.sample(begin.elapsed())?;
        samples.push(sample);
        if std::io::stderr().is_terminal() {
            let mebibytes = sample.resident_bytes >> 20;
            eprint!(
                "\r{} s, {mebibytes} MiB, {} descriptors   ",
                begin.elapsed().as_secs(),
                sample.descriptors
            );
        }
    }
    Ok(samples)
}
