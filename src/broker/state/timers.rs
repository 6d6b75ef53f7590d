//! Timers, by deadline. Time is an argument: nothing here reads a clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::ConnectionKey;

/// The time as the broker sees it, read once a turn by its driver.
///
/// ```
/// use ipc_framework::broker::Now;
/// use std::time::Duration;
///
/// let start = Now { monotonic: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) };
/// assert!(start.monotonic < start.unix);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since the server started; never goes back. Deadlines are counted in it.
    pub monotonic: Duration,
    /// Since the Unix epoch; may jump. Timestamps of messages are made of it.
    pub unix: Duration,
}

/// A [`Now::monotonic`] in half the room, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl From<Duration> for Moment {
    #[inline]
    fn from(monotonic: Duration) -> Self {
        // It counts to six hundred years.
        Self(monotonic.as_secs() * 1_000_000_000 + u64::from(monotonic.subsec_nanos()))
    }
}

impl From<Moment> for Duration {
    fn from(moment: Moment) -> Self {
        Self::from_nanos(moment.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Handshake(ConnectionKey),
    Idle(ConnectionKey),
    /// A queue over its high-water mark has used up its grace.
    Grace(ConnectionKey),
    /// A peer that was told why it is closed has had time to read it.
    Linger(ConnectionKey),
    /// Connections have been held back for want of memory as long as they may.
    Memory,
    DrainDeadline,
}

/// Names one timer; the serial keeps timers of one instant apart and in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    deadline: Duration,
    serial: u64,
}

impl TimerKey {
    pub(crate) fn deadline(self) -> Duration {
        self.deadline
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeMap<TimerKey, Due>,
    serial: u64,
}

impl Timers {
    pub(crate) fn arm(&mut self, deadline: Duration, due: Due) -> TimerKey {
        self.serial += 1;
        let key = TimerKey { deadline, serial: self.serial };
        self.queue.insert(key, due);
        key
    }

    pub(crate) fn disarm(&mut self, key: TimerKey) {
        self.queue.remove(&key);
    }

    /// Puts another timer into a slot, or none.
    pub(crate) fn reset(&mut self, slot: &mut Option<TimerKey>, next: Option<(Duration, Due)>) {
        if let Some(timer) = slot.take() {
            self.disarm(timer);
        }
        *slot = next.map(|(deadline, due)| self.arm(deadline, due));
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|(key, _)| key.deadline)
    }

    /// Takes the earliest timer that is due, with its deadline.
    pub(crate) fn expire(&mut self, now: Duration) -> Option<(Duration, Due)> {
        let entry = self.queue.first_entry()?;
        let deadline = entry.key().deadline;
        (deadline <= now).then(|| (deadline, entry.remove()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_expire_in_order_and_not_before_they_are_due() {
        let mut timers = Timers::default();
        let second = Duration::from_secs(1);
        timers.arm(second * 2, Due::DrainDeadline);
        let disarmed = timers.arm(second, Due::DrainDeadline);
        timers.arm(second, Due::DrainDeadline);
        timers.disarm(disarmed);
        assert_eq!(timers.next_deadline(), Some(second));
        assert_eq!(timers.expire(second / 2), None);
        assert_eq!(timers.expire(second), Some((second, Due::DrainDeadline)));
        assert_eq!(timers.expire(second), None);
        assert_eq!(timers.next_deadline(), Some(second * 2));
    }
}
