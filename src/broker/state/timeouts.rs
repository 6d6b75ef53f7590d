//! Timeouts of the same length, which expire in the order in which they begin. A queue is enough for
//! them, whereas an ordered map would take a hundred instructions more.

use std::collections::VecDeque;
use std::time::Duration;

use super::keys::Key;

/// The number of ended timeouts that are not worth removing.
const ENDED_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Timeouts<K> {
    /// The timeouts, ordered by deadline. The first one has not ended; others may have.
    queue: VecDeque<(Duration, Key<K>)>,
}

impl<K> Default for Timeouts<K> {
    fn default() -> Self {
        Self { queue: VecDeque::new() }
    }
}

impl<K> Timeouts<K> {
    #[expect(clippy::inline_always, reason = "it has a rare caller beside the usual one")]
    #[inline(always)]
    pub(crate) fn begin(&mut self, deadline: Duration, key: Key<K>) {
        if self.queue.back().is_none_or(|(last, _)| *last <= deadline) {
            self.queue.push_back((deadline, key));
        } else {
            // The timeout was shortened since the last one began.
            let at = self.queue.partition_point(|(other, _)| *other <= deadline);
            self.queue.insert(at, (deadline, key));
        }
    }

    /// Removes the first timeout, if it is this one. A later deadline is no longer one of the same
    /// length: its place would have to be searched for, and all behind it moved.
    pub(crate) fn leave(&mut self, key: Key<K>, is_live: impl Fn(Key<K>) -> bool) {
        if self.queue.front().is_some_and(|(_, first)| *first == key) {
            self.queue.pop_front();
            self.drop_ended(is_live);
        }
    }

    fn drop_ended(&mut self, is_live: impl Fn(Key<K>) -> bool) {
        while self.queue.front().is_some_and(|(_, key)| !is_live(*key)) {
            self.queue.pop_front();
        }
    }

    /// Records that a timeout ended before its deadline. `is_live` tells the `live` others that did
    /// not from those that did.
    pub(crate) fn note_end(&mut self, live: usize, is_live: impl Fn(Key<K>) -> bool) {
        self.drop_ended(&is_live);
        // The first one keeps those behind it in the queue. Without this, the queue would grow to all
        // that begin within one timeout.
        if self.queue.len() > 2 * live + ENDED_MAX {
            self.queue.retain(|(_, key)| is_live(*key));
            self.queue.shrink_to(2 * self.queue.len() + ENDED_MAX);
        }
    }

    /// Checks that they are in order, that the first one has not ended, and that not too many others have.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn check_agreement(
        &self,
        live: usize,
        is_live: impl Fn(Key<K>) -> bool,
    ) -> Result<(), String> {
        if !self.queue.iter().is_sorted_by_key(|(deadline, _)| *deadline) {
            return Err("timeouts are not in order".to_owned());
        }
        if self.queue.front().is_some_and(|(_, key)| !is_live(*key)) {
            return Err("the first timeout is that of what is over".to_owned());
        }
        let len = self.queue.len();
        if len > 2 * live + ENDED_MAX {
            return Err(format!("{len} timeouts are kept for {live} requests"));
        }
        Ok(())
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.queue.front().map(|(deadline, _)| *deadline)
    }

    /// Returns the first key, if its deadline has passed. It stays until its end is recorded.
    pub(crate) fn overdue(&self, now: Duration) -> Option<Key<K>> {
        self.queue.front().filter(|(deadline, _)| *deadline <= now).map(|(_, key)| *key)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::arena::Arena;
    use super::super::keys::RequestKind;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn timeouts_expire_in_the_order_of_their_deadlines() {
        let mut live = Arena::<RequestKind, u64>::default();
        let mut timeouts = Timeouts::default();
        // The timeout is 9 s at first and then shortened.
        for (began, length) in [(1, 9), (2, 9), (3, 2), (4, 2)] {
            let deadline = began + length;
            timeouts.begin(SECOND * deadline, live.insert(u64::from(deadline)));
        }
        assert_eq!(timeouts.overdue(SECOND * 4), None);
        for expected in [5, 6, 10, 11] {
            assert_eq!(timeouts.next_deadline(), Some(SECOND * expected));
            let key = timeouts.overdue(SECOND * expected).unwrap();
            assert_eq!(live.remove(key), Some(u64::from(expected)));
            timeouts.note_end(live.len(), |key| live.get(key).is_some());
        }
        assert_eq!(timeouts.next_deadline(), None);
    }

    #[test]
    fn the_first_one_may_leave() {
        let mut live = Arena::<RequestKind, ()>::default();
        let mut timeouts = Timeouts::default();
        let keys: Vec<_> = (1..=3).map(|_| live.insert(())).collect();
        (1..).zip(&keys).for_each(|(at, key)| timeouts.begin(SECOND * at, *key));
        live.remove(keys[1]);
        timeouts.note_end(live.len(), |key| live.get(key).is_some());
        assert_eq!(timeouts.overdue(SECOND), Some(keys[0]));
        for _ in 0..2 {
            timeouts.leave(keys[0], |key| live.get(key).is_some());
            assert_eq!(timeouts.overdue(SECOND * 3), Some(keys[2]));
        }
        timeouts.leave(keys[2], |key| live.get(key).is_some());
        assert_eq!(timeouts.next_deadline(), None);
    }

    #[test]
    fn those_that_ended_take_no_more_room_than_those_that_last() {
        let mut live = Arena::<RequestKind, ()>::default();
        let mut timeouts = Timeouts::default();
        let mut in_flight = VecDeque::new();
        let lasting = live.insert(());
        timeouts.begin(SECOND, lasting);
        for _ in 0..10_000 {
            let key = live.insert(());
            timeouts.begin(SECOND * 2, key);
            in_flight.push_back(key);
            if in_flight.len() > 10 {
                live.remove(in_flight.pop_front().unwrap());
                timeouts.note_end(live.len(), |key| live.get(key).is_some());
            }
            assert!(timeouts.queue.len() <= 2 * live.len() + ENDED_MAX + 1);
        }
        live.remove(lasting);
        timeouts.note_end(live.len(), |key| live.get(key).is_some());
        assert_eq!(timeouts.next_deadline(), Some(SECOND * 2));
        assert_eq!(timeouts.queue.len(), 10, "the first of them had hidden those that ended");
    }
}
