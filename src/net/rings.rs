//! The rings in shared memory as the event queue sees them: which of them have something, which are
//! looked at, and which sleep until the other side wakes them up.
//!
//! Looking takes no system call, so a ring that is in use is looked at each time the loop asks for events.
//! One that has had nothing for long sleeps: its flag in the memory makes the other side write to a
//! descriptor that epoll watches. All others do before the loop sleeps.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::system::Event;

/// What the loop needs of a ring that its stream reads and writes.
pub(crate) trait Watched: Debug {
    /// Returns whether there are bytes to read, or room after a short write.
    fn is_ready(&self) -> bool;

    /// Has the other side wake this one up. Returns false if there is something to do by now, and this
    /// side must not sleep.
    fn sleep(&self) -> bool;

    /// Ends a sleep.
    fn awake(&self);
}

/// What a ring's stream and the event queue tell each other. Both are on one thread; the atomics only let
/// it be another one from turn to turn.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// It was reported, and no read has emptied it since. Bytes that the loop leaves there are not
    /// reported again.
    reported: AtomicBool,
    /// The socket has had an event, so that a read of an empty ring looks at it.
    socket_spoke: AtomicBool,
    /// The peer has closed its socket, and reads nothing more.
    hung_up: AtomicBool,
}

impl Line {
    /// Records that a read has emptied the ring: what comes from now on is reported.
    #[inline]
    pub(crate) fn note_drained(&self) {
        self.reported.store(false, Ordering::Relaxed);
    }

    pub(crate) fn note_socket(&self, spoke: bool) {
        self.socket_spoke.store(spoke, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn socket_spoke(&self) -> bool {
        self.socket_spoke.load(Ordering::Relaxed)
    }

    pub(crate) fn note_hung_up(&self) {
        self.hung_up.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_hung_up(&self) -> bool {
        self.hung_up.load(Ordering::Relaxed)
    }

    #[inline]
    fn is_reported(&self) -> bool {
        self.reported.load(Ordering::Relaxed)
    }

    #[inline]
    fn report(&self) {
        self.reported.store(true, Ordering::Relaxed);
    }
}

/// All rings, by the tokens of their connections.
#[derive(Debug)]
pub(crate) struct Rings<W> {
    by_token: Vec<Option<Ring<W>>>,
    /// Those that are looked at.
    awake: Vec<usize>,
    /// Events of rings, and looks in vain, since the sockets were last looked at.
    passed_over: usize,
}

#[derive(Debug)]
struct Ring<W> {
    watch: W,
    line: Arc<Line>,
    is_awake: bool,
    /// Looks that have found nothing since the last one that did.
    idle_looks: usize,
}

/// The bound on how long sockets wait for rings: their events are asked for after so many events of rings,
/// or so many looks of a spinning loop that find nothing. A look takes some 20 ns, and asking 120.
pub(crate) const PASSED_OVER_MAX: usize = 8;
/// Looks at idle rings before they sleep, for all of them together, so that they cost each turn little
/// however many they are: a lone ring is looked at for half a millisecond.
const IDLE_LOOKS_MAX: usize = 16_384;

impl<W> Default for Rings<W> {
    fn default() -> Self {
        Self { by_token: Vec::new(), awake: Vec::new(), passed_over: 0 }
    }
}

impl<W: Watched> Rings<W> {
    /// Returns whether there has never been a ring, so that sockets have nothing to do with them.
    #[inline]
    pub(crate) fn are_unused(&self) -> bool {
        self.by_token.is_empty()
    }

    /// Watches a ring from now on. Returns what its stream needs.
    pub(crate) fn watch(&mut self, token: usize, watch: W) -> Arc<Line> {
        let line = Arc::new(Line::default());
        if self.by_token.len() <= token {
            self.by_token.resize_with(token + 1, || None);
        }
        // Its place may be left of an earlier ring with this token.
        if !self.awake.contains(&token) {
            self.awake.push(token);
        }
        let ring = Ring { watch, line: line.clone(), is_awake: true, idle_looks: 0 };
        self.by_token[token] = Some(ring);
        line
    }

    /// Forgets the ring of a connection, if it has one, and gives its memory back.
    #[inline]
    pub(crate) fn forget(&mut self, token: usize) {
        if let Some(ring) = self.by_token.get_mut(token) {
            *ring = None;
        }
    }

    /// Reports the rings that have something, and puts those to sleep that have had nothing for long.
    /// Returns how many it has reported.
    pub(crate) fn look(&mut self, events: &mut Vec<Event>) -> usize {
        let before = events.len();
        let idle_looks_max = IDLE_LOOKS_MAX / self.awake.len().max(1);
        let mut at = 0;
        while let Some(&token) = self.awake.get(at) {
            if self.look_at(token, idle_looks_max, events) {
                at += 1;
            } else {
                self.awake.swap_remove(at);
            }
        }
        events.len() - before
    }

    /// Looks at a ring. Returns whether it stays awake.
    #[inline]
    fn look_at(&mut self, token: usize, idle_looks_max: usize, events: &mut Vec<Event>) -> bool {
        let Some(Some(ring)) = self.by_token.get_mut(token) else { return false };
        if ring.line.is_reported() {
            return true;
        }
        if ring.watch.is_ready() {
            ring.report(token, events);
            return true;
        }
        ring.idle_looks += 1;
        ring.idle_looks < idle_looks_max || ring.fall_asleep(token, events)
    }

    /// Puts all rings to sleep, but those that are left unread. Returns whether it has reported one that
    /// has something by now, so that the loop must not sleep.
    pub(crate) fn sleep(&mut self, events: &mut Vec<Event>) -> bool {
        let before = events.len();
        let mut awake = std::mem::take(&mut self.awake);
        awake.retain(|&token| {
            let Some(Some(ring)) = self.by_token.get_mut(token) else { return false };
            ring.line.is_reported() || ring.fall_asleep(token, events)
        });
        self.awake = awake;
        events.len() > before
    }

    /// Wakes a ring up, because its descriptor was reported.
    pub(crate) fn wake(&mut self, token: usize, events: &mut Vec<Event>) {
        let Some(Some(ring)) = self.by_token.get_mut(token) else { return };
        ring.watch.awake();
        if !std::mem::replace(&mut ring.is_awake, true) {
            self.awake.push(token);
        }
        // Whatever was reported and left unread, this may be about room for a write.
        ring.report(token, events);
    }

    /// Records that the socket of a connection was reported, if it has a ring. Returns whether that is a ring
    /// whose peer is gone: it makes no room any more, so a write that waits for some has to be tried and fail.
    pub(crate) fn note_socket(&mut self, token: usize, is_hung_up: bool) -> bool {
        let Some(Some(ring)) = self.by_token.get(token) else { return false };
        ring.line.note_socket(true);
        if is_hung_up {
            ring.line.note_hung_up();
        }
        is_hung_up
    }

    /// Returns whether a ring is awake that the loop would not be told of if it slept.
    pub(crate) fn is_any_awake(&self) -> bool {
        let mut awake = self.awake.iter().filter_map(|token| self.by_token[*token].as_ref());
        awake.any(|ring| !ring.line.is_reported())
    }

    /// Returns whether the sockets may be passed over after a look that reported so many rings.
    pub(crate) fn pass_over(&mut self, reported: usize) -> bool {
        self.passed_over += reported.max(1);
        self.passed_over < PASSED_OVER_MAX
    }

    /// Records that the sockets are looked at.
    pub(crate) fn note_sockets_asked(&mut self) {
        self.passed_over = 0;
    }
}

impl<W: Watched> Ring<W> {
    #[inline]
    fn report(&mut self, token: usize, events: &mut Vec<Event>) {
        self.line.report();
        self.idle_looks = 0;
        events.push(Event { token, readable: true, writable: true, finished: false });
    }

    /// Falls asleep, unless there is something by now, which is reported. Returns whether it stays awake.
    fn fall_asleep(&mut self, token: usize, events: &mut Vec<Event>) -> bool {
        self.idle_looks = 0;
        self.is_awake = !self.watch.sleep();
        if self.is_awake {
            self.report(token, events);
        }
        self.is_awake
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A ring of which a test says whether it has something, and that counts what is done to it.
    #[derive(Debug, Default)]
    struct Fake {
        is_ready: AtomicBool,
        looks: AtomicUsize,
        sleeps: AtomicUsize,
    }

    impl Watched for Arc<Fake> {
        fn is_ready(&self) -> bool {
            self.looks.fetch_add(1, Ordering::Relaxed);
            self.is_ready.load(Ordering::Relaxed)
        }

        fn sleep(&self) -> bool {
            self.sleeps.fetch_add(1, Ordering::Relaxed);
            !self.is_ready.load(Ordering::Relaxed)
        }

        fn awake(&self) {}
    }

    impl Fake {
        fn set(&self, is_ready: bool) {
            self.is_ready.store(is_ready, Ordering::Relaxed);
        }

        fn looks(&self) -> usize {
            self.looks.swap(0, Ordering::Relaxed)
        }
    }

    type Fakes = Vec<(Arc<Fake>, Arc<Line>)>;

    fn rings(count: usize) -> (Rings<Arc<Fake>>, Fakes) {
        let mut rings = Rings::default();
        let fakes = (0..count).map(|token| {
            let fake = Arc::new(Fake::default());
            (fake.clone(), rings.watch(token, fake))
        });
        let fakes = fakes.collect();
        (rings, fakes)
    }

    fn looked(rings: &mut Rings<Arc<Fake>>) -> Vec<usize> {
        let mut events = Vec::new();
        assert_eq!(rings.look(&mut events), events.len());
        events.into_iter().map(|event| event.token).collect()
    }

    #[test]
    fn a_ring_is_reported_once_until_a_read_has_emptied_it() {
        let (mut rings, fakes) = rings(3);
        fakes[1].0.set(true);
        assert_eq!(looked(&mut rings), [1]);
        assert_eq!(looked(&mut rings), [0; 0]);
        assert!(!rings.sleep(&mut Vec::new()), "what is left unread keeps nobody awake");
        fakes[1].1.note_drained();
        assert_eq!(looked(&mut rings), [1]);
    }

    #[test]
    fn before_the_loop_sleeps_all_do_and_only_their_descriptor_wakes_them() {
        let (mut rings, fakes) = rings(3);
        assert!(rings.is_any_awake());
        assert!(!rings.sleep(&mut Vec::new()));
        assert!(!rings.is_any_awake());
        fakes[2].0.set(true);
        assert_eq!(looked(&mut rings), [0; 0], "its writer is to write to the descriptor");
        let mut events = Vec::new();
        rings.wake(2, &mut events);
        assert_eq!(events[0].token, 2);
        fakes[2].1.note_drained();
        assert_eq!(looked(&mut rings), [2]);
    }

    #[test]
    fn what_comes_while_they_fall_asleep_is_reported_instead() {
        let (mut rings, fakes) = rings(3);
        assert_eq!(looked(&mut rings), [0; 0]);
        fakes[0].0.set(true);
        let mut events = Vec::new();
        assert!(rings.sleep(&mut events));
        assert_eq!(events.iter().map(|event| event.token).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn rings_that_are_idle_for_long_are_not_looked_at_however_many_they_are() {
        for count in [1, 10, 1_000] {
            let (mut rings, fakes) = rings(count);
            for _ in 0..2 * IDLE_LOOKS_MAX / count {
                fakes[0].0.set(true);
                assert_eq!(looked(&mut rings), [0]);
                fakes[0].1.note_drained();
            }
            let looks: usize = fakes[1..].iter().map(|(fake, _)| fake.looks()).sum();
            assert!(looks <= 2 * IDLE_LOOKS_MAX, "{looks} at {count}");
            let slept = |fake: &Fake| fake.sleeps.load(Ordering::Relaxed) == 1;
            assert!(fakes[1..].iter().all(|(fake, _)| slept(fake)), "{count}");
            assert_eq!(fakes[0].0.sleeps.load(Ordering::Relaxed), 0, "it has always something");
        }
    }

    #[test]
    fn a_ring_that_is_forgotten_is_dropped_at_once_and_its_token_is_free() {
        let (mut rings, mut fakes) = rings(2);
        let (fake, _) = fakes.remove(0);
        rings.forget(0);
        assert_eq!(Arc::strong_count(&fake), 1);
        fake.set(true);
        assert_eq!(looked(&mut rings), [0; 0]);
        let later = Arc::new(Fake::default());
        rings.watch(0, later.clone());
        later.set(true);
        assert_eq!(looked(&mut rings), [0]);
        rings.forget(7);
    }

    #[test]
    fn sockets_are_passed_over_for_a_bounded_number_of_rings() {
        let (mut rings, _) = rings(0);
        for reported in [0, 1, 3, 100] {
            let mut passed = 0;
            while rings.pass_over(reported) {
                passed += reported.max(1);
            }
            assert!(passed < PASSED_OVER_MAX, "{passed}");
            rings.note_sockets_asked();
        }
    }
}
