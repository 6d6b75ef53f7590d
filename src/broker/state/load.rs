//! How busy the workers of a channel are.

use std::collections::BTreeMap;

/// The local workers of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChannelLoad {
    pub(crate) application: String,
    pub(crate) channel: String,
    /// How many they are, of which a handler in the process is one.
    pub(crate) workers: u32,
    /// How many more requests they take, if each has a concurrency. Below zero, so many wait for one of them.
    pub(crate) room: Option<i64>,
    /// Their unanswered requests of all channels, and those of the channel that wait for one of them.
    pub(crate) in_flight: u32,
    /// How many of these are of the channel and come from another server, by its id.
    pub(crate) of_servers: BTreeMap<String, u32>,
}
