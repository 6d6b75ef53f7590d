//! The rules for connecting: tokens by application, users of Unix sockets.

use std::collections::HashMap;

use crate::proto::ID_BYTES_MAX;
use crate::setters::setters;
use crate::token::Token;

/// The credentials that a server requires of a connection.
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
#[non_exhaustive]
pub struct Access {
    /// The token of every application that has none of its own.
    pub default: Option<Token>,
    /// The tokens of single applications, by application id.
    pub applications: HashMap<String, Token>,
    /// The ids of users that may connect over a Unix socket. If this and [`Access::gids`] are empty,
    /// every user may connect whom the permission bits let in. Tokens are required nevertheless.
    pub uids: Vec<u32>,
    /// The ids of groups that may connect as well. Only the primary group of a process at the time
    /// when it connects counts, not its supplementary groups.
    pub gids: Vec<u32>,
}

/// The user of a Unix socket's peer.
///
/// ```
/// let root = ipc_framework::User { uid: 0, gid: 0 };
/// assert_eq!(root.uid, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

setters! {
    Access {
        into [uids: Vec<u32>]
        into [gids: Vec<u32>]
    }
}

impl Access {
    /// Sets the token of all applications that have none of their own, see
    /// [`Access::default`](field@Access::default).
    pub fn token(mut self, token: impl Into<Option<Token>>) -> Self {
        self.default = token.into();
        self
    }

    /// Sets the token of an application, see [`Access::applications`].
    pub fn application(mut self, app_id: impl Into<String>, token: Token) -> Self {
        self.applications.insert(app_id.into(), token);
        self
    }

    /// Returns whether no token is required.
    pub fn is_open(&self) -> bool {
        self.default.is_none() && self.applications.is_empty()
    }

    /// Returns the invalid rules, each with advice. A server refuses to start with such rules.
    ///
    /// ```
    /// use ipc_framework::{Access, Token};
    ///
    /// let access = Access::default().token(Token::new(" "));
    /// assert!(access.problems()[0].contains("is empty"));
    /// ```
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.default.as_ref().is_some_and(Token::is_blank) {
            problems.push("the token for all applications is empty; choose one".to_owned());
        }
        for (app_id, token) in &self.applications {
            if app_id.is_empty() {
                problems.push("a token is for an application without a name; name it".to_owned());
            } else if app_id.len() > ID_BYTES_MAX {
                problems.push(format!(
                    "a token is for an application whose name is longer than {ID_BYTES_MAX} bytes, \
                     which nobody can have; shorten it"
                ));
            } else if token.is_blank() {
                problems.push(format!("the token of application {app_id:?} is empty; choose one"));
            }
        }
        problems
    }

    /// Returns whether there is a list of users or groups.
    pub(crate) fn asks_for_users(&self) -> bool {
        !self.uids.is_empty() || !self.gids.is_empty()
    }

    pub(crate) fn admits_user(&self, user: User) -> bool {
        !self.asks_for_users() || self.uids.contains(&user.uid) || self.gids.contains(&user.gid)
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
            ..Access::default()
        };
        assert!(access.admits("any", Some("common")));
        assert!(access.admits("own", Some("special")));
        assert!(!access.admits("own", Some("common")));
        assert!(!access.admits("any", Some("commo")));
        assert!(!access.admits("any", None));
        assert!(Access::default().admits("any", None));
    }

    #[test]
    fn one_of_the_lists_is_enough_and_without_any_all_are_admitted() {
        let user = User { uid: 1_000, gid: 100 };
        let access = |uids: &[u32], gids: &[u32]| {
            Access { uids: uids.into(), gids: gids.into(), ..Access::default() }.admits_user(user)
        };
        assert!(access(&[], &[]));
        assert!(access(&[0, 1_000], &[]));
        assert!(access(&[], &[100]));
        assert!(access(&[0], &[100]));
        assert!(!access(&[100], &[]), "a user is no group");
        assert!(!access(&[], &[1_000]));
    }
}
