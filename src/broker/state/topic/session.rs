//! The part of a connection's session that only the extension `topic` needs.

use std::collections::BTreeMap;

use super::super::keys::NodeKey;
use super::seat::Seat;

/// What a connection has beside its plain subscriptions.
#[derive(Debug, Default)]
pub(crate) struct TopicSession {
    /// The patterns that it subscribed to, each with the place in the list of its node.
    pub(crate) patterns: BTreeMap<NodeKey, Seat>,
}
