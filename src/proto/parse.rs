//! Reads a message from the body of its frame.
//!
//! All known clients send the seven keys in the same order, and separate them either with nothing
//! but punctuation (Node.js, Rust, this server) or with one blank behind it (Python). Such messages
//! are read by comparing whole pieces of punctuation; [`fields`] reads all others, and finds the
//! fault of those that are none.

use super::attachments::layout;
use super::envelope::{Envelope, EnvelopeError};
use super::fault::Fault;
use super::fields;
use super::json_str::JsonStr;
use super::limits::{ID_BYTES_MAX, TIMESTAMP_BYTES_MAX};
use super::message_type::MessageType;
use super::meta::{self, MetaText};
use super::scanner;

#[cfg(test)]
mod tests;

impl<'a> Envelope<'a> {
    /// Reads one message from the body of its frame, without allocating.
    ///
    /// # Errors
    /// If the body is not one JSON object in UTF-8, nested at most
    /// [`DEPTH_MAX`](super::DEPTH_MAX) deep, or not a message. The first is reported before the
    /// second, wherever they stand: where it is not JSON, no field is believed.
    pub fn parse(body: &'a [u8]) -> Result<Self, EnvelopeError<'a>> {
        let Ok(text) = simdutf8::basic::from_utf8(body) else { return Err(not_utf8(body)) };
        match usual(text) {
            Some(envelope) => Ok(envelope),
            None => fields::read(text, false),
        }
    }

    /// Reads one message of a peer that negotiated an extension: it may have the key `meta`, see
    /// [`Envelope::meta`]. Its value is checked to be JSON, and its members by
    /// [`Meta::parse`](super::Meta::parse).
    ///
    /// # Errors
    /// The same as those of [`Envelope::parse`].
    pub fn parse_extended(body: &'a [u8]) -> Result<Self, EnvelopeError<'a>> {
        let Ok(text) = simdutf8::basic::from_utf8(body) else { return Err(not_utf8(body)) };
        match usual_extended(text) {
            Some(envelope) => Ok(envelope),
            None => fields::read(text, true),
        }
    }

    /// Reads one message of a peer that negotiated `binary`. If its body begins with 0, it has
    /// attachments, see [`Envelope::attachments`]; any other body is read by
    /// [`Envelope::parse_extended`].
    ///
    /// # Errors
    /// The same as those of [`Envelope::parse`], and those of a body that ends before its JSON. What
    /// is wrong behind the JSON does not stop it: [`Envelope::attachments`] reports that.
    pub fn parse_binary(body: &'a [u8]) -> Result<Self, EnvelopeError<'a>> {
        if layout::has_attachments(body) { laid_apart(body) } else { Self::parse_extended(body) }
    }
}

#[cold]
fn laid_apart(body: &[u8]) -> Result<Envelope<'_>, EnvelopeError<'_>> {
    let (json, tail) = layout::split(body).map_err(EnvelopeError::unreadable)?;
    // Where both are wrong, it is more likely that the layout is.
    let misplaced = |error| match tail {
        Some(_) => error,
        None => EnvelopeError { fault: layout::NO_ZEROS, ..error },
    };
    let mut envelope = Envelope::parse_extended(json).map_err(misplaced)?;
    let text = envelope.meta_str().unwrap_or("{}");
    envelope.meta = Some(MetaText::of_attachments(text, tail));
    Ok(envelope)
}

/// Looks for the place of the fault, which the fast check does not give.
#[cold]
fn not_utf8(body: &[u8]) -> EnvelopeError<'_> {
    let at = std::str::from_utf8(body).err().map_or(0, |error| error.valid_up_to());
    EnvelopeError::unreadable(Fault::NotUtf8 { at })
}

/// Reads a message in one of the usual layouts. `None`: it has another layout, or a fault.
pub(super) fn usual(text: &str) -> Option<Envelope<'_>> {
    let rest = text.strip_prefix("{\"message_id\":")?;
    match rest.strip_prefix(' ') {
        Some(rest) => laid_out::<true, false>(rest),
        None => laid_out::<false, false>(rest),
    }
}

/// Does the same for a message that may end with the key `meta`.
pub(super) fn usual_extended(text: &str) -> Option<Envelope<'_>> {
    let rest = text.strip_prefix("{\"message_id\":")?;
    match rest.strip_prefix(' ') {
        Some(rest) => laid_out::<true, true>(rest),
        None => laid_out::<false, true>(rest),
    }
}

/// Steps over the punctuation and the key before a field's value, or gives up.
macro_rules! step {
    ($rest:ident, $before:literal, $key:literal, $after:literal) => {
        let spaced = concat!($before, ", \"", $key, "\": ", $after);
        let compact = concat!($before, ",\"", $key, "\":", $after);
        let $rest = $rest.strip_prefix(if SPACED { spaced } else { compact })?;
    };
}

/// Reads on behind the first key. `SPACED`: a blank follows every colon and comma. `META`: the key
/// `meta` may come last.
#[inline]
fn laid_out<const SPACED: bool, const META: bool>(rest: &str) -> Option<Envelope<'_>> {
    let rest = rest.strip_prefix('"')?;
    let (message_id, rest) = id(rest)?;
    step!(rest, "\"", "app_id", "\"");
    let (app_id, rest) = id(rest)?;
    step!(rest, "\"", "channel_id", "\"");
    let (channel_id, rest) = id(rest)?;
    step!(rest, "\"", "message_type", "\"");
    let (message_type, rest) = message_type(rest)?;
    step!(rest, "\"", "payload", "");
    let (payload, rest) = scanner::split_value(rest, 1)?;
    step!(rest, "", "timestamp", "");
    let (timestamp, rest) = scanner::split_number(rest)?;
    let mut meta = None;
    let reply_to = if rest == "}" {
        None
    } else {
        step!(rest, "", "reply_to", "");
        match rest.strip_prefix('"') {
            Some(rest) => {
                let (reply_to, rest) = id(rest)?;
                if rest != "\"}" {
                    if !META {
                        return None;
                    }
                    meta = Some(last_meta::<SPACED>(rest.strip_prefix('"')?)?);
                }
                Some(reply_to)
            }
            None if rest == "null}" => None,
            None if META => {
                meta = Some(last_meta::<SPACED>(rest.strip_prefix("null")?)?);
                None
            }
            None => return None,
        }
    };
    let is_sound =
        timestamp.len() <= TIMESTAMP_BYTES_MAX && !app_id.is_empty() && !channel_id.is_empty();
    is_sound.then_some(Envelope {
        message_id,
        app_id,
        channel_id,
        message_type,
        payload,
        timestamp,
        reply_to: reply_to.filter(|id| !id.is_empty()),
        meta,
    })
}

/// Reads the key `meta`, behind which the message ends.
fn last_meta<const SPACED: bool>(rest: &str) -> Option<MetaText<'_>> {
    step!(rest, "", "meta", "");
    if let Some((numbers, "}")) = meta::usual(rest) {
        return rest.strip_suffix('}').map(|text| MetaText::with(text, numbers));
    }
    let (meta, rest) = scanner::split_value(rest, 1)?;
    (rest == "}").then(|| MetaText::new(meta))
}

/// Cuts off an id without escapes. What is left begins with its closing quote, if it is one.
#[inline]
fn id(text: &str) -> Option<(JsonStr<'_>, &str)> {
    let length = scanner::plain_bytes(text.as_bytes());
    let (id, rest) = text.split_at_checked(length)?;
    (length <= ID_BYTES_MAX).then(|| (JsonStr::new(id, false), rest))
}

#[inline]
fn message_type(text: &str) -> Option<(MessageType, &str)> {
    let cut = |each: MessageType| Some((each, text.strip_prefix(each.as_str())?));
    MessageType::ALL.into_iter().find_map(cut)
}
