//! What servers say about themselves: who they are, that they are there, and which channels they have
//! workers for.
//!
//! A server says `Hello` when it comes, and each of the others answers with a snapshot in parts. What changes
//! goes to all with a version that counts up, and a beat each second has the version, too. Whoever lacks a
//! version asks for a snapshot. All of it is JSON of at most 32 KiB; unknown members are ignored.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::packet::Origin;
use super::standing::{Name, Served, Standing};
use super::state::MAX_PAYLOAD_MIN;
use crate::proto::ID_BYTES_MAX;

/// A server says that it is there once in so long.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// A server that was not heard for so long is gone.
pub(crate) const SILENCE_MAX: Duration = Duration::from_millis(3_500);
/// Changes are told at most once in so long.
pub(crate) const CHANGE_EVERY: Duration = Duration::from_millis(20);
/// Snapshots are asked for, and sent, at most once in so long to each server.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(200);
/// No server publishes so much until it is heard again or is gone.
pub(crate) const PUBLISHED_BETWEEN_BEATS_MAX: u64 = 1 << 24;
/// The most other servers.
pub(crate) const SERVERS_MAX: usize = 64;
/// The most channels that one server announces, in all its applications.
pub(crate) const CHANNELS_MAX: usize = 16_384;
/// The most bytes of their names.
pub(crate) const NAMES_BYTES_MAX: usize = 1 << 20;
/// What an entry takes beside the names.
const ENTRY_BYTES: usize = 16;
/// A message says so much, or a little more.
pub(crate) const PART_BYTES: usize = 16 << 10;

/// What a server is, in every one of its messages but the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Its name for people.
    pub(crate) name: String,
    /// What its NATS server takes, in bytes.
    pub(crate) max_payload: usize,
    /// The number of its connection to NATS: with another one, all that was under way may be lost.
    pub(crate) session: u64,
    /// How often what it announces has changed.
    pub(crate) version: u64,
    /// The largest body of a frame that it takes, unless it is older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_frame_bytes: Option<usize>,
    /// The number of its last publication, unless it is older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) published: Option<u64>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Word {
    /// To all: the server has come, and wants to know everything.
    Hello(About),
    /// To all: it is there.
    Beat(About),
    /// To one: it wants a snapshot.
    Ask(About),
    /// To one: a part of a snapshot.
    Part {
        /// Who has it.
        about: About,
        /// Which part, from 0.
        part: usize,
        /// Of how many.
        parts: usize,
        /// Channels with workers, and how busy these are.
        channels: Vec<Served>,
    },
    /// To all: what has changed since the version before.
    Change {
        /// Who has changed.
        about: About,
        /// Channels, and whether they have workers now.
        channels: Vec<(String, String, bool)>,
    },
    /// To all: how busy the workers of some channels are by now.
    Load {
        /// Whose workers.
        about: About,
        /// Channels that it has announced.
        channels: Vec<Served>,
    },
    /// To all: it goes.
    Bye,
}

impl Word {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Strings and numbers always are JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// What this server announces.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    pub(crate) version: u64,
    channels: BTreeSet<Name>,
    changes: BTreeMap<Name, bool>,
    told_at: Option<Duration>,
}

impl Announced {
    /// A channel has workers here, or none any more. It is told later.
    pub(crate) fn set(&mut self, application: &str, channel: &str, is_there: bool) {
        let name = (application.to_owned(), channel.to_owned());
        if self.channels.contains(&name) == is_there {
            self.changes.remove(&name);
        } else {
            self.changes.insert(name, is_there);
        }
    }

    /// Nothing is announced any more.
    pub(crate) fn clear(&mut self) {
        self.changes = self.channels.iter().map(|name| (name.clone(), false)).collect();
    }

    /// Returns whether workers of the application are announced.
    pub(crate) fn serves(&self, application: &str) -> bool {
        let first = (application.to_owned(), String::new());
        self.channels.range(first..).next().is_some_and(|(found, _)| found == application)
    }

    /// When changes are to be told.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let told_at = self.told_at.map_or(Duration::ZERO, |at| at + CHANGE_EVERY);
        (!self.changes.is_empty()).then_some(told_at)
    }

    /// Takes as many changes as a message has room for, under a new version.
    pub(crate) fn take_changes(&mut self, now: Duration) -> Vec<(String, String, bool)> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < PART_BYTES {
            let Some((name, is_there)) = self.changes.pop_first() else { break };
            bytes += name.0.len() + name.1.len() + ENTRY_BYTES;
            if is_there {
                self.channels.insert(name.clone());
            } else {
                self.channels.remove(&name);
            }
            taken.push((name.0, name.1, is_there));
        }
        self.version += 1;
        self.told_at = Some(now);
        taken
    }

    /// Returns the announced channels in order, from the one behind `last` on.
    pub(crate) fn behind(&self, last: Option<&Name>) -> impl Iterator<Item = &Name> {
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.channels.range((start, Bound::Unbounded))
    }

    pub(crate) fn has(&self, name: &Name) -> bool {
        self.channels.contains(name)
    }

    /// Returns everything, in parts. How busy the workers are was told before, or is not known yet.
    pub(crate) fn parts(&self, told: impl Fn(&Name) -> Served) -> Vec<Vec<Served>> {
        let (mut parts, mut bytes) = (vec![Vec::new()], 0);
        for name in &self.channels {
            if bytes >= PART_BYTES {
                parts.push(Vec::new());
                bytes = 0;
            }
            let served = told(name);
            bytes += served.bytes();
            if let Some(part) = parts.last_mut() {
                part.push(served);
            }
        }
        parts
    }
}

/// The channels that another server has workers for, bounded.
#[derive(Debug, Default)]
struct Channels {
    of: BTreeMap<String, BTreeMap<String, Standing>>,
    count: usize,
    bytes: usize,
}

impl Channels {
    /// Returns whether there was room, and the names are ids.
    fn set(&mut self, application: String, channel: String, is_there: bool) -> bool {
        let is_id = |id: &str| (1..=ID_BYTES_MAX).contains(&id.len());
        if !is_id(&application) || !is_id(&channel) {
            return false;
        }
        let bytes = application.len() + channel.len() + ENTRY_BYTES;
        if is_there {
            if self.count >= CHANNELS_MAX || self.bytes + bytes > NAMES_BYTES_MAX {
                return false;
            }
            if let Entry::Vacant(entry) = self.of.entry(application).or_default().entry(channel) {
                entry.insert(Standing::default());
                self.count += 1;
                self.bytes += bytes;
            }
        } else if let Some(channels) = self.of.get_mut(&application)
            && channels.remove(&channel).is_some()
        {
            self.count -= 1;
            self.bytes -= bytes;
            if channels.is_empty() {
                self.of.remove(&application);
            }
        }
        true
    }
}

impl Channels {
    /// Takes how busy the workers of a channel are. Returns whether that is news.
    fn stand(&mut self, served: &Served, me: &str) -> bool {
        let channels = self.of.get_mut(&served.0);
        let Some(known) = channels.and_then(|channels| channels.get_mut(&served.1)) else {
            return false;
        };
        let standing = served.standing(me);
        std::mem::replace(known, standing) != standing
    }
}

/// Another server.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) incarnation: u64,
    pub(crate) about: About,
    pub(crate) heard_at: Duration,
    /// The version of the channels; `None` before the first snapshot and after a gap.
    version: Option<u64>,
    channels: Channels,
    /// The version, the parts that are missing, and what came.
    snapshot: Option<(u64, BTreeSet<usize>, Channels)>,
    asked_at: Option<Duration>,
    answered_at: Option<Duration>,
    wants_snapshot: bool,
}

/// What has to be done about what a server said.
#[expect(clippy::struct_excessive_bools, reason = "each is by itself")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// It was not known.
    pub(crate) is_new: bool,
    /// What was under way with it is lost.
    pub(crate) is_anew: bool,
    /// It is gone.
    pub(crate) is_gone: bool,
    /// Its channels have changed.
    pub(crate) is_changed: bool,
    /// The channels whose workers are more or less busy than they were.
    pub(crate) loads: Vec<Name>,
    /// The number of the last publication that it has come to.
    pub(crate) published: Option<u64>,
    /// It was refused, and why.
    pub(crate) refused: Option<&'static str>,
}

impl Peer {
    /// The channels of an application that it has workers for.
    pub(crate) fn channels(&self, application: &str) -> Option<&BTreeMap<String, Standing>> {
        self.channels.of.get(application)
    }

    /// The applications in which it has workers.
    pub(crate) fn applications(&self) -> impl Iterator<Item = &String> {
        self.channels.of.keys()
    }

    /// Returns whether a snapshot has to be asked for now.
    pub(crate) fn asks(&mut self, now: Duration) -> bool {
        let is_due = self.asked_at.is_none_or(|at| now >= at + SNAPSHOT_EVERY);
        let asks = is_due && self.version != Some(self.about.version);
        if asks {
            self.asked_at = Some(now);
        }
        asks
    }

    /// Returns whether it has to be sent a snapshot now.
    pub(crate) fn is_answered(&mut self, now: Duration) -> bool {
        let is_due = self.answered_at.is_none_or(|at| now >= at + SNAPSHOT_EVERY);
        let is_answered = is_due && self.wants_snapshot;
        if is_answered {
            self.answered_at = Some(now);
            self.wants_snapshot = false;
        }
        is_answered
    }

    fn hear_part(
        &mut self,
        (part, parts): (usize, usize),
        names: Vec<Served>,
        me: &str,
        heard: &mut Heard,
    ) {
        let version = self.about.version;
        // No snapshot that has room has more parts.
        if parts > CHANNELS_MAX || part >= parts {
            heard.refused = Some("a part of a snapshot that has no such part");
            return;
        }
        let is_same = self.snapshot.as_ref().is_some_and(|(of, missing, _)| {
            // The first part begins anew: what came of an earlier answer may have other parts.
            *of == version && part > 0 && missing.last().is_none_or(|last| *last < parts)
        });
        if !is_same {
            self.snapshot = Some((version, (0..parts).collect(), Channels::default()));
        }
        let Some((_, missing, channels)) = &mut self.snapshot else { return };
        if !missing.remove(&part) {
            return;
        }
        for served in names {
            if channels.set(served.0.clone(), served.1.clone(), true) {
                channels.stand(&served, me);
            } else {
                heard.refused = Some("more channels of one server than fit, or one without a name");
            }
        }
        if missing.is_empty()
            && let Some((version, _, channels)) = self.snapshot.take()
        {
            self.channels = channels;
            self.version = Some(version);
            heard.is_changed = true;
        }
    }

    fn hear_change(&mut self, changes: Vec<(String, String, bool)>, heard: &mut Heard) {
        let version = self.about.version;
        if self.version.is_none_or(|known| known.checked_add(1) != Some(version)) {
            return;
        }
        self.version = Some(version);
        heard.is_changed = true;
        for (application, channel, is_there) in changes {
            if !self.channels.set(application, channel, is_there) {
                heard.refused = Some("more channels of one server than fit, or one without a name");
            }
        }
    }
}

/// The other servers.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    pub(crate) known: BTreeMap<[u8; 16], Peer>,
    /// Those that were asked who they are, and when.
    asked: BTreeMap<[u8; 16], Duration>,
}

impl Peers {
    /// Takes what a server said. `me` is the id of this one.
    pub(crate) fn hear(&mut self, origin: Origin, word: Word, now: Duration, me: &str) -> Heard {
        let mut heard = Heard::default();
        let known = self.known.get(&origin.id);
        if known.is_some_and(|peer| peer.incarnation != origin.incarnation) {
            heard.refused = Some("two servers have the same id");
            return heard;
        }
        let about = match &word {
            Word::Bye => {
                heard.is_gone = self.known.remove(&origin.id).is_some();
                return heard;
            }
            Word::Hello(about)
            | Word::Beat(about)
            | Word::Ask(about)
            | Word::Part { about, .. }
            | Word::Load { about, .. }
            | Word::Change { about, .. } => about,
        };
        if about.name.len() > ID_BYTES_MAX || about.max_payload < MAX_PAYLOAD_MIN {
            heard.refused = Some("a server with too long a name, or too small a max_payload");
            return heard;
        }
        if known.is_none() && self.known.len() >= SERVERS_MAX {
            heard.refused = Some("more servers than fit");
            return heard;
        }
        if known.is_some_and(|peer| about.session < peer.about.session) {
            // It was under way on a connection that the server has given up.
            return heard;
        }
        heard.is_new = known.is_none();
        let peer = self.known.entry(origin.id).or_insert_with(|| Peer {
            incarnation: origin.incarnation,
            about: about.clone(),
            heard_at: now,
            version: None,
            channels: Channels::default(),
            snapshot: None,
            asked_at: None,
            answered_at: None,
            wants_snapshot: false,
        });
        heard.is_anew = peer.about.session != about.session;
        // A snapshot overtakes a change, because it comes by another subject.
        let is_old = !heard.is_anew && about.version < peer.about.version;
        peer.heard_at = now;
        let version = about.version.max(if heard.is_anew { 0 } else { peer.about.version });
        // It only grows, so that who says less in its name does not make its publications implausible.
        let published = peer.about.published.max(about.published);
        heard.published = about.published;
        peer.about = About { version, published, ..about.clone() };
        match word {
            Word::Hello(_) | Word::Ask(_) => peer.wants_snapshot = true,
            Word::Part { part, parts, channels, .. } if !is_old => {
                peer.hear_part((part, parts), channels, me, &mut heard);
            }
            Word::Load { channels, .. } => {
                let news = channels.into_iter().filter(|served| peer.channels.stand(served, me));
                heard.loads = news.map(|served| (served.0, served.1)).collect();
            }
            Word::Change { channels, .. } if !is_old => peer.hear_change(channels, &mut heard),
            _ => {}
        }
        heard
    }

    /// Returns whether a server that is not known, and has sent something else first, has to be asked who it is.
    pub(crate) fn asks_stranger(&mut self, id: [u8; 16], now: Duration) -> bool {
        if self.known.contains_key(&id) || self.known.len() >= SERVERS_MAX {
            return false;
        }
        let is_recent = |at: &Duration| now < *at + SNAPSHOT_EVERY;
        self.asked.retain(|_, at| is_recent(at));
        // Whoever forges many ids is not asked for each.
        if self.asked.len() >= SERVERS_MAX || self.asked.contains_key(&id) {
            return false;
        }
        self.asked.insert(id, now);
        true
    }

    /// Returns whether a server may have published so much by now, as far as that is known.
    pub(crate) fn may_have_published(&self, origin: Origin, sequence: u64) -> bool {
        let peer = self.known.get(&origin.id).filter(|it| it.incarnation == origin.incarnation);
        let last = peer.and_then(|peer| peer.about.published);
        last.is_none_or(|last| sequence <= last.saturating_add(PUBLISHED_BETWEEN_BEATS_MAX))
    }

    /// Forgets the servers that were silent for too long, and returns them.
    pub(crate) fn silent(&mut self, now: Duration) -> BTreeMap<[u8; 16], Peer> {
        let (silent, known) = std::mem::take(&mut self.known)
            .into_iter()
            .partition(|(_, peer)| now >= peer.heard_at + SILENCE_MAX);
        self.known = known;
        silent
    }

    /// When the next one is gone, if it stays silent.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.known.values().map(|peer| peer.heard_at + SILENCE_MAX).min()
    }

    /// The smallest `max_payload` of all of them.
    pub(crate) fn max_payload(&self) -> Option<usize> {
        self.known.values().map(|peer| peer.about.max_payload).min()
    }
}
