//! Bodies with attachments made of a fuzzer's bytes, most of them good or nearly so.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::super::dtype::Dtype;
use super::super::escape::escape;
use super::layout::padding;
use super::naive;

/// Attachments are read, refused, written and spliced into JSON as the naive decoder does it.
pub(crate) fn attachments(input: &[u8]) {
    naive::check(input);
    if let Ok(body) = body(&mut Unstructured::new(input)) {
        naive::check(&body);
    }
}

/// A body whose attachments are good but for what the changes at its end do to it.
pub(super) fn body(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut maker = Maker::default();
    maker.value(u, String::new(), 0)?;
    let mut bin = String::new();
    let mut tail = Vec::new();
    for pointer in std::mem::take(&mut maker.pointers) {
        // Attachments may leave nulls out, and rarely come in another order.
        if u.ratio(1, 4)? {
            continue;
        }
        let (dtype, shape, bytes) = described(u)?;
        let data: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        let entry = format!("[\"{}\",{bytes},{dtype},{shape}]", escape(&pointer));
        if bin.is_empty() {
            bin = entry;
        } else if u.ratio(1, 30)? {
            bin = format!("{entry},{bin}");
        } else {
            bin = format!("{bin},{entry}");
        }
        tail.extend_from_slice(&data);
        tail.extend_from_slice(padding(data.len()));
    }
    let json = format!(
        "{{\"message_id\":\"m\",\"app_id\":\"a\",\"channel_id\":\"c\",\"message_type\":\"publish\",\
         \"payload\":{},\"timestamp\":0,\"reply_to\":null,\"meta\":{{\"bin\":[{bin}]}}}}",
        maker.payload
    );
    let mut body = (json.len() as u32).to_be_bytes().to_vec();
    body.extend_from_slice(json.as_bytes());
    body.extend_from_slice(padding(body.len()));
    body.extend_from_slice(&tail);
    for _ in 0..u.int_in_range(0..=2_u8)? {
        change(u, &mut body)?;
    }
    Ok(body)
}

fn change(u: &mut Unstructured<'_>, body: &mut Vec<u8>) -> Result<()> {
    let at = u.choose_index(body.len().max(1))?;
    match u.int_in_range(0..=4_u8)? {
        0 => body.truncate(at),
        1 => body.extend_from_slice(&[0; 64]),
        2 => {
            if let Some(byte) = body.get_mut(at) {
                *byte = u8::arbitrary(u)?;
            }
        }
        3 => {
            // A digit or a letter of the JSON becomes another one.
            const LETTERS: &[u8] = b"0123/~\"[]{},nab u";
            if let Some(byte) = body.get_mut(at) {
                *byte = *u.choose(LETTERS)?;
            }
        }
        _ => {
            if let Some(byte) = body.get_mut(3) {
                *byte = byte.wrapping_add(u8::arbitrary(u)?);
            }
        }
    }
    Ok(())
}

/// A dtype, a shape, and the bytes that they take.
fn described(u: &mut Unstructured<'_>) -> Result<(String, String, usize)> {
    if u.ratio(1, 3)? {
        return Ok(("null".into(), "null".into(), u.int_in_range(0..=130)?));
    }
    let dtype = *u.choose(&Dtype::ALL)?;
    let mut sizes = Vec::new();
    for _ in 0..u.int_in_range(0..=3_u8)? {
        sizes.push(u.int_in_range(0..=5_u64)?);
    }
    let bytes = sizes.iter().product::<u64>() as usize * dtype.item_bytes();
    if u.ratio(1, 20)? {
        sizes.push(u64::arbitrary(u)?);
    }
    let shape: Vec<_> = sizes.iter().map(u64::to_string).collect();
    Ok((format!("\"{}\"", dtype.name()), format!("[{}]", shape.join(", ")), bytes))
}

/// A payload, and the pointers to its nulls in their order.
#[derive(Default)]
struct Maker {
    payload: String,
    pointers: Vec<String>,
}

impl Maker {
    fn value(&mut self, u: &mut Unstructured<'_>, pointer: String, depth: usize) -> Result<()> {
        const KEYS: [(&str, &str); 8] = [
            ("a", "a"),
            ("b", "b"),
            ("\\u0061", "a"),
            ("", ""),
            ("0", "0"),
            ("~/", "~0~1"),
            ("\\ud83d\\ude00", "\u{1f600}"),
            ("\\ud800", "\u{fffd}"),
        ];
        let kind = if depth < 6 { u.int_in_range(0..=9_u8)? } else { 0 };
        match kind {
            0..=3 => {
                self.payload.push_str("null");
                self.pointers.push(pointer);
            }
            4..=6 => {
                self.payload.push('{');
                for at in 0..u.int_in_range(0..=4_u8)? {
                    let (key, token) = u.choose(&KEYS)?;
                    self.payload.push_str(if at > 0 { ", \"" } else { "\"" });
                    self.payload.push_str(key);
                    self.payload.push_str("\": ");
                    self.value(u, format!("{pointer}/{token}"), depth + 1)?;
                }
                self.payload.push('}');
            }
            7 | 8 => {
                self.payload.push('[');
                for at in 0..u.int_in_range(0..=4_u8)? {
                    if at > 0 {
                        self.payload.push(',');
                    }
                    self.value(u, format!("{pointer}/{at}"), depth + 1)?;
                }
                self.payload.push(']');
            }
            _ => self.payload.push_str(u.choose(&["1e400", "\"null\"", "-0.5", "true", "{}"])?),
        }
        Ok(())
    }
}
