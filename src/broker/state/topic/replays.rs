//! What a connection is still sent of what was kept, channel by channel.

use std::collections::BTreeMap;

use super::super::keys::ChannelKey;
use super::seat::List;

/// What a connection is still sent of what was kept of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) channel: ChannelKey,
    pub(crate) next: Next,
    /// The list of the channel that it joins afterwards. `None`: a pattern matches the channel, and it
    /// stands in the list of that.
    pub(crate) joins: Option<List>,
}

/// The next message of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The one with this offset, and all behind it.
    Offset(u64),
    LastValue,
}

/// The replays of a connection in their order. A pattern may have begun one for each of tens of
/// thousands of channels, so that none is searched for among the others.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    in_order: BTreeMap<u64, Replay>,
    places: BTreeMap<ChannelKey, u64>,
    begun: u64,
}

impl Replays {
    pub(crate) fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.in_order.len()
    }

    pub(crate) fn first(&self) -> Option<Replay> {
        self.in_order.first_key_value().map(|(_, replay)| *replay)
    }

    pub(crate) fn of_channel(&self, channel: ChannelKey) -> Option<Replay> {
        self.in_order.get(self.places.get(&channel)?).copied()
    }

    /// Adds one behind the others. Its channel has none yet.
    pub(crate) fn push(&mut self, replay: Replay) {
        self.places.insert(replay.channel, self.begun);
        self.in_order.insert(self.begun, replay);
        self.begun += 1;
    }

    pub(crate) fn advance(&mut self, channel: ChannelKey, next: Next) {
        let place = self.places.get(&channel);
        if let Some(replay) = place.and_then(|place| self.in_order.get_mut(place)) {
            replay.next = next;
        }
    }

    /// Behind that of a channel the connection joins no list.
    pub(crate) fn join_none(&mut self, channel: ChannelKey) {
        let place = self.places.get(&channel);
        if let Some(replay) = place.and_then(|place| self.in_order.get_mut(place)) {
            replay.joins = None;
        }
    }

    /// Removes that of a channel. Returns whether there was one.
    pub(crate) fn remove(&mut self, channel: ChannelKey) -> bool {
        let place = self.places.remove(&channel);
        place.is_some_and(|place| self.in_order.remove(&place).is_some())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Replay> {
        self.in_order.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replays_keep_their_order_and_are_found_by_channel() {
        let channels: Vec<_> =
            (0..4).map(|at| ChannelKey::new(at, std::num::NonZeroU32::MIN)).collect();
        let replay = |at: usize, next| Replay { channel: channels[at], next, joins: None };
        let mut replays = Replays::default();
        for at in [2, 0, 3] {
            replays.push(replay(at, Next::Offset(1)));
        }
        replays.advance(channels[0], Next::Offset(7));
        replays.advance(channels[1], Next::Offset(7));
        assert_eq!(replays.first(), Some(replay(2, Next::Offset(1))));
        assert!(replays.remove(channels[2]) && !replays.remove(channels[2]));
        assert_eq!(replays.of_channel(channels[2]), None);
        assert_eq!(replays.of_channel(channels[0]), Some(replay(0, Next::Offset(7))));
        replays.push(replay(2, Next::LastValue));
        let order: Vec<_> = replays.iter().map(|replay| replay.channel).collect();
        assert_eq!(order, [channels[0], channels[3], channels[2]]);
        assert_eq!(replays.len(), 3);
    }
}
