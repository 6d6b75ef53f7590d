//! Who may connect to which application.

use std::collections::HashMap;
use std::fmt;

use subtle::ConstantTimeEq;

/// A shared secret. It never shows in logs, errors or statistics.
///
/// ```
/// use ipc_framework::Token;
///
/// assert_eq!(format!("{:?}", Token::new("a long secret")), "Token(hidden)");
/// ```
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    /// Any text; surrounding white space is the caller's to strip.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into().into_bytes().into())
    }

    /// As a client sends it.
    #[cfg(feature = "net")]
    pub(crate) fn secret(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_else(|_| unreachable!("it was made from text"))
    }

    /// Compares without telling by its duration how much was right; only the length shows.
    fn matches(&self, offered: &str) -> bool {
        self.0.ct_eq(offered.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// The tokens a server asks for.
///
/// ```
/// use ipc_framework::{Access, Token};
///
/// let mut access = Access::default();
/// assert!(access.is_open());
/// access.applications.insert("billing".into(), Token::new("a long secret"));
/// assert!(!access.is_open());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Asked of every application that has no token of its own.
    pub default: Option<Token>,
    /// By application id.
    pub applications: HashMap<String, Token>,
}

impl Access {
    /// Whether nobody is asked for a token.
    pub fn is_open(&self) -> bool {
        self.default.is_none() && self.applications.is_empty()
    }

    pub(crate) fn admits(&self, app_id: &str, offered: Option<&str>) -> bool {
        match self.applications.get(app_id).or(self.default.as_ref()) {
            Some(token) => offered.is_some_and(|offered| token.matches(offered)),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applications_own_token_goes_before_the_default() {
        let access = Access {
            default: Some(Token::new("common")),
            applications: HashMap::from([("own".into(), Token::new("special"))]),
        };
        assert!(access.admits("any", Some("common")));
        assert!(access.admits("own", Some("special")));
        assert!(!access.admits("own", Some("common")));
        assert!(!access.admits("any", Some("commo")));
        assert!(!access.admits("any", None));
        assert!(Access::default().admits("any", None));
    }

    #[test]
    fn a_token_is_not_printed() {
        assert!(!format!("{:?}", Token::new("secret")).contains("secret"));
    }
}
