//! So many events of a kind in a while, and then their number: whoever can make the server log
//! something must not be able to fill the disk.

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

/// Events of a kind that are written within a window.
const EVENTS_MAX: u64 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// The target of the events that tell of others, which are few.
const SUMMARY: &str = "suppressed";

/// Lets events pass by level and number. A kind is a place in the code that logs.
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
    /// The filter, and what tells from time to time how much it has kept back.
    pub(super) fn new(level: LevelFilter) -> (Self, Reporter) {
        // One note is enough: whoever takes it looks at all kinds.
        let (suppressed, noted) = sync_channel(1);
        let kinds = Kinds::default();
        (Self { level, kinds: kinds.clone(), suppressed }, Reporter { kinds, noted })
    }
}

// A layer of its own rather than a filter of another: those may not change their mind about
// events whose place in the code they let pass before.
impl<S: Subscriber> Layer<S> for RateLimit {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.level
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if *metadata.level() <= self.level { Interest::always() } else { Interest::never() }
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let passes = event.metadata().target() == SUMMARY || self.kinds.pass(event, Instant::now());
        if !passes {
            // There is a note already, or the server ends.
            let _ = self.suppressed.try_send(());
        }
        passes
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }
}

impl Kinds {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        // Numbers are well, whoever panicked.
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

    /// Tells how many events of each kind were not written since it last did.
    pub(super) fn report(&self) {
        let suppressed: Vec<(String, u64)> = self
            .lock()
            .values_mut()
            .filter(|kind| kind.suppressed > 0)
            .map(|kind| (kind.name.clone(), std::mem::take(&mut kind.suppressed)))
            .collect();
        for (event, count) in suppressed {
            tracing::warn!(target: SUMMARY, event, "{count} more suppressed");
        }
    }
}

/// Waits until something was kept back, and some more, and tells of it.
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

/// What an event says, without what varies.
#[derive(Default)]
struct Name(String);

impl Visit for Name {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
