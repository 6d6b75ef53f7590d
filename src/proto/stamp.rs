//! The id and the time that this end gives each of its own messages.

use std::time::Duration;

use super::timestamp::{TimeText, Timestamp};

/// An id and a time, as JSON text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    id: [u8; ID_BYTES],
    time: TimeText,
}

impl Stamp {
    #[inline]
    pub(crate) fn id(&self) -> &[u8] {
        &self.id
    }

    #[inline]
    pub(crate) fn time(&self) -> &[u8] {
        self.time.as_bytes()
    }
}

/// Gives every message an id that no other message has, and the time.
///
/// The ids have the form of random UUIDs. They share their first digits and count up in the last
/// twelve, so that making one costs next to nothing. A peer that has seen one can guess the next: an
/// id that must be a secret has to be a random one.
#[derive(Clone, Debug)]
pub(crate) struct Stamps {
    last_id: [u8; ID_BYTES],
    timestamp: Timestamp,
}

const ID_BYTES: usize = 36;
const COUNTER_DIGITS: usize = 12;

impl Stamps {
    /// Stamps whose ids begin with these random bytes, which must differ from process to process.
    pub(crate) fn new(random: [u8; 9]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Version 4, variant 1: a random UUID.
        let mut last_id = *b"xxxxxxxx-xxxx-4xxx-8xxx-000000000000";
        let mut nibbles = random.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        for digit in last_id.iter_mut().filter(|digit| **digit == b'x') {
            *digit = DIGITS[usize::from(nibbles.next().unwrap_or_default())];
        }
        Self { last_id, timestamp: Timestamp::default() }
    }

    /// The next id, and the time `unix`.
    #[inline]
    pub(crate) fn next(&mut self, unix: Duration) -> Stamp {
        for digit in self.last_id[ID_BYTES - COUNTER_DIGITS..].iter_mut().rev() {
            *digit = match *digit {
                b'9' => b'a',
                b'f' => b'0',
                other => other + 1,
            };
            if *digit != b'0' {
                break;
            }
        }
        Stamp { id: self.last_id, time: self.timestamp.text(unix) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_count_up_and_are_random_uuids() {
        let mut stamps = Stamps::new([0xab; 9]);
        let mut ids = BTreeSet::new();
        for number in 1..5_000_u64 {
            let stamp = stamps.next(Duration::from_millis(1_500));
            let id = std::str::from_utf8(stamp.id()).unwrap();
            assert_eq!(id, format!("abababab-abab-4aba-8bab-{number:012x}"));
            assert_eq!(stamp.time(), b"1.500000");
            ids.insert(id.to_owned());
        }
        assert_eq!(ids.len(), 4_999);
    }

    #[test]
    fn a_carry_goes_through_all_digits_of_the_counter() {
        for digits in 1..COUNTER_DIGITS {
            let last = (1_u64 << (4 * digits)) - 1;
            let mut stamps = Stamps::new([0xab; 9]);
            let counter = format!("{last:012x}");
            stamps.last_id[ID_BYTES - COUNTER_DIGITS..].copy_from_slice(counter.as_bytes());
            let stamp = stamps.next(Duration::ZERO);
            let id = std::str::from_utf8(stamp.id()).unwrap();
            assert_eq!(id, format!("abababab-abab-4aba-8bab-{:012x}", last + 1));
        }
    }
}
