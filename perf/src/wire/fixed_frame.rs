//! Messages in which only the payload varies.

use std::ops::Range;

use super::message::{ID_BYTES, Scan, excerpt};

/// A message that consists of a fixed prefix, the payload and a fixed suffix.
#[derive(Clone, Debug)]
pub(super) struct FixedFrame {
    prefix: Vec<u8>,
    /// The part of the prefix that differs between connections.
    pub(super) varying: Range<usize>,
    payload_bytes: usize,
    suffix: &'static [u8],
}

impl FixedFrame {
    pub(super) fn new(prefix: Vec<u8>, payload_bytes: usize, suffix: &'static [u8]) -> Self {
        Self { prefix, varying: 0..0, payload_bytes, suffix }
    }

    pub(super) fn scan(&self, received: &[u8]) -> Result<Scan, String> {
        let start = self.prefix.len();
        let end = start + self.payload_bytes;
        let whole = end + self.suffix.len();
        let Range { start: begin, end: resume } = self.varying;
        let same = |range: Range<usize>| {
            let range = range.start..range.end.min(received.len()).max(range.start);
            received.get(range.clone()).is_none_or(|found| *found == self.prefix[range])
        };
        if !same(0..begin) || !same(resume..start) {
            return Err(format!("the peer sent {}", excerpt(received)));
        }
        if received.len() < whole {
            return Ok(Scan::Partial);
        }
        let is_payload = received[start] == b'"' && received[end - 1] == b'"';
        if !is_payload || received[end..whole] != *self.suffix {
            return Err(format!("the peer sent another payload: {}", excerpt(received)));
        }
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&received[start + 1..=start + ID_BYTES]);
        Ok(Scan::Message { bytes: whole, id })
    }
}
