//! A ring of bytes with one writer and one reader, which do not trust each other.
//!
//! Indices count bytes from the beginning and wrap at 2³². Each side keeps its own where the other cannot
//! reach it, and says it in the common memory, which it never reads back. The other side's is read once and
//! checked before it is used.
//!
//! No wake-up is lost, because both sides do two things in opposite order: who is about to sleep sets a flag
//! and looks at the other's index again; who moves its index looks at the flag afterwards. A sequentially
//! consistent fence stands between, so at least one of them sees what the other did.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::Broken;

#[cfg(test)]
mod model;

/// The memory that both sides have in common, with words of 32 bits, and the way to wake the other side up.
pub(crate) trait Common {
    /// Reads a word, and sees whatever its writer did before.
    fn load(&self, word: usize) -> u32;

    /// Writes a word after everything that this side did before.
    fn store(&self, word: usize, value: u32);

    /// Sets a word to zero. Returns what it was.
    fn take(&self, word: usize) -> u32;

    /// Orders all that is before it against all that is after it, for all that have one.
    fn fence(&self);

    fn copy_in(&self, at: usize, from: &[u8]);

    fn copy_out(&self, at: usize, into: &mut [u8]);

    /// Wakes the other side up.
    fn wake(&self);
}

/// Bytes that are moved before the other side is told, so that both copy at once.
const CHUNK_BYTES: usize = 32 << 10;

/// The places of a ring's parts in the common memory. A word that one side writes often has a cache line of its
/// own, and the one beside it, which processors fetch together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    /// Of the words below.
    pub(crate) words: usize,
    /// Of the bytes.
    pub(crate) start: usize,
    /// A power of two, at most [`RING_BYTES_MAX`](crate::RING_BYTES_MAX).
    pub(crate) bytes: usize,
}

impl Ring {
    /// The number of bytes that were ever written. The writer's.
    const TAIL: usize = 0;
    /// The number of bytes that were ever read. The reader's.
    const HEAD: usize = 128;
    /// Not zero while the reader sleeps.
    const READER_SLEEPS: usize = 256;
    /// Not zero while the writer waits for room.
    const WRITER_WAITS: usize = 384;
    pub(crate) const WORDS_BYTES: usize = 512;

    fn tail(&self) -> usize {
        self.words + Self::TAIL
    }

    fn head(&self) -> usize {
        self.words + Self::HEAD
    }

    fn reader_sleeps(&self) -> usize {
        self.words + Self::READER_SLEEPS
    }

    fn writer_waits(&self) -> usize {
        self.words + Self::WRITER_WAITS
    }

    /// The room of which a writer that waits is told: to be woken for a few bytes costs more than to write them.
    fn room_min(&self) -> usize {
        self.bytes / 2
    }

    /// Returns how many bytes are in the ring, unless that cannot be.
    fn used(&self, tail: u32, head: u32) -> Result<usize, Broken> {
        let used = tail.wrapping_sub(head) as usize;
        if used <= self.bytes { Ok(used) } else { Err(Broken) }
    }

    /// Returns where a byte of this index lies, and how many follow before the ring's end.
    fn place(&self, index: u32) -> (usize, usize) {
        let at = index as usize & (self.bytes - 1);
        (self.start + at, self.bytes - at)
    }
}

/// The part of a reader that those who watch it know, too.
#[derive(Debug)]
pub(crate) struct Reading<C> {
    pub(crate) common: Arc<C>,
    pub(crate) ring: Ring,
    /// The number of bytes that were ever read.
    head: AtomicU32,
}

impl<C: Common> Reading<C> {
    pub(crate) fn new(common: Arc<C>, ring: Ring) -> Self {
        Self { common, ring, head: AtomicU32::new(0) }
    }

    /// Returns whether the next read brings bytes or finds that the ring is broken.
    #[inline]
    pub(crate) fn has_bytes(&self) -> bool {
        self.common.load(self.ring.tail()) != self.head.load(Ordering::Relaxed)
    }

    /// Returns how many bytes can be read; none if the ring is broken.
    pub(crate) fn unread_bytes(&self) -> usize {
        let tail = self.common.load(self.ring.tail());
        self.ring.used(tail, self.head.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Lets the writer wake this side up. Whoever calls this looks for bytes again before it sleeps.
    pub(crate) fn announce_sleep(&self) {
        self.common.store(self.ring.reader_sleeps(), 1);
        self.common.fence();
    }

    pub(crate) fn end_sleep(&self) {
        self.common.store(self.ring.reader_sleeps(), 0);
    }

    /// Wakes the writer up if it waits and there is room for it. Returns false if there is not: then the next
    /// read looks again.
    ///
    /// This is not done at each read. A writer waits when more than half of the ring is full, so it is seen all
    /// the same if it is looked for whenever half a ring has been read.
    #[cold]
    fn wake_writer(&self, head: u32) -> bool {
        let Self { common, ring, .. } = self;
        common.fence();
        if common.load(ring.writer_waits()) != 0 {
            // The flag is seen, and so is the index with which it waits.
            let used = common.load(ring.tail()).wrapping_sub(head) as usize;
            if used > ring.bytes - ring.room_min() {
                return false;
            }
            if common.take(ring.writer_waits()) != 0 {
                common.wake();
            }
        }
        true
    }
}

/// The one reader of a ring.
#[derive(Debug)]
pub(crate) struct Reader<C> {
    reading: Arc<Reading<C>>,
    /// The writer's index when it was last looked at.
    tail: u32,
    /// The own index when it was last looked whether the writer waits.
    checked: u32,
}

impl<C: Common> Reader<C> {
    pub(crate) fn new(reading: Arc<Reading<C>>) -> Self {
        Self { reading, tail: 0, checked: 0 }
    }

    /// Reads what there is, and as much as fits. If that does not fill the room, nothing is left.
    #[inline]
    pub(crate) fn read(&mut self, room: &mut [u8]) -> Result<usize, Broken> {
        let Self { reading, tail: seen, checked } = self;
        let Reading { common, ring, head: own } = &**reading;
        let mut head = own.load(Ordering::Relaxed);
        let mut used = seen.wrapping_sub(head) as usize;
        if used < room.len() {
            let tail = common.load(ring.tail());
            used = ring.used(tail, head)?;
            *seen = tail;
        }
        let bytes = used.min(room.len());
        for chunk in room[..bytes].chunks_mut(CHUNK_BYTES) {
            let (at, until_end) = ring.place(head);
            let (first, rest) = chunk.split_at_mut(chunk.len().min(until_end));
            common.copy_out(at, first);
            if !rest.is_empty() {
                common.copy_out(ring.start, rest);
            }
            head = head.wrapping_add(chunk.len() as u32);
            own.store(head, Ordering::Relaxed);
            common.store(ring.head(), head);
            let unchecked_bytes = head.wrapping_sub(*checked) as usize;
            if unchecked_bytes >= ring.room_min() && reading.wake_writer(head) {
                *checked = head;
            }
        }
        Ok(bytes)
    }
}

/// The part of a writer that those who watch it know, too.
#[derive(Debug)]
pub(crate) struct Writing<C> {
    pub(crate) common: Arc<C>,
    pub(crate) ring: Ring,
    /// The number of bytes that were ever written.
    tail: AtomicU32,
    /// The last write was short.
    waits: AtomicBool,
}

impl<C: Common> Writing<C> {
    pub(crate) fn new(common: Arc<C>, ring: Ring) -> Self {
        Self { common, ring, tail: AtomicU32::new(0), waits: AtomicBool::new(false) }
    }

    /// Returns how many bytes can be written at once; none if the ring is broken.
    pub(crate) fn room(&self) -> usize {
        let head = self.common.load(self.ring.head());
        let used = self.ring.used(self.tail.load(Ordering::Relaxed), head);
        used.map_or(0, |used| self.ring.bytes - used)
    }

    /// Returns whether the last write was short, and the next one has room or finds that the ring is broken.
    #[inline]
    pub(crate) fn has_room_again(&self) -> bool {
        self.waits.load(Ordering::Relaxed) && {
            let head = self.common.load(self.ring.head());
            let used = self.ring.used(self.tail.load(Ordering::Relaxed), head);
            used.map_or(true, |used| self.ring.bytes - used >= self.ring.room_min())
        }
    }
}

/// The one writer of a ring.
#[derive(Debug)]
pub(crate) struct Writer<C> {
    writing: Arc<Writing<C>>,
    /// The number of bytes that were ever written, with those of which the reader is not told yet.
    tail: u32,
    /// The reader's index when it was last looked at. Invariant: `tail` is at most a ring ahead.
    head: u32,
}

impl<C: Common> Writer<C> {
    pub(crate) fn new(writing: Arc<Writing<C>>) -> Self {
        Self { writing, tail: 0, head: 0 }
    }

    /// Writes as much as there is room for. After a short write this side waits for room.
    #[inline]
    pub(crate) fn write(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, Broken> {
        let mut written = 0;
        for slice in slices {
            for chunk in slice.chunks(CHUNK_BYTES) {
                let appended = self.append(chunk)?;
                written += appended;
                if appended < chunk.len() {
                    return Ok(written);
                }
                if self.untold_bytes() >= CHUNK_BYTES {
                    self.tell();
                }
            }
        }
        self.tell();
        let Writing { common, ring, waits, .. } = &*self.writing;
        if waits.load(Ordering::Relaxed) {
            waits.store(false, Ordering::Relaxed);
            common.store(ring.writer_waits(), 0);
        }
        Ok(written)
    }

    /// Writes as much of the chunk as there is room for.
    #[inline]
    fn append(&mut self, chunk: &[u8]) -> Result<usize, Broken> {
        let mut left = chunk;
        while !left.is_empty() {
            let mut room = self.room(left.len())?;
            if room == 0 {
                self.tell();
                room = self.await_room()?;
                if room == 0 {
                    break;
                }
            }
            let piece;
            (piece, left) = left.split_at(left.len().min(room));
            let Writing { common, ring, .. } = &*self.writing;
            let (at, until_end) = ring.place(self.tail);
            let (first, rest) = piece.split_at(piece.len().min(until_end));
            common.copy_in(at, first);
            if !rest.is_empty() {
                common.copy_in(ring.start, rest);
            }
            self.tail = self.tail.wrapping_add(piece.len() as u32);
        }
        Ok(chunk.len() - left.len())
    }

    /// Returns how much room there is. Looks at the reader's index only if less than this is known.
    #[inline]
    fn room(&mut self, wanted: usize) -> Result<usize, Broken> {
        let Writing { common, ring, .. } = &*self.writing;
        let mut used = self.tail.wrapping_sub(self.head) as usize;
        if ring.bytes - used < wanted {
            let head = common.load(ring.head());
            used = ring.used(self.tail, head)?;
            self.head = head;
        }
        Ok(ring.bytes - used)
    }

    /// Lets the reader wake this side up. Returns how much room there is meanwhile: none, or enough.
    #[cold]
    fn await_room(&mut self) -> Result<usize, Broken> {
        let Writing { common, ring, waits, .. } = &*self.writing;
        let (room_min, bytes) = (ring.room_min(), ring.bytes);
        waits.store(true, Ordering::Relaxed);
        common.store(ring.writer_waits(), 1);
        common.fence();
        let room = self.room(bytes)?;
        Ok(if room >= room_min { room } else { 0 })
    }

    fn untold_bytes(&self) -> usize {
        self.tail.wrapping_sub(self.writing.tail.load(Ordering::Relaxed)) as usize
    }

    /// Tells the reader of what was written, and wakes it up if it sleeps.
    #[inline]
    fn tell(&mut self) {
        let Writing { common, ring, tail: told, .. } = &*self.writing;
        if told.load(Ordering::Relaxed) == self.tail {
            return;
        }
        told.store(self.tail, Ordering::Relaxed);
        common.store(ring.tail(), self.tail);
        common.fence();
        if common.load(ring.reader_sleeps()) != 0 && common.take(ring.reader_sleeps()) != 0 {
            common.wake();
        }
    }
}
