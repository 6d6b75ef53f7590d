//! A client as it stands.

use std::collections::VecDeque;

use super::kernel::PipeId;
use super::model::ConnId;
use super::pipe::Pipe;
use super::stream::{ANSWER_BYTES, FLIGHT_BYTES};

#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Peer {
    pub(super) conn: ConnId,
    pub(super) pipe: PipeId,
    /// Received, and no whole frame yet.
    pub(super) inbox: Vec<u8>,
    /// Said, and not handed to the kernel yet: one write each.
    pub(super) unsent: VecDeque<Vec<u8>>,
    /// Of the handshake, until it may speak.
    pub(super) answers_due: usize,
    /// Of the next of them, those that have come.
    pub(super) answer_bytes: usize,
    pub(super) is_prompt: bool,
    /// Writes the header of each frame apart from its body, as published clients do.
    pub(super) splits_writes: bool,
    pub(super) is_stalled: bool,
    /// It says nothing more.
    pub(super) is_done: bool,
    /// It finds nothing more.
    pub(super) is_closed: bool,
    /// Requests it has been given, by the server's id.
    pub(super) tasks: Vec<(String, u64)>,
}

impl Peer {
    /// Takes out what belongs to the handshake, and goes on with that.
    pub(super) fn shake_hands(&mut self, received: &mut Vec<u8>, pipe: &mut Pipe) {
        while self.answers_due > 0 && !received.is_empty() {
            let taken = received.len().min(ANSWER_BYTES - self.answer_bytes);
            received.drain(..taken);
            self.answer_bytes += taken;
            if self.answer_bytes == ANSWER_BYTES {
                self.answer_bytes = 0;
                self.answers_due -= 1;
                pipe.send(&[b'f'; FLIGHT_BYTES]);
            }
        }
    }
}
