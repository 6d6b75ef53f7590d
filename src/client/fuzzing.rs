//! The fuzz target for the client's decoder, which compares it with an independent reading.

mod calls;

use arbitrary::{Arbitrary, Unstructured};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{Error, Fault};
use super::wire::answer;
use super::wire::frames::front;
use super::wire::read_buffer::ReadBuffer;
use crate::handler_error::PAYLOAD_BYTES_MAX;
use crate::proto::frame::Frame;
use crate::proto::oracle::Reading;
use crate::proto::{Envelope, ErrorCode, Extensions, Json, Message, MessageType};

/// Bytes that a server sends, and the sizes of the reads by which they arrive.
#[derive(Arbitrary, Debug)]
struct Arrival<'a> {
    body_bytes_max: u16,
    /// The sizes of the reads, repeated. Zero means as much as there is room for.
    reads: [u8; 4],
    stream: &'a [u8],
}

/// A frame as the client decodes it.
#[derive(Debug)]
enum Seen {
    Message(Box<Message>),
    /// An error that the server sent.
    Refused(Refused),
    /// A body that is not the protocol, which ends the connection.
    Unreadable,
    TooLarge(usize),
}

/// A frame as `serde_json` decodes it.
#[derive(Debug)]
enum Expected {
    /// A message, and the error that it is. The flag is set if the client must recognise it.
    Message(Box<Message>, Option<(Refused, bool)>),
    Unreadable,
    TooLarge(usize),
}

#[derive(Debug, PartialEq)]
struct Refused {
    code: String,
    text: String,
    details: Option<String>,
}

/// Fuzzes the client's decoder: any bytes of a server are read as messages, errors or the end,
/// exactly as the definition of a frame and `serde_json` read them, in whatever pieces they arrive.
/// Then the same bytes say what the server does to a stream and to a request that the client serves.
pub(crate) fn client(input: &[u8]) {
    calls::parts(input);
    calls::job(input);
    let Ok(arrival) = Arrival::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let expected = arrival.expected();
    for sizes in [arrival.reads.map(usize::from), [0; 4], [1; 4]] {
        let received = arrival.received(sizes);
        assert_eq!(received.len(), expected.len(), "{received:?} and {expected:?}, {sizes:?}");
        for (seen, expected) in received.iter().zip(&expected) {
            assert!(expected.allows(seen), "{seen:?} and {expected:?}, {sizes:?}");
        }
    }
}

impl Expected {
    fn of(body: &[u8]) -> Self {
        let reading = Reading::by_serde_json(body);
        let (None, Some(rest)) = (reading.code, reading.rest) else { return Self::Unreadable };
        let (app_id, payload, timestamp, reply_to) = rest;
        let message_type = reading.message_type.expect("it has all of them");
        let mut all = MessageType::ALL.into_iter();
        let message_type = all.find(|known| known.as_str() == message_type).expect("it is known");
        let is_response = message_type == MessageType::Response;
        let refused = Some(&payload).filter(|_| is_response).and_then(|text| Refused::by(text));
        let message = Message {
            message_id: reading.message_id.expect("it has all of them"),
            app_id,
            channel_id: reading.channel_id.expect("it has all of them"),
            message_type,
            payload: Json::parse(payload).expect("a payload is JSON by itself"),
            timestamp: timestamp.parse::<f64>().expect("a number").clamp(f64::MIN, f64::MAX),
            reply_to,
            publication: None,
        };
        Self::Message(message.into(), refused)
    }

    fn allows(&self, seen: &Seen) -> bool {
        match (self, seen) {
            (Self::Message(message, refused), Seen::Message(seen)) => {
                message == seen && !refused.as_ref().is_some_and(|(_, is_plain)| *is_plain)
            }
            (Self::Message(_, Some((refused, _))), Seen::Refused(seen)) => refused == seen,
            (Self::Unreadable, Seen::Unreadable) => true,
            (Self::TooLarge(expected), Seen::TooLarge(seen)) => expected == seen,
            _ => false,
        }
    }
}

impl Refused {
    fn by(payload: &str) -> Option<(Self, bool)> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Payload<'a> {
            status: String,
            code: String,
            error: String,
            #[serde(borrow, default)]
            details: Option<Details<'a>>,
        }
        let read: Payload<'_> =
            serde_json::from_str(payload).ok().filter(|_| payload.starts_with('{'))?;
        let is_known = ErrorCode::ALL.into_iter().any(|known| known.as_str() == read.code);
        let is_application = read.code.starts_with("app:");
        let is_plain = payload.len() <= PAYLOAD_BYTES_MAX && !payload.contains('\\');
        let details = read.details.map(|Details(raw)| raw.get().to_owned());
        let details = details.filter(|_| is_application);
        let refused = Self { code: read.code, text: read.error, details };
        (read.status == "error" && (is_known || is_application)).then_some((refused, is_plain))
    }
}

/// A value that may be null, which `Option` alone would read as absent.
#[derive(Deserialize)]
struct Details<'a>(#[serde(borrow)] &'a RawValue);

impl Arrival<'_> {
    /// Splits the stream into frames by their definition.
    fn expected(&self) -> Vec<Expected> {
        let mut expected = Vec::new();
        let mut rest = self.stream;
        while let Some((header, behind)) = rest.split_first_chunk::<4>() {
            let body_bytes = u32::from_be_bytes(*header) as usize;
            if body_bytes > usize::from(self.body_bytes_max) {
                expected.push(Expected::TooLarge(body_bytes));
                break;
            }
            let Some((body, next)) = behind.split_at_checked(body_bytes) else { break };
            expected.push(Expected::of(body));
            if matches!(expected.last(), Some(Expected::Unreadable)) {
                break;
            }
            rest = next;
        }
        expected
    }

    fn received(&self, sizes: [usize; 4]) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut buffer = ReadBuffer::new(self.body_bytes_max.into());
        let mut rest = self.stream;
        for size in sizes.into_iter().cycle() {
            while !matches!(buffer.peek(), Frame::Partial { .. }) {
                match front(&buffer, Extensions::NONE) {
                    Ok(received) => {
                        let frame_bytes = received.frame_bytes;
                        seen.push(read(&received));
                        buffer.consume(frame_bytes);
                    }
                    Err(error) => {
                        assert_eq!(error.fault(), Fault::Server, "{error}");
                        let Error::Protocol { what } = error else { panic!("{error}") };
                        let again = front(&buffer, Extensions::NONE).expect_err("it stays there");
                        assert!(again.to_string().contains(&what), "{again}");
                        seen.push(match buffer.peek() {
                            Frame::TooLarge { body_bytes } => Seen::TooLarge(body_bytes),
                            _ => Seen::Unreadable,
                        });
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

fn read(envelope: &Envelope<'_>) -> Seen {
    // Any frame may be the first of a connection.
    if answer::check_connected(envelope).is_ok() {
        assert!(answer::error_of(envelope).is_none(), "a welcome is no error");
    }
    if let Some(error) = answer::error_of(envelope) {
        let details = error.details().map(|details| details.as_str().to_owned());
        let code = error.code().expect("an answer has one").to_owned();
        let (Error::Answered { text, .. } | Error::Application { text, .. }) = error else {
            panic!("{error}")
        };
        return Seen::Refused(Refused { code, text, details });
    }
    Seen::Message(Box::new(Message::from(envelope)))
}
