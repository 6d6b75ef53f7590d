//! The state of a client.

use std::collections::VecDeque;

use super::kernel::PipeId;
use super::model::ConnId;
use super::pipe::{FLIGHT_BYTES, Pipe};
use super::stream::ANSWER_BYTES;

#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Peer {
    pub(super) conn: ConnId,
    pub(super) pipe: PipeId,
    /// Bytes received that are not a whole frame yet.
    pub(super) inbox: Vec<u8>,
    /// Messages that are not written yet, one write each.
    pub(super) unsent: VecDeque<Vec<u8>>,
    /// Answers of the handshake that are missing before it may speak.
    pub(super) answers_due: usize,
    /// Bytes of the next answer that have come.
    pub(super) answer_bytes: usize,
    pub(super) is_prompt: bool,
    /// Set if it writes the header of each frame apart from its body, as published clients do.
    pub(super) splits_writes: bool,
    pub(super) is_stalled: bool,
    /// Set if its last message has no end.
    pub(super) is_stuck: bool,
    /// Set when it sends nothing more.
    pub(super) is_done: bool,
    /// Set when it reads nothing more.
    pub(super) is_closed: bool,
    /// Requests that it was asked to serve.
    pub(super) tasks: Vec<Task>,
}

/// A link of one application, which hears all that its clients and the process publish.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) app: usize,
    pub(super) pipe: PipeId,
    /// Bytes received that are not a whole frame yet.
    pub(super) inbox: Vec<u8>,
    pub(super) is_stalled: bool,
    pub(super) is_closed: bool,
    /// Messages that it has sent.
    pub(super) said: u64,
}

/// A request that a worker was asked to serve.
#[derive(Clone)]
pub(super) struct Task {
    /// The server's id of it.
    pub(super) id: String,
    pub(super) job: usize,
    pub(super) nonce: u64,
    /// The number of the next part of its answer, and how many more its requester takes, if that
    /// asked for a stream.
    pub(super) stream: Option<Stream>,
}

#[derive(Clone, Copy)]
pub(super) struct Stream {
    pub(super) seq: u64,
    pub(super) credit: u64,
}

impl Peer {
    /// Takes out the bytes of the handshake, and answers them.
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
