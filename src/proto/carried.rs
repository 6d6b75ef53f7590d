//! The attachments that a payload has with it.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::attachments::Attachments;

/// Attachments as they stand in a body: what `bin` says of them, and their bytes.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "the sealed trait of payloads names it")]
pub struct Carried<'a> {
    bin: Cow<'a, str>,
    tail: Tail<'a>,
    count: usize,
}

#[derive(Clone)]
enum Tail<'a> {
    Borrowed(&'a [u8]),
    Shared(SharedBytes),
}

/// A part of what was received or written, in memory that every copy of the payload shares.
#[derive(Clone)]
pub(crate) struct SharedBytes {
    memory: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { memory: Arc::new(bytes), range }
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.range.clone()).unwrap_or_default()
    }
}

/// Their number; they may be many.
impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({})", self.range.len())
    }
}

impl<'a> Carried<'a> {
    /// Takes attachments of a message, which were checked.
    pub(super) fn borrowed(attachments: &Attachments<'a>) -> Option<Box<Self>> {
        let count = attachments.len();
        let (bin, tail) = attachments.parts();
        (count > 0).then(|| Box::new(Self { bin: bin.into(), tail: Tail::Borrowed(tail), count }))
    }

    /// Takes attachments of this process: the text of `bin`, and the bytes of all, each with its padding.
    pub(super) fn of(bin: Vec<u8>, bytes: Vec<u8>, count: usize) -> Carried<'static> {
        let bin = String::from_utf8(bin).unwrap_or_default().into();
        Carried { bin, tail: Tail::Shared(bytes.into()), count }
    }

    /// Returns the same attachments without a borrow. What is shared already is not copied.
    pub(super) fn into_owned(self) -> Carried<'static> {
        let tail = match self.tail {
            Tail::Borrowed(bytes) => bytes.to_vec().into(),
            Tail::Shared(bytes) => bytes,
        };
        Carried { bin: self.bin.into_owned().into(), tail: Tail::Shared(tail), count: self.count }
    }

    /// Returns the same attachments without a borrow. Those that lie in this memory are not copied.
    #[cfg(feature = "net")]
    pub(super) fn within(self, memory: &Arc<Vec<u8>>) -> Carried<'static> {
        let Tail::Borrowed(bytes) = self.tail else { return self.into_owned() };
        let start = bytes.as_ptr().addr().wrapping_sub(memory.as_ptr().addr());
        let range = start..start.wrapping_add(bytes.len());
        if memory.get(range.clone()).is_none_or(|found| found.as_ptr() != bytes.as_ptr()) {
            return self.into_owned();
        }
        let tail = Tail::Shared(SharedBytes { memory: Arc::clone(memory), range });
        Carried { bin: self.bin.into_owned().into(), tail, count: self.count }
    }

    /// Returns the same attachments with a borrow. What is shared stays so, and is not copied by a later
    /// [`into_owned`](Self::into_owned).
    pub(crate) fn to_borrowed(&self) -> Carried<'_> {
        let tail = match &self.tail {
            Tail::Borrowed(bytes) => Tail::Borrowed(bytes),
            Tail::Shared(bytes) => Tail::Shared(bytes.clone()),
        };
        Carried { bin: Cow::Borrowed(&self.bin), tail, count: self.count }
    }

    /// Returns the text of `bin`.
    pub(crate) fn bin(&self) -> &str {
        &self.bin
    }

    /// Returns the bytes of all attachments, each with its padding.
    pub(crate) fn tail(&self) -> &[u8] {
        match &self.tail {
            Tail::Borrowed(bytes) => bytes,
            Tail::Shared(bytes) => bytes,
        }
    }

    /// Returns the same in memory that outlives the payload: a copy only of what is borrowed.
    #[cfg(feature = "net")]
    pub(crate) fn shared_tail(&self) -> SharedBytes {
        match &self.tail {
            Tail::Borrowed(bytes) => bytes.to_vec().into(),
            Tail::Shared(bytes) => bytes.clone(),
        }
    }

    pub(crate) fn view<'s>(&'s self, payload: &'s str) -> Attachments<'s> {
        Attachments::trusted(payload, &self.bin, self.tail(), self.count)
    }
}

impl PartialEq for Carried<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bin == other.bin && self.tail() == other.tail()
    }
}

impl Eq for Carried<'_> {}

/// What they are; their bytes may be many.
impl fmt::Debug for Carried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bin)
    }
}
