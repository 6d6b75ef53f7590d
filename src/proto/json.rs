use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::carried::Carried;
use super::fault::Fault;
use super::limits::PAYLOAD_DEPTH_MAX;
use super::scanner;
use super::value::{ValueError, write_value};

#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
mod attached;
mod scratch;
#[cfg(test)]
mod tests;
mod within;

/// JSON text known to be one valid document by RFC 8259, nested at most
/// [`PAYLOAD_DEPTH_MAX`](super::PAYLOAD_DEPTH_MAX) deep.
///
/// The text is kept as its author wrote it: a number of 300 digits stays one. `==` compares the
/// text and the attachments.
///
/// Payloads of messages may have attachments: bytes and tensors, which stand beside the text in place of
/// some of its nulls. A value brings them as [`Blob`](super::Blob)s and [`Tensor`](super::Tensor)s, and
/// [`attachments`](Self::attachments) lists them.
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
    carried: Option<Box<Carried<'a>>>,
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
        Ok(Self { text, carried: None })
    }

    /// Text that the scanner has validated, without whitespace around it.
    #[inline]
    pub(crate) fn trusted(text: &'a str) -> Self {
        debug_assert_eq!(text, trim(text));
        Self { text: Cow::Borrowed(text), carried: None }
    }

    /// The text of the document.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The bytes of the text and the attachments.
    #[cfg(feature = "broker")]
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.text.len() + self.carried.as_ref().map_or(0, |carried| carried.tail().bytes())
    }

    /// The same document without a borrow.
    pub fn into_owned(self) -> Json<'static> {
        let carried = self.carried.map(|carried| Box::new(carried.into_owned()));
        Json { text: Cow::Owned(self.text.into_owned()), carried }
    }

    /// The same document, borrowed from this one.
    #[inline]
    pub fn borrowed(&self) -> Json<'_> {
        let carried = self.carried.as_ref().map(|carried| Box::new(carried.to_borrowed()));
        Json { text: Cow::Borrowed(&self.text), carried }
    }

    /// Reads the document into a value of any type.
    ///
    /// An integer of any size is read as an `f64` where `T` has one, because JavaScript writes
    /// large floats as integers. Members that `T` does not ask for may be anything. A type that does not
    /// know attachments finds `{"$base64": …}` in place of each, as peers without `binary` do; see also
    /// [`decode_borrowed`](Self::decode_borrowed).
    ///
    /// # Errors
    /// If the document does not have the shape of `T`, or `T` asks for a member whose value it
    /// cannot hold, such as `1e400` for an `f64` or half of a surrogate pair for a `String`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        if self.carried.is_some() {
            return self.decode_borrowed();
        }
        let decoded = scratch::with_copy(&self.text, |copy, buffers| {
            simd_json::serde::from_slice_with_buffers(copy, buffers)
        });
        decoded.or_else(|_: simd_json::Error| self.decode_text())
    }

    /// Reads the document into a tree of values. An integer that no 64 bits hold becomes a float.
    ///
    /// If an object of at most 32 members gives a key twice, the tree has it twice, and a look-up
    /// finds the first; in a larger object the last one replaces those before it.
    ///
    /// # Errors
    /// If the document holds a number outside of `f64`, or half of a surrogate pair.
    pub fn to_value(&self) -> Result<simd_json::OwnedValue, DecodeError> {
        if self.carried.is_some() {
            return self.to_base64().to_value();
        }
        let value = scratch::with_copy(&self.text, |copy, buffers| {
            simd_json::value::owned::to_value_with_buffers(copy, buffers)
        });
        value.or_else(|_: simd_json::Error| self.decode_text())
    }

    /// Reads the text, without attachments, with a parser that looks at what `T` asks for and at nothing
    /// else. The quick one refuses a whole document for a number or a string that it has no value for.
    ///
    /// The short messages of the server itself are read with it alone: each type takes the code of one
    /// parser in the program then, and not of three.
    #[cold]
    pub(crate) fn decode_text<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        serde_json::from_str(&self.text).map_err(DecodeError)
    }
}

impl Json<'static> {
    /// Writes `value` as JSON, as `serde_json` does, but refuses what JSON cannot express.
    ///
    /// Integers have all of their digits, up to those of `i128` and `u128`. Bytes become an array
    /// of numbers. Keys that are numbers, booleans or characters become strings.
    ///
    /// # Errors
    /// If `value` cannot be written as JSON (NaN, an infinity, a map whose keys are neither strings
    /// nor any of the above, or an error of its own), with the path to the part that cannot; or if
    /// it nests deeper than [`PAYLOAD_DEPTH_MAX`](super::PAYLOAD_DEPTH_MAX).
    ///
    /// ```
    /// # use ipc_framework::Json;
    /// let error = Json::from_serialize(&("tea", [1.5, f64::NAN])).unwrap_err();
    /// assert!(error.to_string().starts_with("payload[1][1] is NaN"));
    /// ```
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self, JsonError> {
        let (text, carried) = write_value(value)?;
        // The text is JSON, but it may nest deeper than its readers can follow. A text with few
        // brackets cannot, and to count brackets is quicker than to follow them.
        let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{'));
        if brackets.count() > PAYLOAD_DEPTH_MAX {
            return Self::parse(text).map(|json| Self { carried, ..json });
        }
        Ok(Self { text: Cow::Owned(text), carried })
    }

    /// The document `null`.
    pub const fn null() -> Self {
        Self { text: Cow::Borrowed("null"), carried: None }
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

/// The reason for which a text or a value of this program could not become [`Json`].
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
    Value(ValueError),
    Attachments(Fault),
}

impl From<ValueError> for JsonError {
    fn from(error: ValueError) -> Self {
        Self(Flaw::Value(error))
    }
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
                write!(f, "the JSON nests deeper than {PAYLOAD_DEPTH_MAX} levels: flatten it")
            }
            Flaw::Value(error) => error.fmt(f),
            Flaw::Attachments(fault) => {
                write!(f, "the attachments do not fit the payload: {fault}")
            }
        }
    }
}

impl std::error::Error for JsonError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Flaw::Text(_) | Flaw::Attachments(_) => None,
            Flaw::Value(error) => error.source(),
        }
    }
}

/// The reason for which a valid document could not be read into a value.
///
/// ```
/// let text = ipc_framework::Json::parse("\"seven\"").unwrap();
/// assert!(text.decode::<u32>().is_err());
/// ```
#[derive(Debug)]
pub struct DecodeError(serde_json::Error);

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

/// Returns `text` without the whitespace of RFC 8259 around it.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\n', '\r', '\t'])
}
