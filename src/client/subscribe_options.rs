//! Options of a subscription.

use super::error::Error;
use crate::proto::position::Position;
use crate::proto::{Extensions, pattern};
use crate::setters::setters;

/// Options of a subscription, for [`Client::subscribe_with`](super::Client::subscribe_with) and the
/// like.
///
/// All of them need a server that knows the extension `topic`, as this one does. To another one a
/// subscription with any of them is refused with [`Error::Unsupported`] before it is sent.
///
/// ```
/// use ipc_framework::client::SubscribeOptions;
///
/// let dashboard = SubscribeOptions::default().pattern(true).last(1).conflate(true);
/// assert_eq!(dashboard.last, Some(1));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Take the channel for a pattern. It consists of tokens that are separated by `.`, at most 32: a
    /// token `*` stands for any one token, and a last token `>` for one or more, so that `>` alone is
    /// the whole application. `system`, and channels whose name begins with `$`, are matched only by
    /// patterns that begin with the same token.
    pub pattern: bool,
    /// The number of publications that come first, the newest that the server keeps: of the channel's
    /// history, or its last value. With a pattern it is so many of each channel.
    pub last: Option<u32>,
    /// The place in the channel's history after which publications come first; not with a pattern. If
    /// a part of them is gone, the client reports [`Event::Gap`](super::Event::Gap) and the server sends
    /// none of them, or the newest, as `last` says.
    pub since: Option<Position>,
    /// While it is read too slowly the newest publication of each channel is kept for it, and nothing
    /// older: by the server, which then neither disconnects the client nor holds up publishers, and by
    /// the [`Subscription`](super::Subscription). A handler keeps nothing, so it should be quick.
    pub conflate: bool,
}

setters! {
    SubscribeOptions {
        [pattern: bool]
        into [last: Option<u32>]
        into [since: Option<Position>]
        [conflate: bool]
    }
}

impl SubscribeOptions {
    /// Returns the options of a pattern.
    pub(super) fn of_pattern() -> Self {
        Self::default().pattern(true)
    }

    /// Returns whether a server without the extension `topic` can do what they ask for.
    pub(super) fn are_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether the server answers the subscription with what it kept.
    pub(super) fn ask_for_kept(&self) -> bool {
        self.last.is_some() || self.since.is_some()
    }

    /// Checks that a server with these extensions can do what they ask for.
    pub(super) fn check(&self, channel_id: &str, extensions: Extensions) -> Result<(), Error> {
        if self.pattern {
            if let Some(what) = pattern::fault(channel_id) {
                return Err(Error::BadPattern { what });
            }
            if self.since.is_some() {
                let what = "a pattern has no history of its own: use `last` instead of `since`";
                return Err(Error::BadPattern { what });
            }
        }
        if !self.are_plain() && !extensions.contains(Extensions::TOPIC) {
            return Err(Error::unsupported_topics());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_cannot_do_is_refused_before() {
        let check = |options: SubscribeOptions, channel_id, extensions| {
            options.check(channel_id, extensions).map_err(|error| error.to_string())
        };
        let plain = SubscribeOptions::default();
        assert!(check(plain.clone(), "prices.>.", Extensions::NONE).is_ok());
        let asked = [
            plain.clone().pattern(true),
            plain.clone().last(1),
            plain.clone().since(Position::new("e", 0)),
            plain.clone().conflate(true),
        ];
        for options in asked {
            assert!(check(options.clone(), "prices", Extensions::TOPIC).is_ok(), "{options:?}");
            let refused = check(options, "prices", Extensions::CALL).unwrap_err();
            assert!(refused.contains("`topic`"), "{refused}");
        }
        let pattern = plain.pattern(true);
        assert!(check(pattern.clone(), ">.prices", Extensions::TOPIC).is_err());
        let since = pattern.since(Position::new("e", 0));
        assert!(check(since, "prices.>", Extensions::TOPIC).unwrap_err().contains("`last`"));
    }
}
