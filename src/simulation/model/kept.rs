//! What the model knows of histories.

use std::collections::BTreeMap;

use crate::simulation::scenario::KEPT_CHANNELS;
use crate::simulation::wire::Received;

/// What is known of the histories of all applications.
#[derive(Default)]
pub(super) struct Kept {
    /// The publications by application, topic, epoch and offset, as the first one heard them.
    pub(super) places: BTreeMap<(usize, usize, String, u64), usize>,
    /// What followers asked for.
    pub(super) asked: Vec<Asked>,
    /// Publications that followers heard.
    pub(super) heard: u64,
    /// A reload has changed the histories, so that they may have been made anew.
    pub(super) has_changed: bool,
}

/// What a subscribe asks for.
#[derive(Clone, Debug)]
pub(in crate::simulation) struct Asked {
    pub(in crate::simulation) last: Option<u64>,
    pub(in crate::simulation) since: Option<(String, u64)>,
}

/// The place up to which a connection has heard the kept channel, and the end of its replay.
#[derive(Clone, Debug)]
pub(super) struct Following {
    pub(super) epoch: String,
    pub(super) next: u64,
    pub(super) replay_end: u64,
    /// It is sent what was kept first, and what comes meanwhile behind that.
    pub(super) has_replay: bool,
    /// What comes first may be a last value that the history does not have any more, or the history may
    /// be another one by then.
    pub(super) is_loose: bool,
}

/// Returns whether a publication is on a channel that has a history.
pub(super) fn is_kept(message: &Received) -> bool {
    KEPT_CHANNELS.contains(&message.channel.as_str())
}
