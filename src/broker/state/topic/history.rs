//! The newest publications of a channel, in the form that subscribers get, for those who come later.

use std::collections::VecDeque;
use std::time::Duration;

use crate::broker::history_rule::HistoryRule;
use crate::broker::state::encoder::EPOCH_BYTES;
use crate::broker::state::timers::Moment;
use crate::proto::placed::{Open, Tail};
use crate::proto::{BufferPool, COPY_BYTES_MAX, OutFrame, SharedFrame};

/// Names one ring: letters and digits. It is another one whenever a ring is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(pub(crate) [u8; EPOCH_BYTES]);

impl Epoch {
    #[inline]
    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The first chunk of a ring grows up to this size, so that a channel with few messages takes little.
const FIRST_CHUNK_BYTES: usize = 512;
const SMALL_CHUNK_BYTES: usize = 4 << 10;
const LARGE_CHUNK_BYTES: usize = 64 << 10;
/// A ring has about so many chunks: it holds one of them at each end that may be nearly empty.
const CHUNKS: usize = 8;
/// What a shared frame, which may be a chunk, takes beside its bytes.
const SHARED_BYTES: usize = 64;

/// The bounds of a ring. Whatever is over one of them is forgotten, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) messages: usize,
    /// Of the frames, with their length prefixes.
    pub(crate) bytes: usize,
    pub(crate) age: Option<Duration>,
}

impl From<&HistoryRule> for Bounds {
    fn from(rule: &HistoryRule) -> Self {
        Self { messages: rule.messages, bytes: rule.bytes, age: rule.age }
    }
}

/// A ring of publications. Each has an offset, from 1, and the next one has the next.
///
/// Small frames lie one behind the other in chunks, so that many of them go into a queue at once, and
/// the queues of those who come back at the same time refer to one chunk. Large ones are shared with
/// the queues of the subscribers who got them when they were published.
///
/// Invariant: `entries` are within the bounds but for the age, `bytes` is their sum, and `closed` and
/// `open` have no chunk of which no entry is left.
#[derive(Debug)]
pub(crate) struct History {
    /// The end of the next publication, with its place.
    tail: Tail,
    bounds: Bounds,
    entries: VecDeque<Entry>,
    /// The offset of the first entry, or of the next publication if there is no entry.
    first: u64,
    bytes: usize,
    closed: VecDeque<SharedFrame>,
    /// The number of the first closed chunk, or of the open one if there is no closed one.
    first_chunk: u32,
    open: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    arrived: Moment,
    bytes: u32,
    has_attachments: bool,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// In a chunk, up to this byte.
    Chunk {
        number: u32,
        end: u32,
    },
    Own(SharedFrame),
}

/// Frames that follow one another in a ring.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) frames: OutFrame<'a>,
    pub(crate) messages: u32,
    /// It is a single message with attachments.
    pub(crate) has_attachments: bool,
}

impl History {
    pub(crate) fn new(epoch: Epoch, bounds: Bounds) -> Self {
        Self {
            tail: Tail::new(epoch.0, 1),
            bounds,
            entries: VecDeque::new(),
            first: 1,
            bytes: 0,
            closed: VecDeque::new(),
            first_chunk: 0,
            open: Vec::new(),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.tail.epoch())
    }

    /// Returns the end of the next publication if it has no `meta` of its own.
    #[inline]
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Returns the number of messages in it.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the bytes of the messages in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the offset of the next publication.
    #[inline]
    pub(crate) fn next_offset(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Returns the offset of the newest publication, 0 if there was none.
    pub(crate) fn offset(&self) -> u64 {
        self.next_offset() - 1
    }

    /// Returns the time of the oldest message in it.
    pub(crate) fn oldest(&self) -> Option<Moment> {
        self.entries.front().map(|entry| entry.arrived)
    }

    /// Returns whether it has messages that will be too old.
    #[inline]
    pub(crate) fn has_to_age(&self) -> bool {
        self.bounds.age.is_some() && !self.entries.is_empty()
    }

    /// Returns the time of the newest message in it.
    pub(crate) fn newest_at(&self) -> Option<Moment> {
        self.entries.back().map(|entry| entry.arrived)
    }

    /// Returns the frame of the newest message, unless queues share it.
    pub(crate) fn newest_frame(&self) -> Option<&[u8]> {
        let newest = self.entries.back()?;
        match newest.place {
            Place::Chunk { end, .. } => {
                let end = end as usize;
                self.open.get(end - newest.bytes as usize..end)
            }
            Place::Own(_) => None,
        }
    }

    /// Returns whether all publications from this offset on are still there.
    pub(crate) fn reaches_back_to(&self, next: u64) -> bool {
        (self.first..=self.next_offset()).contains(&next)
    }

    /// Returns the offset from which on there are so many, or as many as are kept.
    pub(crate) fn newest(&self, messages: u64) -> u64 {
        self.next_offset().saturating_sub(messages).max(self.first)
    }

    /// Returns the offset of the first message that is still there after so many publications with so
    /// many bytes together.
    pub(crate) fn survivor(&self, publications: u32, bytes: usize) -> u64 {
        let (mut messages, mut held) =
            (self.entries.len() + publications as usize, self.bytes + bytes);
        let mut survivor = self.first;
        for entry in &self.entries {
            if messages <= self.bounds.messages && held <= self.bounds.bytes {
                return survivor;
            }
            (messages, held, survivor) = (messages - 1, held - entry.bytes as usize, survivor + 1);
        }
        if messages <= self.bounds.messages && held <= self.bounds.bytes {
            return survivor;
        }
        // Not all of the new ones would be there.
        survivor + 1
    }

    /// Returns whether a message of this size is within its bounds by itself.
    #[inline]
    pub(crate) fn may_hold(&self, bytes: usize) -> bool {
        bytes <= self.bounds.bytes && self.bounds.messages > 0
    }

    /// Counts a publication that cannot be kept. What was before it is forgotten, because there would be
    /// a gap.
    #[cold]
    pub(crate) fn skip(&mut self, pool: &mut BufferPool) {
        while self.forget_first(pool) {}
        self.first += 1;
        self.tail.advance(self.next_offset());
    }

    /// Keeps a publication, which has the next offset, and forgets what is over the bounds with it.
    #[inline]
    pub(crate) fn push(
        &mut self,
        frame: &OutFrame<'_>,
        has_attachments: bool,
        now: Moment,
        pool: &mut BufferPool,
    ) {
        let bytes = frame.len();
        if !self.clear_the_way(bytes, now, pool) {
            return;
        }
        let place = match frame.as_shared() {
            Some(shared) if bytes > COPY_BYTES_MAX => {
                pool.gauge().add(SHARED_BYTES);
                Place::Own(shared.clone())
            }
            _ => {
                self.ensure_room(bytes, pool);
                frame.append_to(&mut self.open);
                Place::Chunk { number: self.open_chunk(), end: self.open.len() as u32 }
            }
        };
        self.enter(bytes, has_attachments, now, place, pool);
    }

    /// Does the same for a publication without attachments and a `meta` of its own, which is copied.
    #[inline]
    pub(crate) fn push_placed(&mut self, open: Open<'_>, now: Moment, pool: &mut BufferPool) {
        let bytes = self.tail.frame_bytes(open);
        if !self.clear_the_way(bytes, now, pool) {
            return;
        }
        self.ensure_room(open.room(), pool);
        self.tail.append_to(&mut self.open, open);
        let place = Place::Chunk { number: self.open_chunk(), end: self.open.len() as u32 };
        self.enter(bytes, false, now, place, pool);
    }

    /// Forgets what is over the bounds with another publication of this size. Returns whether that is
    /// kept; if not, it has been counted.
    #[expect(clippy::inline_always, reason = "each publication that is kept passes here")]
    #[inline(always)]
    fn clear_the_way(&mut self, bytes: usize, now: Moment, pool: &mut BufferPool) -> bool {
        self.forget_old(now, pool);
        while self.entries.len() >= self.bounds.messages || self.bytes + bytes > self.bounds.bytes {
            if !self.forget_first(pool) {
                // It does not fit by itself.
                self.skip(pool);
                return false;
            }
        }
        true
    }

    /// Makes sure that the open chunk has room for so many bytes.
    #[inline]
    fn ensure_room(&mut self, bytes: usize, pool: &mut BufferPool) {
        if self.open.capacity() - self.open.len() < bytes {
            self.make_room(bytes, pool);
        }
    }

    #[expect(clippy::inline_always, reason = "each publication that is kept passes here")]
    #[inline(always)]
    fn enter(
        &mut self,
        bytes: usize,
        has_attachments: bool,
        now: Moment,
        place: Place,
        pool: &mut BufferPool,
    ) {
        if self.entries.len() == self.entries.capacity() {
            self.grow(pool);
        }
        self.bytes += bytes;
        // The length on the wire has 32 bits.
        self.entries.push_back(Entry { arrived: now, bytes: bytes as u32, has_attachments, place });
        self.tail.advance(self.next_offset());
    }

    #[inline]
    fn open_chunk(&self) -> u32 {
        self.first_chunk.wrapping_add(self.closed.len() as u32)
    }

    #[cold]
    fn grow(&mut self, pool: &mut BufferPool) {
        let before = self.entries.capacity();
        let more = before.max(4).min(self.bounds.messages.saturating_sub(before)).max(1);
        self.entries.reserve_exact(more);
        pool.gauge().add((self.entries.capacity() - before) * size_of::<Entry>());
    }

    /// Makes room in the open chunk, or opens another one.
    #[cold]
    fn make_room(&mut self, bytes: usize, pool: &mut BufferPool) {
        let needed = self.open.len() + bytes;
        if self.closed.is_empty() && needed <= SMALL_CHUNK_BYTES {
            let before = self.open.capacity();
            let capacity = needed.next_power_of_two().max(FIRST_CHUNK_BYTES);
            self.open.reserve_exact(capacity - self.open.len());
            return pool.gauge().add(self.open.capacity() - before);
        }
        let chunk_bytes = (self.bytes / CHUNKS).clamp(SMALL_CHUNK_BYTES, LARGE_CHUNK_BYTES);
        let full = std::mem::replace(&mut self.open, pool.take(chunk_bytes.max(bytes)));
        if full.is_empty() {
            return pool.give(full);
        }
        pool.gauge().add(SHARED_BYTES);
        self.closed.push_back(pool.share(full));
    }

    /// Forgets the oldest message. Returns whether there was one.
    #[inline]
    pub(crate) fn forget_first(&mut self, pool: &mut BufferPool) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        self.first += 1;
        self.bytes -= entry.bytes as usize;
        match entry.place {
            Place::Own(frame) => {
                pool.gauge().sub(SHARED_BYTES);
                pool.give_shared(frame);
            }
            Place::Chunk { number, end } => {
                if number == self.open_chunk() {
                    if end as usize == self.open.len() {
                        self.open.clear();
                    }
                } else if let Some(chunk) = self.closed.front()
                    && end as usize == chunk.bytes().len()
                    && let Some(chunk) = self.closed.pop_front()
                {
                    debug_assert_eq!(number, self.first_chunk);
                    self.first_chunk = self.first_chunk.wrapping_add(1);
                    pool.gauge().sub(SHARED_BYTES);
                    pool.give_shared(chunk);
                }
            }
        }
        true
    }

    /// Forgets messages that are over the age, and gives memory back that nothing needs.
    #[inline]
    pub(crate) fn forget_old(&mut self, now: Moment, pool: &mut BufferPool) {
        let Some(age_max) = self.bounds.age else { return };
        while let Some(oldest) = self.oldest()
            && Duration::from_nanos(now.nanos_since(oldest)) >= age_max
        {
            self.forget_first(pool);
        }
    }

    /// Forgets all messages. Their offsets are not given again.
    pub(crate) fn clear(&mut self, pool: &mut BufferPool) -> usize {
        let messages = self.entries.len();
        while self.forget_first(pool) {}
        self.release_unused(pool);
        messages
    }

    /// Gives back the memory of a ring without messages.
    pub(crate) fn release_unused(&mut self, pool: &mut BufferPool) {
        if self.entries.is_empty() {
            pool.give(std::mem::take(&mut self.open));
            pool.gauge().sub(self.entries.capacity() * size_of::<Entry>());
            self.entries = VecDeque::new();
            self.closed = VecDeque::new();
        }
    }

    /// Forgets the oldest messages until memory was given back, or none is left.
    pub(crate) fn shrink(&mut self, pool: &mut BufferPool) -> usize {
        let (before, messages) = (pool.gauge().bytes(), self.entries.len());
        while pool.gauge().bytes() == before && self.forget_first(pool) {}
        self.release_unused(pool);
        messages - self.entries.len()
    }

    /// Has other bounds from now on, and forgets what is over them.
    pub(crate) fn change_bounds(&mut self, bounds: Bounds, now: Moment, pool: &mut BufferPool) {
        self.bounds = bounds;
        while self.entries.len() > bounds.messages || self.bytes > bounds.bytes {
            self.forget_first(pool);
        }
        self.forget_old(now, pool);
        let before = self.entries.capacity();
        self.entries.shrink_to(self.entries.len());
        pool.gauge().sub((before - self.entries.capacity()) * size_of::<Entry>());
        self.release_unused(pool);
    }

    /// Returns the messages from this offset on, as many as lie together and have no more than
    /// `bytes_max`, but one at least. `None` if there is none with this offset.
    ///
    /// `splits_attachments`: one that has attachments is not among others.
    pub(crate) fn piece(
        &self,
        next: u64,
        bytes_max: usize,
        splits_attachments: bool,
    ) -> Option<Piece<'_>> {
        let at = usize::try_from(next.checked_sub(self.first)?).ok()?;
        let entry = self.entries.get(at)?;
        let is_split = splits_attachments && entry.has_attachments;
        let (number, mut end) = match &entry.place {
            Place::Own(frame) => {
                let frames = OutFrame::shared(frame.clone());
                return Some(Piece { frames, messages: 1, has_attachments: entry.has_attachments });
            }
            Place::Chunk { number, end } => (*number, *end as usize),
        };
        let start = end - entry.bytes as usize;
        let mut messages = 1;
        for entry in self.entries.range(at + 1..) {
            match entry.place {
                Place::Chunk { number: other, end: its_end }
                    if other == number
                        && its_end as usize - start <= bytes_max
                        && !is_split
                        && !(splits_attachments && entry.has_attachments) =>
                {
                    end = its_end as usize;
                    messages += 1;
                }
                _ => break,
            }
        }
        let closed = self.closed.get(number.wrapping_sub(self.first_chunk) as usize);
        let frames = match closed {
            Some(chunk) if end - start == chunk.bytes().len() => OutFrame::shared(chunk.clone()),
            Some(chunk) => OutFrame::whole(chunk.bytes().get(start..end)?),
            None => OutFrame::whole(self.open.get(start..end)?),
        };
        Some(Piece { frames, messages, has_attachments: is_split })
    }
}

#[cfg(test)]
mod tests;
