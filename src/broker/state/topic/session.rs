//! The part of a connection's session that only the extension `topic` needs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::super::keys::NodeKey;
use super::replays::Replays;
use super::search::Search;
use super::seat::Seat;
use super::verdicts::Verdicts;
use crate::proto::SharedFrame;

/// What a connection has beside its plain subscriptions.
#[derive(Debug, Default)]
pub(crate) struct TopicSession {
    /// The bytes of the largest conflated publication that took the queue over its mark by itself.
    pub(crate) conflated_bytes: usize,
    /// The patterns that it subscribed to, each with the place in the list of its node.
    pub(crate) patterns: BTreeMap<NodeKey, Seat>,
    /// What it is still sent of what was kept.
    pub(crate) replays: Replays,
    /// The channels that its newest pattern has still to be sent something of are searched for.
    pub(crate) search: Option<Box<Search>>,
    /// What waits for it because it conflates.
    pub(crate) pending: Pending,
    /// What the filter says of the channels that it hears through patterns.
    pub(crate) verdicts: Verdicts,
}

/// The newest publication of each channel, for a subscriber that conflates and reads too slowly.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    newest: BTreeMap<Arc<str>, SharedFrame>,
    /// The channels, in the order in which they have waited.
    order: VecDeque<Arc<str>>,
    names_bytes: usize,
    frames_bytes: usize,
}

/// The largest size of an entry without its name, which is when the tables have just grown.
const ENTRY_BYTES: usize = 192;

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.newest.len()
    }

    /// Keeps the newest publication of a channel. Returns the one that it replaces.
    pub(crate) fn keep(&mut self, channel: &str, frame: SharedFrame) -> Option<SharedFrame> {
        self.frames_bytes += frame.bytes().len();
        if let Some(newest) = self.newest.get_mut(channel) {
            let older = std::mem::replace(newest, frame);
            self.frames_bytes -= older.bytes().len();
            return Some(older);
        }
        let channel: Arc<str> = channel.into();
        self.names_bytes += channel.len();
        self.order.push_back(channel.clone());
        self.newest.insert(channel, frame);
        None
    }

    /// Returns the length of the frame that waits for the longest time.
    pub(crate) fn next_bytes(&self) -> Option<usize> {
        self.newest.get(self.order.front()?).map(|frame| frame.bytes().len())
    }

    /// Takes the publication that waits for the longest time.
    pub(crate) fn take_next(&mut self) -> Option<SharedFrame> {
        let channel = self.order.pop_front()?;
        self.remove(&channel)
    }

    /// Takes those of the channels for which `is_kept` says no, in order.
    pub(crate) fn take_all_but(
        &mut self,
        mut is_kept: impl FnMut(&str) -> bool,
    ) -> Vec<(Arc<str>, SharedFrame)> {
        let (kept, gone): (VecDeque<_>, Vec<_>) = std::mem::take(&mut self.order).into_iter().fold(
            (VecDeque::new(), Vec::new()),
            |(mut kept, mut gone), channel| {
                if is_kept(&channel) {
                    kept.push_back(channel);
                } else {
                    gone.push(channel);
                }
                (kept, gone)
            },
        );
        self.order = kept;
        let taken = gone.into_iter().filter_map(|channel| {
            let frame = self.remove(&channel)?;
            Some((channel, frame))
        });
        taken.collect()
    }

    /// Forgets the publication of a channel. Returns whether there was one.
    pub(crate) fn forget(&mut self, channel: &str) -> bool {
        if !self.newest.contains_key(channel) {
            return false;
        }
        self.order.retain(|waiting| &**waiting != channel);
        self.remove(channel).is_some()
    }

    fn remove(&mut self, channel: &str) -> Option<SharedFrame> {
        let frame = self.newest.remove(channel)?;
        self.names_bytes -= channel.len();
        self.frames_bytes -= frame.bytes().len();
        if self.newest.is_empty() {
            self.order = VecDeque::new();
        }
        Some(frame)
    }

    /// Returns its memory without the frames, which many connections may share.
    pub(crate) fn bytes(&self) -> usize {
        self.newest.len() * ENTRY_BYTES + self.names_bytes
    }

    /// Returns the memory that it holds for its connection.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes() + self.frames_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{BufferPool, OutFrame};

    #[test]
    fn the_newest_of_each_channel_waits_in_the_order_of_the_channels() {
        let mut pool = BufferPool::default();
        let mut pending = Pending::default();
        let mut keep = |pending: &mut Pending, channel: &str, text: &'static [u8]| {
            let frame = OutFrame::whole(text).to_kept(&mut pool);
            pending.keep(channel, frame).map(|older| older.bytes().to_vec())
        };
        assert_eq!(keep(&mut pending, "a", b"a1"), None);
        assert_eq!(keep(&mut pending, "bb", b"b1"), None);
        assert_eq!(keep(&mut pending, "a", b"a22").as_deref(), Some(&b"a1"[..]));
        assert_eq!(keep(&mut pending, "c", b"c1"), None);
        assert_eq!((pending.len(), pending.bytes()), (3, 3 * ENTRY_BYTES + 4));
        assert_eq!(pending.held_bytes(), pending.bytes() + 7);
        let gone = pending.take_all_but(|channel| channel != "bb");
        assert_eq!(gone.len(), 1);
        assert_eq!((&*gone[0].0, gone[0].1.bytes()), ("bb", &b"b1"[..]));
        assert_eq!(pending.next_bytes(), Some(3));
        assert_eq!(pending.take_next().unwrap().bytes(), b"a22");
        assert_eq!(pending.take_next().unwrap().bytes(), b"c1");
        assert!(pending.take_next().is_none() && pending.is_empty());
        assert_eq!(pending.held_bytes(), 0);
    }
}
