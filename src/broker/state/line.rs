//! Lines of connections that wait for something.

use std::collections::VecDeque;

use super::keys::ConnectionKey;

/// A line of connections, each with a value of its own. An entry in the middle whose connection
/// leaves is not searched for, but skipped when its turn comes.
#[derive(Debug)]
pub(crate) struct Line<T = ()> {
    entries: VecDeque<(ConnectionKey, T)>,
    /// The number of entries whose connection no longer waits here.
    left: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), left: 0 }
    }
}

impl<T: Copy> Line<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.len() == self.left
    }

    pub(crate) fn push_back(&mut self, key: ConnectionKey, with: T) {
        self.entries.push_back((key, with));
    }

    /// Puts a connection back to the front that had its turn and could not use it.
    pub(crate) fn push_front(&mut self, key: ConnectionKey, with: T) {
        self.entries.push_front((key, with));
    }

    /// Returns the first connection in line. `waits` tells whether a connection still waits here.
    pub(crate) fn first(
        &mut self,
        waits: impl Fn(ConnectionKey) -> bool,
    ) -> Option<(ConnectionKey, T)> {
        while let Some(&first) = self.entries.front() {
            if waits(first.0) {
                return Some(first);
            }
            self.entries.pop_front();
            self.left = self.left.saturating_sub(1);
        }
        None
    }

    /// Removes the connection that [`Line::first`] has returned.
    pub(crate) fn pop_first(&mut self) {
        self.entries.pop_front();
    }

    /// Records that a connection in the line no longer waits. Its entry stays until it is at the
    /// front, or until most entries are of this kind, so that leaving takes constant time on average
    /// and the line is never more than twice as long as necessary.
    pub(crate) fn leave(&mut self, waits: impl Fn(ConnectionKey) -> bool) {
        self.left += 1;
        if self.is_empty() {
            self.entries.clear();
            self.left = 0;
        } else if self.left > self.entries.len() / 2 {
            self.entries.retain(|(key, _)| waits(*key));
            self.left = 0;
        }
    }

    /// Returns whether there is an entry of a connection, which may have left.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn contains(&self, key: ConnectionKey) -> bool {
        self.entries.iter().any(|(other, _)| *other == key)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn those_who_left_are_skipped_and_do_not_pile_up() {
        const COUNT: usize = 10_000;
        let key = |at: usize| ConnectionKey::new(at, NonZeroU32::MIN);
        let mut line = Line::default();
        let mut waiting = vec![true; COUNT];
        (0..COUNT).for_each(|at| line.push_back(key(at), at));
        let asked = Cell::new(0);
        // All but the last one leave, from the front to the back.
        for at in 0..COUNT - 1 {
            waiting[at] = false;
            line.leave(|key| {
                asked.set(asked.get() + 1);
                waiting[key.index()]
            });
            let waits = COUNT - 1 - at;
            assert!(line.entries.len() <= 2 * waits + 1, "{} for {waits}", line.entries.len());
            assert!(!line.is_empty());
        }
        assert!(asked.get() <= 3 * COUNT, "{} looks for {COUNT}", asked.get());
        let waits = |key: ConnectionKey| waiting[key.index()];
        assert_eq!(line.first(waits), Some((key(COUNT - 1), COUNT - 1)));
        line.pop_first();
        assert!(line.is_empty());
        assert_eq!(line.first(waits), None);
    }
}
