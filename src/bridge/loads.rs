//! How busy the workers of servers are: what this one tells of its own, and how those of another one stand in
//! the choice of a worker.
//!
//! While other servers are there, the own server is asked once a second, and more often while something
//! changes or others send requests. The others are told what has changed enough, and of lesser changes what lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::presence::{Announced, BEAT, PART_BYTES};
use super::standing::{Name, Served};
use crate::broker::ChannelLoad;

/// The own server is asked at most once in so long, and the others are told as often.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// An answer that is missing for so long does not come.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The most channels that are asked for at once. If there are more, each has its turn.
pub(crate) const CHANNELS_PER_LOOK: usize = 256;
/// What the others know of a channel.
#[derive(Debug)]
struct Told {
    served: Served,
    /// It is not quite so any more, for so long.
    differs_since: Option<Duration>,
}

/// What the others know of the local workers.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    told: BTreeMap<Name, Told>,
    /// Channels whose workers others have asked, or in which something has changed, since the last look.
    busy: BTreeMap<String, BTreeSet<String>>,
    busy_count: usize,
    asked_at: Option<Duration>,
    is_awaited: bool,
    look_at: Option<Duration>,
    /// The last channel that had its turn.
    last: Option<Name>,
}

impl Loads {
    /// Another server has sent a request for a channel.
    pub(crate) fn note_request(&mut self, application: &str, channel: &str, now: Duration) {
        let channels = self.busy.get(application);
        if channels.is_some_and(|channels| channels.contains(channel)) {
            return;
        }
        if self.busy_count < CHANNELS_PER_LOOK {
            self.busy_count += 1;
            self.busy.entry(application.to_owned()).or_default().insert(channel.to_owned());
        }
        self.look(now);
    }

    /// Channels have got workers, or lost the last one.
    pub(crate) fn note_changes(&mut self, changes: &[(String, String, bool)], now: Duration) {
        for (application, channel, is_there) in changes {
            self.told.remove(&(application.clone(), channel.clone()));
            if *is_there {
                self.note_request(application, channel, now);
            }
        }
    }

    /// Looks soon.
    pub(crate) fn look(&mut self, now: Duration) {
        let soonest = self.asked_at.map_or(now, |asked| now.max(asked + LOOK_EVERY));
        let at = self.look_at.get_or_insert(soonest);
        *at = soonest.min(*at);
    }

    /// When the own server is to be asked.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let answer_by = self.asked_at.filter(|_| self.is_awaited).map(|asked| asked + ANSWER_MAX);
        Some(self.look_at?.max(answer_by.unwrap_or_default()))
    }

    /// Returns the channels to ask the own server for, if it is time to.
    pub(crate) fn ask(&mut self, announced: &Announced, now: Duration) -> Option<Vec<Name>> {
        if self.deadline().is_none_or(|at| now < at) {
            return None;
        }
        self.look_at = None;
        let busy = std::mem::take(&mut self.busy).into_iter();
        let busy = busy.flat_map(|(application, channels)| {
            channels.into_iter().map(move |channel| (application.clone(), channel))
        });
        let mut names: BTreeSet<Name> = busy.filter(|name| announced.has(name)).collect();
        self.busy_count = 0;
        let room = CHANNELS_PER_LOOK.saturating_sub(names.len());
        let mut others =
            announced.behind(self.last.as_ref()).take(room).cloned().collect::<Vec<_>>();
        if others.len() < room {
            // From the beginning. Those that come twice are asked for once.
            let rest = room - others.len();
            others.extend(announced.behind(None).take(rest).cloned());
        }
        self.last = others.last().cloned().or_else(|| self.last.take());
        names.extend(others);
        if names.is_empty() {
            return None;
        }
        (self.asked_at, self.is_awaited) = (Some(now), true);
        Some(names.into_iter().collect())
    }

    /// Takes the answer. Returns what the others have to know, in parts.
    pub(crate) fn take(
        &mut self,
        loads: Vec<ChannelLoad>,
        announced: &Announced,
        now: Duration,
    ) -> Vec<Vec<Served>> {
        self.is_awaited = false;
        let (mut parts, mut bytes) = (Vec::new(), PART_BYTES);
        for load in loads {
            let name = (load.application, load.channel);
            if !announced.has(&name) {
                continue;
            }
            let (application, channel) = name.clone();
            let workers = load.workers.max(1);
            let served =
                Served(application, channel, workers, load.room, load.in_flight, load.of_servers);
            let first = || Told { served: Served::new(name.clone()), differs_since: None };
            let told = self.told.entry(name.clone()).or_insert_with(first);
            if told.served == served {
                told.differs_since = None;
                continue;
            }
            let since = *told.differs_since.get_or_insert(now);
            if !served.differs_much(&told.served) && now < since + BEAT {
                continue;
            }
            *told = Told { served: served.clone(), differs_since: None };
            self.note_request(&name.0, &name.1, now);
            if bytes >= PART_BYTES {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += served.bytes();
            if let Some(part) = parts.last_mut() {
                part.push(served);
            }
        }
        parts
    }

    /// What the others know of a channel.
    pub(crate) fn told(&self, name: &Name) -> Served {
        self.told.get(name).map_or_else(|| Served::new(name.clone()), |told| told.served.clone())
    }
}
