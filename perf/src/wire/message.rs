//! The generator's messages, which are the same for all peers.

/// The number of a message, in the form in which its payload contains it.
pub(crate) type Id = [u8; ID_BYTES];

pub(crate) const ID_BYTES: usize = 8;

/// The shortest payload: quotes and a number.
pub(crate) const PAYLOAD_BYTES_MIN: usize = ID_BYTES + 2;

pub(crate) fn id(number: u32) -> Id {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[(number >> (28 - 4 * at) & 15) as usize])
}

/// Returns a JSON string of `bytes` bytes in place of the user's data.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    assert!(bytes >= PAYLOAD_BYTES_MIN, "a payload of {bytes} bytes holds no number");
    let mut text = vec![b'x'; bytes];
    text[0] = b'"';
    text[bytes - 1] = b'"';
    text[1..=ID_BYTES].copy_from_slice(&id(0));
    text
}

/// The work that connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Every message is answered with its own payload.
    Echo,
    /// Every message goes to all subscribers of one channel.
    Fanout,
    /// The same, but each of them subscribed to a pattern of its own that the channel matches.
    Patterns,
    /// The same, on a channel with a history of [`HISTORY_MESSAGES`].
    History,
}

/// The role of a connection in [`Work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sends the messages.
    Sender,
    /// Receives publications.
    Subscriber,
    /// Completes its handshake and stays silent.
    Idle,
    /// Subscribes to a channel of its own and stays silent.
    IdleSubscriber,
    /// Answers forwarded requests, where the peer has workers.
    Worker,
    /// Subscribes to [`HELD_PATTERNS`] patterns that the channel does not match, and stays silent.
    PatternHolder,
}

/// Messages that the channel of [`Work::History`] keeps.
pub(crate) const HISTORY_MESSAGES: u32 = 1_000;

/// Patterns that one connection holds.
pub(crate) const HELD_PATTERNS: usize = 999;

/// The channel of [`Work::Patterns`], of five tokens. Each of 31 patterns for it has as many bytes.
pub(super) const PATTERN_CHANNEL: &str = "n.e.w.s.x";

/// Returns pattern number `index`, from 1 to 31, that the channel of [`Work::Patterns`] matches. A set
/// bit of the number stands for a token that may be any.
pub(super) fn matching_pattern(index: usize) -> String {
    let tokens = PATTERN_CHANNEL.split('.').enumerate();
    let tokens = tokens.map(|(at, token)| if index >> at & 1 == 1 { "*" } else { token });
    tokens.collect::<Vec<_>>().join(".")
}

/// Returns the patterns that connection number `index` holds. They begin as those that match, so that a
/// server has to look beyond the first tokens.
pub(super) fn held_patterns(index: usize) -> impl Iterator<Item = String> {
    (0..HELD_PATTERNS).map(move |at| format!("n.*.w.s.{index}-{at}"))
}

/// One step of a handshake: the bytes to send, and the answer to wait for.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) send: Vec<u8>,
    pub(crate) until: Until,
}

#[derive(Debug)]
pub(crate) enum Until {
    Bytes(usize),
    Text(&'static [u8]),
    /// A frame with a length prefix of four bytes that contains this text.
    FrameWith(&'static [u8]),
    /// A ZMTP frame with a length of one byte.
    ShortFrame,
}

impl Until {
    /// Returns the length of the answer that `received` begins with, once all of it has arrived, or
    /// `Err` if it begins with another answer.
    pub(crate) fn met_by(&self, received: &[u8]) -> Result<Option<usize>, String> {
        match self {
            Self::Bytes(bytes) => Ok((received.len() >= *bytes).then_some(*bytes)),
            Self::Text(text) => Ok(memchr::memmem::find(received, text).map(|at| at + text.len())),
            Self::FrameWith(text) => {
                let Some(bytes) = frame_bytes(received) else { return Ok(None) };
                let Some(body) = received.get(HEADER_BYTES..bytes) else { return Ok(None) };
                match memchr::memmem::find(body, text) {
                    Some(_) => Ok(Some(bytes)),
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

/// An encoded message, and the positions of its number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    id_offsets: Vec<usize>,
}

impl Template {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
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

/// The beginning of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    Partial,
    /// A message that is not part of the work, such as a heartbeat.
    Aside {
        bytes: usize,
    },
    Message {
        bytes: usize,
        id: Id,
    },
}

/// The protocol of one peer.
pub(crate) trait Wire {
    /// Returns the steps of the handshake of connection number `index`.
    fn join(&self, role: Role, index: usize) -> Vec<Exchange>;

    /// Returns a request or a publication of connection number `index`, with the number zero.
    fn message(&self, index: usize) -> Template;

    /// Returns a worker's answer to the request that `received` begins with, and the length of that
    /// request, once all of it has arrived.
    fn answer(&self, received: &[u8]) -> Result<Option<(usize, Vec<u8>)>, String> {
        Err(format!("no worker speaks this protocol; it was sent {}", excerpt(received)))
    }

    /// Finds the end of the answer or publication that `received` begins with. Fails if it begins
    /// with neither.
    fn scan(&self, received: &[u8]) -> Result<Scan, String>;
}

/// The length of a frame's length prefix.
pub(super) const HEADER_BYTES: usize = 4;

/// Returns the length of the frame that `received` begins with, including its header, once the
/// header has arrived.
pub(super) fn frame_bytes(received: &[u8]) -> Option<usize> {
    let header: [u8; HEADER_BYTES] = received.get(..HEADER_BYTES)?.try_into().ok()?;
    Some(HEADER_BYTES + u32::from_be_bytes(header) as usize)
}

/// Returns the part of a peer's bytes that an error shows.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    text.escape_debug().to_string()
}
