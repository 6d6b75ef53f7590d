//! Standard output: for people on a terminal, for machines elsewhere.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};

use super::failure::Failure;
use super::{document, program};

const INDENT: &str = "  ";

/// Writes to standard error; if that is closed there is nobody to tell.
pub(super) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(&program::as_typed(text)));
}

/// A way to make a piece of text stand out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    Dim,
    Bold,
    Key,
    Text,
    Number,
    Word,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Dim => "\x1b[2m",
            Self::Bold => "\x1b[1m",
            Self::Key => "\x1b[34m",
            Self::Text => "\x1b[32m",
            Self::Number => "\x1b[36m",
            Self::Word => "\x1b[35m",
        }
    }
}

/// Standard output, and whether it is a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) json: bool,
    pub(super) is_terminal: bool,
    pub(super) colours: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, is_terminal, colours: is_terminal && is_wanted && !json }
    }

    /// Writes one line and flushes it, because the reader of a pipe waits for it.
    #[expect(clippy::unused_self, reason = "where to write is the output's business")]
    pub(super) fn line(self, text: impl fmt::Display) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::writing)
    }

    /// Writes a JSON document of one line.
    pub(super) fn document(self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::runtime(format!("cannot write JSON: {error}")))?;
        self.line(text)
    }

    /// Returns the text in a style, if there are colours.
    pub(super) fn paint(self, style: Style, text: impl fmt::Display) -> String {
        if self.colours { format!("{}{text}\x1b[0m", style.code()) } else { text.to_string() }
    }

    /// Returns a peer's JSON: unchanged for machines, indented and coloured for people.
    pub(super) fn payload(self, json: &str) -> String {
        if self.json {
            return document::one_line(json);
        }
        if !self.is_terminal {
            return json.to_owned();
        }
        self.indent(json)
    }

    /// Returns a peer's JSON on one line, coloured for people.
    pub(super) fn payload_line(self, json: &str) -> String {
        if self.json || !self.is_terminal {
            return json.to_owned();
        }
        let mut shown = String::with_capacity(json.len());
        for token in Tokens(json) {
            self.push(&mut shown, &token);
            if matches!(token.text, ":" | ",") {
                shown.push(' ');
            }
        }
        shown
    }

    fn indent(self, json: &str) -> String {
        let mut shown = String::with_capacity(json.len() * 2);
        let mut depth = 0_usize;
        let mut is_after_open = false;
        for token in Tokens(json) {
            let closes = matches!(token.text, "}" | "]");
            if closes {
                depth = depth.saturating_sub(1);
            }
            // Empty brackets stay together.
            let breaks_before = (closes && !is_after_open) || (!closes && is_after_open);
            if breaks_before {
                shown.push('\n');
                shown.extend(std::iter::repeat_n(INDENT, depth));
            }
            self.push(&mut shown, &token);
            is_after_open = matches!(token.text, "{" | "[");
            depth += usize::from(is_after_open);
            match token.text {
                ":" => shown.push(' '),
                "," => {
                    shown.push('\n');
                    shown.extend(std::iter::repeat_n(INDENT, depth));
                }
                _ => {}
            }
        }
        shown
    }

    fn push(self, shown: &mut String, token: &Token<'_>) {
        let text = printable(token.text);
        match token.style {
            Some(style) => shown.push_str(&self.paint(style, text)),
            None => shown.push_str(&text),
        }
    }
}

/// Returns a peer's text without characters that control a terminal. The meaning of JSON stays the
/// same, because controls are in strings alone.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(char));
        } else {
            shown.push(char);
        }
    }
    Cow::Owned(shown)
}

struct Token<'a> {
    text: &'a str,
    style: Option<Style>,
}

/// The tokens of valid JSON. Values are never parsed, so that the output is exactly what came.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let rest = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
        let first = rest.bytes().next()?;
        let (length, style) = match first {
            b'"' => {
                let end = string_end(rest);
                let is_key = rest[end..].trim_start().starts_with(':');
                (end, Some(if is_key { Style::Key } else { Style::Text }))
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => (1, None),
            _ => {
                let end = rest.find([',', '}', ']', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
                let is_word = first.is_ascii_alphabetic();
                (end, Some(if is_word { Style::Word } else { Style::Number }))
            }
        };
        let (text, rest) = rest.split_at(length);
        self.0 = rest;
        Some(Token { text, style })
    }
}

fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns a table whose columns are as wide as their cells; the first is flush left.
pub(super) fn table(output: Output, header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let cells = |row: &[&str]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![output.paint(Style::Bold, cells(header))];
    lines.extend(rows.iter().map(|row| cells(&row.iter().map(String::as_str).collect::<Vec<_>>())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEOPLE: Output = Output { json: false, is_terminal: true, colours: false };
    const COLOURED: Output = Output { colours: true, ..PEOPLE };

    #[test]
    fn json_is_indented_and_nothing_of_it_changed() {
        let shown = PEOPLE.payload("{\"a\":[1,1e400,{}],\"a\":\"x:,\\\"\",\"b\":[]}");
        let lines = [
            "{",
            "  \"a\": [",
            "    1,",
            "    1e400,",
            "    {}",
            "  ],",
            "  \"a\": \"x:,\\\"\",",
            "  \"b\": []",
            "}",
        ];
        assert_eq!(shown, lines.join("\n"));
        assert_eq!(
            PEOPLE.payload_line("{\"a\":[1,2],\n\"b\":null}"),
            "{\"a\": [1, 2], \"b\": null}"
        );
        assert_eq!(PEOPLE.payload("7"), "7");
    }

    #[test]
    fn colours_tell_keys_from_text_and_controls_stay_harmless() {
        let shown = COLOURED.payload_line("{\"k\":\"\u{9b}31m\",\"n\":true}");
        assert!(shown.contains("\x1b[34m\"k\"\x1b[0m"), "{shown:?}");
        assert!(shown.contains("\\u009b31m") && shown.contains("\x1b[35mtrue"), "{shown:?}");
        assert_eq!(printable("a\nb"), "a\\u000ab");
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let rows = [vec!["news".to_owned(), "12".to_owned()], vec!["a".to_owned(), "3".to_owned()]];
        let shown = table(PEOPLE, &["channel", "n"], &rows);
        assert_eq!(shown, "channel   n\nnews     12\na         3");
    }
}
