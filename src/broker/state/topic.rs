//! The part of a channel that only subscribers with the extension `topic` ask for.

pub(crate) mod history;
pub(crate) mod patterns;
pub(crate) mod replays;
pub(crate) mod retained;
pub(crate) mod search;
pub(crate) mod seat;
pub(crate) mod session;
pub(crate) mod verdicts;
pub(crate) mod wanted;

use super::budget::{HISTORY_BYTES, TOPIC_BYTES};
use std::collections::BTreeSet;

use history::History;
use retained::LastValue;

use super::keys::{ConnectionKey, NodeKey};
use super::timers::TimerKey;
use patterns::Tree;

/// The nodes of patterns that a channel remembers at most. If more of them match, they are looked up
/// for each publication, which then has at least as many deliveries.
pub(crate) const MATCHES_KEPT_MAX: usize = 64;

/// What a channel has beside its plain subscribers.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    /// Subscribers that get the newest publication alone while they read too slowly.
    pub(crate) conflating: Vec<ConnectionKey>,
    pub(crate) matches: Matches,
    /// Connections that are still sent what was kept of the channel, and get what is published only
    /// behind that.
    pub(crate) replaying: BTreeSet<ConnectionKey>,
    pub(crate) history: Option<Box<History>>,
    /// When the oldest message of the history may be too old.
    pub(crate) ageing: Option<TimerKey>,
    pub(crate) last: Option<LastValue>,
    /// The last search for a pattern that need not look at it any more.
    pub(crate) searched: u64,
    /// What is kept holds one of the channel's references.
    pub(crate) holds: bool,
}

/// The patterns that match a channel's name, as they were when they were last looked up.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    /// The generation of the application's patterns then.
    pub(crate) generation: u64,
    /// They are elsewhere while a publication is delivered.
    pub(crate) nodes: Vec<NodeKey>,
    /// The number of `nodes`.
    pub(crate) count: usize,
    /// There are more than [`MATCHES_KEPT_MAX`].
    pub(crate) are_many: bool,
    /// Some of their subscribers conflate.
    pub(crate) conflate: bool,
    /// Some of them are heard by links.
    pub(crate) link: bool,
    /// The subscribers of all of them, and the changes of the patterns by then.
    pub(crate) subscribers: usize,
    pub(crate) counted_at: u64,
}

impl Matches {
    /// Returns whether they were looked up since the application has had patterns.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        self.generation > 0
    }

    /// Returns whether they are what a tree has now.
    #[inline]
    pub(crate) fn is_of(&self, tree: &Tree) -> bool {
        self.generation == tree.generation && !self.are_many
    }
}

impl Topic {
    /// Returns whether nothing of it is in use.
    pub(crate) fn is_idle(&self) -> bool {
        let keeps_nothing = self.history.is_none() && self.last.is_none() && !self.holds;
        keeps_nothing && !self.is_heard() && self.matches.count == 0 && !self.matches.are_many
    }

    /// Returns whether others than the channel's plain subscribers and those of patterns hear it.
    #[inline]
    fn is_heard(&self) -> bool {
        !self.conflating.is_empty() || !self.replaying.is_empty()
    }

    /// Returns whether only the channel's plain subscribers hear it, and a history keeps what they hear.
    #[inline]
    pub(crate) fn is_history_alone(&self) -> bool {
        self.history.is_some() && !self.is_heard() && !self.matches.is_any()
    }

    /// Returns whether anything is kept of the channel's publications.
    pub(crate) fn keeps(&self) -> bool {
        self.last.is_some() || self.history.as_ref().is_some_and(|history| !history.is_empty())
    }

    /// Returns whether the channel has no reference or timer for what is kept, or one too many.
    #[inline]
    pub(crate) fn is_unsettled(&self) -> bool {
        let ages = self.history.as_ref().is_some_and(|history| history.has_to_age());
        self.holds != self.keeps() || ages != self.ageing.is_some()
    }

    /// Returns whether publications have to be delivered one by one, and cannot go to all queues in
    /// one piece as they came.
    pub(crate) fn is_one_by_one(&self) -> bool {
        !self.conflating.is_empty()
    }

    /// Returns its memory.
    pub(crate) fn bytes(&self) -> usize {
        let history_bytes = if self.history.is_some() { HISTORY_BYTES } else { 0 };
        TOPIC_BYTES + history_bytes + self.matches.count * size_of::<NodeKey>()
    }
}
