//! Copies of the server's histograms, taken a few at a time so that its loop never stops for
//! long.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use ipc_framework::{Context, Handle, HandleError, LatencyOf, Measure};

/// What a histogram is about; `channel` is the number of a worker for round trips.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) application: String,
    pub(super) channel: String,
    pub(super) measure: Measure,
}

pub(super) type Histograms = BTreeMap<Subject, Histogram<u32>>;

/// Copied in one turn: 18 KiB each, some 2 µs.
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

/// Everything measured since the start or the last reset. Channels that come or go meanwhile
/// may be missing; they are there the next time.
pub(super) fn copy(handle: &Handle) -> Result<Histograms, HandleError> {
    let mut copied = Histograms::new();
    for skipped in (0..).step_by(COPIES_PER_TURN_MAX) {
        let bite = handle.with(move |context| copy_some(context, skipped, COPIES_PER_TURN_MAX))?;
        if bite.is_empty() {
            break;
        }
        copied.extend(bite);
    }
    Ok(copied)
}

/// The same at once, from the thread of a server that does nothing else any more.
pub(super) fn copy_all(context: &Context<'_>) -> Histograms {
    copy_some(context, 0, usize::MAX).into_iter().collect()
}

fn copy_some(
    context: &Context<'_>,
    skipped: usize,
    wanted: usize,
) -> Vec<(Subject, Histogram<u32>)> {
    let mut seen = 0;
    let mut bite = Vec::new();
    context.for_each_histogram(|of, histogram| {
        if seen >= skipped && bite.len() < wanted {
            bite.push((Subject::of(of), histogram.clone()));
        }
        seen += 1;
    });
    bite
}
