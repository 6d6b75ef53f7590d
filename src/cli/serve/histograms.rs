//! Copies of the server's histograms, taken a few at a time, so that its loop never stops for long.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;
use ipc_framework::{Context, Handle, HandleError, LatencyOf, Measure};

/// The subject of a histogram. For round trips `channel` is the number of a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) application: String,
    pub(super) channel: String,
    pub(super) measure: Measure,
}

/// A copy of one histogram.
#[derive(Clone, Debug)]
pub(super) struct Copied {
    pub(super) subject: Subject,
    /// See [`LatencyOf::serial`].
    pub(super) serial: u64,
    /// See [`LatencyOf::is_gone`].
    pub(super) is_gone: bool,
    pub(super) nanos: Histogram<u32>,
}

/// Histograms copied in one turn; each has 18 KiB and takes some 2 µs.
const COPIES_PER_TURN_MAX: usize = 16;

impl Subject {
    fn of(of: LatencyOf<'_>) -> Self {
        let worker = of.worker.map(|key| format!("worker-{}", key.index()));
        Self {
            application: of.app_id.to_owned(),
            channel: worker.unwrap_or_else(|| of.channel_id.to_owned()),
            measure: of.measure,
        }
    }
}

/// Copies everything measured since the start or the last reset. Histograms that appear or
/// disappear meanwhile may be missing, and are there the next time.
pub(super) fn copy(handle: &Handle) -> Result<Vec<Copied>, HandleError> {
    // Keyed by serial, because a histogram may be seen twice if others disappear meanwhile.
    let mut copied = HashMap::new();
    for skipped in (0..).step_by(COPIES_PER_TURN_MAX) {
        let bite = handle.with(move |context| copy_some(context, skipped, COPIES_PER_TURN_MAX))?;
        if bite.is_empty() {
            break;
        }
        copied.extend(bite.into_iter().map(|copied| (copied.serial, copied)));
    }
    Ok(copied.into_values().collect())
}

/// Copies everything at once, on the thread of a server that has ended.
pub(super) fn copy_all(context: &Context<'_>) -> Vec<Copied> {
    copy_some(context, 0, usize::MAX)
}

fn copy_some(context: &Context<'_>, skipped: usize, wanted: usize) -> Vec<Copied> {
    let mut seen = 0;
    let mut bite = Vec::new();
    context.for_each_histogram(|of, nanos| {
        if seen >= skipped && bite.len() < wanted {
            let (subject, serial, is_gone) = (Subject::of(of), of.serial, of.is_gone);
            bite.push(Copied { subject, serial, is_gone, nanos: nanos.clone() });
        }
        seen += 1;
    });
    bite
}

/// Merges the histograms of each subject. A channel that was removed and created again has several.
pub(super) fn by_subject(copied: &[Copied]) -> BTreeMap<&Subject, Histogram<u32>> {
    let mut together: BTreeMap<&Subject, Histogram<u32>> = BTreeMap::new();
    for Copied { subject, nanos, .. } in copied {
        match together.get_mut(subject) {
            // All histograms have the same bounds, so adding never fails.
            Some(sum) => drop(sum.add(nanos)),
            None => drop(together.insert(subject, nanos.clone())),
        }
    }
    together
}
