//! The bus links: one of each application that is shared with other servers.

use std::sync::Arc;
use std::time::Duration;

use super::keys::ConnectionKey;

/// The most bus links at a time. Each costs two descriptors.
pub(crate) const BUSES_MAX: usize = 1_024;
/// A bus link stays for so long after the last client of its application, so that the next one finds it.
pub(crate) const BUS_IDLE_MAX: Duration = Duration::from_secs(60);
/// The id of each.
pub(crate) const BUS_ID: &str = "$link/bus";

/// The links that hear what clients publish, for other servers.
#[derive(Debug, Default)]
pub(crate) struct Buses {
    /// The patterns of the channels that are shared. There are none without a bridge, and then no links.
    pub(crate) patterns: Arc<[String]>,
    links: Vec<ConnectionKey>,
}

impl Buses {
    pub(crate) fn is_full(&self) -> bool {
        self.links.len() >= BUSES_MAX
    }

    pub(crate) fn insert(&mut self, link: ConnectionKey) {
        self.links.push(link);
    }

    pub(crate) fn remove(&mut self, link: ConnectionKey) {
        self.links.retain(|found| *found != link);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ConnectionKey> {
        self.links.iter().copied()
    }
}
