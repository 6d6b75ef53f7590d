//! The subjects of the bridge at NATS.
//!
//! `<prefix>-pub.<application>.<channel>` are publications, `<prefix>-srv.<server>` what is meant for one
//! server, and `<prefix>-all` what all servers are told. Their first tokens differ, so that a stream over all
//! publications stores nothing else and answers nothing else.

use std::fmt::Write;

use super::names;

/// The longest subject: NATS takes control lines of 4,096 bytes, with the rest of a PUB, a MSG or an RMSG in
/// them.
pub(crate) const SUBJECT_BYTES_MAX: usize = 3_500;

/// The subjects under one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Subjects {
    publications: String,
    servers: String,
    all: String,
}

/// What a subject is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Publications on a channel.
    Publication {
        /// Of this application.
        application: String,
        /// On this channel.
        channel: String,
    },
    /// What is meant for one server.
    Server([u8; 16]),
    /// What all servers are told.
    All,
}

impl Subjects {
    /// The subjects under a prefix of one token.
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            publications: format!("{prefix}-pub."),
            servers: format!("{prefix}-srv."),
            all: format!("{prefix}-all"),
        }
    }

    /// The subject of a channel's publications. `None`: it would be longer than NATS takes.
    pub(crate) fn channel(&self, application: &str, channel: &str) -> Option<String> {
        self.publication(application, channel, names::append_channel)
    }

    /// The subject with wildcards of all channels that a pattern matches. `None`: as above.
    pub(crate) fn pattern(&self, application: &str, pattern: &str) -> Option<String> {
        self.publication(application, pattern, names::append_pattern)
    }

    fn publication(
        &self,
        application: &str,
        channel: &str,
        append: fn(&mut String, &str),
    ) -> Option<String> {
        let mut subject = self.publications.clone();
        names::append_application(&mut subject, application);
        subject.push('.');
        append(&mut subject, channel);
        (subject.len() <= SUBJECT_BYTES_MAX).then_some(subject)
    }

    /// The subject of what is meant for one server.
    pub(crate) fn server(&self, id: [u8; 16]) -> String {
        format!("{}{}", self.servers, hex(id))
    }

    /// The subject of what all servers are told.
    pub(crate) fn all(&self) -> &str {
        &self.all
    }

    /// Reads a subject. `None`: it is none of ours.
    pub(crate) fn read(&self, subject: &str) -> Option<Subject> {
        if let Some(rest) = subject.strip_prefix(&self.publications) {
            let (application, channel) = rest.split_once('.')?;
            return Some(Subject::Publication {
                application: names::application(application)?,
                channel: names::channel(channel)?,
            });
        }
        if let Some(id) = subject.strip_prefix(&self.servers) {
            return from_hex(id).map(Subject::Server);
        }
        (subject == self.all).then_some(Subject::All)
    }
}

/// The id of a server as text: 32 hexadecimal digits.
pub(crate) fn hex(id: [u8; 16]) -> String {
    id.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_reads_as_what_it_is() {
        let subjects = Subjects::new("ipc");
        let channel = subjects.channel("shop", "price.EUR").unwrap();
        assert_eq!(channel, "ipc-pub.shop.price.EUR");
        let publication =
            Subject::Publication { application: "shop".into(), channel: "price.EUR".into() };
        assert_eq!(subjects.read(&channel), Some(publication));
        assert_eq!(subjects.pattern("shop", "price.>").unwrap(), "ipc-pub.shop.price.>");
        let id = *b"0123456789abcdef";
        assert_eq!(subjects.read(&subjects.server(id)), Some(Subject::Server(id)));
        assert_eq!(subjects.read(subjects.all()), Some(Subject::All));
        for foreign in [
            "",
            "ipc-pub",
            "ipc-pub.",
            "ipc-pub.shop",
            "ipc-pub.shop.",
            "ipc-srv.",
            "ipc-srv.0123",
            "ipc-srv.3031323334353637383961626364656G",
            "ipc-srv.+3031323334353637383961626364656",
            "ipc-all.x",
            "other-all",
        ] {
            assert_eq!(subjects.read(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_longest_ids_are_within_the_limit_and_a_long_prefix_is_not() {
        let id = "\u{1}".repeat(256);
        assert!(Subjects::new("ipc").channel(&id, &id).is_some());
        assert_eq!(Subjects::new(&"x".repeat(3_000)).channel(&id, &id), None);
    }

    proptest! {
        #[test]
        fn channels_of_two_applications_never_share_a_subject(
            one in ("[a._]{1,4}", "[a._]{1,4}"), other in ("[a._]{1,4}", "[a._]{1,4}")
        ) {
            let subjects = Subjects::new("p");
            let shared = subjects.channel(&one.0, &one.1) == subjects.channel(&other.0, &other.1);
            prop_assert_eq!(shared, one == other);
        }

        #[test]
        fn a_wildcard_matches_what_its_pattern_matches(
            pattern in "[ab*]?(\\.[ab*]?){0,3}(\\.>)?", channel in "[ab]?(\\.[ab]?){0,4}"
        ) {
            prop_assume!(!pattern.is_empty() && !channel.is_empty());
            let subjects = Subjects::new("p");
            let wildcard = subjects.pattern("x", &pattern).unwrap();
            let subject = subjects.channel("x", &channel).unwrap();
            let matches = crate::proto::pattern::matches(&pattern, &channel);
            // A channel's pattern has the same rules once no token is empty.
            prop_assert_eq!(crate::proto::pattern::matches(&wildcard, &subject), matches);
        }
    }
}
