//! Publications with their place in a history, for subscribers that can ask for what comes after it.

use super::buffer_pool::BufferPool;
use super::frame::HEADER_BYTES;
use super::meta::Position;
use super::out_frame::OutFrame;

/// What a place adds to a frame at most: the punctuation, and an offset of up to 20 digits.
const PLACE_BYTES_MAX: usize = ",\"meta\":{\"epoch\":\"\",\"offset\":}".len() + 20;

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
                // The body is a JSON object, so that it ends with a brace and blanks.
                let end = match body {
                    [.., b'}'] => body.len() - 1,
                    _ => body.iter().rposition(|byte| *byte == b'}').unwrap_or(0),
                };
                out.extend_from_slice(&body[..end]);
                out.extend_from_slice(b",\"meta\":{\"epoch\":\"");
                &b"}}"[..]
            }
            Some(meta) => Self::begin_within(out, body, meta),
        };
        out.extend_from_slice(self.epoch.as_bytes());
        out.extend_from_slice(b"\",\"offset\":");
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
