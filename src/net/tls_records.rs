//! Counts the TLS records of a stream. Each record has a fixed cost, however few bytes it holds,
//! and the decrypted bytes do not show how many records they came in.

use std::io::{self, Read};

/// A counter of records, with its position in the stream.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Bytes of the current header that have arrived.
    header_bytes: u8,
    /// The last two bytes of the header, which are the length of the body.
    length: u16,
    /// Bytes of the current body that are still to arrive.
    body_bytes: usize,
    begun: usize,
}

impl Records {
    /// Returns the number of headers that were completed since the last call.
    pub(super) fn take_begun(&mut self) -> usize {
        std::mem::take(&mut self.begun)
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        const HEADER_BYTES: u8 = 5;
        while let Some((first, rest)) = bytes.split_first() {
            if self.body_bytes > 0 {
                let passed = self.body_bytes.min(bytes.len());
                self.body_bytes -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.length = self.length << 8 | u16::from(*first);
            self.header_bytes += 1;
            bytes = rest;
            if self.header_bytes == HEADER_BYTES {
                self.header_bytes = 0;
                self.body_bytes = self.length.into();
                self.begun += 1;
            }
        }
    }
}

/// A reader that counts the records it reads.
pub(super) struct Counted<'a, R> {
    pub(super) stream: &'a mut R,
    pub(super) records: &'a mut Records,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.stream.read(buffer)?;
        self.records.pass(&buffer[..bytes]);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_however_they_are_cut() {
        let mut stream = Vec::new();
        for length in [0_u16, 1, 300, 0, 16_384, 0xffff, 2] {
            stream.extend_from_slice(&[23, 3, 3]);
            stream.extend_from_slice(&length.to_be_bytes());
            // The bodies look like headers.
            stream.extend(std::iter::repeat_n(0, length.into()));
        }
        for piece in [1, 2, 3, 5, 7, 1_000, stream.len()] {
            let mut records = Records::default();
            stream.chunks(piece).for_each(|bytes| records.pass(bytes));
            assert_eq!(records.take_begun(), 7, "in pieces of {piece}");
            assert_eq!((records.take_begun(), records.body_bytes, records.header_bytes), (0, 0, 0));
        }
    }
}
