//! One pass over JSON text, by RFC 8259, without recursion and without allocation.
//!
//! The scanner validates and finds boundaries; it builds nothing. Numbers are
//! not converted and escapes not resolved, so whatever the RFC allows passes:
//! integers of 300 digits, `1e400`, half surrogate pairs, keys given twice.
//! The cost is linear in the length of any text.

use wide::u8x16;

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

/// Cuts off the value that `text` begins with. `depth` containers are open around it. `None` if it
/// begins with none.
#[inline]
pub(super) fn split_value(text: &str, depth: usize) -> Option<(&str, &str)> {
    if let [b'"', string @ ..] = text.as_bytes()
        && let [b'"', rest @ ..] = behind_plain(string)
    {
        return text.split_at_checked(text.len() - rest.len());
    }
    let mut scanner = Scanner::new(text);
    scanner.skip_value(depth).ok()?;
    text.split_at_checked(scanner.at())
}

/// Cuts off the number that `text` begins with. `None` if it begins with none.
#[inline]
pub(super) fn split_number(text: &str) -> Option<(&str, &str)> {
    if let Some(length) = seconds_bytes(text.as_bytes()) {
        return Some(text.split_at(length));
    }
    let mut scanner = Scanner::new(text);
    scanner.skip_number().ok()?;
    Some(text.split_at(scanner.at()))
}

/// The reason for which the scanner stopped. [`Scanner::fault`] adds the place.
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
/// Tokens begin and end at ASCII characters, so between tokens `rest` begins on a
/// character boundary.
#[derive(Clone, Copy)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, rest: text.as_bytes() }
    }

    /// The place of the byte that comes next.
    #[inline]
    pub(super) fn at(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    /// Steps over whitespace and shows the byte that follows.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
        self.byte()
    }

    /// Steps over the byte that `peek` has shown.
    #[inline]
    pub(super) fn bump(&mut self) {
        if let [_, rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Steps over `text` if it comes next.
    #[inline]
    pub(super) fn take(&mut self, text: &[u8]) -> bool {
        let Some(rest) = self.rest.strip_prefix(text) else { return false };
        self.rest = rest;
        true
    }

    /// Checks that nothing but whitespace is left.
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

    /// Steps over the key that `peek` has shown, to the value behind the colon.
    #[expect(clippy::inline_always, reason = "as in `skip_string`")]
    #[inline(always)]
    fn skip_key(&mut self) -> Result<(), Stop> {
        if self.byte() != Some(b'"') {
            return Err(Stop::Key);
        }
        self.skip_string()?;
        // Most writers put the value right behind the colon, or after one blank.
        match self.rest {
            [b':', first, ..] if *first > b' ' => self.rest = &self.rest[1..],
            [b':', b' ', first, ..] if *first > b' ' => self.rest = &self.rest[2..],
            _ => return self.with(Self::skip_colon),
        }
        Ok(())
    }

    /// Steps over a colon and the whitespace around it.
    fn skip_colon(&mut self) -> Result<(), Stop> {
        self.colon()?;
        self.peek();
        Ok(())
    }

    /// Steps over the comma that `peek` has shown, and over the whitespace behind it.
    #[inline]
    fn skip_comma(&mut self) {
        match self.rest {
            [_, first, ..] if *first > b' ' => self.rest = &self.rest[1..],
            [_, b' ', first, ..] if *first > b' ' => self.rest = &self.rest[2..],
            _ => {
                self.bump();
                self.peek();
            }
        }
    }

    /// Calls a function for a rare case with a copy of the cursor, so that the cursor itself stays in
    /// registers.
    #[expect(clippy::inline_always, reason = "as in `skip_string`")]
    #[inline(always)]
    fn with<T>(&mut self, rare: fn(&mut Self) -> Result<T, Stop>) -> Result<T, Stop> {
        let mut copy = *self;
        let result = rare(&mut copy);
        *self = copy;
        result
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
        let start = self.at() + 1;
        let escaped = self.skip_string()?;
        Ok(JsonStr::new(&self.text[start..self.at() - 1], escaped))
    }

    /// Reads a number.
    #[inline]
    pub(super) fn number(&mut self) -> Result<&'a str, Stop> {
        let start = self.at();
        self.skip_number()?;
        Ok(&self.text[start..self.at()])
    }

    /// Steps over one value and returns its text. `depth` containers are open around it.
    #[inline]
    pub(super) fn value(&mut self, depth: usize) -> Result<&'a str, Stop> {
        let first = self.peek();
        let start = self.at();
        if first == Some(b'"') {
            self.skip_string()?;
        } else {
            self.skip_value(depth)?;
        }
        Ok(&self.text[start..self.at()])
    }

    /// The fault at this place.
    #[cold]
    pub(super) fn fault(&self, stop: Stop) -> Fault {
        let at = self.at();
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

    /// Steps over the value that `peek` has shown.
    fn skip_value(&mut self, depth: usize) -> Result<(), Stop> {
        // The copy stays in registers, because nothing points to it.
        let mut cursor = *self;
        let skipped = cursor.skip_nested(depth);
        self.rest = cursor.rest;
        skipped
    }

    /// Steps over a value with all that is in it, without recursion.
    #[inline]
    fn skip_nested(&mut self, depth: usize) -> Result<(), Stop> {
        let mut around = Around::default();
        let mut open = 0;
        let mut in_object = false;
        loop {
            if in_object {
                self.skip_key()?;
            }
            match self.byte() {
                Some(b'"') => {
                    self.skip_string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.skip_number()?,
                Some(bracket @ (b'{' | b'[')) => {
                    if depth + open == DEPTH_MAX {
                        return Err(Stop::TooDeep);
                    }
                    around.push(in_object);
                    open += 1;
                    in_object = bracket == b'{';
                    self.bump();
                    if self.peek() != Some(closing(in_object)) {
                        continue;
                    }
                    self.bump();
                    open -= 1;
                    in_object = around.pop();
                }
                _ => self.skip_literal()?,
            }
            // A value ends here: go to the beginning of the next one.
            loop {
                if open == 0 {
                    return Ok(());
                }
                match self.rest {
                    [b',', ..] => break,
                    [byte, rest @ ..] if *byte == closing(in_object) => {
                        self.rest = rest;
                        open -= 1;
                        in_object = around.pop();
                    }
                    [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] => self.rest = rest,
                    _ if in_object => return Err(Stop::ObjectEnd),
                    _ => return Err(Stop::ArrayEnd),
                }
            }
            self.skip_comma();
        }
    }

    /// Steps over a string from its opening quote, and says whether it holds escapes.
    #[expect(
        clippy::inline_always,
        reason = "a call would force the cursor into memory: 30 % of the whole parse"
    )]
    #[inline(always)]
    fn skip_string(&mut self) -> Result<bool, Stop> {
        // Most strings are short and have no escapes.
        if let [_, rest @ ..] = self.rest
            && let Some(block) = rest.first_chunk()
            && let special = special_bytes(*block).to_bitmask()
            && special != 0
            && let [b'"', rest @ ..] = &rest[special.trailing_zeros() as usize..]
        {
            self.rest = rest;
            return Ok(false);
        }
        self.with(Self::skip_any_string)
    }

    #[inline(never)]
    fn skip_any_string(&mut self) -> Result<bool, Stop> {
        self.bump();
        let mut escaped = false;
        loop {
            self.rest = behind_plain(self.rest);
            match self.rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Ok(escaped);
                }
                [b'\\', ..] => {
                    escaped = true;
                    self.skip_escape()?;
                }
                [_, ..] => return Err(Stop::Control),
                [] => return Err(Stop::StringEnd),
            }
        }
    }

    #[inline]
    fn skip_escape(&mut self) -> Result<(), Stop> {
        self.rest = match self.rest {
            [_, b'u', digits @ ..] => match digits.split_first_chunk::<4>() {
                Some((digits, rest)) if digits.iter().all(u8::is_ascii_hexdigit) => rest,
                _ => return Err(Stop::Hex),
            },
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', rest @ ..] => rest,
            _ => return Err(Stop::Escape),
        };
        Ok(())
    }

    /// Steps over a number: no leading zero, then a fraction, then an exponent.
    #[inline]
    fn skip_number(&mut self) -> Result<(), Stop> {
        self.skip_if(|byte| byte == b'-');
        // A digit after a leading zero is a fault that the caller finds, who expects a comma.
        if !self.skip_if(|byte| byte == b'0') {
            self.skip_digits()?;
        }
        if self.skip_if(|byte| byte == b'.') {
            self.skip_digits()?;
        }
        if self.skip_if(|byte| matches!(byte, b'e' | b'E')) {
            self.skip_if(|byte| matches!(byte, b'+' | b'-'));
            self.skip_digits()?;
        }
        Ok(())
    }

    /// Steps over digits, one by one: most numbers are short.
    #[inline]
    fn skip_digits(&mut self) -> Result<(), Stop> {
        let [b'0'..=b'9', rest @ ..] = self.rest else { return Err(Stop::Digit) };
        self.rest = rest;
        while self.skip_if(|byte| byte.is_ascii_digit()) {}
        Ok(())
    }

    #[inline]
    fn skip_literal(&mut self) -> Result<(), Stop> {
        let taken = match self.byte() {
            Some(b'n') => self.take(b"null"),
            Some(b't') => self.take(b"true"),
            Some(b'f') => self.take(b"false"),
            _ => false,
        };
        if taken { Ok(()) } else { Err(Stop::Value) }
    }

    #[inline]
    fn skip_if(&mut self, is_wanted: impl FnOnce(u8) -> bool) -> bool {
        match self.rest {
            [byte, rest @ ..] if is_wanted(*byte) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.rest.first().copied()
    }
}

/// A stack of bits in place of recursion. A bit says whether a container around the innermost one is
/// an object.
#[derive(Default)]
struct Around(u128);

impl Around {
    #[inline]
    fn push(&mut self, in_object: bool) {
        self.0 = self.0 << 1 | u128::from(in_object);
    }

    #[inline]
    fn pop(&mut self) -> bool {
        let in_object = self.0 & 1 == 1;
        self.0 >>= 1;
        in_object
    }
}

#[inline]
fn closing(in_object: bool) -> u8 {
    if in_object { b'}' } else { b']' }
}

/// The number of bytes that stand for themselves inside a string: up to a quote, a backslash or a
/// control character.
#[inline]
pub(super) fn plain_bytes(bytes: &[u8]) -> usize {
    bytes.len() - behind_plain(bytes).len()
}

/// Steps over the bytes that stand for themselves inside a string.
#[inline]
fn behind_plain(mut rest: &[u8]) -> &[u8] {
    for _ in 0..4 {
        let Some((block, behind)) = rest.split_first_chunk() else { break };
        let special = special_bytes(*block).to_bitmask();
        if special != 0 {
            return &rest[special.trailing_zeros() as usize..];
        }
        rest = behind;
    }
    behind_long(rest)
}

/// Steps over the rest of a long string, 64 bytes at a time, or of a string at the end of the text.
fn behind_long(mut rest: &[u8]) -> &[u8] {
    while let Some((block, behind)) = rest.split_first_chunk::<64>() {
        let (quarters, _) = block.as_chunks();
        let special = quarters.iter().fold(u8x16::ZERO, |all, each| all | special_bytes(*each));
        if special.to_bitmask() != 0 {
            break;
        }
        rest = behind;
    }
    while let Some((block, behind)) = rest.split_first_chunk() {
        let special = special_bytes(*block).to_bitmask();
        if special != 0 {
            return &rest[special.trailing_zeros() as usize..];
        }
        rest = behind;
    }
    while let [byte, behind @ ..] = rest
        && !matches!(byte, b'"' | b'\\' | 0..0x20)
    {
        rest = behind;
    }
    rest
}

/// Marks the bytes that end a run of plain text: quotes, backslashes, control characters.
#[inline]
fn special_bytes(block: [u8; 16]) -> u8x16 {
    let bytes = u8x16::new(block);
    let is_control = bytes.min(u8x16::splat(0x1f)).simd_eq(bytes);
    let is_quote = bytes.simd_eq(u8x16::splat(b'"'));
    let is_backslash = bytes.simd_eq(u8x16::splat(b'\\'));
    is_control | is_quote | is_backslash
}

/// The length of a number of ten digits, a point and up to seven more, such as clocks give until
/// 2286. `None` for other numbers.
#[inline]
fn seconds_bytes(bytes: &[u8]) -> Option<usize> {
    let (whole, rest) = bytes.split_first_chunk::<11>()?;
    let [first @ .., ninth, tenth, b'.'] = whole else { return None };
    let is_usual = first[0] != b'0'
        && other_than_digits(u64::from_le_bytes(*first)) == 0
        && ninth.is_ascii_digit()
        && tenth.is_ascii_digit();
    if !is_usual {
        return None;
    }
    let digits = match rest.first_chunk() {
        Some(word) => other_than_digits(u64::from_le_bytes(*word)).trailing_zeros() as usize / 8,
        None => rest.iter().take_while(|byte| byte.is_ascii_digit()).count(),
    };
    // After eight digits there may be more, and an exponent may follow.
    let is_whole = (1..8).contains(&digits) && !matches!(rest.get(digits), Some(b'e' | b'E'));
    is_whole.then_some(whole.len() + digits)
}

const ONES: u64 = u64::MAX / 0xff;
const HIGH_BITS: u64 = ONES * 0x80;

/// Marks the bytes that are no decimal digits, exactly.
#[inline]
const fn other_than_digits(word: u64) -> u64 {
    // A digit is 0 to 9 now. The sum of the lower seven bits carries into no other byte.
    let values = word ^ (ONES * b'0' as u64);
    let above_nine = (values & !HIGH_BITS).wrapping_add(ONES * (0x80 - 10));
    (above_nine | values) & HIGH_BITS
}
