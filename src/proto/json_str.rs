use std::borrow::Cow;

/// A validated JSON string as it stands on the wire, without its quotes.
///
/// `==` compares the text as sent: `"a"` and `"\u0061"` differ. [`matches`](Self::matches) compares
/// the meaning.
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
    /// Wraps text that has passed the scanner. `escaped` says whether it holds a backslash.
    #[inline]
    pub(crate) fn new(raw: &'a str, escaped: bool) -> Self {
        debug_assert_eq!(escaped, raw.contains('\\'));
        Self { raw, escaped }
    }

    /// The text between the quotes, with escapes as sent, so that it can be put between quotes again.
    #[inline]
    pub fn raw(self) -> &'a str {
        self.raw
    }

    /// The decoded string. It is borrowed unless it holds escapes.
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

    /// Returns whether the decoded string is `plain`. It allocates nothing.
    #[inline]
    pub fn matches(self, plain: &str) -> bool {
        if self.escaped { self.means(plain) } else { self.raw == plain }
    }

    #[cold]
    fn means(self, plain: &str) -> bool {
        self.chars().eq(plain.chars().map(Some))
    }

    /// Returns whether it is the empty string.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.raw.is_empty()
    }

    /// Returns whether it holds escapes.
    #[inline]
    pub(super) fn is_escaped(self) -> bool {
        self.escaped
    }

    /// The first characters of the decoded string, for an error text.
    pub(crate) fn beginning(self, chars_max: usize) -> String {
        self.chars().flatten().take(chars_max).collect()
    }

    /// The length of the decoded string in bytes of UTF-8; `None` if it holds half of a surrogate
    /// pair.
    #[inline]
    pub(crate) fn decoded_len(self) -> Option<usize> {
        if self.escaped {
            self.chars().map(|char| char.map(char::len_utf8)).sum()
        } else {
            Some(self.raw.len())
        }
    }

    /// The characters of the decoded string; `None` stands for half of a surrogate pair.
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

    /// Reads the rest of an escape behind its `\u`, and the second escape of a surrogate pair.
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

/// Splits off four hexadecimal digits.
fn hex_unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}
