//! Payloads on a command line: JSON, `@file` or `-`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use ipc_framework::Json;

use super::failure::Failure;

/// Limit of a payload on a command line. A server's own limit may be higher.
const BYTES_MAX: u64 = 64 << 20;
/// Bytes of a feed that are read at once.
const READ_BYTES: usize = 64 << 10;

/// Reads the payload to which an argument refers.
pub(super) fn read(argument: &str) -> Result<Json<'static>, Failure> {
    let (text, origin) = match argument.strip_prefix('@') {
        Some(path) => {
            let file = File::open(path).map_err(|error| {
                Failure::usage(format!("cannot read {path}: {error}; check its path"))
            })?;
            (read_all(file, path)?, format!("what {path} holds"))
        }
        None if argument == "-" => {
            (read_all(io::stdin().lock(), "standard input")?, "standard input".to_owned())
        }
        None => (argument.to_owned(), "the payload".to_owned()),
    };
    parse(text, &origin)
}

/// Calls `each` with every line that is not empty, as soon as it has been read, and with `None`
/// before each wait for more.
pub(super) fn each_line(
    source: impl Read,
    mut each: impl FnMut(Option<Json<'static>>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut source = BufReader::with_capacity(READ_BYTES, source);
    for number in 1_u64.. {
        if !source.buffer().contains(&b'\n') {
            each(None)?;
        }
        let mut line = Vec::new();
        let name = format!("line {number} of standard input");
        let read = source.by_ref().take(BYTES_MAX + 1).read_until(b'\n', &mut line);
        let read =
            read.map_err(|error| Failure::runtime(format!("cannot read {name}: {error}")))?;
        if read == 0 {
            break;
        }
        let line = read_all(&line[..], &name)?;
        if !line.trim().is_empty() {
            each(Some(parse(line, &name)?))?;
        }
    }
    Ok(())
}

/// Valid JSON is sent as it was written, without the white space around it.
fn parse(text: String, origin: &str) -> Result<Json<'static>, Failure> {
    let trimmed = text.trim();
    let text = if trimmed.len() == text.len() { text } else { trimmed.to_owned() };
    let is_bare_word = text.starts_with(|c: char| c.is_alphabetic());
    Json::parse(text).map_err(|error| {
        let hint = if is_bare_word { "; text needs quotes of its own: '\"text\"'" } else { "" };
        Failure::usage(format!("{origin} is not JSON: {error}{hint}"))
    })
}

fn read_all(source: impl Read, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = source.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| {
        Failure::usage(format!("cannot read {name}: {error}; a payload is JSON in UTF-8"))
    })?;
    if read as u64 > BYTES_MAX {
        return Err(Failure::usage(format!("{name} holds more than {BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_stays_as_it_was_written() {
        for text in ["{\"a\": 1e400}", "[1,  2]", "123456789012345678901234567890", "\"x\""] {
            assert_eq!(read(text).unwrap().as_str(), text);
        }
        assert_eq!(read(" 7\n").unwrap().as_str(), "7");
    }

    #[test]
    fn what_is_no_json_says_how_to_write_it() {
        let words = read("hello").unwrap_err().to_string();
        assert!(words.contains("quotes of its own"), "{words}");
        assert!(read("{").unwrap_err().to_string().starts_with("the payload is not JSON"));
        assert!(read("@/does/not/exist").unwrap_err().to_string().contains("cannot read"));
    }
}
