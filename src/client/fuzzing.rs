//! What a fuzzer holds the client's reading against.

use arbitrary::{Arbitrary, Unstructured};

use super::answer;
use super::error::{Error, Fault};
use super::incoming::front;
use super::read_buffer::ReadBuffer;
use crate::broker::Message;
use crate::proto::frame::{self, Frame};
use crate::proto::{Envelope, Json};

/// What a server sends, and how it arrives.
#[derive(Arbitrary, Debug)]
struct Arrival<'a> {
    body_bytes_max: u16,
    /// The sizes of what each read brings, over and over. Zero is as much as there is room.
    reads: [u8; 4],
    stream: &'a [u8],
}

/// What a client takes one frame for.
#[derive(Debug, PartialEq)]
enum Seen {
    Message(Box<Message>),
    /// An error of the server's, as its words.
    Refused(String),
    /// Not the protocol: the end.
    Nonsense(String),
}

/// The client's decoder: whatever a server sends is messages, errors, or the end of it, and the
/// same in whatever pieces it arrives.
pub(crate) fn client(input: &[u8]) {
    let Ok(arrival) = Arrival::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let expected = arrival.expected();
    for sizes in [arrival.reads.map(usize::from), [0; 4], [1; 4]] {
        assert_eq!(arrival.received(sizes), expected, "in reads of {sizes:?}");
    }
}

impl Arrival<'_> {
    /// The frames one after the other, in place.
    fn expected(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut rest = self.stream;
        loop {
            match frame::decode(rest, self.body_bytes_max.into()) {
                Frame::Partial { .. } => return seen,
                Frame::TooLarge { body_bytes } => {
                    seen.push(Seen::Nonsense(too_large(body_bytes)));
                    return seen;
                }
                Frame::Complete { body, frame_bytes } => match Envelope::parse(body) {
                    Ok(envelope) => {
                        seen.push(read(&envelope));
                        rest = &rest[frame_bytes..];
                    }
                    Err(error) => {
                        seen.push(Seen::Nonsense(error.to_string()));
                        return seen;
                    }
                },
            }
        }
    }

    fn received(&self, sizes: [usize; 4]) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut buffer = ReadBuffer::new(self.body_bytes_max.into());
        let mut rest = self.stream;
        for size in sizes.into_iter().cycle() {
            while !matches!(buffer.peek(), Frame::Partial { .. }) {
                match front(&buffer) {
                    Ok((envelope, frame_bytes)) => {
                        seen.push(read(&envelope));
                        buffer.consume(frame_bytes);
                    }
                    Err(error) => {
                        assert_eq!(error.fault(), Fault::Server, "{error}");
                        let Error::Protocol { what } = error else { panic!("{error}") };
                        let again = front(&buffer).expect_err("it stays there");
                        assert!(again.to_string().contains(&what), "{again}");
                        seen.push(Seen::Nonsense(what));
                        return seen;
                    }
                }
            }
            if rest.is_empty() {
                return seen;
            }
            let room = buffer.room();
            assert!(!room.is_empty());
            let size = if size == 0 { room.len() } else { size.min(room.len()) };
            let (read, behind) = rest.split_at(size.min(rest.len()));
            room[..read.len()].copy_from_slice(read);
            buffer.filled(read.len());
            rest = behind;
        }
        seen
    }
}

fn too_large(body_bytes: usize) -> String {
    format!("a frame of {body_bytes} bytes is too large")
}

fn read(envelope: &Envelope<'_>) -> Seen {
    // The first frame of a connection may be anything too.
    if answer::check_connected(envelope).is_ok() {
        assert!(answer::error_of(envelope).is_none(), "a welcome is no error");
    }
    if let Some(error) = answer::error_of(envelope) {
        assert!(matches!(error, Error::Answered { .. }), "{error}");
        return Seen::Refused(error.to_string());
    }
    let message = Message::from(envelope);
    assert!(message.timestamp.is_finite());
    let payload = message.payload.as_str();
    assert_eq!(payload, envelope.payload_str());
    Json::parse(payload).expect("a payload is JSON by itself");
    Seen::Message(Box::new(message))
}
