//! The bytes of attachments, each with the zeros behind it: borrowed, or shared by copies of a payload.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::layout::padding;

/// The owner of bytes that are always the same ones. Copies of a payload share it.
pub type BytesOwner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// All attachments of a message: as they follow one another in a body, or each where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tail<'a> {
    Whole(&'a [u8]),
    Pieces(&'a [Piece]),
}

/// The same without a borrow.
#[derive(Clone, Debug)]
pub(crate) enum SharedTail {
    Whole(Slice),
    Pieces(Arc<[Piece]>),
}

/// A part of what was received or written.
#[derive(Clone)]
pub(crate) struct Slice {
    memory: Arc<Vec<u8>>,
    range: Range<usize>,
}

/// The bytes of one attachment.
#[derive(Clone)]
pub(crate) struct Piece {
    owner: BytesOwner,
    bytes: usize,
}

impl<'a> Tail<'a> {
    /// Returns how many bytes of a body they are, with the zeros.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.iter().map(Piece::padded_bytes).sum(),
        }
    }

    /// Returns what is behind the first bytes, in slices that follow one another, none of them empty.
    pub(crate) fn slices(self, mut skipped: usize) -> impl Iterator<Item = &'a [u8]> {
        let (whole, pieces) = match self {
            Self::Whole(bytes) => (bytes, &[][..]),
            Self::Pieces(pieces) => (&[][..], pieces),
        };
        let of_piece = |piece: &'a Piece| [piece.data(), padding(piece.bytes)];
        let slices = std::iter::once(whole).chain(pieces.iter().flat_map(of_piece));
        slices.filter_map(move |slice| {
            let rest = &slice[skipped.min(slice.len())..];
            skipped -= slice.len() - rest.len();
            (!rest.is_empty()).then_some(rest)
        })
    }

    /// Takes the first attachment, which has so many bytes.
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        match self {
            Self::Whole(rest) => {
                let (data, behind) = rest.split_at_checked(bytes)?;
                *rest = behind.get(padding(bytes).len()..)?;
                Some(data)
            }
            Self::Pieces(rest) => {
                let piece;
                (piece, *rest) = rest.split_first()?;
                Some(piece.data())
            }
        }
    }

    pub(crate) fn append_to(self, out: &mut Vec<u8>) {
        for slice in self.slices(0) {
            out.extend_from_slice(slice);
        }
    }

    pub(crate) fn to_shared(self) -> SharedTail {
        match self {
            Self::Whole(bytes) => bytes.to_vec().into(),
            Self::Pieces(pieces) => SharedTail::Pieces(pieces.into()),
        }
    }
}

impl Default for Tail<'_> {
    fn default() -> Self {
        Self::Whole(&[])
    }
}

impl PartialEq for Tail<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole(own), Self::Whole(other)) => own == other,
            _ => self.slices(0).flatten().eq(other.slices(0).flatten()),
        }
    }
}

impl Eq for Tail<'_> {}

impl SharedTail {
    /// Takes bytes that lie in this memory.
    #[cfg(feature = "net")]
    pub(crate) fn within(memory: &Arc<Vec<u8>>, bytes: &[u8]) -> Option<Self> {
        let start = bytes.as_ptr().addr().wrapping_sub(memory.as_ptr().addr());
        let range = start..start.wrapping_add(bytes.len());
        let is_there = memory.get(range.clone()).is_some_and(|it| it.as_ptr() == bytes.as_ptr());
        is_there.then(|| Self::Whole(Slice { memory: Arc::clone(memory), range }))
    }

    pub(crate) fn borrowed(&self) -> Tail<'_> {
        match self {
            Self::Whole(bytes) => Tail::Whole(bytes.as_ref()),
            Self::Pieces(pieces) => Tail::Pieces(pieces),
        }
    }

    /// Returns the bytes of attachments that have these lengths.
    pub(crate) fn owners(&self, lengths: impl Iterator<Item = usize>) -> Vec<BytesOwner> {
        let Slice { memory, range } = match self {
            Self::Whole(bytes) => bytes,
            Self::Pieces(pieces) => return pieces.iter().map(|one| one.owner.clone()).collect(),
        };
        let mut start = range.start;
        let slice = |bytes: usize| {
            let range = start..start + bytes;
            start = range.end + padding(bytes).len();
            Arc::new(Slice { memory: Arc::clone(memory), range }) as BytesOwner
        };
        lengths.map(slice).collect()
    }
}

impl From<Vec<u8>> for SharedTail {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self::Whole(Slice { memory: Arc::new(bytes), range })
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self.memory.get(self.range.clone()).unwrap_or_default()
    }
}

/// Their number; they may be many.
impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes)", self.range.len())
    }
}

impl Piece {
    pub(crate) fn new(owner: BytesOwner) -> Self {
        let bytes = (*owner).as_ref().len();
        Self { owner, bytes }
    }

    pub(crate) fn data(&self) -> &[u8] {
        (*self.owner).as_ref().get(..self.bytes).unwrap_or_default()
    }

    fn padded_bytes(&self) -> usize {
        self.bytes + padding(self.bytes).len()
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_bytes_of_the_whole_wherever_they_are_cut() {
        let owner = |bytes: &[u8]| Piece::new(Arc::new(bytes.to_vec()));
        let datas: [&[u8]; 4] = [b"one", b"", &[7; 64], &[8; 100]];
        let pieces = datas.map(owner);
        let mut whole = Vec::new();
        for data in datas {
            whole.extend_from_slice(data);
            whole.resize(whole.len().next_multiple_of(64), 0);
        }
        assert_eq!(Tail::Pieces(&pieces).bytes(), whole.len());
        for tail in [Tail::Whole(&whole), Tail::Pieces(&pieces)] {
            assert_eq!(tail, Tail::Whole(&whole));
            for skipped in 0..=whole.len() {
                let rest: Vec<&[u8]> = tail.slices(skipped).collect();
                assert!(rest.iter().all(|slice| !slice.is_empty()));
                assert_eq!(rest.concat(), whole[skipped..]);
            }
            let (mut taken, shared) = (tail, tail.to_shared());
            assert_eq!(datas.map(|data| taken.take(data.len()).unwrap()), datas);
            assert_eq!(shared.borrowed(), tail);
            let owners = shared.owners(datas.iter().map(|data| data.len()));
            assert!(owners.iter().map(|owner| (**owner).as_ref()).eq(datas));
        }
        assert_ne!(Tail::Pieces(&pieces[1..]), Tail::Whole(&whole));
    }
}
