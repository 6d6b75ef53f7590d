//! The key `meta` of messages between peers that negotiated an extension.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::extensions::Extensions;
use super::fault::Fault;
use super::json_str::JsonStr;
use super::limits::{BIN_BYTES_MAX, META_BYTES_MAX};
use super::message_type::MessageType;
use super::scanner::{Scanner, Stop};

/// The most parts that a requester may allow at a time, and the most that it may add at once.
pub const CREDIT_MAX: u32 = 65_536;

/// The longest `ttl`: 2^31 ms, nearly 25 days.
const TTL_MILLIS_MAX: u32 = 1 << 31;

/// What stands in the `meta` of a message, borrowed from its frame.
///
/// ```
/// use ipc_framework::proto::Meta;
///
/// let meta = Meta::parse(r#"{"stream":8,"ttl":1500}"#).unwrap();
/// assert_eq!((meta.stream, meta.ttl_millis), (Some(8), Some(1_500)));
/// let mut text = Vec::new();
/// meta.append_to(&mut text);
/// assert_eq!(text, br#"{"stream":8,"ttl":1500}"#);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta<'a> {
    /// `ttl` of a request: the milliseconds until its requester gives up, from 1 to 2^31.
    pub ttl_millis: Option<u32>,
    /// `idempotent` of a request: it may be executed twice.
    pub idempotent: bool,
    /// `stream` of a request: the number of parts that its requester takes at first, from 1 to
    /// [`CREDIT_MAX`].
    pub stream: Option<u32>,
    /// `seq` of a response: the number of a part, from 0.
    pub seq: Option<u64>,
    /// `end` of a response: it ends a stream and is no part.
    pub end: bool,
    /// `trace`, as JSON text: an object that may have the strings `traceparent` and `tracestate`.
    pub trace: Option<&'a str>,
    /// `headers`, as JSON text: an object of strings.
    pub headers: Option<&'a str>,
    /// `bin` of a message with attachments, as JSON text: what they are. Here it is any value;
    /// [`Envelope::attachments`](super::Envelope::attachments) checks it.
    pub bin: Option<&'a str>,
}

/// The text of a `meta`, with what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MetaText<'a> {
    pub(super) text: &'a str,
    known: Known<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Known<'a> {
    Nothing,
    /// All that it says was read together with the message.
    All(Numbers),
    /// The message has attachments, and this follows its JSON and the zeros. `None`: those are wrong.
    Tail(Option<&'a [u8]>),
}

/// The members of a [`Meta`] that are neither `trace` nor `headers`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    ttl_millis: Option<u32>,
    stream: Option<u32>,
    seq: Option<u64>,
    idempotent: bool,
    end: bool,
}

impl<'a> MetaText<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, known: Known::Nothing }
    }

    pub(super) fn with(text: &'a str, numbers: Numbers) -> Self {
        Self { text, known: Known::All(numbers) }
    }

    /// The `meta` of a message with attachments.
    pub(super) fn of_attachments(text: &'a str, tail: Option<&'a [u8]>) -> Self {
        Self { text, known: Known::Tail(tail) }
    }

    /// What follows the JSON of the message and the zeros, if that has attachments. The inner `None`:
    /// the zeros are wrong.
    #[inline]
    #[expect(clippy::option_option, reason = "the outer one is whether there are attachments")]
    pub(super) fn tail(&self) -> Option<Option<&'a [u8]>> {
        match self.known {
            Known::Tail(tail) => Some(tail),
            _ => None,
        }
    }

    /// All that it says, if that was read together with the message.
    #[inline]
    pub(super) fn numbers(&self) -> Option<Meta<'a>> {
        match self.known {
            Known::All(numbers) => Some(numbers.into()),
            _ => None,
        }
    }
}

/// It is read or not, depending on the layout of the message around it.
impl PartialEq for MetaText<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.tail() == other.tail()
    }
}

impl Eq for MetaText<'_> {}

impl From<Numbers> for Meta<'_> {
    #[inline]
    fn from(numbers: Numbers) -> Self {
        let Numbers { ttl_millis, stream, seq, idempotent, end } = numbers;
        Self { ttl_millis, idempotent, stream, seq, end, ..Meta::default() }
    }
}

impl<'a> Meta<'a> {
    /// Reads the value of the key `meta`, which a server does of what peers send.
    ///
    /// # Errors
    /// If it is no object or longer than [`META_BYTES_MAX`], or if a member is unknown, given twice
    /// or has an unusable value.
    pub fn parse(text: &'a str) -> Result<Self, Fault> {
        Self::read(text, true)
    }

    /// Does the same, but ignores unknown members, as a client does, whose server may be newer.
    ///
    /// # Errors
    /// The same as those of [`Meta::parse`], but for unknown members.
    pub fn parse_known(text: &'a str) -> Result<Self, Fault> {
        Self::read(text, false)
    }

    fn read(text: &'a str, is_strict: bool) -> Result<Self, Fault> {
        if let Some((numbers, "")) = usual(text) {
            return Ok(numbers.into());
        }
        if text.len() > META_BYTES_MAX + BIN_BYTES_MAX {
            return Err(Fault::MetaTooLong);
        }
        let mut meta = Self::default();
        let mut seen = [false; KEYS.len()];
        let read = each_member(text, |key, value| {
            let Some(at) = KEYS.iter().position(|known| key.matches(known)) else {
                return if is_strict { Err(UNKNOWN) } else { Ok(()) };
            };
            if std::mem::replace(&mut seen[at], true) {
                return Err(bad(KEYS[at], "each member once"));
            }
            meta.take(KEYS[at], value)
        });
        read.ok_or(NOT_AN_OBJECT)??;
        if text.len() - meta.bin.map_or(0, str::len) > META_BYTES_MAX {
            return Err(Fault::MetaTooLong);
        }
        if meta.end && meta.seq.is_none() {
            return Err(bad("end", "it together with seq, the number of parts before it"));
        }
        Ok(meta)
    }

    fn take(&mut self, key: &'static str, value: &'a str) -> Result<(), Fault> {
        match key {
            "ttl" => {
                let ttl = number(value).filter(|ttl| (1..=TTL_MILLIS_MAX.into()).contains(ttl));
                let expected = "milliseconds from 1 to 2147483648, in digits alone";
                self.ttl_millis = Some(ttl.ok_or(bad(key, expected))? as u32);
            }
            "stream" => self.stream = Some(credit(value).ok_or(bad(key, CREDIT))?),
            "seq" => {
                let expected = "the number of the part, from 0, in digits alone";
                self.seq = Some(number(value).ok_or(bad(key, expected))?);
            }
            "idempotent" => self.idempotent = boolean(key, value)?,
            "end" => self.end = boolean(key, value)?,
            "trace" => {
                check_strings(value, |key| TRACE.contains(&key)).ok_or(bad(
                    key,
                    "an object of traceparent and tracestate, each a string and given once",
                ))?;
                self.trace = Some(value);
            }
            "bin" => self.bin = Some(value),
            _ => {
                let expected = "an object of strings, each given once";
                check_strings(value, |_key| true).ok_or(bad(key, expected))?;
                self.headers = Some(value);
            }
        }
        Ok(())
    }

    /// Checks that all that is in it belongs to a message of this type.
    ///
    /// # Errors
    /// If something does not.
    pub fn check_on(&self, message_type: MessageType) -> Result<(), Fault> {
        let is = |other: MessageType| message_type == other;
        if !is(MessageType::Request) {
            let expected = "it in requests alone";
            if self.ttl_millis.is_some() {
                return Err(bad("ttl", expected));
            }
            if self.idempotent {
                return Err(bad("idempotent", expected));
            }
            if self.stream.is_some() {
                return Err(bad("stream", expected));
            }
        }
        if !is(MessageType::Response) && self.seq.is_some() {
            return Err(bad("seq", "it in responses alone"));
        }
        Ok(())
    }

    /// Returns the members that a peer with these extensions knows, but for `bin` of a message that it
    /// gets without attachments.
    #[must_use]
    pub fn of_extensions(&self, extensions: Extensions) -> Self {
        let mut known = Self { trace: self.trace, headers: self.headers, ..Self::default() };
        if extensions.is_empty() {
            return Self::default();
        }
        if extensions.contains(Extensions::BINARY) {
            known.bin = self.bin;
        }
        if extensions.contains(Extensions::CALL) {
            return Self { bin: known.bin, ..*self };
        }
        known
    }

    /// Checks that a peer with these extensions may send all that is in it.
    ///
    /// # Errors
    /// If it may not.
    pub fn check_extensions(&self, extensions: Extensions) -> Result<(), Fault> {
        let known = self.of_extensions(extensions);
        let expected = "it after asking for the extension call in the connect";
        let of_call = [
            ("ttl", self.ttl_millis != known.ttl_millis),
            ("idempotent", self.idempotent != known.idempotent),
            ("stream", self.stream != known.stream),
            ("seq", self.seq != known.seq),
        ];
        let unknown = of_call.into_iter().find(|(_, is_unknown)| *is_unknown);
        unknown.map_or(Ok(()), |(key, _)| Err(bad(key, expected)))
    }

    /// Returns whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Appends it as JSON text. The `ttl`, which changes on the way to a worker, stands last.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut member = |key: &str, value: &str| {
            out.extend_from_slice(if out.len() == start { b"{\"" } else { b",\"" });
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(value.as_bytes());
        };
        let mut digits = itoa::Buffer::new();
        if let Some(credit) = self.stream {
            member("stream", digits.format(credit));
        }
        if let Some(seq) = self.seq {
            member("seq", digits.format(seq));
        }
        if self.end {
            member("end", "true");
        }
        if self.idempotent {
            member("idempotent", "true");
        }
        if let Some(trace) = self.trace {
            member("trace", trace);
        }
        if let Some(headers) = self.headers {
            member("headers", headers);
        }
        if let Some(bin) = self.bin {
            member("bin", bin);
        }
        if let Some(ttl_millis) = self.ttl_millis {
            member("ttl", digits.format(ttl_millis));
        }
        out.extend_from_slice(if out.len() == start { b"{}" } else { b"}" });
    }
}

/// The members that are known.
const KEYS: [&str; 8] = ["ttl", "idempotent", "stream", "seq", "end", "trace", "headers", "bin"];
/// The members of `trace`, by W3C Trace Context.
const TRACE: [&str; 2] = ["traceparent", "tracestate"];

const CREDIT: &str = "a number of parts from 1 to 65536, in digits alone";
const NOT_AN_OBJECT: Fault = bad("the value", "an object");
const UNKNOWN: Fault = bad(
    "an unknown member",
    "ttl, idempotent, stream, seq, end, trace, headers and bin alone, and what is yours in headers",
);

const fn bad(key: &'static str, expected: &'static str) -> Fault {
    Fault::Meta { key, expected }
}

/// Reads a `meta` as clients write most of them: numbers and `true` alone, with nothing but
/// punctuation around them, or with one blank behind it. Returns what follows. `None`: it has another
/// layout, or a fault.
pub(super) fn usual(text: &str) -> Option<(Numbers, &str)> {
    let mut meta = Numbers::default();
    let mut rest = text.strip_prefix('{')?;
    loop {
        let is_new;
        if let Some(behind) = rest.strip_prefix("\"ttl\":") {
            let (millis, behind) = leading_number(behind)?;
            let is_usable = (1..=TTL_MILLIS_MAX.into()).contains(&millis);
            is_new = is_usable && meta.ttl_millis.replace(millis as u32).is_none();
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("\"seq\":") {
            let (seq, behind) = leading_number(behind)?;
            is_new = meta.seq.replace(seq).is_none();
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("\"stream\":") {
            let (parts, behind) = leading_number(behind)?;
            let is_usable = (1..=CREDIT_MAX.into()).contains(&parts);
            is_new = is_usable && meta.stream.replace(parts as u32).is_none();
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("\"end\":") {
            // The number stands before it, as clients write them.
            is_new = meta.seq.is_some() && !std::mem::replace(&mut meta.end, true);
            rest = behind.strip_prefix(' ').unwrap_or(behind).strip_prefix("true")?;
        } else {
            let behind = rest.strip_prefix("\"idempotent\":")?;
            is_new = !std::mem::replace(&mut meta.idempotent, true);
            rest = behind.strip_prefix(' ').unwrap_or(behind).strip_prefix("true")?;
        }
        if !is_new {
            return None;
        }
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((meta, behind));
        }
        let behind = rest.strip_prefix(',')?;
        rest = behind.strip_prefix(' ').unwrap_or(behind);
    }
}

/// Cuts off an integer of up to 18 digits, with one blank or none before it. JSON writes none with a
/// leading zero.
#[inline]
fn leading_number(text: &str) -> Option<(u64, &str)> {
    const DIGITS_MAX: usize = 18;
    let text = text.strip_prefix(' ').unwrap_or(text);
    let (mut number, mut digits) = (0, 0);
    for byte in text.bytes() {
        if !byte.is_ascii_digit() {
            break;
        }
        if digits == DIGITS_MAX || (digits == 1 && number == 0) {
            return None;
        }
        number = number * 10 + u64::from(byte - b'0');
        digits += 1;
    }
    if digits == 0 {
        return None;
    }
    text.get(digits..).map(|rest| (number, rest))
}

/// Returns a number of parts that a requester allows.
pub(crate) fn credit(text: &str) -> Option<u32> {
    let credit = number(text).filter(|credit| (1..=CREDIT_MAX.into()).contains(credit));
    credit.map(|credit| credit as u32)
}

/// Returns an integer that is written in digits alone.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn boolean(key: &'static str, text: &str) -> Result<bool, Fault> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(bad(key, "true, or nothing")),
    }
}

/// Checks that a valid document is an object of strings, whose names are all different and known.
fn check_strings(text: &str, is_known: impl Fn(&str) -> bool) -> Option<()> {
    let mut names = BTreeSet::<Cow<'_, str>>::new();
    each_member(text, |key, value| {
        let name = key.decoded_len().map(|_len| key.decode()).filter(|name| is_known(name));
        let is_new = name.is_some_and(|name| names.insert(name));
        if is_new && is_whole_string(value) { Ok(()) } else { Err(()) }
    })?
    .ok()
}

/// Returns whether a value is a string of whole characters.
fn is_whole_string(value: &str) -> bool {
    let mut scanner = Scanner::new(value);
    scanner.peek() == Some(b'"')
        && scanner.string().is_ok_and(|string| string.decoded_len().is_some())
}

/// Calls a function for each member of a valid document, until it fails. `None`: it is no object.
fn each_member<'a, E>(
    text: &'a str,
    mut each: impl FnMut(JsonStr<'a>, &'a str) -> Result<(), E>,
) -> Option<Result<(), E>> {
    let mut scanner = Scanner::new(text);
    if scanner.peek() != Some(b'{') {
        return None;
    }
    scanner.bump();
    // The text is valid, so that the loop ends at the closing brace at the latest.
    while scanner.peek() != Some(b'}') {
        let Ok((key, value)) = member(&mut scanner) else { break };
        if let Err(error) = each(key, value) {
            return Some(Err(error));
        }
        if scanner.peek() == Some(b',') {
            scanner.bump();
        }
    }
    Some(Ok(()))
}

fn member<'a>(scanner: &mut Scanner<'a>) -> Result<(JsonStr<'a>, &'a str), Stop> {
    Ok((scanner.key()?, scanner.value(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> &'static str {
        match Meta::parse(text) {
            Err(Fault::Meta { key, .. }) => key,
            other => panic!("{other:?} of {text}"),
        }
    }

    #[test]
    fn every_member_is_read_and_written() {
        let text = concat!(
            r#"{"stream":65536,"seq":7,"end":true,"idempotent":true,"#,
            r#""trace":{"traceparent":"00-a"},"headers":{"a":"b","\u0062":""},"ttl":2147483648}"#,
        );
        let meta = Meta::parse(text).unwrap();
        assert_eq!((meta.stream, meta.seq, meta.end), (Some(65_536), Some(7), true));
        assert_eq!((meta.idempotent, meta.ttl_millis), (true, Some(1 << 31)));
        assert_eq!(meta.trace, Some(r#"{"traceparent":"00-a"}"#));
        assert_eq!(meta.headers, Some(r#"{"a":"b","\u0062":""}"#));
        let mut written = Vec::new();
        meta.append_to(&mut written);
        assert_eq!(written, text.as_bytes());
    }

    #[test]
    fn white_space_escapes_and_false_change_nothing() {
        let text = "{ \"\\u0074tl\" :\n5 , \"end\":false,\"idempotent\" : false}";
        let meta = Meta::parse(text).unwrap();
        assert_eq!(meta, Meta { ttl_millis: Some(5), ..Meta::default() });
        for text in ["{}", "{ }"] {
            let meta = Meta::parse(text).unwrap();
            assert!(meta.is_empty());
            let mut written = Vec::new();
            meta.append_to(&mut written);
            assert_eq!(written, b"{}");
        }
    }

    #[test]
    fn the_quick_way_reads_what_the_other_one_reads() {
        for text in [
            r#"{"ttl":60000}"#,
            r#"{"stream":65536,"ttl":2147483648}"#,
            r#"{"seq":0}"#,
            r#"{"seq": 123456789012345678, "end": true}"#,
            r#"{"idempotent": true, "ttl": 1}"#,
        ] {
            let (quick, rest) = usual(text).unwrap();
            // A blank in another place leaves it to the other way.
            let spaced = text.replace('{', "{ ");
            let slow = Meta::parse(&spaced).unwrap();
            assert_eq!((Meta::from(quick), rest), (slow, ""), "{text}");
        }
        for text in [
            "{}",
            r#"{"ttl":05}"#,
            r#"{"ttl":0}"#,
            r#"{"ttl":5,"ttl":5}"#,
            r#"{"ttl":5 }"#,
            r#"{"ttl":5,}"#,
            r#"{"ttl":}"#,
            r#"{"end":true,"seq":1}"#,
            r#"{"idempotent":false}"#,
            r#"{"seq":1234567890123456789}"#,
            r#"{"ttl":5"#,
            r#"{"trace":{}}"#,
        ] {
            assert!(usual(text).is_none(), "{text}");
        }
    }

    #[test]
    fn what_is_not_usable_is_refused_with_its_name() {
        for value in ["0", "-1", "1.0", "1e3", "2147483649", "\"5\"", "null", "1099511627776", "[]"]
        {
            assert_eq!(refused(&format!("{{\"ttl\":{value}}}")), "ttl", "{value}");
        }
        for value in ["0", "65537", "4294967297", "true", "99999999999999999999"] {
            assert_eq!(refused(&format!("{{\"stream\":{value}}}")), "stream", "{value}");
        }
        for value in ["-1", "0.0", "\"0\"", "18446744073709551616", "null"] {
            assert_eq!(refused(&format!("{{\"seq\":{value}}}")), "seq", "{value}");
        }
        for key in ["end", "idempotent"] {
            for value in ["1", "null", "\"true\"", "{}"] {
                assert_eq!(refused(&format!("{{\"seq\":1,\"{key}\":{value}}}")), key);
            }
        }
        assert_eq!(refused("{\"end\":true}"), "end");
        for (key, value) in [
            ("trace", "{\"traceparent\":1}"),
            ("trace", "{\"other\":\"x\"}"),
            ("trace", "{\"tracestate\":\"x\",\"trace\\u0073tate\":\"x\"}"),
            ("trace", "[]"),
            ("headers", "{\"a\":null}"),
            ("headers", "{\"a\":\"1\",\"b\":\"2\",\"\\u0061\":\"3\"}"),
            ("headers", "{\"a\":\"\\ud800\"}"),
            ("headers", "{\"\\ud800\":\"a\"}"),
            ("headers", "\"a\""),
        ] {
            assert_eq!(refused(&format!("{{\"{key}\":{value}}}")), key, "{value}");
        }
        assert_eq!(refused("{\"ttl\":5,\"\\u0074tl\":5}"), "ttl");
        for text in ["[]", "null", "5", "\"ttl\""] {
            assert_eq!(refused(text), "the value");
        }
    }

    #[test]
    fn an_unknown_member_is_refused_by_a_server_and_ignored_by_a_client() {
        for key in ["offset", "TTL", "ttl ", "", "BIN", "\\ud800"] {
            let text = format!("{{\"{key}\":{{\"ttl\":1}},\"ttl\":9}}");
            assert_eq!(refused(&text), "an unknown member");
            assert_eq!(Meta::parse_known(&text).unwrap().ttl_millis, Some(9), "{text}");
        }
    }

    #[test]
    fn four_kibibytes_are_enough_and_one_more_is_too_much() {
        let text =
            |bytes: usize| format!("{{\"headers\":{{\"a\":\"{}\"}}}}", "x".repeat(bytes - 20));
        assert_eq!(text(META_BYTES_MAX).len(), META_BYTES_MAX);
        assert!(Meta::parse(&text(META_BYTES_MAX)).is_ok());
        assert_eq!(Meta::parse(&text(META_BYTES_MAX + 1)), Err(Fault::MetaTooLong));
        let with_bin = |bytes: usize, bin: &str| text(bytes).replacen('{', bin, 1);
        let bin = format!("{{\"bin\":[{}0],", "0,".repeat(60 << 10));
        let of_key = "\"bin\":,".len();
        assert!(Meta::parse(&with_bin(META_BYTES_MAX - of_key, &bin)).is_ok());
        let over = with_bin(META_BYTES_MAX - of_key + 1, &bin);
        assert_eq!(Meta::parse(&over), Err(Fault::MetaTooLong));
        let bin = format!("{{\"bin\":\"{}\",", "x".repeat(META_BYTES_MAX + BIN_BYTES_MAX));
        assert_eq!(Meta::parse(&with_bin(100, &bin)), Err(Fault::MetaTooLong));
    }

    #[test]
    fn a_member_belongs_to_one_type_of_message() {
        for (text, own) in [
            (r#"{"ttl":1}"#, Some(MessageType::Request)),
            (r#"{"idempotent":true}"#, Some(MessageType::Request)),
            (r#"{"stream":1}"#, Some(MessageType::Request)),
            (r#"{"seq":1}"#, Some(MessageType::Response)),
            (r#"{"seq":1,"end":true}"#, Some(MessageType::Response)),
            (r#"{"trace":{},"headers":{}}"#, None),
        ] {
            let meta = Meta::parse(text).unwrap();
            for each in MessageType::ALL {
                let is_right = own.is_none_or(|own| own == each);
                assert_eq!(meta.check_on(each).is_ok(), is_right, "{text} {each:?}");
            }
        }
    }

    #[test]
    fn many_headers_take_no_longer_than_their_number() {
        let headers: Vec<String> = (0..400).map(|at| format!("\"{at}\":\"\"")).collect();
        let text = format!("{{\"headers\":{{{}}}}}", headers.join(","));
        assert!(Meta::parse(&text).is_ok());
    }
}
