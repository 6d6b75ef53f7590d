//! Frames decoded as messages, and the errors after which a server closes.

use std::ops::Deref;
use std::sync::Arc;

use super::answer;
use super::read_buffer::ReadBuffer;
use crate::client::error::Error;
use crate::proto::frame::Frame;
use crate::proto::{Envelope, Extensions, Fault, Message, MessageType, Meta, Publication};

/// The header of a TLS alert, read as the length of a frame: the record's type, its version, whose
/// last byte varies, and half of its length. A TLS server sends it to clients that do not speak
/// TLS.
const TLS_ALERT: usize = 0x1503_0000;
const TLS_ALERT_MASK: usize = 0xffff_00ff;

/// A received message in its frame.
#[derive(Debug)]
pub(crate) struct Received<'b> {
    envelope: Envelope<'b>,
    pub(crate) frame_bytes: usize,
    /// The rule that its attachments break.
    fault: Option<Fault>,
    /// The memory of the frame, if it has its own.
    memory: Option<&'b Arc<Vec<u8>>>,
}

impl<'b> Deref for Received<'b> {
    type Target = Envelope<'b>;

    fn deref(&self) -> &Envelope<'b> {
        &self.envelope
    }
}

impl Received<'_> {
    /// Returns the error of a message whose attachments are not usable.
    pub(crate) fn fault(&self) -> Option<Error> {
        self.fault.map(|fault| Error::BadAttachments { what: fault.to_string() })
    }

    /// Returns an owned message, or the error of one whose attachments are not usable.
    pub(crate) fn message(&self) -> Result<Message, Error> {
        self.fault().map_or_else(|| Ok(self.owned()), Err)
    }

    /// Returns an owned message, without attachments that are not usable.
    pub(crate) fn owned(&self) -> Message {
        self.owned_with(self.publication())
    }

    /// As [`owned`](Self::owned), with the publication, which was read already.
    pub(crate) fn owned_with(&self, publication: Option<Box<Publication>>) -> Message {
        let message = match self.memory {
            Some(memory) => Message::sharing(&self.envelope, memory),
            None => Message::from(&self.envelope),
        };
        Message { publication, ..message }
    }

    /// Returns the server's words about a publication.
    pub(crate) fn publication(&self) -> Option<Box<Publication>> {
        let meta = self.envelope.meta_str()?;
        let is_publication = self.envelope.message_type() == MessageType::Publish;
        if is_publication { Publication::of_meta(meta) } else { None }
    }
}

/// Returns the message at the front of the buffer of a connection with these extensions. A frame that
/// is not a message stays in the buffer, so that later calls fail alike.
pub(crate) fn front(buffer: &ReadBuffer, extensions: Extensions) -> Result<Received<'_>, Error> {
    match buffer.peek() {
        Frame::Complete { body, frame_bytes } => {
            if body.first() == Some(&0) && extensions.contains(Extensions::BINARY) {
                return attached(body, frame_bytes, buffer.detached());
            }
            let parse =
                if extensions.is_empty() { Envelope::parse } else { Envelope::parse_extended };
            match parse(body) {
                Ok(envelope) => {
                    let is_bare = extensions.contains(Extensions::BINARY) && has_bin(&envelope);
                    let fault = is_bare.then_some(BIN_ALONE);
                    Ok(Received { envelope, frame_bytes, fault, memory: None })
                }
                Err(error) => Err(Error::Protocol { what: error.to_string() }),
            }
        }
        Frame::TooLarge { body_bytes } if body_bytes & TLS_ALERT_MASK == TLS_ALERT => {
            let what = "this port speaks TLS; turn it on here, too (`tls`, --tls-ca)".into();
            Err(Error::Protocol { what })
        }
        Frame::TooLarge { body_bytes } => {
            Err(Error::Protocol { what: format!("a frame of {body_bytes} bytes is too large") })
        }
        Frame::Partial { .. } => unreachable!("it was waited for"),
    }
}

/// The fault of a message that names attachments and has none.
const BIN_ALONE: Fault = Fault::Meta { key: "bin", expected: "with attachments behind the JSON" };

fn has_bin(envelope: &Envelope<'_>) -> bool {
    envelope.meta_str().is_some_and(|text| {
        // The key may have escapes.
        (text.contains("bin") || text.contains('\\'))
            && Meta::parse_known(text).is_ok_and(|meta| meta.bin.is_some())
    })
}

/// Reads a message with attachments. If only these are faulty, it can still be seen whom it is for.
#[cold]
fn attached<'b>(
    body: &'b [u8],
    frame_bytes: usize,
    memory: Option<&'b Arc<Vec<u8>>>,
) -> Result<Received<'b>, Error> {
    let (envelope, fault) = match Envelope::parse_binary(body) {
        Ok(envelope) => (envelope, envelope.attachments().err()),
        Err(error) => return Err(Error::Protocol { what: error.fault.to_string() }),
    };
    Ok(Received { envelope, frame_bytes, fault, memory })
}

/// Returns the error that this message is, if it answers none of our messages and the server closes
/// the connection after it.
pub(crate) fn last_words(envelope: &Envelope<'_>) -> Option<Error> {
    if envelope.reply_to().is_some() {
        return None;
    }
    answer::error_of(envelope)
        .filter(|error| matches!(error, Error::Answered { code, .. } if code.closes_connection()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn unhex(text: &Value) -> Vec<u8> {
        let digits = text.as_str().unwrap().as_bytes().chunks(2);
        let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    }

    fn read(body: &[u8]) -> Result<Message, Error> {
        let mut buffer = ReadBuffer::new(1 << 24);
        for bytes in [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body] {
            for piece in bytes.chunks(1 << 10) {
                buffer.room()[..piece.len()].copy_from_slice(piece);
                buffer.filled(piece.len());
            }
        }
        buffer.detach();
        let received = front(&buffer, Extensions::BINARY.or(Extensions::CALL));
        received.and_then(|received| received.message())
    }

    #[test]
    fn a_bin_in_json_alone_is_a_fault_however_it_is_written() {
        for (meta, is_bare) in [
            (r#"{"bin":[["/a",3,null,null]]}"#, true),
            (r#"{"seq":1,"newer":{"x":1},"bin":[["/a",3,null,null]]}"#, true),
            (r#"{"\u0062in":[["/a",3,null,null]],"newer":1}"#, true),
            (r#"{"headers":{"bin":"bin"}}"#, false),
            (r#"{"seq":1,"binary":[]}"#, false),
            (r#"{"headers":{"a":"\\"}}"#, false),
        ] {
            let body =
                r#"{"message_id":"m","app_id":"a","channel_id":"c","message_type":"publish","#
                    .to_owned()
                    + r#""payload":{"a":null},"timestamp":1,"reply_to":null,"meta":"#
                    + meta
                    + "}";
            let message = read(body.as_bytes());
            let is_fault = matches!(message, Err(Error::BadAttachments { .. }));
            assert_eq!((is_fault, message.is_ok()), (is_bare, !is_bare), "{meta}: {message:?}");
        }
    }

    #[test]
    fn the_vectors_of_all_clients_are_read_as_they_say() {
        let vectors = include_str!("../../../tests/binary/vectors.json");
        let vectors: Vec<Value> = serde_json::from_str(vectors).unwrap();
        assert!(vectors.len() > 50);
        for vector in vectors {
            let (name, body) = (&vector["name"], unhex(&vector["body"]));
            let message = read(&body);
            assert_eq!(message.is_ok(), vector["expect"] == "ok", "{name}: {message:?}");
            let Ok(message) = message else { continue };
            let expected = vector["attachments"].as_array().unwrap();
            let attachments = message.payload.attachments();
            assert_eq!(attachments.len(), expected.len(), "{name}");
            for (one, expected) in attachments.iter().zip(expected) {
                assert_eq!(one.pointer, expected["pointer"].as_str().unwrap(), "{name}");
                assert_eq!(one.dtype.map(crate::proto::Dtype::name), expected["dtype"].as_str());
                assert_eq!(one.data, unhex(&expected["data"]), "{name}");
            }
        }
    }
}
