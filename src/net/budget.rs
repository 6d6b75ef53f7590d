//! The bound on the work of one call of `poll_once_within`.

use std::time::Duration;

use super::system::System;

/// The most work that one call of [`Server::poll_once_within`](crate::Server::poll_once_within)
/// does. The next call does the rest, in the same order.
///
/// A budget is counted in steps, in time, or in both:
///
/// - A step is one received message, one connection that is read or accepted, one command of
///   another thread, one timer, or one queue that is sent. The number of steps therefore bounds the
///   messages and the system calls of a call, whatever the peers ask for.
/// - The clock is read at least once in 32 steps. A step takes a few microseconds, plus the time of
///   the handler that it calls. One publication to many subscribers is a single step.
///
/// About half of the budget is for input, so that answers leave with the same call. If a call ends
/// before all of them are sent, the next one sends the others before it does anything else. Every
/// call does at least one step of each kind, so that even the smallest budget makes progress.
///
/// ```
/// use ipc_framework::Budget;
/// use std::time::Duration;
///
/// let budget = Budget::time(Duration::from_millis(2)).and_steps(5_000);
/// assert_ne!(budget, Budget::steps(5_000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    steps: usize,
    time: Option<Duration>,
}

impl Budget {
    /// A budget of at most so many steps.
    pub const fn steps(steps: usize) -> Self {
        Self { steps, time: None }
    }

    /// A budget of about so much time, which begins once the call has waited for events.
    pub const fn time(time: Duration) -> Self {
        Self { steps: usize::MAX, time: Some(time) }
    }

    /// Adds a limit on the number of steps.
    pub const fn and_steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }
}

/// Steps between two readings of the clock: about fifty microseconds, plus the time of handlers.
const STEPS_AT_ONCE_MAX: usize = 32;

/// The remaining budget of a turn.
pub(super) trait Meter {
    /// False for a turn without a budget, which is then compiled without any checks of one.
    const IS_BOUNDED: bool;

    /// Begins a part of the turn that reserves so many eighths of the rest for later parts.
    fn keep_eighths(&mut self, eighths: u32, system: &impl System);

    /// Returns the steps that may be taken before [`Meter::is_spent`] is asked again: at least one.
    fn steps(&self) -> usize;

    fn spend(&mut self, steps: usize);

    /// Returns whether the current part of the turn has to end.
    fn is_spent(&self, system: &impl System) -> bool;
}

/// The meter of a turn that is bounded by [`Limits::turn`](crate::Limits) alone.
pub(super) struct Unbounded;

impl Meter for Unbounded {
    const IS_BOUNDED: bool = false;

    fn keep_eighths(&mut self, _: u32, _: &impl System) {}

    fn steps(&self) -> usize {
        usize::MAX
    }

    fn spend(&mut self, _: usize) {}

    fn is_spent(&self, _: &impl System) -> bool {
        false
    }
}

pub(super) struct Bounded {
    steps_left: usize,
    /// Steps that are reserved for later parts of the turn.
    steps_kept: usize,
    /// The end of the current part of the turn, in the system's monotonic time.
    part_end: Option<Duration>,
    end: Option<Duration>,
}

impl Bounded {
    pub(super) fn new(budget: Budget, now: Duration) -> Self {
        let end = budget.time.map(|time| now.saturating_add(time));
        Self { steps_left: budget.steps, steps_kept: 0, part_end: end, end }
    }
}

impl Meter for Bounded {
    const IS_BOUNDED: bool = true;

    fn keep_eighths(&mut self, eighths: u32, system: &impl System) {
        self.steps_kept = self.steps_left / 8 * eighths as usize;
        self.part_end = self.end.map(|end| {
            let now = system.monotonic();
            now.saturating_add(end.saturating_sub(now) / 8 * (8 - eighths))
        });
    }

    fn steps(&self) -> usize {
        let left = self.steps_left.saturating_sub(self.steps_kept).max(1);
        if self.end.is_some() { left.min(STEPS_AT_ONCE_MAX) } else { left }
    }

    fn spend(&mut self, steps: usize) {
        self.steps_left = self.steps_left.saturating_sub(steps);
    }

    fn is_spent(&self, system: &impl System) -> bool {
        self.steps_left <= self.steps_kept
            || self.part_end.is_some_and(|end| system.monotonic() >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    /// The parts of a turn as the loop begins them, in eighths that are kept, and the steps of each.
    #[test]
    fn each_part_of_a_turn_leaves_the_later_ones_their_steps() {
        let system = Fake::default();
        let second = Duration::from_secs(1);
        for budget in [Budget::steps(80), Budget::time(second).and_steps(80)] {
            let at_once_max = if budget.time.is_some() { STEPS_AT_ONCE_MAX } else { usize::MAX };
            let mut meter = Bounded::new(budget, Duration::ZERO);
            for (eighths, steps) in [(5, 30), (7, 8), (7, 7), (0, 35)] {
                meter.keep_eighths(eighths, &system);
                assert_eq!(meter.steps(), steps.min(at_once_max), "{eighths} eighths are kept");
                meter.spend(steps - 1);
                assert_eq!((meter.steps(), meter.is_spent(&system)), (1, false));
                meter.spend(1);
                assert!(meter.is_spent(&system), "{eighths} eighths are kept");
                assert_eq!(meter.steps(), 1, "whatever is begun takes a step");
            }
        }
    }

    #[test]
    fn each_part_of_a_turn_leaves_the_later_ones_their_time() {
        let whole = Duration::from_secs(16);
        let system = Fake::default();
        let mut meter = Bounded::new(Budget::time(whole), Duration::ZERO);
        let mut left = whole;
        for eighths in [5, 7, 7, 0] {
            let begin = system.monotonic.get();
            meter.keep_eighths(eighths, &system);
            let part = left / 8 * (8 - eighths);
            left = left.saturating_sub(part);
            system.monotonic.set(begin + part / 2);
            assert!(!meter.is_spent(&system), "{eighths} eighths are kept");
            system.monotonic.set(begin + part);
            assert!(meter.is_spent(&system), "{eighths} eighths are kept");
        }
        assert_eq!(system.monotonic.get(), whole);
    }
}
