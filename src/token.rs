//! The secret that a server requires and a client sends.

use std::fmt;

use subtle::ConstantTimeEq;

/// A shared secret. It never appears in logs, errors or statistics.
///
/// ```
/// use ipc_framework::Token;
///
/// assert_eq!(format!("{:?}", Token::new("a long secret")), "Token(hidden)");
/// ```
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    /// Makes a token of any text. White space around the text is part of the token, so strip it
    /// first.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into().into_bytes().into())
    }

    /// Returns the text that a client sends.
    #[cfg(feature = "net")]
    pub(crate) fn secret(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_else(|_| unreachable!("it was made from text"))
    }

    /// Returns whether the token is empty or white space alone, which anybody would guess.
    pub(crate) fn is_blank(&self) -> bool {
        self.0.trim_ascii().is_empty()
    }

    /// Compares in constant time: the duration depends on the length of the token, and on nothing
    /// else.
    pub(crate) fn matches(&self, offered: &str) -> bool {
        self.0.ct_eq(offered.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_printed() {
        assert!(!format!("{:?}", Token::new("secret")).contains("secret"));
    }
}
