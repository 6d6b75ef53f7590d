//! Two builds of the server, compared in interleaved pairs: the guard before a change lands.

mod row;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use self::row::Row;
use crate::campaign::progress_bar;
use crate::figures::{Figure, Sample, Summary};
use crate::peers::Peers;
use crate::pin::Cpus;
use crate::runner::{self, Settings};
use crate::scenario::{self, Scenario};

/// Compare two builds of the server, and fail where the new one costs more
///
/// Runs both builds in turn under each load, as old new, new old, old new, and so on, a fresh
/// process each time, the server on one processor and the load on another. A row of the table is
/// one figure of one load, and its ratio is the median of new/old over all pairs. A row is beyond
/// its bound above 1.03 for the server's processor time per message and for p50, and below 0.97
/// for throughput. Loads with such a row are measured a second time, and the row fails if the
/// median over both times is still beyond the bound. Exit code 1 then, and 0 otherwise.
///
/// All loads with 15 pairs take some ten minutes. Leave the machine alone meanwhile.
#[derive(Args, Debug)]
pub(crate) struct Compare {
    /// The old program `ipc`, built with `--release --features cli`
    old: PathBuf,
    /// The new program `ipc` [default: built from this repository]
    new: Option<PathBuf>,
    /// Pairs of runs for each load
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    /// These loads only, such as `hundred-tcp` [default: all]
    #[arg(long, value_name = "LOAD", num_args = 1..)]
    only: Vec<String>,
    /// Seconds that each run measures after its warm-up
    #[arg(long, value_name = "S", default_value_t = 1.5)]
    seconds: f64,
    /// The processor of the server
    #[arg(long, value_name = "N")]
    server_cpu: Option<usize>,
    /// The processor of the load generator
    #[arg(long, value_name = "N")]
    generator_cpu: Option<usize>,
}

const WARM_UP: Duration = Duration::from_millis(200);
/// The time that a run takes in addition to its measurement, to start a process and connect.
const BESIDE: Duration = Duration::from_millis(150);
/// The share of a processor that other processes may use without disturbing a measurement.
const QUIET: f64 = 0.05;

impl Compare {
    pub(crate) fn run(self, root: &Path) -> Result<(), String> {
        let loads = scenario::choose(scenario::guarded(), &self.only)?;
        let measure = Duration::try_from_secs_f64(self.seconds);
        let measure =
            measure.map_err(|_| format!("{} seconds cannot be measured", self.seconds))?;
        let cpus = Cpus::choose(self.server_cpu, self.generator_cpu)?;
        let new = self.new.as_deref().map(existing).transpose()?;
        let builds = Builds {
            old: Peers::prepare(root, Some(existing(&self.old)?), cpus, [])?,
            new: Peers::prepare(root, new, cpus, [])?,
            settings: Settings { warm_up: WARM_UP, measure, open_per_second: 0.0 },
        };
        cpus.pin_generator()?;

        let mut tables: Vec<Table> = loads.into_iter().map(Table::new).collect();
        let pairs = usize::from(self.pairs);
        let all: Vec<&mut Table> = tables.iter_mut().collect();
        builds.measure(all, pairs)?;
        let is_beyond = |table: &&mut Table| table.rows.iter().any(Row::is_beyond);
        let suspects: Vec<&mut Table> = tables.iter_mut().filter(is_beyond).collect();
        if !suspects.is_empty() {
            let names: Vec<&str> = suspects.iter().map(|table| table.load.name).collect();
            eprintln!("once more, for something is beyond its bound: {}", names.join(", "));
            builds.measure(suspects, pairs)?;
        }
        print(&tables);
        verdict(&tables)
    }
}

fn existing(path: &Path) -> Result<PathBuf, String> {
    fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[derive(Debug)]
struct Builds {
    old: Peers,
    new: Peers,
    settings: Settings,
}

/// A load and the figures that were measured under it.
#[derive(Debug)]
struct Table {
    load: Scenario,
    rows: Vec<Row>,
    others_busy: Vec<f64>,
}

impl Table {
    fn new(load: Scenario) -> Self {
        Self { load, rows: Row::all(), others_busy: Vec::new() }
    }
}

impl Builds {
    /// Measures pair by pair, with every load in each: a temporary disturbance affects a few pairs of
    /// each load, and not all pairs of one.
    fn measure(&self, mut tables: Vec<&mut Table>, pairs: usize) -> Result<(), String> {
        let runs = 2 * pairs * tables.len();
        let each = self.settings.warm_up + self.settings.measure + BESIDE;
        let minutes = (each * runs as u32).as_secs_f64() / 60.0;
        eprintln!("{} loads, {pairs} pairs each: {minutes:.1} minutes", tables.len());
        let progress = progress_bar(runs)?;
        for pair in 0..pairs {
            if progress.is_hidden() {
                eprintln!("pair {} of {pairs}", pair + 1);
            }
            for table in &mut tables {
                self.add_pair(table, pair.is_multiple_of(2), &progress)?;
            }
        }
        progress.finish_and_clear();
        Ok(())
    }

    fn add_pair(
        &self,
        table: &mut Table,
        is_old_first: bool,
        progress: &ProgressBar,
    ) -> Result<(), String> {
        let run = |peers: &Peers, which: &str| -> Result<Sample, String> {
            let load = &table.load;
            progress.set_message(format!("{}, {which}", load.name));
            let run = runner::run(peers, load, &load.entrants[0], self.settings)
                .map_err(|error| format!("{}, {which} build: {error}", load.name))?;
            progress.inc(1);
            Ok(run.figures)
        };
        let (old, new) = if is_old_first {
            let old = run(&self.old, "old")?;
            (old, run(&self.new, "new")?)
        } else {
            let new = run(&self.new, "new")?;
            (run(&self.old, "old")?, new)
        };
        for row in &mut table.rows {
            row.add(&old, &new).map_err(|error| format!("{}: {error}", table.load.name))?;
        }
        let busy = [&old, &new].map(|sample| sample.get(&Figure::OthersBusy).copied());
        table.others_busy.extend(busy.into_iter().flatten());
        Ok(())
    }
}

fn print(tables: &[Table]) {
    println!("{:<16}{}", "load", Row::HEAD);
    for table in tables {
        for (at, row) in table.rows.iter().enumerate() {
            println!("{:<16}{row}", if at == 0 { table.load.name } else { "" });
        }
    }
    println!(
        "\nnew/old: the median over the pairs; 95 %: where the true median lies with 95 % \
         confidence;\nworse: in how many pairs the new build was worse"
    );
    let busy = tables.iter().flat_map(|table| table.others_busy.iter().copied());
    if let Some(busy) = Summary::of(busy) {
        let judgement = if busy.median < QUIET { "" } else { ": measure again on a quiet machine" };
        let (median, max) = (100.0 * busy.median, 100.0 * busy.max);
        println!("others used {median:.0} % of a processor, at most {max:.0} %{judgement}");
    }
}

fn verdict(tables: &[Table]) -> Result<(), String> {
    let mut failed = Vec::new();
    for table in tables {
        let beyond = table.rows.iter().filter(|row| row.is_beyond());
        failed.extend(beyond.map(|row| format!("{}: {}", table.load.name, row.complaint())));
    }
    match &failed[..] {
        [] => Ok(()),
        failed => Err(format!("the new build is worse than allowed:\n  {}", failed.join("\n  "))),
    }
}
