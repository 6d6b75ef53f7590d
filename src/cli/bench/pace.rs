//! When to send: at once, or at fixed times.

use std::time::{Duration, Instant};

/// The system wakes a thread some 50 µs late; the last piece is waited for awake.
const AWAKE: Duration = Duration::from_micros(200);

/// The times at which one client is to send.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    /// None in a closed loop.
    every: Option<Duration>,
    sent: u32,
}

impl Pace {
    pub(super) fn closed() -> Self {
        Self { start: Instant::now(), every: None, sent: 0 }
    }

    /// The share of a rate that is the client's who is `at` among `clients`; they take turns.
    pub(super) fn open(start: Instant, rate: f64, at: u32, clients: u32) -> Self {
        let every = Duration::from_secs_f64(f64::from(clients) / rate);
        let phase = every.mul_f64(f64::from(at) / f64::from(clients));
        Self { start: start + phase, every: Some(every), sent: 0 }
    }

    /// Waits until the next is to be sent, but not beyond `end`; returns when it was to be
    /// sent, which is earlier than now for those that could not go in time.
    pub(super) fn wait(&mut self, end: Instant) -> Instant {
        let Some(every) = self.every else { return Instant::now() };
        let intended = self.start + every.mul_f64(f64::from(self.sent));
        self.sent = self.sent.saturating_add(1);
        let until = intended.min(end);
        let left = until.saturating_duration_since(Instant::now());
        std::thread::sleep(left.saturating_sub(AWAKE));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        intended
    }

    /// How many were due before `end` and have not been sent, the one that was waited for
    /// last among them.
    pub(super) fn unsent(&self, end: Instant) -> u64 {
        let Some(every) = self.every else { return 0 };
        let due = end.saturating_duration_since(self.start).div_duration_f64(every).ceil();
        let sent = f64::from(self.sent.saturating_sub(1));
        whole((due - sent).max(0.0))
    }
}

#[expect(clippy::cast_sign_loss, reason = "it is given no negative numbers")]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_late_counts_from_when_it_should_have_been() {
        let start = Instant::now();
        let end = start + Duration::from_secs(3_600);
        let mut pace = Pace::open(start, 1_000.0, 1, 2);
        std::thread::sleep(Duration::from_millis(20));
        let intended: Vec<Duration> = (0..3).map(|_| pace.wait(end) - start).collect();
        assert_eq!(intended, [1, 3, 5].map(Duration::from_millis), "two clients take turns");
    }

    #[test]
    fn what_was_due_and_not_sent_is_counted() {
        let start = Instant::now();
        let end = start + Duration::from_millis(10);
        let mut pace = Pace::open(start, 1_000.0, 0, 1);
        for _ in 0..4 {
            pace.wait(start);
        }
        // The fourth was waited for, and came too late to be sent.
        assert_eq!(pace.unsent(end), 7);
        assert_eq!(Pace::closed().unsent(end), 0);
    }

    #[test]
    fn nobody_waits_beyond_the_end() {
        let start = Instant::now();
        let mut pace = Pace::open(start, 0.001, 0, 1);
        pace.wait(start);
        assert!(pace.wait(start) > start + Duration::from_secs(900));
    }
}
