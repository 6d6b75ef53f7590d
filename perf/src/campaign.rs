//! A whole run: all repetitions of all entrants, interleaved, with progress.

use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::figures::{Figure, Series};
use crate::load::new_histogram;
use crate::machine::Machine;
use crate::peers::{Peer, Peers, Socket};
use crate::poller::Wait;
use crate::record::{self, EntrantRecord, Record, ScenarioRecord};
use crate::runner::{self, Run, Settings};
use crate::scenario::{Entrant, Load, Scenario, Subscribers};

/// The number and the length of repetitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) is_quick: bool,
    pub(crate) repetitions: usize,
    pub(crate) measure: Duration,
    pub(crate) warm_up: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        is_quick: false,
        repetitions: 5,
        measure: Duration::from_secs(1),
        warm_up: Duration::from_millis(150),
    };
    pub(crate) const QUICK: Self = Self {
        is_quick: true,
        repetitions: 3,
        measure: Duration::from_millis(300),
        warm_up: Duration::from_millis(80),
    };

    fn settings(self) -> Settings {
        Settings { warm_up: self.warm_up, measure: self.measure, open_per_second: 0.0 }
    }
}

/// Runs the scenarios and judges what they yield.
pub(crate) fn run(
    peers: &Peers,
    root: &Path,
    scenarios: &[Scenario],
    effort: Effort,
    command: String,
) -> Result<Record, String> {
    let machine = Machine::look(root, peers.cpus());
    let takes_part = |entrant: &&Entrant| peers.left_out(entrant).is_none();
    let runs: usize =
        scenarios.iter().map(|found| found.entrants.iter().filter(takes_part).count()).sum();
    let progress = progress_bar(runs * effort.repetitions)?;
    let mut records = Vec::new();
    for scenario in scenarios {
        if progress.is_hidden() {
            // Without a terminal, a line for each scenario replaces the bar.
            eprintln!("{}", scenario.name);
        }
        records.push(measure(peers, scenario, effort, &progress)?);
    }
    progress.finish_and_clear();
    let mut record = Record {
        date: jiff::Zoned::now().date().to_string(),
        command,
        is_quick: effort.is_quick,
        repetitions: effort.repetitions,
        seconds_each: effort.measure.as_secs_f64(),
        machine,
        versions: peers.versions(),
        goals: Vec::new(),
        scenarios: records,
    };
    record.judge();
    Ok(record)
}

/// A bar that says how many runs are left, and for how long.
pub(crate) fn progress_bar(runs: usize) -> Result<ProgressBar, String> {
    let progress = ProgressBar::new(runs as u64);
    let style = "{bar:30} {pos}/{len}, {eta} left  {msg}";
    progress.set_style(ProgressStyle::with_template(style).map_err(|error| error.to_string())?);
    Ok(progress)
}

/// The figures of one entrant so far.
#[derive(Debug)]
struct Progress<'a> {
    entrant: &'a Entrant,
    left_out: Option<String>,
    series: Series,
    latency: Histogram<u64>,
    failures: Vec<String>,
}

fn measure(
    peers: &Peers,
    scenario: &Scenario,
    effort: Effort,
    progress: &ProgressBar,
) -> Result<ScenarioRecord, String> {
    let mut settings = effort.settings();
    let mut note = String::new();
    if let Load::OpenAtHalfPeak { clients } = scenario.load {
        progress.set_message(format!("{}: looking for the peak rate", scenario.name));
        settings.open_per_second = half_peak(peers, scenario, clients, settings)?;
        note = format!(
            "{} requests a second: half of what the slower of this server and Redis reaches in \
             a closed loop.",
            settings.open_per_second
        );
    }
    let start = |entrant| Progress {
        entrant,
        left_out: peers.left_out(entrant),
        series: Series::new(),
        latency: new_histogram(),
        failures: Vec::new(),
    };
    let mut entrants: Vec<Progress<'_>> = scenario.entrants.iter().map(start).collect();
    let count = entrants.len();
    for repetition in 0..effort.repetitions {
        // The entrants are interleaved and take turns at being first, so that a drift of the
        // machine affects all alike.
        for turn in 0..count {
            let one = &mut entrants[(repetition + turn) % count];
            if one.left_out.is_some() {
                continue;
            }
            progress.set_message(format!("{}: {}", scenario.name, one.entrant.name));
            match runner::run(peers, scenario, one.entrant, settings) {
                Ok(run) => one.add(&run, repetition)?,
                Err(error) => one.failures.push(error),
            }
            progress.inc(1);
        }
    }
    let record = |one: Progress<'_>| one.finish(peers, scenario, effort.repetitions);
    Ok(ScenarioRecord {
        name: scenario.name.to_owned(),
        title: scenario.title.to_owned(),
        payload_bytes: scenario.payload_bytes,
        is_goal: scenario.is_goal,
        note,
        entrants: entrants.into_iter().map(record).collect(),
    })
}

impl Progress<'_> {
    fn add(&mut self, run: &Run, repetition: usize) -> Result<(), String> {
        for (figure, value) in &run.figures {
            let values = self.series.entry(*figure).or_default();
            values.resize(repetition, None);
            values.push(Some(*value));
        }
        self.latency.add(&run.latency).map_err(|error| error.to_string())
    }

    fn finish(mut self, peers: &Peers, scenario: &Scenario, repetitions: usize) -> EntrantRecord {
        for values in self.series.values_mut() {
            values.resize(repetitions, None);
        }
        let Entrant { name, peer, socket, .. } = *self.entrant;
        let is_timed = !self.latency.is_empty();
        EntrantRecord {
            name: name.to_owned(),
            command: peers.describe(peer, socket, scenario.work(self.entrant)),
            left_out: self.left_out,
            failures: self.failures,
            figures: self.series,
            histogram: is_timed.then(|| record::encode(&self.latency)).flatten(),
            percentiles: if is_timed { record::percentiles(&self.latency) } else { Vec::new() },
        }
    }
}

/// Returns half of the rate that the slower of this server and Redis reaches, in whole thousands.
fn half_peak(
    peers: &Peers,
    scenario: &Scenario,
    clients: usize,
    settings: Settings,
) -> Result<f64, String> {
    let closed = Scenario {
        load: Load::Closed { clients, window: 1 },
        wait: Wait::Block,
        ..scenario.clone()
    };
    let mut peak = f64::INFINITY;
    for peer in [Peer::Ipc(&[]), Peer::Redis] {
        let entrant = Entrant {
            name: "peak",
            peer,
            socket: Socket::Tcp,
            idle: 0,
            subscribers: Subscribers::Live,
            client: None,
        };
        if peers.left_out(&entrant).is_some() {
            continue;
        }
        let run = runner::run(peers, &closed, &entrant, settings)?;
        peak = peak.min(run.figures.get(&Figure::PerSecond).copied().unwrap_or(peak));
    }
    Ok(((peak / 2_000.0).floor() * 1_000.0).max(1_000.0))
}
