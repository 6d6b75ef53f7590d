//! How busy the workers of a channel at a server are, in messages and in the choice of a worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A channel of an application.
pub(crate) type Name = (String, String);

/// What an entry takes beside the names, and for each server in it.
const ENTRY_BYTES: usize = 48;
/// The most workers that are believed.
const WORKERS_MAX: u32 = 65_535;
/// The most requests that a worker may get at a time.
const CONCURRENCY_MAX: u32 = 65_536;

/// A channel that a server has workers for: the application, the channel, how many workers, how many more
/// requests they take if each has a concurrency (below zero if some wait), how many requests they have, and how
/// many of these are of other servers, by the servers' ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served(
    pub(crate) String,
    pub(crate) String,
    pub(crate) u32,
    pub(crate) Option<i64>,
    pub(crate) u32,
    pub(crate) BTreeMap<String, u32>,
);

impl Served {
    /// One idle worker.
    pub(crate) fn new((application, channel): Name) -> Self {
        Self(application, channel, 1, None, 0, BTreeMap::new())
    }

    /// About how long it is in JSON.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() + self.1.len() + ENTRY_BYTES * (1 + self.5.len())
    }

    /// How the workers stand for requests of the server `me`.
    pub(crate) fn standing(&self, me: &str) -> Standing {
        let own = self.5.get(me).copied().unwrap_or_default();
        Standing {
            workers: self.2.clamp(1, WORKERS_MAX),
            in_flight: self.4.saturating_sub(own),
            room: self.3.map(|room| {
                let room = room.saturating_add(own.into()).clamp(0, CONCURRENCY_MAX.into());
                u32::try_from(room).unwrap_or_default()
            }),
        }
    }

    /// Returns whether it is so different that the others have to know it at once.
    pub(crate) fn differs_much(&self, told: &Self) -> bool {
        if self.2 != told.2 || self.3.is_some() != told.3.is_some() {
            return true;
        }
        let of = |served: &Self| served.5.values().map(|own| u64::from(*own)).sum::<u64>();
        let mut moved = (u64::from(self.4).saturating_sub(of(self)))
            .abs_diff(u64::from(told.4).saturating_sub(of(told)));
        for server in self.5.keys().chain(told.5.keys().filter(|id| !self.5.contains_key(*id))) {
            let at = |served: &Self| served.5.get(server).copied().unwrap_or_default();
            moved += u64::from(at(self).abs_diff(at(told)));
        }
        moved >= u64::from(self.2).max(u64::from(told.4) / 8).max(1)
    }
}

/// How the workers of another server stand in the choice of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) workers: u32,
    /// Requests that they have from elsewhere.
    pub(crate) in_flight: u32,
    /// How many requests of this server they take in all, if each has a concurrency.
    pub(crate) room: Option<u32>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { workers: 1, in_flight: 0, room: None }
    }
}

impl Standing {
    /// How many requests the link gets at a time. Each worker may have one that waits there, so that it is not
    /// idle until the next one has come.
    pub(crate) fn concurrency(&self) -> Option<u32> {
        let most = self.room?.saturating_add(self.workers);
        Some(most.clamp(1, CONCURRENCY_MAX))
    }
}
