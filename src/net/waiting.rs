//! Waits for events: asleep, or spinning for a while first.

use std::io;
use std::time::Duration;

use super::system::{Event, System};
use crate::Spin;

/// A spin that is shorter than this fraction of the allowed time is not worth its polls.
const BUDGET_SHARE_MIN: u32 = 32;

#[derive(Debug)]
pub(super) struct Waiting {
    spin_max: Duration,
    /// The time that the next wait spins. Every spin in vain halves it, down to zero. It is reset
    /// once an event comes so soon that a full spin would have found it.
    budget: Duration,
    wakeups: u64,
    spins: u64,
}

impl Waiting {
    pub(super) fn new(spin: Spin) -> Self {
        let spin_max = match spin {
            Spin::Never => Duration::ZERO,
            Spin::AfterWork(spin_max) => spin_max,
            Spin::Always => Duration::MAX,
        };
        Self { spin_max, budget: spin_max, wakeups: 0, spins: 0 }
    }

    /// Waits for events, at most for `timeout`, and appends them. Returns whether the system may
    /// have more of them.
    pub(super) fn wait(
        &mut self,
        system: &mut impl System,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        if self.spin_max.is_zero() || timeout == Some(Duration::ZERO) {
            let has_more = system.poll(events, timeout)?;
            self.wakeups += u64::from(timeout != Some(Duration::ZERO) && !events.is_empty());
            return Ok(has_more);
        }
        let began = system.monotonic();
        let spin = timeout.map_or(self.budget, |timeout| timeout.min(self.budget));
        let mut awake = Duration::ZERO;
        while awake < spin {
            let has_more = system.spin(events)?;
            if !events.is_empty() {
                self.budget = self.spin_max;
                return Ok(has_more);
            }
            self.spins += 1;
            std::hint::spin_loop();
            awake = system.monotonic().saturating_sub(began);
        }
        let rest = timeout.map(|timeout| timeout.saturating_sub(awake));
        let mut has_more = false;
        if rest != Some(Duration::ZERO) {
            has_more = system.poll(events, rest)?;
            self.wakeups += u64::from(!events.is_empty());
        }
        let waited = system.monotonic().saturating_sub(began);
        self.budget = if !events.is_empty() && waited <= self.spin_max {
            self.spin_max
        } else {
            let half = self.budget / 2;
            if half < self.spin_max / BUDGET_SHARE_MIN { Duration::ZERO } else { half }
        };
        Ok(has_more)
    }

    /// Returns how often the loop was woken from sleep and how often it polled in vain, since the
    /// last call.
    pub(super) fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.wakeups), std::mem::take(&mut self.spins))
    }
}

#[cfg(test)]
mod tests {
    use super::super::mio_system::MioSystem;
    use super::*;

    #[test]
    fn an_idle_loop_spins_less_and_less_and_then_not_at_all() {
        let mut system = MioSystem::new(16).unwrap();
        let mut events = Vec::new();
        let mut waiting = Waiting::new(Spin::AfterWork(Duration::from_micros(320)));
        let mut spun = Vec::new();
        for _ in 0..12 {
            waiting.wait(&mut system, &mut events, Some(Duration::from_millis(2))).unwrap();
            spun.push(waiting.take_counts().1);
        }
        assert!(spun[0] > 0, "{spun:?}");
        assert_eq!(&spun[6..], [0; 6], "{spun:?}");
    }

    #[test]
    fn a_host_that_polls_more_often_than_the_spin_lasts_is_idle_too() {
        let mut system = MioSystem::new(16).unwrap();
        let mut events = Vec::new();
        let mut waiting = Waiting::new(Spin::AfterWork(Duration::from_millis(2)));
        for _ in 0..12 {
            waiting.wait(&mut system, &mut events, Some(Duration::from_micros(500))).unwrap();
        }
        waiting.take_counts();
        waiting.wait(&mut system, &mut events, Some(Duration::from_micros(500))).unwrap();
        assert_eq!(waiting.take_counts().1, 0);
    }

    #[test]
    fn an_event_that_comes_soon_makes_the_loop_spin_again() {
        let mut system = MioSystem::new(16).unwrap();
        let mut events = Vec::new();
        let wake = system.waker();
        let mut waiting = Waiting::new(Spin::AfterWork(Duration::from_secs(5)));
        waiting.budget = Duration::ZERO;
        wake();
        waiting.wait(&mut system, &mut events, None).unwrap();
        assert_eq!(waiting.take_counts(), (1, 0), "without a budget, it slept");
        events.clear();
        wake();
        waiting.wait(&mut system, &mut events, None).unwrap();
        assert!(!events.is_empty());
        assert_eq!(waiting.take_counts().0, 0, "it was awake");
    }
}
