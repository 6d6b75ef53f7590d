//! The attachments that a payload has with it.

use std::borrow::Cow;
use std::fmt;
#[cfg(feature = "net")]
use std::sync::Arc;

use super::attachments::Attachments;
use super::attachments::tail::{BytesOwner, Piece, SharedTail, Tail};

/// Attachments: what `bin` says of them, and their bytes.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "the sealed trait of payloads names it")]
pub struct Carried<'a> {
    bin: Cow<'a, str>,
    bytes: Bytes<'a>,
    count: usize,
}

#[derive(Clone)]
enum Bytes<'a> {
    Borrowed(Tail<'a>),
    Shared(SharedTail),
}

impl<'a> Carried<'a> {
    /// Takes attachments of a message, which were checked.
    pub(super) fn borrowed(attachments: &Attachments<'a>) -> Option<Box<Self>> {
        let count = attachments.len();
        let (bin, tail) = attachments.parts();
        let bytes = Bytes::Borrowed(tail);
        (count > 0).then(|| Box::new(Self { bin: bin.into(), bytes, count }))
    }

    /// Takes attachments of this process: the text of `bin`, and the bytes of all, each with its padding.
    pub(super) fn of(bin: Vec<u8>, bytes: Vec<u8>, count: usize) -> Carried<'static> {
        Self::own(bin, bytes.into(), count)
    }

    /// Takes attachments of this process from where they lie.
    pub(super) fn of_pieces(bin: Vec<u8>, pieces: Vec<Piece>) -> Carried<'static> {
        let count = pieces.len();
        Self::own(bin, SharedTail::Pieces(pieces.into()), count)
    }

    fn own(bin: Vec<u8>, tail: SharedTail, count: usize) -> Carried<'static> {
        let bin = String::from_utf8(bin).unwrap_or_default().into();
        Carried { bin, bytes: Bytes::Shared(tail), count }
    }

    /// Returns the same attachments without a borrow. What is shared already is not copied.
    pub(super) fn into_owned(self) -> Carried<'static> {
        let bytes = Bytes::Shared(self.shared_tail());
        Carried { bin: self.bin.into_owned().into(), bytes, count: self.count }
    }

    /// Returns the same attachments without a borrow. Those that lie in this memory are not copied.
    #[cfg(feature = "net")]
    pub(super) fn within(self, memory: &Arc<Vec<u8>>) -> Carried<'static> {
        let Bytes::Borrowed(Tail::Whole(bytes)) = self.bytes else { return self.into_owned() };
        let Some(tail) = SharedTail::within(memory, bytes) else { return self.into_owned() };
        Carried { bin: self.bin.into_owned().into(), bytes: Bytes::Shared(tail), count: self.count }
    }

    /// Returns the same attachments with a borrow. What is shared stays so, and is not copied by a later
    /// [`into_owned`](Self::into_owned).
    pub(crate) fn to_borrowed(&self) -> Carried<'_> {
        Carried { bin: Cow::Borrowed(&self.bin), bytes: self.bytes.clone(), count: self.count }
    }

    /// Returns the text of `bin`.
    pub(crate) fn bin(&self) -> &str {
        &self.bin
    }

    /// Returns the number of attachments.
    #[cfg(feature = "net")]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the bytes of all attachments, each with its padding.
    pub(crate) fn tail(&self) -> Tail<'_> {
        match &self.bytes {
            Bytes::Borrowed(tail) => *tail,
            Bytes::Shared(tail) => tail.borrowed(),
        }
    }

    /// Returns the same in memory that outlives the payload: a copy only of what is borrowed.
    pub(crate) fn shared_tail(&self) -> SharedTail {
        match &self.bytes {
            Bytes::Borrowed(tail) => tail.to_shared(),
            Bytes::Shared(tail) => tail.clone(),
        }
    }

    /// Returns the owners of the attachments, which have these lengths.
    pub(super) fn owners(&self, lengths: impl Iterator<Item = usize>) -> Vec<BytesOwner> {
        self.shared_tail().owners(lengths)
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
