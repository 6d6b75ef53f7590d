//! The key `meta` of messages between peers that negotiated an extension.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::extensions::Extensions;
use super::fault::Fault;
use super::json_str::JsonStr;
use super::limits::{BIN_BYTES_MAX, META_BYTES_MAX, PLACE_BYTES_MAX};
use super::message_type::MessageType;
use super::scanner::{Scanner, Stop};

#[cfg(test)]
mod tests;

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
#[expect(clippy::struct_excessive_bools, reason = "the wire has them, and each is by itself")]
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
    /// `retain` of a publication: it is kept as the last value of its channel.
    pub retain: bool,
    /// `ack` of a publication: its publisher wants an answer.
    pub ack: bool,
    /// `epoch` and `offset` of a publication from the server: its place in the history of its channel.
    pub position: Option<Position<'a>>,
    /// `trace`, as JSON text: an object that may have the strings `traceparent` and `tracestate`.
    pub trace: Option<&'a str>,
    /// `headers`, as JSON text: an object of strings.
    pub headers: Option<&'a str>,
    /// `bin` of a message with attachments, as JSON text: what they are. Here it is any value;
    /// [`Envelope::attachments`](super::Envelope::attachments) checks it.
    pub bin: Option<&'a str>,
}

/// A place in the history of a channel.
///
/// ```
/// use ipc_framework::proto::{Meta, Position};
///
/// let meta = Meta::parse_known(r#"{"epoch":"k3v9","offset":12}"#).unwrap();
/// assert_eq!(meta.position, Some(Position { epoch: "k3v9", offset: 12 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position<'a> {
    /// The name of this history, which is another one whenever it is made anew: 1 to
    /// [`EPOCH_BYTES_MAX`] letters, digits, `-` and `_`.
    pub epoch: &'a str,
    /// The number of the publication, from 1. 0 stands before the first one.
    pub offset: u64,
}

/// The longest name of a history.
pub const EPOCH_BYTES_MAX: usize = 64;

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
        // The place that a server gives a publication comes on top of what its publisher sent.
        let bytes_max = META_BYTES_MAX + if is_strict { 0 } else { PLACE_BYTES_MAX };
        if text.len() > bytes_max + BIN_BYTES_MAX {
            return Err(Fault::MetaTooLong);
        }
        let mut meta = Self::default();
        let mut seen = [false; KEYS.len()];
        let (mut epoch, mut offset) = (None, None);
        let read = each_member(text, |key, value| {
            let Some(at) = KEYS.iter().position(|known| key.matches(known)) else {
                return if is_strict { Err(UNKNOWN) } else { Ok(()) };
            };
            if std::mem::replace(&mut seen[at], true) {
                return Err(bad(KEYS[at], "each member once"));
            }
            match KEYS[at] {
                "epoch" | "offset" if is_strict => return Err(bad(KEYS[at], FROM_THE_SERVER)),
                "epoch" => epoch = Some(epoch_of(value).ok_or(bad(KEYS[at], EPOCH))?),
                "offset" => offset = Some(number(value).ok_or(bad(KEYS[at], OFFSET))?),
                key => meta.take(key, value)?,
            }
            Ok(())
        });
        read.ok_or(NOT_AN_OBJECT)??;
        meta.position = epoch.zip(offset).map(|(epoch, offset)| Position { epoch, offset });
        if text.len() - meta.bin.map_or(0, str::len) > bytes_max {
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
            "retain" => self.retain = boolean(key, value)?,
            "ack" => self.ack = boolean(key, value)?,
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
        if (self.retain | self.ack) && !is(MessageType::Publish) {
            let key = if self.retain { "retain" } else { "ack" };
            return Err(bad(key, "it in publications alone"));
        }
        Ok(())
    }

    /// Returns the members that a peer with these extensions knows, but for `bin` of a message that it
    /// gets without attachments, and for `ack`, which is between a publisher and the server.
    #[must_use]
    pub fn of_extensions(&self, extensions: Extensions) -> Self {
        let mut known = Self { trace: self.trace, headers: self.headers, ..Self::default() };
        if extensions.is_empty() {
            return Self::default();
        }
        if extensions.contains(Extensions::BINARY) {
            known.bin = self.bin;
        }
        if extensions.contains(Extensions::TOPIC) {
            (known.retain, known.position) = (self.retain, self.position);
        }
        if extensions.contains(Extensions::CALL) {
            let Self { bin, retain, position, .. } = known;
            return Self { bin, retain, ack: false, position, ..*self };
        }
        known
    }

    /// Returns whether it has a member that only peers with the extension `topic` know.
    #[inline]
    pub fn is_topical(&self) -> bool {
        self.retain | self.ack || self.position.is_some()
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
        unknown.map_or(Ok(()), |(key, _)| Err(bad(key, expected)))?;
        if (self.retain | self.ack) && !extensions.contains(Extensions::TOPIC) {
            let key = if self.retain { "retain" } else { "ack" };
            return Err(bad(key, "it after asking for the extension topic in the connect"));
        }
        Ok(())
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
        if self.retain {
            member("retain", "true");
        }
        if self.ack {
            member("ack", "true");
        }
        if let Some(Position { epoch, offset }) = self.position {
            member("epoch", &["\"", epoch, "\""].concat());
            member("offset", digits.format(offset));
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
const KEYS: [&str; 12] = [
    "ttl",
    "idempotent",
    "stream",
    "seq",
    "end",
    "retain",
    "ack",
    "epoch",
    "offset",
    "trace",
    "headers",
    "bin",
];
/// The members of `trace`, by W3C Trace Context.
const TRACE: [&str; 2] = ["traceparent", "tracestate"];

const CREDIT: &str = "a number of parts from 1 to 65536, in digits alone";
const FROM_THE_SERVER: &str = "it from the server alone";
const EPOCH: &str = "1 to 64 letters, digits, - and _";
const OFFSET: &str = "the number of the publication, in digits alone";
const NOT_AN_OBJECT: Fault = bad("the value", "an object");
const UNKNOWN: Fault = bad(
    "an unknown member",
    "ttl, idempotent, stream, seq, end, retain, ack, trace, headers and bin alone, and what is yours in \
     headers",
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

/// Returns the name of a history, of its JSON text.
pub(crate) fn epoch_of(text: &str) -> Option<&str> {
    let name = text.strip_prefix('"')?.strip_suffix('"')?;
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_usable = (1..=EPOCH_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_usual);
    is_usable.then_some(name)
}

/// Returns an integer that is written in digits alone.
pub(crate) fn number(text: &str) -> Option<u64> {
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
