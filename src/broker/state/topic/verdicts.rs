//! What the filter of the process says of the channels that a connection hears through patterns.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::keys::ConnectionKey;
use super::seat::List;
use crate::proto::SharedFrame;

/// The channels of one connection whose verdict is kept. With more of them all are asked for again.
pub(crate) const VERDICTS_MAX: usize = 4_096;

/// The largest size of an entry without its name.
const VERDICT_BYTES: usize = 128;

/// The verdicts on the channels that one connection hears through patterns.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// The filter that gave them.
    generation: u64,
    is_allowed: BTreeMap<Arc<str>, bool>,
    names_bytes: usize,
}

/// A publication for a connection that hears its channel through a pattern, while the filter has not been
/// asked about that channel.
#[derive(Debug)]
pub(crate) struct Undecided {
    pub(crate) to: ConnectionKey,
    pub(crate) channel: Arc<str>,
    pub(crate) list: List,
    pub(crate) frame: SharedFrame,
    /// The number of them in the frame.
    pub(crate) publications: u32,
}

impl Verdicts {
    /// Returns the verdict of the present filter.
    pub(crate) fn get(&self, generation: u64, channel: &str) -> Option<bool> {
        self.is_allowed.get(channel).copied().filter(|_| self.generation == generation)
    }

    pub(crate) fn set(&mut self, generation: u64, channel: &Arc<str>, is_allowed: bool) {
        if self.generation != generation || self.is_allowed.len() >= VERDICTS_MAX {
            self.clear();
            self.generation = generation;
        }
        if self.is_allowed.insert(channel.clone(), is_allowed).is_none() {
            self.names_bytes += channel.len();
        }
    }

    /// All are asked for again, because the patterns of the connection are other ones.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn bytes(&self) -> usize {
        self.is_allowed.len() * VERDICT_BYTES + self.names_bytes
    }
}
