//! The unanswered requests of one connection by their `message_id`, for cancels and credit. It is made
//! when a connection first needs it, so that others pay nothing for it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use smallvec::SmallVec;

use super::keys::RequestKey;

/// The memory of an entry without its id.
const ENTRY_BYTES: usize = 128;

/// An id with its escapes resolved. A UUID is kept inline.
type Id = SmallVec<[u8; 36]>;
/// The requests with one id, in the order in which they came.
pub(crate) type SameId = SmallVec<[RequestKey; 1]>;

#[derive(Debug, Default)]
pub(crate) struct CallIndex {
    by_id: BTreeMap<Id, SameId>,
    bytes: usize,
}

impl CallIndex {
    /// Returns the memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn insert(&mut self, id: &str, request: RequestKey) {
        self.bytes += ENTRY_BYTES;
        match self.by_id.entry(Id::from_slice(id.as_bytes())) {
            Entry::Occupied(mut known) => known.get_mut().push(request),
            Entry::Vacant(place) => {
                self.bytes += id.len();
                place.insert(SmallVec::from_elem(request, 1));
            }
        }
    }

    /// Removes a request, if it is still there.
    pub(crate) fn remove(&mut self, id: &str, request: RequestKey) {
        let Some(same) = self.by_id.get_mut(id.as_bytes()) else { return };
        let Some(at) = same.iter().position(|other| *other == request) else { return };
        same.remove(at);
        self.bytes -= ENTRY_BYTES;
        if same.is_empty() {
            self.bytes -= id.len();
            self.by_id.remove(id.as_bytes());
        }
    }

    /// Returns the requests with an id.
    pub(crate) fn of(&self, id: &str) -> &[RequestKey] {
        self.by_id.get(id.as_bytes()).map_or(&[], |same| same)
    }

    /// Returns the number of all requests.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn len(&self) -> usize {
        self.by_id.values().map(SmallVec::len).sum()
    }

    /// Returns whether a request has its place. The id is JSON text, which is the id itself unless
    /// there are escapes in it.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn has(&self, id: &[u8], request: RequestKey) -> bool {
        match self.by_id.get(id) {
            Some(same) => same.contains(&request),
            None => id.contains(&b'\\') && self.by_id.values().any(|same| same.contains(&request)),
        }
    }

    /// Removes the requests with an id, and returns them.
    pub(crate) fn take(&mut self, id: &str) -> SameId {
        let same = self.by_id.remove(id.as_bytes()).unwrap_or_default();
        if !same.is_empty() {
            self.bytes -= id.len() + same.len() * ENTRY_BYTES;
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn requests_with_one_id_stay_in_order_and_leave_nothing() {
        let key = |at| RequestKey::new(at, NonZeroU32::MIN);
        let mut index = CallIndex::default();
        for (id, at) in [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5)] {
            index.insert(id, key(at));
        }
        assert_eq!(index.of("a"), [1, 3, 4, 5].map(key));
        index.remove("a", key(3));
        index.remove("a", key(3));
        index.remove("c", key(3));
        assert_eq!(index.of("a"), [1, 4, 5].map(key));
        assert_eq!(index.take("a").as_slice(), [1, 4, 5].map(key));
        index.remove("a", key(4));
        assert_eq!((index.of("a"), index.of("b")), (&[][..], &[key(2)][..]));
        assert!(index.take("a").is_empty());
        index.remove("b", key(2));
        assert_eq!(index.bytes(), 0);
    }
}
