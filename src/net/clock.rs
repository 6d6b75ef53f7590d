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
    wall: Cell<Wall>,
}

/// The last reading of the wall clock.
#[derive(Clone, Copy, Debug)]
struct Wall {
    /// The time since the Unix epoch less the monotonic time.
    ahead: Duration,
    /// The monotonic time after which the clock is read again.
    until: Duration,
}

impl Clock {
    pub(super) fn new(system: &impl System) -> Self {
        Self { wall: Cell::new(Wall::read(system, system.monotonic())) }
    }

    pub(super) fn now(&self, system: &impl System) -> Now {
        let monotonic = system.monotonic();
        if monotonic > self.wall.get().until {
            self.wall.set(Wall::read(system, monotonic));
        }
        Now { monotonic, unix: monotonic.saturating_add(self.wall.get().ahead) }
    }
}

impl Wall {
    #[cold]
    fn read(system: &impl System, monotonic: Duration) -> Self {
        // A machine that is set to a time soon after 1970 gets timestamps that are a little later.
        let ahead = system.wall_clock().saturating_sub(monotonic);
        Self { ahead, until: monotonic.saturating_add(WALL_CLOCK_AGE_MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn the_time_follows_the_wall_clock_wherever_it_is_set() {
        let system = Fake::default();
        let set = |monotonic, unix| {
            system.monotonic.set(monotonic);
            system.wall_clock.set(unix);
        };
        let (second, start) = (Duration::from_secs(1), Duration::from_secs(1_000_000));
        set(second, start);
        let clock = Clock::new(&system);
        assert_eq!(clock.now(&system), Now { monotonic: second, unix: start });
        // For a second, the monotonic clock is enough.
        set(2 * second, Duration::ZERO);
        assert_eq!(clock.now(&system), Now { monotonic: 2 * second, unix: start + second });
        assert_eq!(system.wall_reads.get(), 1);
        let moment = Duration::from_nanos(1);
        for unix in [start / 2, start * 2, start] {
            let monotonic = system.monotonic.get() + second + moment;
            set(monotonic, unix);
            assert_eq!(clock.now(&system), Now { monotonic, unix });
        }
        assert_eq!(system.wall_reads.get(), 4);
    }
}
