//! Ids as tokens of subjects, and patterns of channels as wildcards.
//!
//! An application is one token, and a channel one token for each part between its dots. Letters, digits and
//! `-` stand for themselves, `__` for an underscore, `_` and two upper-case hexadecimal digits for any other
//! byte, and `_` alone for an empty part. Each id has one spelling, and no other text reads as it.

use std::fmt::Write;

use crate::proto::ID_BYTES_MAX;

/// Appends a part of an id, without dots of its own, as a token that is never empty.
fn append_token(out: &mut String, part: &str) {
    if part.is_empty() {
        out.push('_');
    }
    for byte in part.bytes() {
        match byte {
            b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(char::from(byte)),
            b'_' => out.push_str("__"),
            // Writing to a string does not fail.
            _ => {
                let _ = write!(out, "_{byte:02X}");
            }
        }
    }
}

/// Appends an application's id as one token.
pub(crate) fn append_application(out: &mut String, application: &str) {
    append_token(out, application);
}

/// Appends a channel's id as tokens with dots between them.
pub(crate) fn append_channel(out: &mut String, channel: &str) {
    for (at, part) in channel.split('.').enumerate() {
        if at > 0 {
            out.push('.');
        }
        append_token(out, part);
    }
}

/// Appends a valid pattern of channels as a subject with wildcards, which matches the channels that the
/// pattern matches, and perhaps `system` and names with a `$`, too.
pub(crate) fn append_pattern(out: &mut String, pattern: &str) {
    for (at, part) in pattern.split('.').enumerate() {
        if at > 0 {
            out.push('.');
        }
        match part {
            "*" | ">" => out.push_str(part),
            _ => append_token(out, part),
        }
    }
}

/// Reads a token. `None`: it is not the spelling of anything.
fn append_part(out: &mut Vec<u8>, token: &str) -> Option<()> {
    if token == "_" {
        return Some(());
    }
    let mut rest = token.as_bytes();
    if rest.is_empty() {
        return None;
    }
    while let [first, behind @ ..] = rest {
        rest = behind;
        match (first, behind) {
            (b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z', _) => out.push(*first),
            (b'_', [b'_', behind @ ..]) => {
                rest = behind;
                out.push(b'_');
            }
            (b'_', [high, low, behind @ ..]) => {
                rest = behind;
                let byte = digit(*high)? << 4 | digit(*low)?;
                // What stands for itself has no second spelling, and a dot is between the tokens.
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                    return None;
                }
                out.push(byte);
            }
            _ => return None,
        }
    }
    Some(())
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn id(bytes: Vec<u8>) -> Option<String> {
    let id = String::from_utf8(bytes).ok()?;
    (1..=ID_BYTES_MAX).contains(&id.len()).then_some(id)
}

/// Reads the token of an application.
pub(crate) fn application(token: &str) -> Option<String> {
    let mut bytes = Vec::new();
    append_part(&mut bytes, token)?;
    id(bytes)
}

/// Reads the tokens of a channel.
pub(crate) fn channel(tokens: &str) -> Option<String> {
    let mut bytes = Vec::new();
    for (at, token) in tokens.split('.').enumerate() {
        if at > 0 {
            bytes.push(b'.');
        }
        let start = bytes.len();
        append_part(&mut bytes, token)?;
        if bytes.len() > ID_BYTES_MAX || bytes[start..].contains(&b'.') {
            return None;
        }
    }
    id(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(append: fn(&mut String, &str), id: &str) -> String {
        let mut out = String::new();
        append(&mut out, id);
        out
    }

    #[test]
    fn each_part_is_a_token_and_an_empty_one_is_an_underscore() {
        for (channel, tokens) in [
            ("price.EUR-1", "price.EUR-1"),
            ("a_b", "a__b"),
            ("a..b.", "a._.b._"),
            (".", "_._"),
            ("*.>", "_2A._3E"),
            ("$x", "_24x"),
            ("ü x", "_C3_BC_20x"),
            ("\0", "_00"),
        ] {
            assert_eq!(written(append_channel, channel), tokens, "{channel}");
            assert_eq!(super::channel(tokens).as_deref(), Some(channel));
        }
        assert_eq!(written(append_application, "a.b"), "a_2Eb");
        assert_eq!(application("a_2Eb").as_deref(), Some("a.b"));
    }

    #[test]
    fn a_pattern_keeps_its_wildcards_and_escapes_the_rest() {
        for (pattern, subject) in
            [("a.*.>", "a.*.>"), ("pri*", "pri_2A"), (">", ">"), ("*", "*"), ("a..*", "a._.*")]
        {
            assert_eq!(written(append_pattern, pattern), subject);
        }
    }

    #[test]
    fn a_second_spelling_is_none() {
        for tokens in [
            "", "a.", ".a", "a..b", "_61", "_5F", "_2D", "_2e", "_2E", "_", "a_", "_F", "_ff",
            "_FF",
        ] {
            // A lone underscore is an empty part, and an id of it alone is empty.
            assert_eq!(channel(tokens), None, "{tokens}");
        }
        assert_eq!(channel("a b"), None);
        assert_eq!(channel("a*"), None);
        assert_eq!(application("a.b"), None);
        assert_eq!(application(&"a".repeat(257)), None);
        assert_eq!(channel(&"a".repeat(257)), None);
    }

    #[test]
    fn the_longest_ids_triple_and_come_back() {
        let id = "\u{1}".repeat(256);
        let token = written(append_application, &id);
        assert_eq!(token.len(), 768);
        assert_eq!(application(&token), Some(id));
    }

    proptest! {
        #[test]
        fn any_id_comes_back_and_no_token_is_empty(id in "(?s).{1,60}|[._*>$a-c]{1,40}") {
            prop_assume!(id.len() <= ID_BYTES_MAX);
            let tokens = written(append_channel, &id);
            for token in tokens.split('.') {
                prop_assert!(!token.is_empty());
                prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
            }
            prop_assert_eq!(channel(&tokens), Some(id.clone()));
            let token = written(append_application, &id);
            prop_assert!(!token.contains('.'));
            prop_assert_eq!(application(&token), Some(id));
        }

        #[test]
        fn what_reads_as_an_id_is_its_one_spelling(tokens in "(?s).{0,20}|[._A-F0-9a]{0,12}") {
            if let Some(id) = channel(&tokens) {
                prop_assert_eq!(written(append_channel, &id), tokens.clone());
            }
            if let Some(id) = application(&tokens) {
                prop_assert_eq!(written(append_application, &id), tokens);
            }
        }
    }
}
