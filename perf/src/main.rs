//! Measures the server beside its peers on the same work, and judges the result against the
//! goals. `README.md` beside this package says what is measured and how.

mod bare;
mod campaign;
mod compare;
mod endpoint;
mod figures;
mod goals;
mod load;
mod machine;
mod peers;
mod pin;
mod poller;
mod proc;
mod record;
mod runner;
mod scenario;
mod soak;
mod syscalls;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::campaign::Effort;
use self::goals::{Standing, Verdict};
use self::peers::Peers;
use self::pin::Cpus;
use self::record::Record;
use self::scenario::Scenario;

/// Measures the server beside its peers and judges the result against the goals.
#[derive(Debug, Parser)]
#[command(name = "perf")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(RunArguments),
    Compare(compare::Compare),
    Soak(soak::Soak),
    /// List the scenarios and who takes part in them
    List,
    /// Make summary.md and index.html anew from results.json
    Report {
        directory: PathBuf,
    },
    #[command(hide = true)]
    Bare(bare::Bare),
    #[command(hide = true)]
    SoakReader(soak::Reader),
}

/// Measure, and leave a record
#[derive(Args, Debug)]
struct RunArguments {
    /// The scenarios of the goals only, in a few short repetitions
    #[arg(long)]
    quick: bool,
    /// These scenarios only, see `list`
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Repetitions of each entrant [default: 5, quick: 3]
    #[arg(long, value_name = "N")]
    repetitions: Option<usize>,
    /// A built `ipc` [default: built from this repository]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// The directory for the record [default: perf/record/DATE-CPU]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The processor of the servers
    #[arg(long, value_name = "N")]
    server_cpu: Option<usize>,
    /// The processor of the load generator
    #[arg(long, value_name = "N")]
    generator_cpu: Option<usize>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(arguments) => run(arguments),
        Command::Compare(compare) => repository().and_then(|root| compare.run(root)),
        Command::Soak(soak) => repository().and_then(|root| soak.run(root)),
        Command::List => {
            list();
            Ok(())
        }
        Command::Report { directory } => report(&directory),
        Command::Bare(bare) => bare.run(),
        Command::SoakReader(reader) => reader.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perf: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: RunArguments) -> Result<(), String> {
    let scenarios = choose(&arguments)?;
    let mut effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    effort.repetitions = arguments.repetitions.unwrap_or(effort.repetitions).max(1);
    raise_descriptor_limit()?;
    let root = repository()?;
    let cpus = Cpus::choose(arguments.server_cpu, arguments.generator_cpu)?;
    let programs = scenarios.iter().flat_map(Scenario::programs);
    let peers = Peers::prepare(root, arguments.server, cpus, programs)?;
    for (name, version) in peers.versions() {
        eprintln!("  {name}: {version}");
    }
    cpus.pin_generator()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("cargo run --release -p perf -- {}", words.join(" "));
    let record = campaign::run(&peers, root, &scenarios, effort, command)?;
    let name = format!("{}-{}", record.date, record.machine.slug());
    let directory = arguments.output.unwrap_or_else(|| root.join("perf/record").join(name));
    record::save(&record, &directory)?;
    print(&record, &directory);
    Ok(())
}

fn repository() -> Result<&'static Path, String> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or_else(|| "perf/ has no parent".to_owned())
}

fn choose(arguments: &RunArguments) -> Result<Vec<Scenario>, String> {
    let mut chosen = scenario::choose(scenario::all(), &arguments.only)?;
    if arguments.quick && arguments.only.is_empty() {
        chosen.retain(|scenario| scenario.is_goal);
    }
    Ok(chosen)
}

fn list() {
    for scenario in scenario::all() {
        let entrants: Vec<&str> = scenario.entrants.iter().map(|entrant| entrant.name).collect();
        println!("{:<26}{}\n{:26}{}", scenario.name, scenario.title, "", entrants.join(", "));
    }
}

fn report(directory: &Path) -> Result<(), String> {
    let mut record = Record::load(directory)?;
    record.judge();
    record::save(&record, directory)?;
    print(&record, directory);
    Ok(())
}

fn print(record: &Record, directory: &Path) {
    // Goals whose scenarios were not selected are not reported as missing.
    let ran = |missing: &String| {
        let name = missing.split('/').next();
        record.scenarios.iter().any(|ran| Some(&*ran.name) == name)
    };
    for goal in record.goals.iter().filter(|goal| goal.missing.iter().all(ran)) {
        let sign = match goal.standing {
            Standing::Reached => "reached",
            Standing::Missed => "MISSED",
            Standing::NotMeasured => "–",
        };
        let found = goal.found.map_or(String::new(), |found| format!("{:.3}", found.median));
        let Verdict { bound, work, what, remark, .. } = goal;
        println!("{sign:<9}{found:>10} {bound:>7}  {work}: {what} {remark}");
    }
    let (reached, missed, open) = record.reached();
    println!("{reached} reached, {missed} missed, {open} not measured");
    println!("{}", directory.join("index.html").display());
}

/// Raises the limit on descriptors, because 10,000 connections need as many on either side.
fn raise_descriptor_limit() -> Result<(), String> {
    const NEEDED: u64 = 10_500;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= NEEDED) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(NEEDED), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)
        .map_err(|_| format!("{NEEDED} open files are needed; raise `ulimit -Hn`"))
}
