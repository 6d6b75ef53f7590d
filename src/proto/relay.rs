//! Messages that are passed on as they came, but for one id: nothing of them is written anew.

use super::envelope::Envelope;

impl Envelope<'_> {
    /// The bytes before and after the `message_id`, if this message says that it answers nothing. One
    /// that answers something, or leaves `reply_to` out, has to be encoded anew for a worker.
    #[inline]
    pub(crate) fn around_message_id<'a>(&self, body: &'a [u8]) -> Option<[&'a [u8]; 2]> {
        // A body that ends like this ends with the key itself: a longer key was refused.
        let answers_nothing = self.meta.is_none()
            && (body.ends_with(b"\"reply_to\":null}") || body.ends_with(b"\"reply_to\": null}"));
        if answers_nothing { around(body, self.message_id.raw()) } else { None }
    }

    /// Does the same for a message whose `meta` stands last and is passed on as it came.
    pub(crate) fn around_message_id_before_meta<'a>(
        &self,
        body: &'a [u8],
    ) -> Option<[&'a [u8]; 2]> {
        let [before, _] = self.without_meta(body)?;
        let answers_nothing =
            before.ends_with(b"\"reply_to\":null") || before.ends_with(b"\"reply_to\": null");
        if answers_nothing { around(body, self.message_id.raw()) } else { None }
    }

    /// The bytes before and after the `reply_to`, if this message answers something.
    #[inline]
    pub(crate) fn around_reply_to<'a>(&self, body: &'a [u8]) -> Option<[&'a [u8]; 2]> {
        around(body, self.reply_to?.raw())
    }

    /// Returns the body without its `meta` in two pieces, if that stands last, as clients write it. One
    /// with another layout has to be encoded anew, and so has one with attachments, whose lengths change.
    pub(crate) fn without_meta<'a>(&self, body: &'a [u8]) -> Option<[&'a [u8]; 2]> {
        if self.has_attachments() {
            return None;
        }
        let [before, behind] = around(body, self.meta_str()?)?;
        let before =
            before.strip_suffix(b",\"meta\":").or_else(|| before.strip_suffix(b", \"meta\": "))?;
        (behind == b"}").then_some([before, behind])
    }
}

/// The bytes before and after a part that lies in the body.
#[inline]
fn around<'a>(body: &'a [u8], part: &str) -> Option<[&'a [u8]; 2]> {
    let start = part.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
    let (before, rest) = body.split_at_checked(start)?;
    Some([before, rest.get(part.len()..)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(around: Option<[&[u8]; 2]>) -> Option<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        around.map(|[before, behind]| format!("{}longer{}", text(before), text(behind)))
    }

    fn body(reply_to: &str) -> String {
        format!(
            "{{\"message_id\":\"m\\u0031\",\"app_id\":\"a\",\"channel_id\":\"c\",\
             \"message_type\":\"response\",\"payload\":\"m\\u0031\",\"timestamp\":1{reply_to}}}"
        )
    }

    #[test]
    fn the_id_is_replaced_and_nothing_else() {
        for null in [",\"reply_to\":null", ", \"reply_to\": null"] {
            let text = body(null);
            let envelope = Envelope::parse(text.as_bytes()).unwrap();
            let found = replaced(envelope.around_message_id(text.as_bytes()));
            assert_eq!(found, Some(text.replacen("m\\u0031", "longer", 1)));
            assert_eq!(envelope.around_reply_to(text.as_bytes()), None);
        }
        let text = body(",\"reply_to\":\"r\"");
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        let found = replaced(envelope.around_reply_to(text.as_bytes()));
        assert_eq!(found, Some(text.replace("\"r\"", "\"longer\"")));
    }

    #[test]
    fn a_meta_is_cut_off_if_it_stands_last() {
        let whole = body(",\"reply_to\":null");
        for meta in [",\"meta\":{\"ttl\":5}", ", \"meta\": {}"] {
            let text = whole.replace("null}", &format!("null{meta}}}"));
            let envelope = Envelope::parse_extended(text.as_bytes()).unwrap();
            let pieces = envelope.without_meta(text.as_bytes()).unwrap();
            assert_eq!(pieces.concat(), whole.as_bytes());
            assert_eq!(envelope.around_message_id(text.as_bytes()), None);
            let found = replaced(envelope.around_message_id_before_meta(text.as_bytes()));
            assert_eq!(found, Some(text.replacen("m\\u0031", "longer", 1)));
        }
        for (from, to) in [("{\"me", "{\"meta\":{},\"me"), ("null}", "null,\"m\\u0065ta\":{}}")] {
            let text = whole.replacen(from, to, 1);
            let envelope = Envelope::parse_extended(text.as_bytes()).unwrap();
            assert!(envelope.meta().is_some(), "{text}");
            assert_eq!(envelope.without_meta(text.as_bytes()), None, "{text}");
            assert_eq!(envelope.around_message_id(text.as_bytes()), None, "{text}");
        }
        let envelope = Envelope::parse_extended(whole.as_bytes()).unwrap();
        assert_eq!(envelope.without_meta(whole.as_bytes()), None);
    }

    #[test]
    fn what_says_nothing_of_an_answer_or_names_one_is_written_anew() {
        let moved = body("").replace("{\"message", "{\"reply_to\":null,\"message");
        for text in [body(""), body(",\"reply_to\":\"r\""), body(",\"reply_to\":\"\""), moved] {
            let envelope = Envelope::parse(text.as_bytes()).unwrap();
            assert_eq!(envelope.around_message_id(text.as_bytes()), None, "{text}");
            let text = format!("{},\"meta\":{{\"ttl\":5}}}}", &text[..text.len() - 1]);
            let envelope = Envelope::parse_extended(text.as_bytes()).unwrap();
            assert!(envelope.without_meta(text.as_bytes()).is_some(), "{text}");
            assert_eq!(envelope.around_message_id_before_meta(text.as_bytes()), None, "{text}");
        }
    }
}
