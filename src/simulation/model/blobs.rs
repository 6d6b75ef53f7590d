//! Attachments: each arrives with its message, byte by byte, in the form that its receiver takes.

use super::{ConnId, Model};
use crate::simulation::wire::{Blob, Received};

/// The lengths of attachments.
const LENGTHS: [usize; 6] = [0, 10, 64, 300, 2_000, 4_000];
/// The length of one that fits into no frame in base64.
const HUGE_BYTES: usize = 15_300;

impl Model {
    /// Returns whether a connection asked for the extension `binary`.
    pub(in crate::simulation) fn has_binary(&self, id: ConnId) -> bool {
        self.conns[id].extensions.is_some_and(|extensions| extensions.contains(&"binary"))
    }

    /// Returns whether a connection asked for any extension with which messages have a `meta`.
    pub(in crate::simulation) fn has_meta(&self, id: ConnId) -> bool {
        self.has_call(id) || self.has_binary(id) || self.has_topic(id)
    }

    /// Makes an attachment for the next message of a connection that speaks so, every third time.
    /// Returns its number, by which the message names it, and its bytes.
    pub(in crate::simulation) fn new_blob(&mut self, from: ConnId) -> Option<(usize, Vec<u8>)> {
        let number = self.blobs.len();
        if !self.has_binary(from) {
            return None;
        }
        let bytes = LENGTHS[number / 3 % LENGTHS.len()];
        self.blobs.push(bytes);
        number.is_multiple_of(3).then(|| (number, data(number, bytes)))
    }

    /// Makes one for a request that may be too large in base64.
    pub(in crate::simulation) fn new_huge_blob(&mut self, nonce: u64) -> (usize, Vec<u8>) {
        let number = self.blobs.len();
        self.blobs.push(HUGE_BYTES);
        self.huge_blobs.insert(nonce);
        (number, data(number, HUGE_BYTES))
    }

    /// Returns whether a request may be refused because of its attachment.
    pub(super) fn has_huge_blob(&self, nonce: u64) -> bool {
        self.huge_blobs.contains(&nonce)
    }

    /// Checks that a message has the attachment that it names, or none if it names none.
    pub(super) fn check_blob(&self, by: ConnId, message: &Received) -> Result<(), String> {
        let number = message.payload.get("blob_of").and_then(serde_json::Value::as_u64);
        let expected = number.and_then(|number| {
            let number = number as usize;
            let data = data(number, *self.blobs.get(number)?);
            Some(Blob { data, is_native: self.has_binary(by) })
        });
        if message.blob == expected {
            return Ok(());
        }
        let shown = |blob: Option<&Blob>| blob.map(|blob| (blob.data.len(), blob.is_native));
        let (found, expected) = (shown(message.blob.as_ref()), shown(expected.as_ref()));
        Err(format!("connection {by} got {found:?} and not {expected:?} for {number:?}"))
    }
}

fn data(number: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 256 + number) as u8).collect()
}
