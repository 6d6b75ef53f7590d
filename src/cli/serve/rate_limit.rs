//! A limit on the events of each kind in a window of time, after which only their number is
//! reported: a peer that can make the server log something must not be able to fill the disk.

use std::collections::HashMap;
use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Events of each kind that are written within a window.
const EVENTS_MAX: u64 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// The target of summaries, which the limit does not apply to.
const SUMMARY: &str = "suppressed";
/// The target of reports that the operator has asked for. Neither the limit nor the level applies to
/// them.
pub(super) const REPORT: &str = "report";

/// A filter of events by level and number. The kind of an event is the place in the code that logs
/// it.
pub(super) struct RateLimit {
    level: LevelFilter,
    kinds: Kinds,
    suppressed: SyncSender<()>,
}

#[derive(Clone, Default)]
pub(super) struct Kinds(Arc<Mutex<HashMap<Identifier, Kind>>>);

struct Kind {
    name: String,
    began: Instant,
    seen: u64,
    suppressed: u64,
}

impl RateLimit {
    /// Returns the filter, and the reporter of suppressed events.
    pub(super) fn new(level: LevelFilter) -> (Self, Reporter) {
        // One note is enough, because the reporter looks at all kinds.
        let (suppressed, noted) = sync_channel(1);
        let kinds = Kinds::default();
        (Self { level, kinds: kinds.clone(), suppressed }, Reporter { kinds, noted })
    }

    fn shows(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == REPORT || *metadata.level() <= self.level_of(metadata.target())
    }

    /// What NATS' client is doing is for those who look for a fault in it: the server itself says what an operator
    /// has to know.
    fn level_of(&self, target: &str) -> LevelFilter {
        let is_of_nats = target.split("::").next() == Some("async_nats");
        let is_asked_for = self.level > LevelFilter::INFO;
        if is_of_nats && !is_asked_for { self.level.min(LevelFilter::WARN) } else { self.level }
    }
}

// This is a layer and not a per-layer filter, because those cannot change their mind about a place
// in the code.
impl<S: Subscriber> Layer<S> for RateLimit {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.shows(metadata)
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.shows(metadata) { Interest::always() } else { Interest::never() }
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let is_free = [SUMMARY, REPORT].contains(&event.metadata().target());
        let passes = is_free || self.kinds.pass(event, Instant::now());
        if !passes {
            // If this fails there is a note already, or the server is ending.
            let _ = self.suppressed.try_send(());
        }
        passes
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Reports have the level `info`.
        Some(self.level.max(LevelFilter::INFO))
    }
}

impl Kinds {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        // The numbers are valid even if a thread panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, event: &Event<'_>, now: Instant) -> bool {
        let mut kinds = self.lock();
        let kind = kinds.entry(event.metadata().callsite()).or_insert_with(|| {
            let mut name = Name::default();
            event.record(&mut name);
            Kind { name: name.0, began: now, seen: 0, suppressed: 0 }
        });
        if now.saturating_duration_since(kind.began) >= WINDOW {
            (kind.began, kind.seen) = (now, 0);
        }
        kind.seen += 1;
        let passes = kind.seen <= EVENTS_MAX;
        kind.suppressed += u64::from(!passes);
        passes
    }

    /// Reports how many events of each kind were suppressed since the last report.
    pub(super) fn report(&self) {
        let suppressed: Vec<(String, u64)> = self
            .lock()
            .values_mut()
            .filter(|kind| kind.suppressed > 0)
            .map(|kind| (kind.name.clone(), std::mem::take(&mut kind.suppressed)))
            .collect();
        for (event, count) in suppressed {
            tracing::warn!(target: SUMMARY, event, count, "{count} more suppressed");
        }
    }
}

/// Waits until events were suppressed, and a window longer, and reports them.
pub(super) struct Reporter {
    pub(super) kinds: Kinds,
    noted: Receiver<()>,
}

impl Reporter {
    pub(super) fn run(self) {
        while self.noted.recv().is_ok() {
            std::thread::sleep(WINDOW);
            self.kinds.report();
        }
    }
}

/// The message of an event, without its fields.
#[derive(Default)]
struct Name(String);

impl Visit for Name {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Returns whether what NATS' client warns of, tells and traces is shown, and what the server itself tells.
    fn shown(level: LevelFilter) -> [bool; 4] {
        let subscriber = tracing_subscriber::registry().with(RateLimit::new(level).0);
        tracing::subscriber::with_default(subscriber, || {
            [
                tracing::enabled!(target: "async_nats::connector", Level::WARN),
                tracing::enabled!(target: "async_nats::connector", Level::INFO),
                tracing::enabled!(target: "async_nats", Level::DEBUG),
                tracing::enabled!(target: "ipc_framework::trace", Level::INFO),
            ]
        })
    }

    #[test]
    fn the_client_of_nats_only_warns_unless_more_is_asked_for() {
        assert_eq!(shown(LevelFilter::ERROR), [false; 4]);
        assert_eq!(shown(LevelFilter::WARN), [true, false, false, false]);
        assert_eq!(shown(LevelFilter::INFO), [true, false, false, true]);
        assert_eq!(shown(LevelFilter::DEBUG), [true; 4]);
    }
}
