//! What some requests have beyond the base protocol: a deadline of their own, a stream of parts, and
//! a second try.

use std::sync::Arc;
use std::time::Duration;

use super::timers::TimerKey;
use super::watch::Watch;
use crate::proto::{CREDIT_MAX, SharedFrame};

/// The extras of one request.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub(crate) ttl: Option<Ttl>,
    pub(crate) stream: Option<Stream>,
    pub(crate) idempotent: bool,
    /// The frame for another worker, should the first one be lost.
    pub(crate) retry: Option<SharedFrame>,
    /// What the thread that answers it knows of it.
    pub(crate) watch: Option<Arc<Watch>>,
    /// The length of the `meta` at the end of the frames that are kept for it, with all that a frame
    /// without it does not have.
    pub(crate) meta_bytes: u32,
}

/// A thread that waits for credit does not wait for one that is gone.
impl Drop for Call {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.close();
        }
    }
}

/// The deadline of a requester.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ttl {
    pub(crate) millis: u32,
    pub(crate) until: Duration,
    pub(crate) timer: TimerKey,
}

impl Ttl {
    /// Returns the milliseconds that are left, as a worker gets them: at least one.
    pub(crate) fn millis_left(&self, now: Duration) -> u32 {
        let left = self.until.saturating_sub(now);
        let millis = left.as_secs() * 1_000 + u64::from(left.subsec_nanos().div_ceil(1_000_000));
        u32::try_from(millis).unwrap_or(u32::MAX).clamp(1, self.millis)
    }
}

/// The parts of an answer, and how many more of them the requester takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// The credit of the request itself.
    initial: u32,
    /// The credit that no part has used.
    unused: u32,
    /// The share of it that the worker does not know of yet.
    owed: u32,
    /// It has a place in the list of what its worker is owed.
    pub(crate) is_listed: bool,
    /// The number of the next part.
    next_seq: u64,
    /// The time of the last part, or of the request.
    pub(crate) active_at: Duration,
    /// Its timeout, once that was put off. Until then it is one of those of the same length.
    pub(crate) timer: Option<TimerKey>,
}

/// The reason for which a part is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartFault {
    OutOfOrder,
    WithoutCredit,
}

/// A stream would have more unused credit than it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMuchCredit;

impl Stream {
    pub(crate) fn new(initial: u32, now: Duration) -> Self {
        let (unused, active_at) = (initial, now);
        Self { initial, unused, owed: 0, is_listed: false, next_seq: 0, active_at, timer: None }
    }

    /// Adds credit, which is owed to the worker from now on.
    pub(crate) fn add(&mut self, credit: u32) -> Result<(), TooMuchCredit> {
        if self.unused + credit > CREDIT_MAX {
            return Err(TooMuchCredit);
        }
        self.unused += credit;
        self.owed += credit;
        Ok(())
    }

    /// Returns whether there is credit that the worker does not know of.
    pub(crate) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// Returns whether the worker waits for credit.
    pub(crate) fn is_stalled(&self) -> bool {
        self.unused == self.owed
    }

    /// Takes the credit that is owed to the worker, to tell it.
    pub(crate) fn take_owed(&mut self) -> u32 {
        std::mem::take(&mut self.owed)
    }

    /// Begins anew with a worker that knows the credit of the request alone.
    pub(crate) fn restart(&mut self, now: Duration) {
        self.owed = self.unused - self.initial;
        self.is_listed = false;
        self.active_at = now;
    }

    /// Takes the next part. Returns whether the worker has no credit for another one.
    pub(crate) fn take_part(&mut self, seq: u64, now: Duration) -> Result<bool, PartFault> {
        self.check_order(seq)?;
        if self.is_stalled() {
            return Err(PartFault::WithoutCredit);
        }
        self.unused -= 1;
        self.next_seq += 1;
        self.active_at = now;
        Ok(self.is_stalled())
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Checks the number of a part, or of the end, which needs no credit.
    pub(crate) fn check_order(&self, seq: u64) -> Result<(), PartFault> {
        if seq == self.next_seq { Ok(()) } else { Err(PartFault::OutOfOrder) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_adds_up_and_a_part_uses_one() {
        let now = Duration::from_secs(1);
        let mut stream = Stream::new(2, Duration::ZERO);
        assert_eq!(stream.take_part(1, now), Err(PartFault::OutOfOrder));
        assert_eq!(stream.take_part(0, now), Ok(false));
        assert_eq!(stream.take_part(1, now), Ok(true));
        assert_eq!(stream.take_part(2, now), Err(PartFault::WithoutCredit));
        assert_eq!(stream.check_order(2), Ok(()));
        // What the worker does not know of is no credit for it.
        assert_eq!((stream.add(1), stream.add(2)), (Ok(()), Ok(())));
        assert_eq!(stream.take_part(2, now), Err(PartFault::WithoutCredit));
        assert_eq!((stream.take_owed(), stream.take_owed()), (3, 0));
        assert_eq!(stream.take_part(2, now), Ok(false));
        assert_eq!(stream.active_at, now);
    }

    #[test]
    fn another_worker_is_owed_what_the_request_did_not_say_and_has_no_place_yet() {
        let now = Duration::from_secs(1);
        let mut stream = Stream::new(2, Duration::ZERO);
        assert_eq!(stream.add(3), Ok(()));
        assert_eq!(stream.take_owed(), 3);
        stream.is_listed = true;
        stream.restart(now);
        assert!(!stream.is_listed, "nobody would tell it of its credit");
        assert_eq!((stream.take_owed(), stream.active_at), (3, now));
    }

    #[test]
    fn unused_credit_is_bounded() {
        let mut stream = Stream::new(1, Duration::ZERO);
        assert_eq!(stream.add(CREDIT_MAX), Err(TooMuchCredit));
        assert_eq!(stream.add(CREDIT_MAX - 1), Ok(()));
        assert_eq!(stream.add(1), Err(TooMuchCredit));
        assert_eq!(stream.take_owed(), CREDIT_MAX - 1);
        assert_eq!(stream.take_part(0, Duration::ZERO), Ok(false));
        assert_eq!(stream.add(1), Ok(()));
    }

    #[test]
    fn another_worker_is_owed_what_its_request_does_not_say() {
        let mut stream = Stream::new(4, Duration::ZERO);
        assert_eq!(stream.add(3), Ok(()));
        assert_eq!(stream.take_owed(), 3);
        stream.restart(Duration::from_secs(2));
        assert_eq!(stream.take_owed(), 3);
    }

    #[test]
    fn the_time_that_is_left_is_rounded_up_and_never_zero() {
        let mut timers = super::super::timers::Timers::default();
        let until = Duration::from_millis(1_500);
        let timer = timers.arm(until, super::super::timers::Due::DrainDeadline);
        let ttl = Ttl { millis: 1_500, until, timer };
        for (now_micros, left) in
            [(0, 1_500), (1, 1_500), (999_001, 501), (1_499_999, 1), (1_500_000, 1), (9_000_000, 1)]
        {
            assert_eq!(ttl.millis_left(Duration::from_micros(now_micros)), left, "{now_micros}");
        }
    }
}
