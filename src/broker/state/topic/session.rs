//! The part of a connection's session that only the extension `topic` needs.

use std::collections::{BTreeMap, VecDeque};

use super::super::keys::{ChannelKey, NodeKey};
use super::seat::{List, Seat};

/// What a connection has beside its plain subscriptions.
#[derive(Debug, Default)]
pub(crate) struct TopicSession {
    /// The patterns that it subscribed to, each with the place in the list of its node.
    pub(crate) patterns: BTreeMap<NodeKey, Seat>,
    /// What it is still sent of what was kept, in this order.
    pub(crate) replays: VecDeque<Replay>,
}

/// What a connection is still sent of what was kept of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) channel: ChannelKey,
    pub(crate) next: Next,
    /// The list of the channel that it joins afterwards. `None`: a pattern matches the channel, and it
    /// stands in the list of that.
    pub(crate) joins: Option<List>,
}

/// The next message of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The one with this offset, and all behind it.
    Offset(u64),
    LastValue,
}
