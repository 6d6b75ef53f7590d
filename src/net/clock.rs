//! The clock that the broker is given the time from.

use std::cell::Cell;
use std::time::Duration;

use super::system::System;
use crate::broker::Now;

/// The time for which a reading of the wall clock is extrapolated. The administrator may set the
/// clock, but that is rare.
const WALL_CLOCK_AGE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Clock {
    /// The last reading of the wall clock, and the monotonic time of that reading.
    wall: Cell<(Duration, Duration)>,
}

impl Clock {
    pub(super) fn new(system: &impl System) -> Self {
        Self { wall: Cell::new((system.wall_clock(), system.monotonic())) }
    }

    pub(super) fn now(&self, system: &impl System) -> Now {
        let monotonic = system.monotonic();
        let (wall, read_at) = self.wall.get();
        let age = monotonic.saturating_sub(read_at);
        if age > WALL_CLOCK_AGE_MAX {
            let unix = system.wall_clock();
            self.wall.set((unix, monotonic));
            return Now { monotonic, unix };
        }
        Now { monotonic, unix: wall.saturating_add(age) }
    }
}
