//! The search of a new pattern for channels of which something is kept. It goes on over several turns.

use super::super::keys::ChannelKey;

/// The search for a pattern of one connection, whose next messages wait for its end.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) pattern: Box<str>,
    /// So many of the newest publications of each channel are asked for.
    pub(crate) last: u32,
    /// Later searches have higher ones.
    pub(crate) number: u64,
    /// The channel that was looked at last, in the order of the keys.
    pub(crate) behind: Option<ChannelKey>,
}

/// All searches.
#[derive(Debug, Default)]
pub(crate) struct Searches {
    /// The number of the last one.
    pub(crate) begun: u64,
    pub(crate) running: usize,
}
