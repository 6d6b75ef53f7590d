//! The workers of a channel, and the requests that are kept until one of them has room.

use std::collections::VecDeque;
use std::num::{NonZeroU16, NonZeroU32};

use smallvec::SmallVec;

use super::keys::{ConnectionKey, RequestKey};

/// Loads that are compared have so many binary digits behind the point.
pub(crate) const LOAD_SHIFT: u32 = 16;

/// The service of one channel.
#[derive(Debug, Default)]
pub(crate) struct Service {
    pub(crate) workers: SmallVec<[ServiceWorker; 2]>,
    /// The position at which the search for the least loaded worker starts, so that equals take
    /// turns.
    pub(crate) next: usize,
    /// The number of workers whose requests are counted. Without one, nothing is.
    counted: u32,
    /// The number of workers that are links.
    pub(crate) links: u32,
    pub(crate) kept: Kept,
}

/// A connection that serves the channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceWorker {
    pub(crate) key: ConnectionKey,
    /// The number of unanswered requests of the channel that it gets at a time, if it gave one.
    pub(crate) concurrency: Option<NonZeroU32>,
    /// It is a link, and this is what its other end has.
    pub(crate) elsewhere: Option<Elsewhere>,
    /// Its unanswered requests of the channel. They are counted only for a worker with a concurrency, and
    /// for a link.
    in_flight: u32,
}

/// What another server has told of its workers of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// How many they are.
    pub(crate) workers: NonZeroU16,
    /// Their unanswered requests that did not come from here.
    pub(crate) in_flight: u32,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self { workers: NonZeroU16::MIN, in_flight: 0 }
    }
}

impl ServiceWorker {
    pub(crate) fn is_link(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// Returns how many unanswered requests each of the workers behind a link would have with another
    /// one, in 65,536ths; `None` for a worker that is no link.
    pub(crate) fn load_elsewhere(&self) -> Option<u64> {
        let Elsewhere { workers, in_flight } = self.elsewhere?;
        let in_flight = u64::from(self.in_flight) + u64::from(in_flight) + 1;
        Some((in_flight << LOAD_SHIFT) / u64::from(workers.get()))
    }

    /// Returns how many more requests it may get, if there is a limit.
    #[cfg(any(test, feature = "nats"))]
    pub(crate) fn room(&self) -> Option<u32> {
        self.concurrency.map(|most| most.get().saturating_sub(self.in_flight))
    }

    fn is_counted(&self) -> bool {
        self.concurrency.is_some() || self.is_link()
    }

    /// Returns whether it may get another request.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.concurrency.is_none_or(|most| self.in_flight < most.get())
    }
}

impl Service {
    pub(crate) fn worker(&self, key: ConnectionKey) -> Option<&ServiceWorker> {
        self.workers.iter().find(|worker| worker.key == key)
    }

    /// Adds a worker, or changes its concurrency and what it says of its other end. A worker whose requests
    /// were not counted before has `in_flight` unanswered ones of the channel.
    pub(crate) fn set_worker(
        &mut self,
        key: ConnectionKey,
        concurrency: Option<NonZeroU32>,
        in_flight: u32,
        elsewhere: Option<Elsewhere>,
    ) {
        let known = self.workers.iter_mut().find(|worker| worker.key == key);
        let Some(worker) = known else {
            let new = ServiceWorker { key, concurrency, elsewhere, in_flight };
            self.counted += u32::from(new.is_counted());
            self.links += u32::from(new.is_link());
            return self.workers.push(new);
        };
        let was_counted = worker.is_counted();
        (worker.concurrency, worker.elsewhere) = (concurrency, elsewhere);
        if !was_counted || !worker.is_counted() {
            worker.in_flight = in_flight;
        }
        self.counted -= u32::from(was_counted);
        self.counted += u32::from(worker.is_counted());
    }

    pub(crate) fn remove_worker(&mut self, key: ConnectionKey) {
        let (counted, links) = (&mut self.counted, &mut self.links);
        self.workers.retain(|worker| {
            let stays = worker.key != key;
            *counted -= u32::from(!stays && worker.is_counted());
            *links -= u32::from(!stays && worker.is_link());
            stays
        });
    }

    /// Counts a request that a worker got.
    #[inline]
    pub(crate) fn note_begin(&mut self, key: ConnectionKey) {
        if self.counted > 0
            && let Some(worker) = self.counted_worker(key)
        {
            worker.in_flight += 1;
        }
    }

    /// Counts a request that a worker had, and that was answered or is over.
    #[inline]
    pub(crate) fn note_end(&mut self, key: ConnectionKey) {
        if self.counted > 0
            && let Some(worker) = self.counted_worker(key)
        {
            worker.in_flight -= 1;
        }
    }

    /// Checks that its counts are those of its workers, which have so many unanswered requests.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn check_agreement(
        &self,
        unanswered: impl Fn(ConnectionKey) -> usize,
    ) -> Result<(), String> {
        let counted = self.workers.iter().filter(|worker| worker.is_counted());
        if self.counted as usize != counted.clone().count() {
            return Err(format!("{} workers with counted requests are noted", self.counted));
        }
        if self.links as usize != self.workers.iter().filter(|worker| worker.is_link()).count() {
            return Err(format!("{} workers that are links are noted", self.links));
        }
        for worker in counted {
            let (noted, counted) = (worker.in_flight as usize, unanswered(worker.key));
            if noted != counted {
                return Err(format!("{:?}: {noted} requests for {counted}", worker.key));
            }
        }
        Ok(())
    }

    fn counted_worker(&mut self, key: ConnectionKey) -> Option<&mut ServiceWorker> {
        let found = self.workers.iter_mut().find(|worker| worker.key == key);
        found.filter(|worker| worker.is_counted())
    }
}

/// Requests for which no worker has room, in the order in which they arrived. One in the middle that
/// ends is not searched for, but skipped when its turn comes.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The first one has not ended; others may have.
    queue: VecDeque<RequestKey>,
    len: usize,
    bytes: usize,
}

/// The number of ended requests that are not worth removing.
const ENDED_MAX: usize = 64;

impl Kept {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the memory of their messages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn first(&self) -> Option<RequestKey> {
        self.queue.front().copied()
    }

    /// Returns them in order, and some that have ended.
    #[cfg(any(test, feature = "nats"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = RequestKey> {
        self.queue.iter().copied()
    }

    pub(crate) fn push_back(&mut self, request: RequestKey, bytes: usize) {
        self.queue.push_back(request);
        self.len += 1;
        self.bytes += bytes;
    }

    /// Records that a request is no longer kept. `is_kept` tells whether another one is.
    pub(crate) fn note_end(&mut self, bytes: usize, is_kept: impl Fn(RequestKey) -> bool) {
        self.len -= 1;
        self.bytes -= bytes;
        while self.queue.front().is_some_and(|request| !is_kept(*request)) {
            self.queue.pop_front();
        }
        if self.queue.len() > 2 * self.len + ENDED_MAX {
            self.queue.retain(|request| is_kept(*request));
        }
        if self.queue.capacity() > 4 * (self.queue.len() + ENDED_MAX) {
            self.queue.shrink_to(2 * (self.queue.len() + ENDED_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroU32;

    use super::*;

    fn connection(at: usize) -> ConnectionKey {
        ConnectionKey::new(at, NonZeroU32::MIN)
    }

    #[test]
    fn only_workers_with_a_concurrency_are_counted() {
        let mut service = Service::default();
        let [limited, free] = [1, 2].map(connection);
        service.set_worker(free, None, 0, None);
        service.note_begin(free);
        assert_eq!(service.worker(free).unwrap().in_flight, 0);
        service.set_worker(limited, NonZeroU32::new(2), 0, None);
        for worker in [limited, free, limited] {
            assert!(service.worker(worker).unwrap().has_room());
            service.note_begin(worker);
        }
        assert!(!service.worker(limited).unwrap().has_room());
        assert!(service.worker(free).unwrap().has_room());
        // Another concurrency keeps the count, and none ends it.
        service.set_worker(limited, NonZeroU32::new(3), 7, None);
        assert!(service.worker(limited).unwrap().has_room());
        service.set_worker(limited, None, 0, None);
        service.note_end(limited);
        service.set_worker(limited, NonZeroU32::new(1), 1, None);
        assert!(!service.worker(limited).unwrap().has_room());
        service.remove_worker(limited);
        service.note_end(limited);
        assert_eq!((service.workers.len(), service.counted), (1, 0));
    }

    #[test]
    fn the_requests_of_a_link_are_counted_and_shared_by_the_workers_behind_it() {
        let mut service = Service::default();
        let link = connection(1);
        let elsewhere = |workers, in_flight| {
            Some(Elsewhere { workers: NonZeroU16::new(workers).unwrap(), in_flight })
        };
        let load = |service: &Service| service.worker(link).unwrap().load_elsewhere();
        service.set_worker(link, None, 2, elsewhere(1, 0));
        service.note_begin(link);
        assert_eq!(load(&service), Some(4 << LOAD_SHIFT));
        service.set_worker(link, NonZeroU32::new(4), 9, elsewhere(4, 4));
        assert!(service.worker(link).unwrap().has_room());
        service.note_begin(link);
        assert!(!service.worker(link).unwrap().has_room());
        assert_eq!(load(&service), Some(9 << LOAD_SHIFT >> 2));
        service.note_end(link);
        service.set_worker(link, None, 9, elsewhere(3, u32::MAX));
        assert_eq!(load(&service), Some(((3 + (1_u64 << 32)) << LOAD_SHIFT) / 3));
        service.set_worker(connection(2), None, 0, None);
        assert_eq!(service.worker(connection(2)).unwrap().load_elsewhere(), None);
        assert_eq!((service.counted, service.links), (1, 1));
        service.remove_worker(link);
        assert_eq!((service.counted, service.links), (0, 0));
    }

    #[test]
    fn kept_requests_stay_in_order_and_take_no_more_room_than_those_that_are_left() {
        const COUNT: usize = 10_000;
        let request = |at: usize| RequestKey::new(at, NonZeroU32::MIN);
        let mut kept = Kept::default();
        let mut waiting: BTreeSet<usize> = (0..COUNT).collect();
        (0..COUNT).for_each(|at| kept.push_back(request(at), 10));
        let end = |kept: &mut Kept, waiting: &mut BTreeSet<usize>, at: usize| {
            waiting.remove(&at);
            kept.note_end(10, |request| waiting.contains(&request.index()));
            assert!(kept.queue.len() <= 2 * waiting.len() + ENDED_MAX);
            assert!(kept.queue.capacity() <= 4 * (kept.queue.len() + ENDED_MAX));
            assert_eq!((kept.len(), kept.bytes()), (waiting.len(), 10 * waiting.len()));
            assert_eq!(kept.first(), waiting.first().map(|at| request(*at)));
        };
        // Every third one leaves from the middle, from the back to the front.
        (0..COUNT).rev().step_by(3).for_each(|at| end(&mut kept, &mut waiting, at));
        while let Some(at) = waiting.first().copied() {
            end(&mut kept, &mut waiting, at);
        }
        assert!(kept.is_empty());
    }

    #[test]
    fn kept_requests_that_end_behind_the_first_are_removed_as_well() {
        const COUNT: usize = 10_000;
        let request = |at: usize| RequestKey::new(at, NonZeroU32::MIN);
        let mut kept = Kept::default();
        (0..COUNT).for_each(|at| kept.push_back(request(at), 1));
        for left in (1..COUNT).rev() {
            kept.note_end(1, |request| request.index() < left);
            assert!(kept.queue.len() <= 2 * left + ENDED_MAX, "{} for {left}", kept.queue.len());
            assert_eq!((kept.first(), kept.len()), (Some(request(0)), left));
        }
    }
}
