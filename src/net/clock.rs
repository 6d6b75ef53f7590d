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
        let (mut wall, mut read_at) = self.wall.get();
        if monotonic.saturating_sub(read_at) > WALL_CLOCK_AGE_MAX {
            (wall, read_at) = (system.wall_clock(), monotonic);
            self.wall.set((wall, read_at));
        }
        Now { monotonic, unix: wall + monotonic.saturating_sub(read_at) }
    }
}
