//! Publications with their place in a history, for subscribers that can ask for what comes after it.

use super::buffer_pool::BufferPool;
use super::frame::HEADER_BYTES;
use super::meta::Position;
use super::out_frame::OutFrame;

/// What a place adds to a frame at most: the punctuation, and an offset of up to 20 digits.
const PLACE_BYTES_MAX: usize = ",\"meta\":{\"epoch\":\"\",\"offset\":}".len() + 20;

/// The most bytes of an epoch that the server makes.
const OWN_EPOCH_BYTES_MAX: usize = 12;
/// What a place of the server's own adds to a frame at most.
pub(crate) const OWN_PLACE_BYTES_MAX: usize = OWN_EPOCH_BYTES_MAX + PLACE_BYTES_MAX;
const BEFORE_EPOCH: &[u8] = b",\"meta\":{\"epoch\":\"";
const BEFORE_OFFSET: &[u8] = b"\",\"offset\":";
const EPOCH_AT: usize = BEFORE_EPOCH.len();
const BEHIND_EPOCH: usize = EPOCH_AT + OWN_EPOCH_BYTES_MAX;
const OFFSET_AT: usize = BEHIND_EPOCH + BEFORE_OFFSET.len();
const BEHIND_OFFSET: &[u8] = b"}}";
const TAIL_BYTES_MAX: usize = OFFSET_AT + 20 + BEHIND_OFFSET.len();

/// The end of a publication without a `meta` of its own that has a place in a history. It is written
/// once, for the history and for the subscribers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    bytes: [u8; TAIL_BYTES_MAX],
    len: u8,
}

impl Tail {
    /// An epoch is as long as those that the server makes.
    pub(crate) fn new(epoch: [u8; OWN_EPOCH_BYTES_MAX], offset: u64) -> Self {
        let mut bytes = [0; TAIL_BYTES_MAX];
        bytes[..EPOCH_AT].copy_from_slice(BEFORE_EPOCH);
        bytes[EPOCH_AT..BEHIND_EPOCH].copy_from_slice(&epoch);
        bytes[BEHIND_EPOCH..OFFSET_AT].copy_from_slice(BEFORE_OFFSET);
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(offset).as_bytes();
        let end = OFFSET_AT + digits.len();
        bytes[OFFSET_AT..end].copy_from_slice(digits);
        bytes[end..end + BEHIND_OFFSET.len()].copy_from_slice(BEHIND_OFFSET);
        Self { bytes, len: (end + BEHIND_OFFSET.len()) as u8 }
    }

    /// Goes on to the end of the next publication, which has this offset.
    #[inline]
    pub(crate) fn advance(&mut self, offset: u64) {
        let digit = self.bytes.get_mut(usize::from(self.len) - BEHIND_OFFSET.len() - 1);
        if let Some(digit @ b'0'..=b'8') = digit {
            *digit += 1;
        } else {
            self.begin_anew(offset);
        }
    }

    #[inline(never)]
    fn begin_anew(&mut self, offset: u64) {
        *self = Self::new(self.epoch(), offset);
    }

    /// Returns the epoch.
    #[inline]
    pub(crate) fn epoch(&self) -> [u8; OWN_EPOCH_BYTES_MAX] {
        let mut epoch = [0; OWN_EPOCH_BYTES_MAX];
        epoch.copy_from_slice(&self.bytes[EPOCH_AT..BEHIND_EPOCH]);
        epoch
    }

    /// Returns the bytes of the frame of a publication whose body was opened.
    #[inline]
    pub(crate) fn frame_bytes(&self, open: Open<'_>) -> usize {
        HEADER_BYTES + open.0.len() + usize::from(self.len)
    }

    /// Appends that frame. A buffer with room for [`Open::room`] does not grow.
    #[inline]
    pub(crate) fn append_to(&self, out: &mut Vec<u8>, open: Open<'_>) {
        let body_bytes = open.0.len() + usize::from(self.len);
        let end = out.len() + HEADER_BYTES + body_bytes;
        out.extend_from_slice(&(body_bytes as u32).to_be_bytes());
        out.extend_from_slice(open.0);
        // A copy of a length that the compiler knows is a few moves.
        out.extend_from_slice(&self.bytes);
        out.truncate(end);
    }
}

/// A body without its last brace, behind which its place is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open<'a>(&'a [u8]);

impl<'a> Open<'a> {
    #[inline]
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self(&body[..end_of(body)])
    }

    /// Returns the bytes that a buffer needs so that the frame can be appended to it.
    #[inline]
    pub(crate) fn room(self) -> usize {
        HEADER_BYTES + self.0.len() + TAIL_BYTES_MAX
    }
}

/// Returns the length of a body without its last brace. It is a JSON object, so that it ends with a brace
/// and blanks.
#[inline]
fn end_of(body: &[u8]) -> usize {
    match body {
        [.., b'}'] => body.len() - 1,
        _ => body.iter().rposition(|byte| *byte == b'}').unwrap_or(0),
    }
}

impl Position<'_> {
    /// Returns the bytes that a frame with this body has at most.
    #[inline]
    pub(crate) fn frame_bytes_max(self, body: &[u8]) -> usize {
        HEADER_BYTES + body.len() + self.epoch.len() + PLACE_BYTES_MAX
    }

    /// Appends the frame of a publication that came with this body and has no attachments. `meta` is
    /// its `meta` as it stands in the body.
    #[inline]
    pub(crate) fn append_to(self, out: &mut Vec<u8>, body: &[u8], meta: Option<&str>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let behind = match meta {
            None => {
                out.extend_from_slice(&body[..end_of(body)]);
                out.extend_from_slice(BEFORE_EPOCH);
                &b"}}"[..]
            }
            Some(meta) => Self::begin_within(out, body, meta),
        };
        out.extend_from_slice(self.epoch.as_bytes());
        out.extend_from_slice(BEFORE_OFFSET);
        out.extend_from_slice(itoa::Buffer::new().format(self.offset).as_bytes());
        out.extend_from_slice(behind);
        let body_bytes = out.len() - start - HEADER_BYTES;
        out[start..start + HEADER_BYTES].copy_from_slice(&(body_bytes as u32).to_be_bytes());
    }

    /// Returns that frame, unless its body is over the limit.
    pub(crate) fn frame(
        self,
        body: &[u8],
        meta: Option<&str>,
        body_bytes_max: usize,
        pool: &mut BufferPool,
    ) -> Option<OutFrame<'static>> {
        let mut buffer = pool.take(self.frame_bytes_max(body));
        self.append_to(&mut buffer, body, meta);
        if buffer.len() - HEADER_BYTES > body_bytes_max {
            pool.give(buffer);
            return None;
        }
        Some(OutFrame::shared(pool.share(buffer)))
    }

    /// Appends what stands before the place in a `meta` that has other members. Returns what stands
    /// behind it.
    #[cold]
    fn begin_within<'b>(out: &mut Vec<u8>, body: &'b [u8], meta: &str) -> &'b [u8] {
        let members = meta.trim_end().strip_suffix('}').unwrap_or(meta);
        let at = meta.as_ptr().addr().saturating_sub(body.as_ptr().addr()) + members.len();
        let (before, behind) = body.split_at_checked(at).unwrap_or((body, b""));
        out.extend_from_slice(before);
        let is_first = members.trim_start_matches('{').trim_start().is_empty();
        out.extend_from_slice(if is_first { b"\"epoch\":\"" } else { b",\"epoch\":\"" });
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Envelope;

    fn placed(body: &str) -> String {
        let envelope = Envelope::parse_extended(body.as_bytes()).unwrap();
        let place = Position { epoch: "e7", offset: 1_234 };
        let mut out = b"before".to_vec();
        place.append_to(&mut out, body.as_bytes(), envelope.meta_str());
        let frame = &out[b"before".len()..];
        assert!(frame.len() <= place.frame_bytes_max(body.as_bytes()));
        let (length, text) = frame.split_first_chunk().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, text.len());
        let text = str::from_utf8(text).unwrap();
        serde_json::from_str::<serde_json::Value>(text).unwrap();
        text.to_owned()
    }

    #[test]
    fn the_end_is_written_as_the_place_is() {
        for body in [r#"{"payload":1}"#, "{\"payload\":{}} \n "] {
            for offset in [1, 9, 10, 12_345, u64::MAX] {
                let (mut expected, mut out) = (Vec::new(), b"before".to_vec());
                Position { epoch: "0123456789ab", offset }.append_to(
                    &mut expected,
                    body.as_bytes(),
                    None,
                );
                let mut tail = Tail::new(*b"0123456789ab", offset - 1);
                tail.advance(offset);
                let open = Open::new(body.as_bytes());
                tail.append_to(&mut out, open);
                assert_eq!(&out[b"before".len()..], expected);
                assert_eq!(tail.frame_bytes(open), expected.len());
                assert!(open.room() >= expected.len());
            }
        }
    }

    #[test]
    fn the_place_stands_in_the_meta() {
        let whole = concat!(
            r#"{"message_id":"1","app_id":"a","channel_id":"c","message_type":"publish","#,
            r#""payload":{"meta":{}},"timestamp":1,"reply_to":null"#,
        );
        for (end, expected) in [
            ("}", r#","meta":{"epoch":"e7","offset":1234}}"#),
            (r#","meta":{}}"#, r#","meta":{"epoch":"e7","offset":1234}}"#),
            (r#","meta":{ }}"#, r#","meta":{ "epoch":"e7","offset":1234}}"#),
            (
                r#","meta":{"headers":{"a":"}"}}}"#,
                r#","meta":{"headers":{"a":"}"},"epoch":"e7","offset":1234}}"#,
            ),
        ] {
            assert_eq!(placed(&format!("{whole}{end}")), format!("{whole}{expected}"));
        }
        let first = whole.replacen('{', r#"{"meta":{"headers":{}},"#, 1);
        let expected = first.replacen("{}}", r#"{},"epoch":"e7","offset":1234}"#, 1);
        assert_eq!(placed(&format!("{first}}}")), format!("{expected}}}"));
        let blank = format!("{whole}}} \n ");
        assert_eq!(
            placed(&blank),
            format!("{whole},\"meta\":{{\"epoch\":\"e7\",\"offset\":1234}}}}")
        );
    }
}
