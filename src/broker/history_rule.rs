//! The channels that keep a history, and how much of it.

use std::time::Duration;

use crate::proto::ID_BYTES_MAX;
use crate::proto::pattern;
use crate::setters::setters;

/// A history for the channels of an application that match a pattern: the server keeps their newest
/// publications for those who come later. Of several rules that match, the first one holds.
///
/// ```
/// use ipc_framework::{HistoryRule, Limits};
/// use std::time::Duration;
///
/// let prices = HistoryRule::new("shop", "prices.*").messages(100).age(Duration::from_secs(600));
/// let limits = Limits::default().histories([prices]);
/// assert!(limits.problems().is_empty());
/// assert!(limits.histories[0].is_of("shop", "prices.tea"));
/// assert!(!limits.histories[0].is_of("shop", "orders"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryRule {
    /// The application's id.
    pub app: String,
    /// The channel's id, or a pattern over the tokens between its dots: `*` stands for one token, and
    /// `>` at the end for one or more.
    pub channel: String,
    /// The most messages of a channel, 1,000 by default, and 1,048,576 at most.
    pub messages: usize,
    /// The most bytes of a channel's messages, 4 MiB by default. A larger message is not kept.
    pub bytes: usize,
    /// The time after which a message is forgotten; none by default. The channel itself is forgotten
    /// once nobody uses it and nothing is kept of it.
    pub age: Option<Duration>,
}

setters! {
    HistoryRule {
        into [app: String]
        into [channel: String]
        [messages: usize]
        [bytes: usize]
        into [age: Option<Duration>]
    }
}

const MESSAGES_MAX: usize = 1 << 20;
const BYTES_MAX: usize = u32::MAX as usize;

impl HistoryRule {
    /// Returns a rule with the default bounds.
    pub fn new(app: impl Into<String>, channel: impl Into<String>) -> Self {
        Self {
            app: app.into(),
            channel: channel.into(),
            messages: 1_000,
            bytes: 4 << 20,
            age: None,
        }
    }

    /// Returns whether it is a rule for this channel, if no rule before it is.
    pub fn is_of(&self, app_id: &str, channel_id: &str) -> bool {
        self.app == app_id && pattern::matches(&self.channel, channel_id)
    }

    /// Returns what is wrong with it, with advice.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let Self { app, channel, messages, bytes, age } = self;
        let of = format!("the history of {channel:?} in {app:?}");
        let is_id = |text: &str| !text.is_empty() && text.len() <= ID_BYTES_MAX;
        let pattern_fault = pattern::fault(channel);
        let checks = [
            (
                !is_id(app) || !is_id(channel),
                format!("{of} names no channel; give app and channel 1 to {ID_BYTES_MAX} bytes"),
            ),
            (
                pattern_fault.is_some(),
                format!("{of} has no usable pattern: {}; change it", pattern_fault.unwrap_or("")),
            ),
            (
                channel == "system",
                format!("{of} would never have a message; name a channel that is published to"),
            ),
            (
                !(1..=MESSAGES_MAX).contains(messages),
                format!("{of} has messages = {messages}; give a number from 1 to {MESSAGES_MAX}"),
            ),
            (
                !(1..=BYTES_MAX).contains(bytes),
                format!("{of} has bytes = {bytes}; give a size from 1 byte to 4GiB, such as 4MiB"),
            ),
            (
                age.is_some_and(|age| age.is_zero()),
                format!("{of} has an age of 0; give it some time, such as 10min, or leave it out"),
            ),
        ];
        let wrong: Vec<_> =
            checks.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, text)| text).collect();
        wrong.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_could_not_work_says_what_to_change() {
        let rule = || HistoryRule::new("app", "a.*");
        assert_eq!(rule().problems().next(), None);
        for (wrong, text) in [
            (rule().app(""), "names no channel"),
            (rule().channel("x".repeat(257)), "names no channel"),
            (rule().channel("a.>.b"), "no usable pattern"),
            (rule().channel("system"), "would never have a message"),
            (rule().messages(0), "give a number from 1 to 1048576"),
            (rule().messages(MESSAGES_MAX + 1), "give a number from 1 to 1048576"),
            (rule().bytes(0), "give a size"),
            (rule().age(Duration::ZERO), "give it some time"),
        ] {
            let problems: Vec<_> = wrong.problems().collect();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(text), "{problems:?}");
        }
    }
}
