//! Timers by deadline. The time is an argument, so nothing here reads a clock.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use super::keys::{ChannelKey, ConnectionKey, RequestKey};

/// The time of a turn, which the driver reads once.
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
    /// The time since the server started, which never goes back. Deadlines refer to it.
    pub monotonic: Duration,
    /// The time since the Unix epoch, which may jump. Timestamps of messages are made of it.
    pub unix: Duration,
}

/// A [`Now::monotonic`] in nanoseconds, which takes half the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl From<Duration> for Moment {
    #[inline]
    fn from(monotonic: Duration) -> Self {
        // 64 bits suffice for six hundred years.
        Self(monotonic.as_secs() * 1_000_000_000 + u64::from(monotonic.subsec_nanos()))
    }
}

impl Moment {
    /// The nanoseconds that have passed since an earlier moment.
    #[inline]
    pub(crate) fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
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
    /// A peer has had time to read the reason why it is closed.
    Linger(ConnectionKey),
    /// The time that a requester gave its request is over.
    Deadline(RequestKey),
    /// A stream has had its time since its last part, or since it was last looked at.
    Stream(RequestKey),
    /// Connections have been held back for lack of memory for the whole grace.
    Memory,
    /// The oldest message of a channel's history may be too old.
    Ageing(ChannelKey),
    /// The application of a bus link has had no clients for long.
    Bus(ConnectionKey),
    DrainDeadline,
}

/// The key of a timer. The serial keeps timers of the same instant apart and in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    /// In nanoseconds. One that is later than these can say is never reached.
    deadline_nanos: u64,
    /// Never zero, so that an `Option` of a key takes no more room than a key.
    serial: NonZeroU64,
}

impl TimerKey {
    pub(crate) fn deadline(self) -> Duration {
        match self.deadline_nanos {
            u64::MAX => Duration::MAX,
            nanos => Duration::from_nanos(nanos),
        }
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
        let deadline_nanos = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        let serial = NonZeroU64::MIN.saturating_add(self.serial);
        let key = TimerKey { deadline_nanos, serial };
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

    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The timers that run, and what each is for.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TimerKey, Due)> {
        self.queue.iter().map(|(timer, due)| (*timer, *due))
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|(key, _)| key.deadline())
    }

    /// Removes and returns the earliest timer that is due, with its deadline.
    pub(crate) fn expire(&mut self, now: Duration) -> Option<(Duration, Due)> {
        let entry = self.queue.first_entry()?;
        let deadline = entry.key().deadline();
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
