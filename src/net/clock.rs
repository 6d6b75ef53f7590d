//! The only place that reads the time.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::broker::Now;

/// How long the wall clock is extrapolated: it may be set, but not often.
const WALL_CLOCK_AGE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    /// The wall clock, and when it was read.
    wall: Cell<(Duration, Duration)>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now(), wall: Cell::new((wall_clock(), Duration::ZERO)) }
    }
}

impl Clock {
    pub(super) fn now(&self) -> Now {
        let monotonic = self.start.elapsed();
        let (mut wall, mut read_at) = self.wall.get();
        if monotonic.saturating_sub(read_at) > WALL_CLOCK_AGE_MAX {
            (wall, read_at) = (wall_clock(), monotonic);
            self.wall.set((wall, read_at));
        }
        Now { monotonic, unix: wall + monotonic.saturating_sub(read_at) }
    }

    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// `None` for a time so far away that it never comes.
    pub(super) fn instant(&self, monotonic: Duration) -> Option<Instant> {
        self.start.checked_add(monotonic)
    }

    #[expect(clippy::unused_self, reason = "all that reads the time is asked of the clock")]
    pub(super) fn instant_now(&self) -> Instant {
        Instant::now()
    }
}

fn wall_clock() -> Duration {
    // A machine set before 1970 gets timestamps of 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
