//! Patterns of channels: tokens that are separated by dots.

/// The most tokens of a pattern. No longer channel than this is matched by one with `*` alone.
pub(crate) const PATTERN_TOKENS_MAX: usize = 32;

/// Returns what is wrong with a pattern: more than 32 tokens, or a `>` that is not the whole last
/// token.
pub(crate) fn fault(pattern: &str) -> Option<&'static str> {
    let mut tokens = pattern.split('.').rev();
    let last = tokens.next().unwrap_or_default();
    if (last.contains('>') && last != ">") || tokens.any(|token| token.contains('>')) {
        return Some("a > stands for all that follows, so that it must be the whole last token");
    }
    (pattern.split('.').count() > PATTERN_TOKENS_MAX)
        .then_some("it has more than 32 tokens, the parts between the dots")
}

/// Returns whether a pattern without a [`fault`] matches a channel: a token `*` any one token, a last
/// token `>` one or more. `system` and names that begin with `$` are matched only by a pattern whose
/// first token is the same text.
pub(crate) fn matches(pattern: &str, channel: &str) -> bool {
    if (channel.starts_with('$') || channel == super::system::SYSTEM)
        && pattern.split('.').next() != channel.split('.').next()
    {
        return false;
    }
    let mut tokens = channel.split('.');
    for wanted in pattern.split('.') {
        let Some(token) = tokens.next() else { return false };
        match wanted {
            ">" => return true,
            "*" => {}
            _ if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Returns whether a name that is meant to be a channel reads like a pattern.
#[cfg(any(test, feature = "net"))]
pub(crate) fn looks_like_one(channel: &str) -> bool {
    let mut tokens = channel.split('.').rev();
    tokens.next().is_some_and(|last| last == ">" || last == "*") || tokens.any(|token| token == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_by_tokens() {
        for (pattern, channel) in [
            ("a.b", "a.b"),
            ("a.*", "a.b"),
            ("a.*", "a."),
            ("*.b", ".b"),
            ("a.>", "a.b"),
            ("a.>", "a.b.c"),
            (">", "a"),
            (">", "a.b"),
            ("*", ""),
            ("a..b", "a..b"),
            ("a.*.b", "a..b"),
            ("pri*", "pri*"),
            ("$x.>", "$x.y"),
            ("system", "system"),
        ] {
            assert_eq!(fault(pattern), None, "{pattern}");
            assert!(matches(pattern, channel), "{pattern} {channel}");
        }
        for (pattern, channel) in [
            ("a.b", "a"),
            ("a.*", "a"),
            ("a.*", "a.b.c"),
            ("a.>", "a"),
            ("*", "a.b"),
            ("pri*", "prices"),
            (">", "$x.y"),
            ("*.y", "$x.y"),
            (">", "system"),
            ("*", "system"),
        ] {
            assert!(!matches(pattern, channel), "{pattern} {channel}");
        }
    }

    #[test]
    fn a_tail_is_the_whole_last_token() {
        for pattern in ["a.>.b", "a>", "a.>b", ">.", ">.a", ">>"] {
            assert!(fault(pattern).is_some(), "{pattern}");
        }
        assert_eq!(fault(&["a"; 32].join(".")), None);
        assert!(fault(&["a"; 33].join(".")).is_some());
    }

    #[test]
    fn a_star_or_a_tail_by_itself_makes_a_name_look_like_a_pattern() {
        for name in ["prices.*", "*.x", "a.*.b", ">", "a.>"] {
            assert!(looks_like_one(name), "{name}");
        }
        for name in ["a", "2*3", "a->b", "a.>.b", "pri*", ""] {
            assert!(!looks_like_one(name), "{name}");
        }
    }
}
