//! Finds out whether a program publishes many messages in a row.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Publications with longer pauses between them leave at once.
const GAP_MAX: Duration = Duration::from_micros(50);
/// Publications in a row that make a burst.
const COUNT_MIN: u32 = 8;

/// The publications of a client, as far as they follow one another closely.
#[derive(Default)]
pub(super) struct Burst {
    run: Mutex<(Option<Instant>, u32)>,
}

impl Burst {
    /// Notes a publication. Returns whether more are likely to follow at once.
    pub(super) fn goes_on(&self) -> bool {
        let now = Instant::now();
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, count) = &mut *run;
        let follows = last.is_some_and(|last| now.duration_since(last) <= GAP_MAX);
        *last = Some(now);
        *count = if follows { count.saturating_add(1) } else { 0 };
        *count >= COUNT_MIN
    }
}
