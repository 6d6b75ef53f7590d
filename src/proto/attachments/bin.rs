//! Reads the entries of `meta.bin`: `[pointer, bytes, dtype, shape]`.

use super::super::dtype::Dtype;
use super::super::fault::Fault;
use super::super::json_str::JsonStr;
use super::super::limits::DIMENSIONS_MAX;
use super::super::scanner::Scanner;

/// The largest number that every language counts exactly: no length and no product is larger.
const EXACT_MAX: u64 = (1 << 53) - 1;

/// One entry. Its numbers agree with each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) pointer: JsonStr<'a>,
    pub(super) bytes: usize,
    pub(super) dtype: Option<Dtype>,
    pub(super) shape: Shape<'a>,
}

/// The dimensions of a tensor, borrowed from the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape<'a> {
    /// The JSON array; empty for plain bytes.
    text: &'a str,
}

impl<'a> Shape<'a> {
    /// The dimensions, the outermost one first.
    pub fn iter(self) -> impl Iterator<Item = u64> + use<'a> {
        let inner = self.text.trim_matches(['[', ']']);
        let numbers = inner.split(',').map(str::trim_ascii);
        numbers.filter(|number| !number.is_empty()).filter_map(|number| number.parse().ok())
    }

    /// Returns whether there is no dimension.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }

    /// The JSON text: an array, or `null` for plain bytes.
    pub(crate) fn as_json(self) -> &'a str {
        if self.text.is_empty() { "null" } else { self.text }
    }
}

/// The entries of a `bin` one after the other.
#[derive(Clone)]
pub(super) struct Entries<'a> {
    scanner: Scanner<'a>,
}

impl<'a> Entries<'a> {
    /// Begins with a valid document, which has to be an array.
    pub(super) fn new(bin: &'a str) -> Result<Self, Fault> {
        let mut scanner = Scanner::new(bin);
        if scanner.peek() != Some(b'[') {
            return Err(Fault::Meta { key: "bin", expected: "an array of attachments" });
        }
        scanner.bump();
        Ok(Self { scanner })
    }

    /// Does the same with one that was read before, or with none.
    pub(super) fn trusted(bin: &'a str) -> Self {
        let mut scanner = Scanner::new(bin);
        if scanner.peek().is_some() {
            scanner.bump();
        }
        Self { scanner }
    }

    /// Reads the next entry. `number` is its own, for an error.
    pub(super) fn next(&mut self, number: usize) -> Result<Option<Entry<'a>>, Fault> {
        match self.scanner.peek() {
            Some(b',') => self.scanner.bump(),
            Some(b']') | None => return Ok(None),
            Some(_) => {}
        }
        let expected = |expected| Fault::Attachment { number, expected };
        let text = self.scanner.value(0);
        let text = text.map_err(|_stop| expected(ENTRY))?;
        read(text).map(Some).map_err(expected)
    }
}

const ENTRY: &str = "an entry of bin such as [\"/image\",4,\"u8\",[2,2]]";

fn read(text: &str) -> Result<Entry<'_>, &'static str> {
    let mut scanner = Scanner::new(text);
    let Some([pointer, bytes, dtype, shape]) = array(&mut scanner) else { return Err(ENTRY) };
    let pointer = string(pointer).filter(|pointer| pointer.decoded_len().is_some());
    let pointer = pointer.ok_or("a JSON Pointer of whole characters as the first of its entry")?;
    let bytes = number(bytes).ok_or("its length in digits alone, as the second of its entry")?;
    if dtype == "null" {
        if shape != "null" {
            return Err("a dtype with the shape, or null for both");
        }
        let shape = Shape::default();
        return Ok(Entry { pointer, bytes: bytes as usize, dtype: None, shape });
    }
    let dtype = string(dtype)
        .and_then(|name| Dtype::ALL.into_iter().find(|dtype| name.matches(dtype.name())));
    let dtype = dtype.ok_or(
        "null, bool, u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64, c64 or c128 as \
         the dtype",
    )?;
    if bytes_of(dtype, shape)? != bytes {
        return Err("as many bytes as the product of its shape and the size of its dtype");
    }
    Ok(Entry { pointer, bytes: bytes as usize, dtype: Some(dtype), shape: Shape { text: shape } })
}

/// Returns the bytes of a tensor. The sizes of its dimensions must not overflow even where one of them is
/// zero, so that no reader has to ask in which order to multiply.
fn bytes_of(dtype: Dtype, shape: &str) -> Result<u64, &'static str> {
    const SHAPE: &str = "a shape of at most 32 dimensions, each in digits alone";
    let mut scanner = Scanner::new(shape);
    if scanner.peek() != Some(b'[') {
        return Err(SHAPE);
    }
    scanner.bump();
    let mut product = dtype.item_bytes() as u64;
    let (mut dimensions, mut is_zero) = (0, false);
    while scanner.peek() != Some(b']') {
        let dimension = scanner.value(0).ok().and_then(number).ok_or(SHAPE)?;
        is_zero |= dimension == 0;
        product = product
            .checked_mul(dimension.max(1))
            .filter(|product| *product <= EXACT_MAX)
            .ok_or("a shape whose product is below 2^53")?;
        dimensions += 1;
        if scanner.peek() == Some(b',') {
            scanner.bump();
        }
    }
    if dimensions > DIMENSIONS_MAX {
        return Err(SHAPE);
    }
    Ok(if is_zero { 0 } else { product })
}

/// Returns the texts of the elements of an array of four.
fn array<'a>(scanner: &mut Scanner<'a>) -> Option<[&'a str; 4]> {
    if scanner.peek() != Some(b'[') {
        return None;
    }
    let mut found = [""; 4];
    for element in &mut found {
        // The bracket, or the comma before it.
        if scanner.peek() == Some(b']') {
            return None;
        }
        scanner.bump();
        *element = scanner.value(0).ok()?;
    }
    (scanner.peek() == Some(b']')).then_some(found)
}

fn string(text: &str) -> Option<JsonStr<'_>> {
    let mut scanner = Scanner::new(text);
    if scanner.peek() == Some(b'"') { scanner.string().ok() } else { None }
}

/// Returns an integer that is written in digits alone, and that every language counts exactly.
fn number(text: &str) -> Option<u64> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok())?.filter(|number| *number <= EXACT_MAX)
}

pub(super) const TOO_LONG: Fault = Fault::Meta { key: "bin", expected: "at most 128 KiB" };
pub(super) const TOO_MANY: Fault = Fault::Meta { key: "bin", expected: "1 to 1024 entries" };
