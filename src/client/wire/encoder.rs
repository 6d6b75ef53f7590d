//! Encodes the client's messages into frames, with fresh ids, the time, and a buffer that is
//! reused.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use uuid::Uuid;

use super::encoded_frame::EncodedFrame;
use crate::client::error::Error;
use crate::client::payload::Payload;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{
    Carried, Defaults, Envelope, Head, ID_BYTES_MAX, Message, MessageHead, MessageType, Meta,
    Timestamp, append_front, body_bytes, encode_frame, escape, escaped,
};

/// A buffer up to this size is kept for the next message.
const BYTES_KEPT: usize = 1 << 20;
/// Attachments of this size on are sent from where they lie. Smaller ones are copied behind the JSON, so
/// that TLS has no record more for them.
const APART_BYTES_MIN: usize = 16 << 10;
/// So are many small ones, because each may be a piece of its own for the kernel.
const PIECE_BYTES_MIN: usize = 1 << 10;

#[derive(Debug)]
pub(crate) struct Encoder {
    /// The application's id as JSON text without the quotes.
    app_id: String,
    buffer: Buffer,
    ids: ChaCha8Rng,
    timestamp: Timestamp,
}

/// The fields of a message that its caller chooses, besides the payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading<'a> {
    pub(crate) message_type: MessageType,
    pub(crate) channel_id: &'a str,
    pub(crate) reply_to: Option<&'a str>,
    /// The text of `meta`, for a connection with an extension.
    pub(crate) meta: Option<&'a [u8]>,
}

impl<'a> Heading<'a> {
    pub(crate) fn new(message_type: MessageType, channel_id: &'a str) -> Self {
        Self { message_type, channel_id, reply_to: None, meta: None }
    }

    /// The heading of a publication, with what its server is told beside the payload.
    pub(crate) fn publication(channel_id: &'a str, meta: Option<&'a [u8]>) -> Self {
        Self { meta, ..Self::new(MessageType::Publish, channel_id) }
    }

    /// The heading of a request, with what its server is told beside the payload.
    pub(crate) fn request(channel_id: &'a str, meta: Option<&'a [u8]>) -> Self {
        Self { meta, ..Self::new(MessageType::Request, channel_id) }
    }

    pub(crate) fn answer(channel_id: &'a str, reply_to: &'a str) -> Self {
        let reply_to = Some(reply_to);
        Self { message_type: MessageType::Response, channel_id, reply_to, meta: None }
    }
}

impl Encoder {
    pub(crate) fn new(app_id: &str, body_bytes_max: usize) -> Result<Self, Error> {
        check_id("app_id", app_id)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| Error::system("random bytes")(std::io::Error::other(error)))?;
        Ok(Self {
            app_id: escape(app_id),
            buffer: Buffer { body_bytes_max, ..Buffer::default() },
            ids: ChaCha8Rng::from_seed(seed),
            timestamp: Timestamp::default(),
        })
    }

    pub(crate) fn fresh_id(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.ids.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Returns the frame that was encoded last.
    pub(crate) fn frame(&self) -> &EncodedFrame {
        &self.buffer.frame
    }

    /// Gives up the attachments of that frame, which was sent.
    pub(crate) fn release(&mut self) {
        self.buffer.frame.tail = None;
    }

    /// Returns how many bytes of that frame are its `meta`, with the key.
    pub(crate) fn meta_bytes(&self) -> usize {
        self.buffer.meta_bytes
    }

    /// Returns whether the frame that was encoded last has attachments.
    pub(crate) fn has_attachments(&self) -> bool {
        has_attachments(&self.buffer.frame.front)
    }

    /// Returns whether the frame that was encoded last is for servers with the extension `topic` alone.
    pub(crate) fn needs_topic(&self) -> bool {
        needs_topic(&self.buffer.frame.front, self.buffer.meta_bytes)
    }

    /// Returns whether the `meta` of the frame that was encoded last has headers.
    pub(crate) fn has_headers(&self) -> bool {
        has_headers(&self.buffer.frame.front, self.buffer.meta_bytes)
    }

    /// Removes the `meta` of the frame that was encoded last.
    pub(crate) fn strip_meta(&mut self) {
        strip_meta(&mut self.buffer.frame.front, std::mem::take(&mut self.buffer.meta_bytes));
    }

    /// Takes the frame that was encoded last.
    pub(crate) fn take_frame(&mut self) -> EncodedFrame {
        std::mem::take(&mut self.buffer.frame)
    }

    /// Encodes a message with a value as its payload. Returns its id, which is a fresh one.
    pub(crate) fn value<T: Payload + ?Sized>(
        &mut self,
        heading: Heading<'_>,
        payload: &T,
    ) -> Result<Uuid, Error> {
        check_id("channel_id", heading.channel_id)?;
        check_optional_id("reply_to", heading.reply_to)?;
        let id = self.fresh_id();
        let reply_to = heading.reply_to.map(escaped);
        let mut text = Uuid::encode_buffer();
        let time = self.timestamp.text(unix_time());
        let head = Head {
            message_id: id.hyphenated().encode_lower(&mut text).as_bytes(),
            app_id: &self.app_id,
            channel_id: &escaped(heading.channel_id),
            message_type: heading.message_type,
            timestamp: time.as_bytes(),
            reply_to: reply_to.as_deref().map(str::as_bytes),
            meta: heading.meta,
        };
        self.buffer.encode(&head, payload)?;
        Ok(id)
    }

    /// Encodes a message without changing it, but fills in what it leaves empty. Returns the id if
    /// it is a fresh one.
    pub(crate) fn message(
        &mut self,
        message: &Message,
        meta: Option<&[u8]>,
    ) -> Result<Option<Uuid>, Error> {
        check_id("channel_id", &message.channel_id)?;
        check_optional_id("message_id", given(&message.message_id))?;
        check_optional_id("app_id", given(&message.app_id))?;
        check_optional_id("reply_to", message.reply_to.as_deref())?;
        let fresh = message.message_id.is_empty().then(|| self.fresh_id());
        let mut id = Uuid::encode_buffer();
        let time = self.timestamp.text(unix_time());
        let defaults = Defaults {
            message_id: fresh
                .map_or(&[], |fresh| fresh.hyphenated().encode_lower(&mut id).as_bytes()),
            app_id: &self.app_id,
            timestamp: time.as_bytes(),
        };
        let head = MessageHead::new(message, defaults);
        self.buffer.encode(&Head { meta, ..head.borrowed() }, &message.payload)?;
        Ok(fresh)
    }
}

/// The frame that was encoded last, in a buffer that is reused.
#[derive(Debug, Default)]
struct Buffer {
    body_bytes_max: usize,
    frame: EncodedFrame,
    /// Size of the last frame without attachments that lie apart, for which a new buffer reserves room.
    front_bytes: usize,
    /// The bytes of its `meta`, with the key.
    meta_bytes: usize,
}

impl Buffer {
    fn encode<T: Payload + ?Sized>(&mut self, head: &Head<'_>, payload: &T) -> Result<(), Error> {
        self.frame.tail = None;
        let front = &mut self.frame.front;
        if front.capacity() > BYTES_KEPT {
            *front = Vec::new();
        }
        if front.capacity() == 0 {
            front.reserve(self.front_bytes.min(BYTES_KEPT));
        }
        front.clear();
        let mut payload_at = 0..0;
        let mut carried = None;
        let write = |out: &mut Vec<u8>| {
            payload_at.start = out.len();
            carried = payload.append_to(out)?;
            payload_at.end = out.len();
            Ok(())
        };
        encode_frame(front, head, write).map_err(Error::NotJson)?;
        self.meta_bytes = head.meta.map_or(0, |meta| META_KEY_BYTES + meta.len());
        if let Some(carried) = carried {
            self.attach(head, payload_at, &carried)?;
        }
        self.front_bytes = self.frame.front.len();
        let body_bytes = self.frame.len() - HEADER_BYTES;
        if body_bytes > self.body_bytes_max {
            return Err(Error::TooLarge { body_bytes, body_bytes_max: self.body_bytes_max });
        }
        Ok(())
    }

    /// Puts attachments behind the message that is encoded, whose payload stands at this place.
    #[cold]
    fn attach(
        &mut self,
        head: &Head<'_>,
        payload_at: Range<usize>,
        carried: &Carried<'_>,
    ) -> Result<(), Error> {
        let front = &mut self.frame.front;
        let payload = front[payload_at].to_vec();
        let meta = with_bin(head.meta, carried.bin());
        let head = Head { meta: Some(&meta), ..*head };
        let (json_bytes, tail) = (head.body_bytes(payload.len()), carried.tail());
        let tail_bytes = tail.bytes();
        let too_large = |body_bytes, body_bytes_max| Error::TooLarge { body_bytes, body_bytes_max };
        let body_bytes = body_bytes(json_bytes, [tail_bytes])
            .ok_or_else(|| too_large(json_bytes, ATTACHED_JSON_BYTES_MAX))?;
        if body_bytes > self.body_bytes_max {
            return Err(too_large(body_bytes, self.body_bytes_max));
        }
        front.clear();
        append_front(front, &head, &payload, body_bytes);
        if tail_bytes < APART_BYTES_MIN.max(carried.count() * PIECE_BYTES_MIN) {
            tail.append_to(front);
        } else {
            self.frame.tail = Some(carried.shared_tail());
        }
        self.meta_bytes = META_KEY_BYTES + meta.len();
        Ok(())
    }
}

/// The most JSON that may stand before attachments.
const ATTACHED_JSON_BYTES_MAX: usize = (1 << 24) - 1;

/// Returns the text of a `meta` with a `bin`.
fn with_bin(meta: Option<&[u8]>, bin: &str) -> Vec<u8> {
    let mut text = meta.map_or_else(|| b"{}".to_vec(), <[u8]>::to_vec);
    text.pop();
    let separator = if text.len() > 1 { "," } else { "" };
    text.extend_from_slice(separator.as_bytes());
    text.extend_from_slice(b"\"bin\":");
    text.extend_from_slice(bin.as_bytes());
    text.push(b'}');
    text
}

/// Returns whether a frame has attachments. Its body begins with 0 then, and no JSON does.
pub(crate) fn has_attachments(frame: &[u8]) -> bool {
    frame.get(HEADER_BYTES) == Some(&0)
}

/// The length of `,"meta":`.
const META_KEY_BYTES: usize = 8;

/// Returns whether the `meta`, which stands last in a frame and takes so many bytes with its key, has
/// headers. The frame has no attachments, which would stand behind the `meta`.
pub(crate) fn has_headers(frame: &[u8], meta_bytes: usize) -> bool {
    debug_assert!(meta_bytes == 0 || !has_attachments(frame));
    let text = frame.get(frame.len() - meta_bytes - 1 + META_KEY_BYTES..frame.len() - 1);
    let meta = text.and_then(|text| std::str::from_utf8(text).ok()).map(Meta::parse);
    meta.is_some_and(|meta| meta.is_ok_and(|meta| meta.headers.is_some()))
}

/// Returns whether the `meta` of a frame, of so many bytes with its key, asks for what only a server with
/// the extension `topic` does. The frame may go on with attachments that lie elsewhere.
pub(crate) fn needs_topic(frame: &[u8], meta_bytes: usize) -> bool {
    let parse =
        if has_attachments(frame) { Envelope::parse_binary } else { Envelope::parse_extended };
    let body = frame.get(HEADER_BYTES..).filter(|_| meta_bytes > 0);
    let meta = body.and_then(|body| parse(body).ok()).and_then(|envelope| envelope.meta_str());
    meta.is_some_and(|meta| Meta::parse(meta).is_ok_and(|meta| meta.retain || meta.ack))
}

/// Removes the `meta`, which stands last in a frame and takes so many bytes with its key. The frame has no
/// attachments, which would stand behind the `meta`.
pub(crate) fn strip_meta(frame: &mut Vec<u8>, meta_bytes: usize) {
    if meta_bytes == 0 {
        return;
    }
    debug_assert!(!has_attachments(frame));
    frame.truncate(frame.len() - meta_bytes - 1);
    frame.push(b'}');
    let body_bytes = (frame.len() - HEADER_BYTES) as u32;
    frame[..HEADER_BYTES].copy_from_slice(&body_bytes.to_be_bytes());
}

/// Reads the clock. One that is set to before 1970 gives timestamps of 1970.
fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(crate) fn check_id(field: &'static str, id: &str) -> Result<(), Error> {
    if (1..=ID_BYTES_MAX).contains(&id.len()) { Ok(()) } else { Err(Error::BadId { field }) }
}

fn check_optional_id(field: &'static str, id: Option<&str>) -> Result<(), Error> {
    id.map_or(Ok(()), |id| check_id(field, id))
}

/// Returns `None` for an id that is left to be filled in.
fn given(id: &str) -> Option<&str> {
    Some(id).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_parses_back() {
        let mut encoder = Encoder::new("an \"app\"", 1 << 20).unwrap();
        let heading = Heading::answer("a\nchannel", "q\\1");
        let id = encoder.value(heading, &[1, 2]).unwrap();
        let envelope = Envelope::parse(&encoder.frame().front[HEADER_BYTES..]).unwrap();
        assert_eq!(envelope.message_id().raw(), id.to_string());
        assert!(envelope.app_id().matches("an \"app\""));
        assert!(envelope.channel_id().matches("a\nchannel"));
        assert!(envelope.reply_to().unwrap().matches("q\\1"));
        assert_eq!(envelope.payload_str(), "[1,2]");
        assert!(envelope.timestamp() > 1e9);

        let message = Message::from(&envelope);
        encoder.message(&message, None).unwrap();
        let again = Envelope::parse(&encoder.frame().front[HEADER_BYTES..]).unwrap();
        assert_eq!(Message::from(&again), message);
    }

    #[test]
    fn a_message_without_its_meta_is_the_message_without_one() {
        let mut encoder = Encoder::new("app", 1 << 20).unwrap();
        let heading = Heading::request("c", Some(b"{\"ttl\":5}"));
        encoder.value(heading, &1).unwrap();
        let frame = encoder.frame().front.clone();
        let extended = Envelope::parse_extended(&frame[HEADER_BYTES..]).unwrap();
        assert_eq!(extended.meta().unwrap().as_str(), "{\"ttl\":5}");
        encoder.strip_meta();
        let body_bytes = (encoder.frame().len() - HEADER_BYTES) as u32;
        assert_eq!(encoder.frame().front[..HEADER_BYTES], body_bytes.to_be_bytes());
        let plain = Envelope::parse(&encoder.frame().front[HEADER_BYTES..]).unwrap();
        assert_eq!(Message::from(&plain), Message::from(&extended));
        let stripped = encoder.frame().front.clone();
        encoder.strip_meta();
        assert_eq!(encoder.frame().front, stripped);
    }

    #[test]
    fn what_cannot_be_sent_is_the_callers_fault() {
        let mut encoder = Encoder::new("app", 200).unwrap();
        let request = |channel| Heading::new(MessageType::Request, channel);
        let long = "x".repeat(257);
        for channel in ["", &long] {
            let refused = encoder.value(request(channel), &0);
            assert!(matches!(refused, Err(Error::BadId { field: "channel_id" })));
        }
        let large = encoder.value(request("c"), &"x".repeat(200));
        assert!(matches!(large, Err(Error::TooLarge { body_bytes_max: 200, .. })));
        let map = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(encoder.value(request("c"), &map), Err(Error::NotJson(_))));
        assert!(encoder.value(request("c"), &0).is_ok());
    }
}
