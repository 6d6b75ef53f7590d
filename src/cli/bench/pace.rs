//! When to send: at fixed times, whatever became of what was sent before.

use std::time::{Duration, Instant};

/// The system wakes a thread some 50 µs late; the last piece is waited for awake.
pub(super) const AWAKE: Duration = Duration::from_micros(200);

/// The times at which one client is to send.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    every: Duration,
    sent: u64,
}

impl Pace {
    /// The share of a rate that is the client's who is `at` among `clients`; they take turns.
    pub(super) fn new(start: Instant, rate: f64, at: u32, clients: u32) -> Self {
        let every = Duration::from_secs_f64(f64::from(clients) / rate);
        let phase = every.mul_f64(f64::from(at) / f64::from(clients));
        Self { start: start + phase, every, sent: 0 }
    }

    /// When the next is due, which is earlier than now for those that could not go in time.
    pub(super) fn next(&self) -> Instant {
        self.start + self.every.mul_f64(self.sent as f64)
    }

    pub(super) fn note_sent(&mut self) {
        self.sent += 1;
    }

    /// How many were due before `end` and have not been sent.
    pub(super) fn unsent(&self, end: Instant) -> u64 {
        let due = end.saturating_duration_since(self.start).div_duration_f64(self.every).ceil();
        whole(due).saturating_sub(self.sent)
    }
}

#[expect(clippy::cast_sign_loss, reason = "it is given no negative numbers")]
fn whole(number: f64) -> u64 {
    number as u64
}

/// To the microsecond, on a thread that has nothing else to do.
pub(super) fn wait_until(then: Instant) {
    let left = then.saturating_duration_since(Instant::now());
    std::thread::sleep(left.saturating_sub(AWAKE));
    while Instant::now() < then {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_and_no_delay_moves_the_times() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 1_000.0, 1, 2);
        let mut due = || {
            let due = pace.next() - start;
            pace.note_sent();
            std::thread::sleep(Duration::from_millis(5));
            due
        };
        assert_eq!([due(), due(), due()], [1, 3, 5].map(Duration::from_millis));
    }

    #[test]
    fn what_was_due_and_not_sent_is_counted() {
        let start = Instant::now();
        let end = start + Duration::from_millis(10);
        let mut pace = Pace::new(start, 1_000.0, 0, 1);
        for _ in 0..3 {
            pace.note_sent();
        }
        assert_eq!(pace.unsent(end), 7);
        assert_eq!(pace.unsent(start), 0);
    }
}
