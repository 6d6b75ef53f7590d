//! What one message looks like to each peer, so that one load generator drives them all.
//!
//! Every payload is the same JSON string for every peer. It begins with eight hexadecimal
//! digits that number the message; they are patched in place and compared in every answer.

mod ipc;
mod nats;
mod redis;
mod zmtp;

use std::ops::Range;

pub(crate) use ipc::{Dialect, Ipc};
pub(crate) use nats::Nats;
pub(crate) use redis::Redis;
pub(crate) use zmtp::Zmtp;

/// The number of a message, as it stands in its payload.
pub(crate) type Id = [u8; ID_BYTES];

pub(crate) const ID_BYTES: usize = 8;

/// A payload has quotes and a number.
pub(crate) const PAYLOAD_BYTES_MIN: usize = ID_BYTES + 2;

pub(crate) fn id(number: u32) -> Id {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[(number >> (28 - 4 * at) & 15) as usize])
}

/// The JSON string of `bytes` bytes that stands for the user's data.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    assert!(bytes >= PAYLOAD_BYTES_MIN, "a payload of {bytes} bytes holds no number");
    let mut text = vec![b'x'; bytes];
    text[0] = b'"';
    text[bytes - 1] = b'"';
    text[1..=ID_BYTES].copy_from_slice(&id(0));
    text
}

/// What connections are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Every message is answered with its own payload.
    Echo,
    /// Every message goes to all subscribers of one channel.
    Fanout,
}

/// What a connection does in [`Work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sends the messages.
    Sender,
    /// Receives publications.
    Subscriber,
    /// Introduces itself and stays silent.
    Idle,
    /// Subscribes to a channel of its own and stays silent.
    IdleSubscriber,
}

/// One step of the introduction: what to send, and what to wait for.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) send: Vec<u8>,
    pub(crate) until: Until,
}

#[derive(Debug)]
pub(crate) enum Until {
    Bytes(usize),
    Text(&'static [u8]),
    /// A frame with a length prefix of four bytes, which holds this text.
    FrameWith(&'static [u8]),
    /// A ZMTP frame with a length of one byte.
    ShortFrame,
}

impl Until {
    /// How many bytes of `received` are the whole of it, once they are there; `Err` if they
    /// can never be.
    pub(crate) fn met_by(&self, received: &[u8]) -> Result<Option<usize>, String> {
        match self {
            Self::Bytes(bytes) => Ok((received.len() >= *bytes).then_some(*bytes)),
            Self::Text(text) => Ok(memchr::memmem::find(received, text).map(|at| at + text.len())),
            Self::FrameWith(text) => {
                let Some(length) = ipc::body_bytes(received) else { return Ok(None) };
                let Some(body) = received[4..].get(..length) else { return Ok(None) };
                match memchr::memmem::find(body, text) {
                    Some(_) => Ok(Some(4 + length)),
                    None => Err(format!("the introduction was answered {}", excerpt(body))),
                }
            }
            Self::ShortFrame => {
                let length = received.get(1).map(|length| 2 + usize::from(*length));
                Ok(length.filter(|length| received.len() >= *length))
            }
        }
    }
}

/// An encoded message, and where its number stands in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    id_offsets: Vec<usize>,
}

impl Template {
    fn new(bytes: Vec<u8>) -> Self {
        let zero = id(0);
        let id_offsets = memchr::memmem::find_iter(&bytes, &zero).collect();
        Self { bytes, id_offsets }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the number into a copy of the message.
    pub(crate) fn stamp(&self, copy: &mut [u8], id: Id) {
        for offset in &self.id_offsets {
            copy[*offset..offset + ID_BYTES].copy_from_slice(&id);
        }
    }
}

/// What stands at the begin of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    Partial,
    /// What a peer says beside the work, such as asking whether the client lives.
    Aside {
        bytes: usize,
    },
    Message {
        bytes: usize,
        id: Id,
    },
}

/// How one peer is spoken to.
pub(crate) trait Wire {
    /// How connection number `index` introduces itself.
    fn join(&self, role: Role, index: usize) -> Vec<Exchange>;

    /// A request or a publication of connection number `index`, with the number zero.
    fn message(&self, index: usize) -> Template;

    /// Finds the end of the answer or of the publication that `received` begins with, and
    /// refuses what is neither.
    fn scan(&self, received: &[u8]) -> Result<Scan, String>;
}

/// What a complaint shows of a peer's bytes.
fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    text.escape_debug().to_string()
}

/// A message that is a fixed prefix, the payload and a fixed suffix, as it is received from
/// peers whose messages vary in nothing but the payload.
#[derive(Clone, Debug)]
struct FixedFrame {
    prefix: Vec<u8>,
    /// The part of the prefix that differs from connection to connection.
    varying: Range<usize>,
    payload_bytes: usize,
    suffix: &'static [u8],
}

impl FixedFrame {
    fn new(prefix: Vec<u8>, payload_bytes: usize, suffix: &'static [u8]) -> Self {
        Self { prefix, varying: 0..0, payload_bytes, suffix }
    }

    fn scan(&self, received: &[u8]) -> Result<Scan, String> {
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

#[cfg(test)]
mod tests;
