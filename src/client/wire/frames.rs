//! Frames decoded as messages, and the errors after which a server closes.

use super::answer;
use super::read_buffer::ReadBuffer;
use crate::client::error::Error;
use crate::proto::frame::Frame;
use crate::proto::{Envelope, Extensions};

/// The header of a TLS alert, read as the length of a frame: the record's type, its version, whose
/// last byte varies, and half of its length. A TLS server sends it to clients that do not speak
/// TLS.
const TLS_ALERT: usize = 0x1503_0000;
const TLS_ALERT_MASK: usize = 0xffff_00ff;

/// Returns the message at the front of the buffer of a connection with these extensions, and the
/// size of its frame. A frame that is not a
/// message stays in the buffer, so that later calls fail alike.
pub(crate) fn front(
    buffer: &ReadBuffer,
    extensions: Extensions,
) -> Result<(Envelope<'_>, usize), Error> {
    let parse = if extensions.is_empty() { Envelope::parse } else { Envelope::parse_extended };
    match buffer.peek() {
        Frame::Complete { body, frame_bytes } => match parse(body) {
            Ok(envelope) => Ok((envelope, frame_bytes)),
            Err(error) => Err(Error::Protocol { what: error.to_string() }),
        },
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

/// Returns the error that this message is, if it answers none of our messages and the server closes
/// the connection after it.
pub(crate) fn last_words(envelope: &Envelope<'_>) -> Option<Error> {
    if envelope.reply_to().is_some() {
        return None;
    }
    answer::error_of(envelope)
        .filter(|error| matches!(error, Error::Answered { code, .. } if code.closes_connection()))
}
