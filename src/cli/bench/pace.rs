//! The times at which to send, which do not depend on the answers.

use std::time::{Duration, Instant};

use super::measure::Clock;

/// The system wakes a thread some 50 µs late, so a thread stays awake for the last part of a wait.
pub(super) const AWAKE: Duration = Duration::from_micros(200);

/// The times at which one client is to send.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    every: Duration,
    sent: u64,
    /// The time at which counting starts anew, so that messages the warm-up left unsent do not
    /// count.
    anew: Option<Instant>,
}

impl Pace {
    /// Returns the share of a rate for the client with index `at` of `clients`, which take turns.
    pub(super) fn new(clock: &Clock, rate: f64, at: u32, clients: u32) -> Self {
        Self::between(clock.start, clock.measure_from, rate, at, clients)
    }

    fn between(start: Instant, anew: Instant, rate: f64, at: u32, clients: u32) -> Self {
        let every = Duration::from_secs_f64(f64::from(clients) / rate);
        let phase = every.mul_f64(f64::from(at) / f64::from(clients));
        Self { start: start + phase, every, sent: 0, anew: Some(anew + phase) }
    }

    /// Returns when the next message is due, which is in the past if it could not be sent in time.
    pub(super) fn next(&mut self) -> Instant {
        let due = self.start + self.every.mul_f64(self.sent as f64);
        let is_over = |anew: &mut Instant| due >= *anew || Instant::now() >= *anew;
        match self.anew.take_if(is_over) {
            None => due,
            Some(anew) => {
                (self.start, self.sent) = (anew, 0);
                anew
            }
        }
    }

    pub(super) fn note_sent(&mut self) {
        self.sent += 1;
    }

    /// Adds the messages that were due and have not been sent to the clock's count.
    pub(super) fn note_unsent(&self, clock: &Clock) {
        clock.note_unsent(self.unsent(clock.end.min(Instant::now())));
    }

    /// Returns how many messages were due after the warm-up and before `end`, and have not been
    /// sent.
    fn unsent(&self, end: Instant) -> u64 {
        if self.anew.is_some_and(|anew| anew >= end) {
            return 0;
        }
        let due = end.saturating_duration_since(self.start).div_duration_f64(self.every).ceil();
        whole(due).saturating_sub(self.sent)
    }
}

#[expect(clippy::cast_sign_loss, reason = "it is given no negative numbers")]
fn whole(number: f64) -> u64 {
    number as u64
}

/// Waits to the microsecond, on a thread that has nothing else to do.
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
        let mut pace = Pace::between(start, start, 1_000.0, 1, 2);
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
        let mut pace = Pace::between(start, start, 1_000.0, 0, 1);
        for _ in 0..3 {
            pace.next();
            pace.note_sent();
        }
        assert_eq!(pace.unsent(end), 7);
        assert_eq!(pace.unsent(start), 0);
    }

    #[test]
    fn what_the_warm_up_left_unsent_is_forgotten() {
        let long_ago = Instant::now();
        let anew = long_ago + Duration::from_millis(20);
        let mut pace = Pace::between(long_ago, anew, 1_000.0, 0, 1);
        assert_eq!(pace.next(), long_ago);
        assert_eq!(pace.unsent(anew), 0);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(pace.next(), anew);
        assert_eq!(pace.unsent(anew + Duration::from_millis(5)), 5);
    }
}
