//! What a subscription is for.

/// The name of a channel, or a pattern of such names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topic<'a> {
    pub(crate) name: &'a str,
    pub(crate) is_pattern: bool,
}
