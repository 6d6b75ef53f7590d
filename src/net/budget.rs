//! The bound on one call of `poll_once_within`, and how it is spent.

use std::time::Duration;

use super::system::System;

/// The most that one call of [`Server::poll_once_within`](crate::Server::poll_once_within) does.
/// The rest is work of the next call, in the same order.
///
/// A budget is counted in steps, in time, or in both:
///
/// - A step is a message that comes in, a connection that is read or accepted, something that
///   another thread asked for, a timer, or a queue that is sent. So a call has as many messages
///   and system calls as steps at most, whoever asks for how much.
/// - The clock is read after 32 steps at most. A step costs some microseconds, and whatever the
///   handler takes that it calls; one publication to many subscribers is a single step.
///
/// About half of it goes into what comes in, so that answers leave with the same call. If a call
/// ends before all of them are sent, the next one sends the others before it does anything else.
/// Every call does at least one thing of each kind, so that even the smallest budget gets on.
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
    /// At most so many steps.
    pub const fn steps(steps: usize) -> Self {
        Self { steps, time: None }
    }

    /// About so much time, which begins when the call has waited for events.
    pub const fn time(time: Duration) -> Self {
        Self { steps: usize::MAX, time: Some(time) }
    }

    /// The same, and at most so many steps.
    pub const fn and_steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }
}

/// Steps between two looks at the clock: some fifty microseconds and what handlers take.
const STEPS_AT_ONCE_MAX: usize = 32;

/// The rest of a turn's budget.
pub(super) trait Meter {
    /// A turn without a budget is compiled without looking at one.
    const IS_BOUNDED: bool;

    /// Begins a part of the turn that leaves so many eighths of what is left to later parts.
    fn keep_eighths(&mut self, eighths: u32, system: &impl System);

    /// Steps that may be taken before [`Meter::is_spent`] is asked again: one at least.
    fn steps(&self) -> usize;

    fn spend(&mut self, steps: usize);

    /// Returns whether the current part of the turn has to end.
    fn is_spent(&self, system: &impl System) -> bool;
}

/// No bound but [`Limits::turn`](crate::Limits).
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
    /// Steps that are kept for later parts of the turn.
    steps_kept: usize,
    /// When the current part of the turn ends, in the system's monotonic time.
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
