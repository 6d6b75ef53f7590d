//! One pass over JSON text, by RFC 8259, without recursion and without allocation.
//!
//! The scanner validates and finds boundaries; it builds nothing. Numbers are
//! not converted and escapes not resolved, so whatever the RFC allows passes:
//! integers of 300 digits, `1e400`, half surrogate pairs, keys given twice.
//! What it costs is linear in the length of the text, whatever the text.

use super::fault::Fault;
use super::json_str::JsonStr;
use super::limits::{DEPTH_MAX, PAYLOAD_DEPTH_MAX};

#[cfg(test)]
pub(super) mod tests;

/// Checks that `text` is one JSON value that fits into a message as its payload, with at
/// most whitespace around it.
pub(crate) fn validate(text: &str) -> Result<(), Fault> {
    let mut scanner = Scanner::new(text);
    if scanner.peek().is_none() {
        return Err(Fault::Empty);
    }
    let read = scanner.value(DEPTH_MAX - PAYLOAD_DEPTH_MAX).and_then(|_text| scanner.finish());
    read.map_err(|stop| scanner.fault(stop))
}

/// Why the scanner stopped, one byte for the way up; [`Scanner::fault`] says where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Value,
    Key,
    Colon,
    ObjectEnd,
    ArrayEnd,
    StringEnd,
    Control,
    Escape,
    Hex,
    Digit,
    Trailing,
    TooDeep,
}

/// A cursor over JSON text.
///
/// Tokens begin and end at ASCII characters, so between tokens `at` is on a
/// character boundary.
#[derive(Clone, Copy)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    #[inline]
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Steps over whitespace and shows the byte that follows.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = self.byte()?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Steps over the byte that `peek` has shown.
    #[inline]
    pub(super) fn bump(&mut self) {
        self.at += 1;
    }

    /// Steps over `text` if it comes next.
    #[inline]
    pub(super) fn take(&mut self, text: &[u8]) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let taken = rest.starts_with(text);
        if taken {
            self.at += text.len();
        }
        taken
    }

    /// Nothing but whitespace may be left.
    pub(super) fn finish(&mut self) -> Result<(), Stop> {
        self.peek().map_or(Ok(()), |_byte| Err(Stop::Trailing))
    }

    /// Reads a key and the colon behind it.
    #[inline]
    pub(super) fn key(&mut self) -> Result<JsonStr<'a>, Stop> {
        if self.peek() != Some(b'"') {
            return Err(Stop::Key);
        }
        let key = self.string()?;
        self.colon()?;
        Ok(key)
    }

    #[inline]
    fn skip_key(&mut self) -> Result<(), Stop> {
        if self.peek() != Some(b'"') {
            return Err(Stop::Key);
        }
        self.skip_string()?;
        self.colon()
    }

    #[inline]
    pub(super) fn colon(&mut self) -> Result<(), Stop> {
        if self.peek() != Some(b':') {
            return Err(Stop::Colon);
        }
        self.bump();
        Ok(())
    }

    /// Reads the string whose opening quote `peek` has shown.
    #[inline]
    pub(super) fn string(&mut self) -> Result<JsonStr<'a>, Stop> {
        let start = self.at + 1;
        let escaped = self.skip_string()?;
        Ok(JsonStr::new(&self.text[start..self.at - 1], escaped))
    }

    /// Reads a number.
    #[inline]
    pub(super) fn number(&mut self) -> Result<&'a str, Stop> {
        let start = self.at;
        self.skip_number()?;
        Ok(&self.text[start..self.at])
    }

    /// Steps over one value and returns its text. `depth` containers are open around it.
    #[inline]
    pub(super) fn value(&mut self, depth: usize) -> Result<&'a str, Stop> {
        self.peek();
        let start = self.at;
        self.skip_value(depth)?;
        Ok(&self.text[start..self.at])
    }

    /// What is wrong here, as its sender is told.
    #[cold]
    pub(super) fn fault(&self, stop: Stop) -> Fault {
        let at = self.at;
        let expected = match stop {
            Stop::Value => "a value (NaN and Infinity are none)",
            Stop::Key => "a key in double quotes",
            Stop::Colon => "a colon",
            Stop::ObjectEnd => "a comma or a closing brace",
            Stop::ArrayEnd => "a comma or a closing bracket",
            Stop::StringEnd => "a closing quote",
            Stop::Control => "an escape in place of the control character",
            Stop::Escape => "one of \"\\/bfnrtu after the backslash",
            Stop::Hex => "four hexadecimal digits after \\u",
            Stop::Digit => "a digit",
            Stop::Trailing => return Fault::Trailing { at },
            Stop::TooDeep => return Fault::TooDeep { at },
        };
        Fault::NotJson { at, expected }
    }

    /// Steps over one value. The open containers are bits, 1 for an object: a
    /// stack of fixed size instead of recursion.
    fn skip_value(&mut self, depth: usize) -> Result<(), Stop> {
        // A copy that nothing else points to stays in registers.
        let mut cursor = *self;
        let skipped = cursor.skip_nested(depth);
        self.at = cursor.at;
        skipped
    }

    #[inline]
    fn skip_nested(&mut self, depth: usize) -> Result<(), Stop> {
        let mut open = depth;
        let mut objects = 0u128;
        loop {
            let mut opened = false;
            match self.peek() {
                Some(b'"') => {
                    self.skip_string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.skip_number()?,
                Some(bracket @ (b'{' | b'[')) => {
                    if open == DEPTH_MAX {
                        return Err(Stop::TooDeep);
                    }
                    self.bump();
                    open += 1;
                    objects = objects << 1 | u128::from(bracket == b'{');
                    opened = true;
                }
                _ => self.skip_literal()?,
            }
            // To where the next value begins.
            loop {
                if open == depth {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                match self.peek() {
                    Some(byte) if byte == if in_object { b'}' } else { b']' } => {
                        self.bump();
                        open -= 1;
                        objects >>= 1;
                        opened = false;
                        continue;
                    }
                    _ if opened => {}
                    Some(b',') => self.bump(),
                    _ if in_object => return Err(Stop::ObjectEnd),
                    _ => return Err(Stop::ArrayEnd),
                }
                if in_object {
                    self.skip_key()?;
                }
                break;
            }
        }
    }

    /// Steps over a string from its opening quote, and says whether it holds escapes.
    #[expect(
        clippy::inline_always,
        reason = "a call would force the cursor into memory: 30 % of the whole parse"
    )]
    #[inline(always)]
    fn skip_string(&mut self) -> Result<bool, Stop> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.skip_plain();
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.skip_escape()?;
                }
                Some(_) => return Err(Stop::Control),
                None => return Err(Stop::StringEnd),
            }
        }
    }

    /// Steps over what stands for itself inside a string, eight bytes at a time.
    #[inline]
    fn skip_plain(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(word) = bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            let special = special_bytes(u64::from_le_bytes(*word));
            if special != 0 {
                self.at += special.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
        while let Some(byte) = self.byte()
            && !matches!(byte, b'"' | b'\\' | 0..0x20)
        {
            self.at += 1;
        }
    }

    #[expect(clippy::inline_always, reason = "as in `skip_string`")]
    #[inline(always)]
    fn skip_escape(&mut self) -> Result<(), Stop> {
        let rest = self.text.as_bytes().get(self.at + 1..).unwrap_or_default();
        self.at += match rest {
            [b'u', digits @ ..] => match digits.first_chunk::<4>() {
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => 6,
                _ => return Err(Stop::Hex),
            },
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            _ => return Err(Stop::Escape),
        };
        Ok(())
    }

    /// Steps over a number: no leading zero, then a fraction, then an exponent.
    #[inline]
    fn skip_number(&mut self) -> Result<(), Stop> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            // A digit behind it is found by whoever looks for a comma.
            self.at += 1;
        } else {
            self.skip_digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    #[inline]
    fn skip_digits(&mut self) -> Result<(), Stop> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            return Err(Stop::Digit);
        }
        Ok(())
    }

    #[inline]
    fn skip_literal(&mut self) -> Result<(), Stop> {
        if self.take(b"null") || self.take(b"true") || self.take(b"false") {
            Ok(())
        } else {
            Err(Stop::Value)
        }
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

/// Marks the bytes that end a run of plain text: quotes, backslashes, control
/// characters. The lowest mark is exact; above it a borrow may set false ones.
#[inline]
const fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let quotes = word ^ (ONES * b'"' as u64);
    let backslashes = word ^ (ONES * b'\\' as u64);
    let below = quotes.wrapping_sub(ONES) & !quotes
        | backslashes.wrapping_sub(ONES) & !backslashes
        | word.wrapping_sub(ONES * 0x20) & !word;
    below & (ONES * 0x80)
}
