//! The last values of channels: publications that are kept until the next one takes their place.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::broker::state::keys::ChannelKey;
use crate::proto::SharedFrame;

/// All last values together, by age. The values themselves stand with their channels.
#[derive(Debug, Default)]
pub(crate) struct LastValues {
    by_age: BTreeMap<u64, ChannelKey>,
    next_serial: u64,
    bytes: usize,
}

/// The last value of a channel, as its subscribers got it.
#[derive(Debug)]
pub(crate) struct LastValue {
    pub(crate) frame: SharedFrame,
    /// It has attachments, so that some receivers need another form.
    pub(crate) has_attachments: bool,
    /// When it was published, since the Unix epoch.
    pub(crate) published_at: Duration,
    serial: u64,
}

impl LastValues {
    pub(crate) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Returns the bytes of all values.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether one more value of this size would be within the bounds, in the place of the one
    /// that the channel has.
    pub(crate) fn has_room(
        &self,
        before: Option<&LastValue>,
        bytes: usize,
        values_max: usize,
        bytes_max: usize,
    ) -> bool {
        let (fewer, freed) = before.map_or((0, 0), |value| (1, value.frame.bytes().len()));
        self.len() - fewer < values_max && self.bytes - freed + bytes <= bytes_max
    }

    /// Counts a new value of a channel, which has none.
    pub(crate) fn add(
        &mut self,
        channel: ChannelKey,
        frame: SharedFrame,
        has_attachments: bool,
        published_at: Duration,
    ) -> LastValue {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.by_age.insert(serial, channel);
        self.bytes += frame.bytes().len();
        LastValue { frame, has_attachments, published_at, serial }
    }

    /// Counts a value no longer.
    pub(crate) fn remove(&mut self, value: &LastValue) {
        self.by_age.remove(&value.serial);
        self.bytes -= value.frame.bytes().len();
    }

    /// Returns the channel with the oldest value.
    pub(crate) fn oldest(&self) -> Option<ChannelKey> {
        self.by_age.values().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{BufferPool, OutFrame};

    #[test]
    fn values_are_counted_and_go_in_the_order_in_which_they_came() {
        let mut pool = BufferPool::default();
        let mut values = LastValues::default();
        let key = |index| ChannelKey::new(index, std::num::NonZeroU32::MIN);
        let frame = |pool: &mut BufferPool| OutFrame::whole(&[b'x'; 40]).to_kept(pool);
        let first = values.add(key(1), frame(&mut pool), false, Duration::ZERO);
        let second = values.add(key(2), frame(&mut pool), false, Duration::ZERO);
        assert_eq!((values.len(), values.bytes(), values.oldest()), (2, 80, Some(key(1))));
        assert!(!values.has_room(None, 1, 2, 1_000) && !values.has_room(None, 21, 3, 100));
        assert!(values.has_room(Some(&first), 60, 2, 100));
        assert!(!values.has_room(Some(&first), 61, 2, 100));
        values.remove(&first);
        let third = values.add(key(1), frame(&mut pool), false, Duration::ZERO);
        assert_eq!(values.oldest(), Some(key(2)));
        values.remove(&second);
        values.remove(&third);
        assert_eq!((values.len(), values.bytes(), values.oldest()), (0, 0, None));
    }
}
