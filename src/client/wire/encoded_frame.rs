//! A frame on its way out, in one piece or in several.

use std::io::IoSlice;

use crate::proto::SharedTail;

/// A frame: its beginning, and behind that the bytes of large attachments, which stay where they lie.
#[derive(Debug, Default)]
pub(crate) struct EncodedFrame {
    /// The whole frame, or what comes before the attachments.
    pub(crate) front: Vec<u8>,
    pub(crate) tail: Option<SharedTail>,
}

impl EncodedFrame {
    pub(crate) fn len(&self) -> usize {
        self.front.len() + self.tail.as_ref().map_or(0, |tail| tail.borrowed().bytes())
    }

    /// Returns what is left behind the first `sent` bytes, without empty pieces.
    pub(crate) fn rest(&self, sent: usize) -> impl Iterator<Item = &[u8]> {
        let front = self.front.get(sent..).unwrap_or_default();
        let of_tail = sent.saturating_sub(self.front.len());
        let tail = self.tail.iter().flat_map(move |tail| tail.borrowed().slices(of_tail));
        Some(front).filter(|front| !front.is_empty()).into_iter().chain(tail)
    }
}

/// Fills slices for one system call with pieces, and returns how many.
pub(crate) fn fill<'a, const N: usize>(
    slices: &mut [IoSlice<'a>; N],
    pieces: impl Iterator<Item = &'a [u8]>,
) -> usize {
    pieces.zip(slices).map(|(piece, slice)| *slice = IoSlice::new(piece)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_frame_is_what_has_not_left() {
        let (front, tail) = (b"front".to_vec(), SharedTail::from(b"tail".to_vec()));
        let whole = EncodedFrame { front: b"fronttail".to_vec(), tail: None };
        let pieces = EncodedFrame { front, tail: Some(tail) };
        for frame in [whole, pieces] {
            assert_eq!(frame.len(), 9);
            for sent in 0..=9 {
                let rest: Vec<&[u8]> = frame.rest(sent).collect();
                assert_eq!(rest.concat(), b"fronttail"[sent..]);
                assert!(rest.iter().all(|piece| !piece.is_empty()));
            }
        }
    }
}
