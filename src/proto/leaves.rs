//! Finds values in JSON text with the way that leads to them.

use std::fmt::Write;

use super::json_str::JsonStr;

/// The containers around a value, the outermost one first.
pub(super) struct Path<'a> {
    levels: Vec<Level<'a>>,
}

struct Level<'a> {
    is_object: bool,
    /// The number of the member or element, from 0.
    at: u32,
    /// The key of the member, as it is written between its quotes.
    key: &'a str,
    awaits_key: bool,
}

impl Path<'_> {
    /// Returns the JSON Pointer (RFC 6901) to the value.
    pub(super) fn pointer(&self) -> String {
        let mut pointer = String::new();
        for level in &self.levels {
            pointer.push('/');
            if level.is_object {
                let key = JsonStr::new(level.key, level.key.contains('\\')).decode();
                if key.contains(['~', '/']) {
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                } else {
                    pointer.push_str(&key);
                }
            } else {
                // A string takes all that is written.
                let _ = write!(pointer, "{}", level.at);
            }
        }
        pointer
    }

    /// Returns the number of the member or element in each of the containers.
    pub(super) fn places(&self) -> Vec<u32> {
        self.levels.iter().map(|level| level.at).collect()
    }
}

/// Calls a function for each string, `null` and object that is a value in a valid document, with its
/// way and where it begins. The function may return the end of the value, which is then passed over.
pub(super) fn each<'a>(text: &'a str, mut found: impl FnMut(&Path<'a>, usize) -> Option<usize>) {
    let bytes = text.as_bytes();
    let mut path = Path { levels: Vec::new() };
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let is_key = path.levels.last().is_some_and(|level| level.awaits_key);
        match byte {
            b'"' if is_key => {
                let end = string_end(bytes, at);
                if let Some(level) = path.levels.last_mut() {
                    level.key = text.get(at + 1..end - 1).unwrap_or_default();
                    level.awaits_key = false;
                }
                at = end;
            }
            b'"' => at = found(&path, at).unwrap_or_else(|| string_end(bytes, at)),
            b'n' => at = found(&path, at).unwrap_or(at + "null".len()),
            b'{' => {
                if let Some(end) = found(&path, at) {
                    at = end;
                    continue;
                }
                path.levels.push(Level { is_object: true, at: 0, key: "", awaits_key: true });
                at += 1;
            }
            b'[' => {
                path.levels.push(Level { is_object: false, at: 0, key: "", awaits_key: false });
                at += 1;
            }
            b']' | b'}' => {
                path.levels.pop();
                at += 1;
            }
            b',' => {
                if let Some(level) = path.levels.last_mut() {
                    level.at += 1;
                    level.awaits_key = level.is_object;
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// Returns the place behind the string that begins at a quote.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_with_their_ways() {
        let text = r#" { "a/b~" : [ 1, null , {"\u0063":"x\"y", "d": [ ] }], "": {"null": true, "e": null}} "#;
        let mut found = Vec::new();
        each(text, |path, at| {
            found.push((path.pointer(), path.places(), &text[at..=at]));
            None
        });
        let found: Vec<_> = found.iter().map(|(way, at, text)| (&**way, &**at, *text)).collect();
        assert_eq!(
            found,
            [
                ("", &[][..], "{"),
                ("/a~1b~0/1", &[0, 1], "n"),
                ("/a~1b~0/2", &[0, 2], "{"),
                ("/a~1b~0/2/c", &[0, 2, 0], "\""),
                ("/", &[1], "{"),
                ("//e", &[1, 1], "n"),
            ]
        );
        let mut found = Vec::new();
        each("[{\"a\":null},null]", |path, at| {
            found.push(path.pointer());
            (at == 1).then_some(11)
        });
        assert_eq!(found, ["/0", "/1"]);
    }
}
