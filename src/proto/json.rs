use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::envelope::Fault;
use super::scanner;

mod scratch;
#[cfg(test)]
mod tests;

/// A JSON string as it stands on the wire, between its quotes, validated.
///
/// `==` compares the text as sent: `"a"` and `"\u0061"` differ. Use
/// [`matches`](Self::matches) to compare what it means.
///
/// ```
/// use ipc_framework::Envelope;
///
/// let body = br#"{"message_id":"\u0031","app_id":"a","channel_id":"c","message_type":"publish",
///     "payload":null,"timestamp":0}"#;
/// let id = Envelope::parse(body).unwrap().message_id();
/// assert_eq!((id.raw(), &*id.decode()), ("\\u0031", "1"));
/// assert!(id.matches("1"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonStr<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> JsonStr<'a> {
    /// `raw` has passed the scanner, and `escaped` says whether it holds a backslash.
    #[inline]
    pub(crate) fn new(raw: &'a str, escaped: bool) -> Self {
        debug_assert_eq!(escaped, raw.contains('\\'));
        Self { raw, escaped }
    }

    /// The text between the quotes, escapes as sent: it may stand between quotes again.
    #[inline]
    pub fn raw(self) -> &'a str {
        self.raw
    }

    /// The string it means, borrowed unless it holds escapes.
    ///
    /// Half of a surrogate pair, which no field of an
    /// [`Envelope`](super::Envelope) holds, becomes U+FFFD.
    pub fn decode(self) -> Cow<'a, str> {
        if self.escaped {
            let replaced = |char: Option<char>| char.unwrap_or(char::REPLACEMENT_CHARACTER);
            self.chars().map(replaced).collect()
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// Whether it means `plain`; allocates nothing.
    #[inline]
    pub fn matches(self, plain: &str) -> bool {
        if self.escaped { self.chars().eq(plain.chars().map(Some)) } else { self.raw == plain }
    }

    /// Whether it is the empty string.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.raw.is_empty()
    }

    /// Whether it holds escapes, so that its text is not its meaning.
    #[inline]
    pub(super) fn is_escaped(self) -> bool {
        self.escaped
    }

    /// The first characters of the string it means, for showing them.
    pub(crate) fn beginning(self, chars_max: usize) -> String {
        self.chars().flatten().take(chars_max).collect()
    }

    /// How many bytes of UTF-8 it decodes to; `None` if it holds half of a surrogate pair.
    #[inline]
    pub(crate) fn decoded_len(self) -> Option<usize> {
        if self.escaped {
            self.chars().map(|char| char.map(char::len_utf8)).sum()
        } else {
            Some(self.raw.len())
        }
    }

    /// The characters it means, `None` for half of a surrogate pair.
    fn chars(self) -> Unescaped<'a> {
        Unescaped { rest: self.raw }
    }
}

/// Resolves escapes, one character at a time.
struct Unescaped<'a> {
    rest: &'a str,
}

impl Iterator for Unescaped<'_> {
    type Item = Option<char>;

    fn next(&mut self) -> Option<Option<char>> {
        let first = self.pop()?;
        if first != '\\' {
            return Some(Some(first));
        }
        let char = match self.pop()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return Some(self.unicode()),
            char => char,
        };
        Some(Some(char))
    }
}

impl Unescaped<'_> {
    fn pop(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let char = chars.next()?;
        self.rest = chars.as_str();
        Some(char)
    }

    /// The character of an escape whose `\u` is read, and of the escape that completes it.
    fn unicode(&mut self) -> Option<char> {
        let (high, rest) = hex_unit(self.rest)?;
        self.rest = rest;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high);
        }
        let (low, rest) = rest.strip_prefix("\\u").and_then(hex_unit)?;
        if !(0xdc00..0xe000).contains(&low) {
            return None;
        }
        self.rest = rest;
        char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
    }
}

/// Four hexadecimal digits, and what follows them.
fn hex_unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}

/// JSON text known to be one valid document by RFC 8259, nested at most
/// [`PAYLOAD_DEPTH_MAX`](super::PAYLOAD_DEPTH_MAX) deep.
///
/// It is kept as it was written, since it belongs to whoever wrote it: a
/// number of 300 digits stays one. `==` compares the text.
///
/// ```
/// use ipc_framework::Json;
///
/// let json = Json::parse("[1, 2, 3]").unwrap();
/// assert_eq!(json.decode::<Vec<u32>>().unwrap(), [1, 2, 3]);
/// assert_eq!(Json::from_serialize(&(1, "two")).unwrap().as_str(), "[1,\"two\"]");
/// assert!(Json::parse("[1,]").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json<'a> {
    text: Cow<'a, str>,
}

impl<'a> Json<'a> {
    /// Takes `text` if it is one JSON document, without the whitespace around it.
    ///
    /// # Errors
    /// If it is not JSON, or nests deeper than [`PAYLOAD_DEPTH_MAX`](super::PAYLOAD_DEPTH_MAX).
    pub fn parse(text: impl Into<Cow<'a, str>>) -> Result<Self, JsonError> {
        let text = text.into();
        scanner::validate(&text).map_err(|fault| JsonError(Flaw::Text(fault)))?;
        let text = match text {
            Cow::Borrowed(text) => Cow::Borrowed(trim(text)),
            Cow::Owned(text) if trim(&text).len() == text.len() => Cow::Owned(text),
            Cow::Owned(text) => Cow::Owned(trim(&text).to_owned()),
        };
        Ok(Self { text })
    }

    /// Text that the scanner has validated, without whitespace around it.
    #[inline]
    pub(crate) fn trusted(text: &'a str) -> Self {
        debug_assert_eq!(text, trim(text));
        Self { text: Cow::Borrowed(text) }
    }

    /// The text of the document.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same document without a borrow, for keeping.
    pub fn into_owned(self) -> Json<'static> {
        Json { text: Cow::Owned(self.text.into_owned()) }
    }

    /// The same document, borrowed from this one.
    #[inline]
    pub fn borrowed(&self) -> Json<'_> {
        Json { text: Cow::Borrowed(&self.text) }
    }

    /// Reads the document into a value of your own type.
    ///
    /// # Errors
    /// If the document does not have the shape of `T`, or holds what
    /// `simd-json` has no value for: a number outside `f64`, an integer
    /// outside `u64` and `i64`, half of a surrogate pair.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        scratch::with_copy(&self.text, |copy, buffers| {
            simd_json::serde::from_slice_with_buffers(copy, buffers).map_err(DecodeError)
        })
    }

    /// Reads the document into a tree of values.
    ///
    /// A key that an object gives twice is there twice, and looking it up finds the first.
    ///
    /// # Errors
    /// If the document holds what `simd-json` has no value for, see [`decode`](Self::decode).
    pub fn to_value(&self) -> Result<simd_json::OwnedValue, DecodeError> {
        scratch::with_copy(&self.text, |copy, buffers| {
            simd_json::value::owned::to_value_with_buffers(copy, buffers).map_err(DecodeError)
        })
    }
}

impl Json<'static> {
    /// Writes `value` as JSON.
    ///
    /// # Errors
    /// If `value` cannot be written as JSON (a map whose keys are no strings,
    /// or an error of its own), or nests deeper than [`PAYLOAD_DEPTH_MAX`](super::PAYLOAD_DEPTH_MAX).
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self, JsonError> {
        let text = serde_json::to_string(value).map_err(|error| JsonError(Flaw::Value(error)))?;
        // What serde_json wrote is JSON, but may nest deeper than its readers can follow.
        // With so few brackets it cannot, and counting them is quicker than following them.
        let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{'));
        if brackets.count() > super::PAYLOAD_DEPTH_MAX {
            return Self::parse(text);
        }
        Ok(Self { text: Cow::Owned(text) })
    }

    /// The document `null`.
    pub const fn null() -> Self {
        Self { text: Cow::Borrowed("null") }
    }
}

/// The document `null`.
impl Default for Json<'static> {
    fn default() -> Self {
        Self::null()
    }
}

/// The text of the document.
impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text or a value of this program's own could not become [`Json`].
///
/// ```
/// let error = ipc_framework::Json::parse("{} {}").unwrap_err();
/// assert!(error.to_string().contains("one value only"));
/// ```
#[derive(Debug)]
pub struct JsonError(Flaw);

#[derive(Debug)]
enum Flaw {
    Text(Fault),
    Value(serde_json::Error),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Flaw::Text(Fault::Empty) => {
                f.write_str("the text is empty: pass one JSON value, such as null")
            }
            Flaw::Text(Fault::NotJson { at, expected }) => {
                write!(f, "the text is not JSON at byte {at}: expected {expected}")
            }
            Flaw::Text(Fault::Trailing { at }) => write!(
                f,
                "the text goes on behind its JSON value, at byte {at}: pass one value only"
            ),
            Flaw::Text(_) => {
                write!(
                    f,
                    "the JSON nests deeper than {} levels: flatten it",
                    super::PAYLOAD_DEPTH_MAX
                )
            }
            Flaw::Value(error) => write!(
                f,
                "the value cannot be written as JSON ({error}): change its Serialize, or what it holds"
            ),
        }
    }
}

impl std::error::Error for JsonError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Flaw::Text(_) => None,
            Flaw::Value(error) => Some(error),
        }
    }
}

#[cfg(feature = "net")]
impl JsonError {
    pub(crate) fn from_value(error: serde_json::Error) -> Self {
        Self(Flaw::Value(error))
    }
}

/// Why a document that is valid JSON could not be read into a value.
///
/// ```
/// let text = ipc_framework::Json::parse("\"seven\"").unwrap();
/// assert!(text.decode::<u32>().is_err());
/// ```
#[derive(Debug)]
pub struct DecodeError(simd_json::Error);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the payload does not have the expected shape ({}): the sender must send what the receiver decodes it as",
            self.0
        )
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// `text` without the whitespace of RFC 8259 around it.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\n', '\r', '\t'])
}
