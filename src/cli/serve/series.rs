//! The latencies of a scrape: a series for each of some channels, and one for all others together.
//!
//! Peers make channels and workers as they like, and each name would be series of the scraper for good.
//! So no more than so many channels have their own, those that are gone lose it soon, and workers are
//! counted by application. What has no series of its own, or had one, is counted under empty names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ipc_framework::Measure;

use super::channels::Channels;
use super::histograms::{Copied, Subject};

/// The time for which a channel or worker that is gone keeps its series, so that a scraper sees its
/// last values.
const KEPT: Duration = Duration::from_secs(40);

/// What is counted of histograms that are gone, from one scrape to the next.
pub(super) struct Series {
    /// The channels that have series of their own.
    channels_max: usize,
    /// The histograms of channels and workers that are gone, by serial, since the first scrape that
    /// found them so.
    gone: HashMap<u64, Instant>,
    /// Those of them that are counted in `sums`.
    counted: HashSet<u64>,
    sums: BTreeMap<Subject, Histogram<u32>>,
}

impl Series {
    pub(super) fn new(channels_max: usize) -> Self {
        let (gone, counted) = (HashMap::new(), HashSet::new());
        Self { channels_max, gone, counted, sums: BTreeMap::new() }
    }

    /// Returns the histograms of a scrape by their subjects. `channels` have series of their own.
    pub(super) fn add(
        &mut self,
        mut copied: Vec<Copied>,
        channels: &Channels,
        now: Instant,
    ) -> BTreeMap<Subject, Histogram<u32>> {
        let present: HashSet<u64> = copied.iter().map(|one| one.serial).collect();
        self.gone.retain(|serial, _| present.contains(serial));
        self.counted.retain(|serial| present.contains(serial));
        let applications: HashSet<&str> = channels.keys().map(|(app, _)| &**app).collect();
        self.forget(&applications);
        // The same ones have their own series the next time.
        copied.sort_by_key(|one| one.serial);
        let mut own: HashSet<(String, String)> = channels.keys().cloned().collect();
        let mut series = BTreeMap::new();
        for Copied { subject, serial, is_gone, nanos } in &copied {
            let since = is_gone.then(|| *self.gone.entry(*serial).or_insert(now));
            let is_old = since.is_some_and(|since| now.duration_since(since) > KEPT);
            let subject = match subject.measure {
                Measure::Worker if applications.contains(&*subject.application) => {
                    Subject { channel: String::new(), ..subject.clone() }
                }
                _ if is_old || !self.has_own(subject, *is_gone, &mut own) => {
                    others(subject.measure)
                }
                _ => subject.clone(),
            };
            if !is_old {
                merge(&mut series, subject, nanos);
            } else if self.counted.insert(*serial) {
                merge(&mut self.sums, subject, nanos);
            }
        }
        for (subject, nanos) in &self.sums {
            merge(&mut series, subject.clone(), nanos);
        }
        series
    }

    /// Returns whether a channel has series of its own. One that is gone has them if there is room.
    fn has_own(
        &self,
        subject: &Subject,
        is_gone: bool,
        own: &mut HashSet<(String, String)>,
    ) -> bool {
        let name = (subject.application.clone(), subject.channel.clone());
        if own.contains(&name) {
            return true;
        }
        let has_room = is_gone && own.len() < self.channels_max;
        has_room && subject.measure != Measure::Worker && own.insert(name)
    }

    /// Counts the workers of other applications with all others.
    fn forget(&mut self, applications: &HashSet<&str>) {
        let is_kept = |subject: &Subject| {
            subject.application.is_empty() || applications.contains(&*subject.application)
        };
        let sums = std::mem::take(&mut self.sums);
        for (subject, nanos) in sums {
            let subject = if is_kept(&subject) { subject } else { others(subject.measure) };
            merge(&mut self.sums, subject, &nanos);
        }
    }
}

fn others(measure: Measure) -> Subject {
    Subject { application: String::new(), channel: String::new(), measure }
}

fn merge(series: &mut BTreeMap<Subject, Histogram<u32>>, subject: Subject, nanos: &Histogram<u32>) {
    match series.get_mut(&subject) {
        // All histograms have the same bounds, so adding never fails.
        Some(sum) => drop(sum.add(nanos)),
        None => drop(series.insert(subject, nanos.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::channels::Numbers;
    use super::*;

    fn copied(names: (&str, &str), measure: Measure, serial: u64, is_gone: bool) -> Copied {
        let mut nanos = Histogram::new_with_bounds(1, 3_600_000_000_000, 2).unwrap();
        nanos.record(1_000).unwrap();
        let (application, channel) = (names.0.to_owned(), names.1.to_owned());
        Copied { subject: Subject { application, channel, measure }, serial, is_gone, nanos }
    }

    fn channels(names: &[&str]) -> Channels {
        let name = |name: &&str| (("app".to_owned(), (*name).to_owned()), Numbers::default());
        names.iter().map(name).collect()
    }

    fn shown(series: &BTreeMap<Subject, Histogram<u32>>) -> Vec<(&str, &str, &str, u64)> {
        let all = series.iter();
        all.map(|(of, nanos)| (&*of.application, &*of.channel, of.measure.as_str(), nanos.len()))
            .collect()
    }

    #[test]
    fn those_that_are_gone_or_too_many_are_counted_together_and_none_is_lost() {
        let mut series = Series::new(2);
        let request = Measure::Request;
        let begin = Instant::now();
        let live = copied(("app", "live"), request, 1, false);
        let first = [
            live.clone(),
            copied(("app", "beyond"), request, 2, false),
            copied(("app", "once"), request, 3, true),
            copied(("app", "once too many"), request, 6, true),
            copied(("app", "worker-7"), Measure::Worker, 4, false),
            copied(("other", "worker-8"), Measure::Worker, 5, true),
        ];
        let listed = channels(&["live"]);
        let expected = [
            ("", "", "request", 2),
            ("", "", "worker", 1),
            ("app", "", "worker", 1),
            ("app", "live", "request", 1),
            ("app", "once", "request", 1),
        ];
        assert_eq!(shown(&series.add(first.to_vec(), &listed, begin)), expected);
        let soon = begin + KEPT;
        assert_eq!(shown(&series.add(first.to_vec(), &listed, soon)), expected);
        let late = soon + Duration::from_secs(1);
        let folded = [
            ("", "", "request", 3),
            ("", "", "worker", 1),
            ("app", "", "worker", 1),
            ("app", "live", "request", 1),
        ];
        for _ in 0..3 {
            assert_eq!(shown(&series.add(first.to_vec(), &listed, late)), folded);
        }
        // The server forgets those that were counted, and the worker leaves.
        let worker = copied(("app", "worker-7"), Measure::Worker, 4, true);
        let rest = [live, copied(("app", "beyond"), request, 2, false), worker];
        for at in [late, late + KEPT + Duration::from_secs(1)] {
            assert_eq!(shown(&series.add(rest.to_vec(), &listed, at)), folded);
        }
        let without = [("", "", "request", 4), ("", "", "worker", 2)];
        assert_eq!(shown(&series.add(rest.to_vec(), &channels(&[]), late + KEPT * 2)), without);
        assert!(series.gone.len() <= 1 && series.counted.len() <= 1);
    }
}
