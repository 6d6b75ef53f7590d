//! results.json: the figures and the verdicts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::figures::{Figure, Series, Summary};
use crate::goals::{self, Measured, Standing, Verdict};
use crate::machine::Machine;

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Record {
    pub(crate) date: String,
    pub(crate) command: String,
    /// A quick run shows that everything works; its figures are rough.
    pub(crate) is_quick: bool,
    pub(crate) repetitions: usize,
    pub(crate) seconds_each: f64,
    pub(crate) machine: Machine,
    /// The versions by peer, or the reasons why it was left out.
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) goals: Vec<Verdict>,
    pub(crate) scenarios: Vec<ScenarioRecord>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ScenarioRecord {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) payload_bytes: usize,
    pub(crate) is_goal: bool,
    /// A condition that differs from run to run, such as the rate of an open loop.
    pub(crate) note: String,
    pub(crate) entrants: Vec<EntrantRecord>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct EntrantRecord {
    pub(crate) name: String,
    pub(crate) command: String,
    /// The reason why the entrant did not take part.
    pub(crate) left_out: Option<String>,
    /// Errors of single repetitions.
    pub(crate) failures: Vec<String>,
    pub(crate) figures: Series,
    /// The latencies of all repetitions in nanoseconds: `HdrHistogram` V2, deflated, in base64.
    pub(crate) histogram: Option<String>,
    /// The same latencies as quantiles and microseconds, for the plot.
    pub(crate) percentiles: Vec<(f64, f64)>,
}

impl EntrantRecord {
    pub(crate) fn summary(&self, figure: Figure) -> Option<Summary> {
        Summary::of(self.figures.get(&figure)?.iter().flatten().copied())
    }
}

impl Record {
    /// Judges the goals by the figures of this record.
    pub(crate) fn judge(&mut self) {
        let mut measured = Measured::new();
        for scenario in &self.scenarios {
            for entrant in &scenario.entrants {
                measured.insert((&scenario.name, &entrant.name), &entrant.figures);
            }
        }
        let mut verdicts = goals::judge(&measured);
        for verdict in &mut verdicts {
            self.explain(verdict);
        }
        self.goals = verdicts;
    }

    /// Adds the reason why the first missing entrant is missing.
    fn explain(&self, verdict: &mut Verdict) {
        for name in &verdict.missing {
            let Some((scenario, entrant)) = name.split_once('/') else { continue };
            let scenario = self.scenarios.iter().find(|found| found.name == scenario);
            let entrants = scenario.map_or(&[][..], |scenario| &scenario.entrants);
            let found = entrants.iter().find(|found| found.name == entrant);
            let reason = match found {
                None => format!("{name} did not run"),
                Some(found) => match (&found.left_out, found.failures.first()) {
                    (Some(reason), _) => reason.clone(),
                    (None, Some(failure)) => format!("{name} failed: {failure}"),
                    (None, None) => format!("{name} has no such figure"),
                },
            };
            verdict.remark = reason;
            return;
        }
    }

    pub(crate) fn reached(&self) -> (usize, usize, usize) {
        let count = |standing| self.goals.iter().filter(|goal| goal.standing == standing).count();
        (count(Standing::Reached), count(Standing::Missed), count(Standing::NotMeasured))
    }

    /// Returns the share of a processor that other processes used during the runs, as a median.
    pub(crate) fn others_busy(&self) -> Option<Summary> {
        let entrants = self.scenarios.iter().flat_map(|scenario| &scenario.entrants);
        let values = entrants.filter_map(|entrant| entrant.figures.get(&Figure::OthersBusy));
        Summary::of(values.flatten().flatten().copied())
    }

    pub(crate) fn load(directory: &Path) -> Result<Self, String> {
        let path = directory.join("results.json");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }
}

/// Encodes a histogram as text that the standard tools read.
pub(crate) fn encode(latency: &Histogram<u64>) -> Option<String> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(latency, &mut bytes).ok()?;
    Some(STANDARD.encode(bytes))
}

/// Returns points of the curve of latency by percentile, which are closer together towards its end.
pub(crate) fn percentiles(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    const TICKS_PER_HALF: u32 = 5;
    let mut points: Vec<(f64, f64)> = latency
        .iter_quantiles(TICKS_PER_HALF)
        .map(|value| (value.quantile(), value.value_iterated_to() as f64 / 1_000.0))
        .collect();
    points.dedup();
    points
}
