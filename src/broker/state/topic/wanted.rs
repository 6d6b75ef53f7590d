//! What a subscribe or unsubscribe asks for.

use crate::broker::state::refusal::{self, Refusal};
use crate::proto::{EPOCH_BYTES_MAX, Member, Position, epoch_of, members, number, only_member};

/// The payload of a subscribe or unsubscribe. Without the extension `topic`, all but `ack` is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    /// The peer wants an answer.
    pub(crate) ack: bool,
    /// The channel is a pattern.
    pub(crate) pattern: bool,
    /// The peer wants the newest so many publications first.
    pub(crate) last: Option<u32>,
    /// The peer wants all publications behind this one first.
    pub(crate) since: Option<Position<'a>>,
    /// While the peer reads too slowly, it wants the newest publication of each channel alone.
    pub(crate) conflate: bool,
}

/// The most publications that a peer may ask for.
const LAST_MAX: u32 = 1 << 31;

impl<'a> Wanted<'a> {
    /// What a peer without the extension `topic` can ask for.
    #[inline]
    pub(crate) fn plain(ack: bool) -> Self {
        Self { ack, pattern: false, last: None, since: None, conflate: false }
    }

    /// Reads the rest of the payload of a peer with the extension `topic`.
    #[cold]
    pub(crate) fn with_topic(self, payload: &'a str) -> Result<Self, Refusal> {
        let last = member(payload, "last")?.map(|text| {
            let last = number(text).filter(|last| (1..=LAST_MAX.into()).contains(last));
            last.map(|last| last as u32).ok_or_else(|| {
                refusal::topic::wanted_invalid(
                    "last",
                    "a number of publications from 1 to 2147483648",
                )
            })
        });
        let since = member(payload, "since")?.map(|text| {
            position(text).ok_or_else(|| {
                let expected = format!(
                    "{{\"epoch\": \"<1 to {EPOCH_BYTES_MAX} letters, digits, - and _>\", \"offset\": \
                     <a number in digits alone>}}"
                );
                refusal::topic::wanted_invalid("since", &expected)
            })
        });
        let wanted = Self {
            pattern: boolean(payload, "pattern")?,
            last: last.transpose()?,
            since: since.transpose()?,
            conflate: boolean(payload, "conflate")?,
            ..self
        };
        if wanted.pattern && wanted.since.is_some() {
            return Err(refusal::topic::since_with_pattern());
        }
        Ok(wanted)
    }

    /// Returns whether it asks for publications of the past, so that it gets an answer in any case.
    pub(crate) fn asks_for_past(&self) -> bool {
        self.last.is_some() || self.since.is_some()
    }
}

/// Reads what each peer may say, which only subscribes itself: its own id is `own`. Returns whether it
/// wants an answer.
#[inline]
pub(crate) fn wants_answer(payload: &str, own: Option<&str>) -> Result<bool, Refusal> {
    match members(payload, ["connection_id", "ack"]) {
        // Without an id, the message means its own connection.
        Some([Member::Absent, ack]) => Ok(ack == Member::True),
        Some([Member::String(id), ack]) if own.is_some_and(|own| id.matches(own)) => {
            Ok(ack == Member::True)
        }
        Some([Member::String(_), _]) => Err(refusal::subscribes_another()),
        _ => Err(refusal::subscription_payload()),
    }
}

fn member<'a>(payload: &'a str, name: &str) -> Result<Option<&'a str>, Refusal> {
    only_member(payload, name).map_err(|_| refusal::topic::wanted_invalid(name, "it once"))
}

fn boolean(payload: &str, name: &str) -> Result<bool, Refusal> {
    match member(payload, name)? {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(refusal::topic::wanted_invalid(name, "true, or nothing")),
    }
}

fn position(text: &str) -> Option<Position<'_>> {
    let epoch = only_member(text, "epoch").ok().flatten().and_then(epoch_of)?;
    let offset = only_member(text, "offset").ok().flatten().and_then(number)?;
    Some(Position { epoch, offset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ErrorCode;

    fn read(payload: &str) -> Result<Wanted<'_>, ErrorCode> {
        let ack = wants_answer(payload, Some("me")).map_err(|why| why.code)?;
        Wanted::plain(ack).with_topic(payload).map_err(|why| why.code)
    }

    #[test]
    fn each_member_is_read() {
        let text = r#"{"connection_id":"me","ack":true,"pattern":false,"last":3,
            "since":{"offset":0,"epoch":"a-1"},"conflate":true,"more":{"last":0}}"#;
        let since = Some(Position { epoch: "a-1", offset: 0 });
        let all = Wanted { ack: true, pattern: false, last: Some(3), since, conflate: true };
        assert_eq!(read(text), Ok(all));
        assert!(all.asks_for_past());
        assert_eq!(read("{}"), Ok(Wanted::default()));
        let pattern = Wanted { pattern: true, last: Some(1), ..Wanted::default() };
        assert_eq!(read(r#"{"pattern":true,"last":1}"#), Ok(pattern));
    }

    #[test]
    fn what_is_not_usable_is_refused() {
        for text in [
            "[]",
            "null",
            r#"{"connection_id":1}"#,
            r#"{"pattern":1}"#,
            r#"{"pattern":true,"pattern":true}"#,
            r#"{"conflate":"true"}"#,
            r#"{"last":0}"#,
            r#"{"last":-1}"#,
            r#"{"last":1.0}"#,
            r#"{"last":2147483649}"#,
            r#"{"last":null}"#,
            r#"{"since":1}"#,
            r#"{"since":{"epoch":"a"}}"#,
            r#"{"since":{"offset":1}}"#,
            r#"{"since":{"epoch":"","offset":1}}"#,
            r#"{"since":{"epoch":"a","offset":-1}}"#,
            r#"{"since":{"epoch":"a","offset":99999999999999999999}}"#,
            r#"{"since":{"epoch":"a","epoch":"a","offset":1}}"#,
            r#"{"pattern":true,"since":{"epoch":"a","offset":1}}"#,
        ] {
            assert_eq!(read(text), Err(ErrorCode::BadMessage), "{text}");
        }
        assert_eq!(read(r#"{"connection_id":"other"}"#), Err(ErrorCode::Forbidden));
    }
}
