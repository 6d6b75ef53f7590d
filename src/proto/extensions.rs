//! What a connection can do beyond the base protocol, because both of its ends asked for it.

use serde::{Serialize, Serializer};

use super::scanner::Scanner;

/// A set of extensions, which a client asks for when it connects.
///
/// ```
/// use ipc_framework::proto::Extensions;
///
/// assert!(Extensions::CALL.contains(Extensions::CALL));
/// assert!(!Extensions::NONE.contains(Extensions::CALL));
/// assert_eq!(Extensions::from_json(r#"["call","of a newer version"]"#), Some(Extensions::CALL));
/// assert_eq!(Extensions::from_json(r#""call""#), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions(u8);

impl Extensions {
    /// The base protocol alone.
    pub const NONE: Self = Self(0);
    /// Deadlines, cancels and streams of requests.
    pub const CALL: Self = Self(1);
    /// Attachments: bytes and tensors beside the JSON of a message.
    pub const BINARY: Self = Self(2);
    /// Patterns, last values, histories and conflation of publications.
    pub const TOPIC: Self = Self(4);

    /// All of them.
    #[cfg(feature = "broker")]
    pub(crate) const ALL: Self = Self(7);

    /// Every extension with its name on the wire.
    const NAMES: [(&'static str, Self); 3] =
        [("call", Self::CALL), ("binary", Self::BINARY), ("topic", Self::TOPIC)];

    /// Reads an array of names, as JSON text that is known to be valid. Unknown names are ignored.
    /// Returns `None` if it is no array of strings.
    pub fn from_json(text: &str) -> Option<Self> {
        let mut found = Self::NONE;
        let mut scanner = Scanner::new(text);
        if scanner.peek() != Some(b'[') {
            return None;
        }
        scanner.bump();
        if scanner.peek() == Some(b']') {
            return Some(found);
        }
        loop {
            if scanner.peek() != Some(b'"') {
                return None;
            }
            let name = scanner.string().ok()?;
            let known = Self::NAMES.iter().find(|(known, _)| name.matches(known));
            found.0 |= known.map_or(0, |(_, extension)| extension.0);
            match scanner.peek() {
                Some(b',') => scanner.bump(),
                _ => return Some(found),
            }
        }
    }

    /// Returns whether all of `other` are among these.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those that are in both sets.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in one of the sets.
    #[inline]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether there are none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the names on the wire.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let has = move |(_, extension): &(&str, Self)| self.contains(*extension);
        Self::NAMES.into_iter().filter(has).map(|(name, _)| name)
    }
}

/// As an array of names.
impl Serialize for Extensions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_array_of_strings_is_read() {
        for (text, expected) in [
            ("[]", Some(Extensions::NONE)),
            ("[ ]", Some(Extensions::NONE)),
            ("[\"call\"]", Some(Extensions::CALL)),
            ("[ \"x\" ,\n\"\\u0063all\", \"call\" ]", Some(Extensions::CALL)),
            ("[\"CALL\",\"\\ud800\"]", Some(Extensions::NONE)),
            ("[\"binary\"]", Some(Extensions::BINARY)),
            ("[\"binary\",\"call\"]", Some(Extensions::CALL.or(Extensions::BINARY))),
            ("[\"topic\"]", Some(Extensions::TOPIC)),
            ("[\"call\",1]", None),
            ("[null]", None),
            ("{\"call\":1}", None),
            ("true", None),
        ] {
            assert_eq!(Extensions::from_json(text), expected, "{text}");
        }
    }
}
