//! The place of a subscriber in a list.

/// The lists of subscribers that a channel or a pattern has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// They get each publication at once, and hold its publisher back if they read too slowly.
    Live,
    /// They get the newest publication alone while they read too slowly.
    Conflating,
    /// They are still sent what was kept, and stand in no order.
    Replaying,
    /// They are links to other servers, which get what no link has published. They count for nobody as
    /// subscribers, but hold a publisher back as the live ones do.
    Link,
}

/// A list, and the position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(u32);

/// The bits of the position. A list has fewer subscribers than there may be connections.
const POSITION_BITS: u32 = 30;

impl Seat {
    #[inline]
    pub(crate) fn new(list: List, position: usize) -> Self {
        Self((list as u32) << POSITION_BITS | position as u32)
    }

    #[inline]
    pub(crate) fn list(self) -> List {
        match self.0 >> POSITION_BITS {
            0 => List::Live,
            1 => List::Conflating,
            2 => List::Replaying,
            _ => List::Link,
        }
    }

    #[inline]
    pub(crate) fn position(self) -> usize {
        (self.0 & ((1 << POSITION_BITS) - 1)) as usize
    }

    /// Returns whether its subscriber holds publishers back.
    #[inline]
    pub(crate) fn is_live(self) -> bool {
        matches!(self.list(), List::Live | List::Link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_has_its_list_and_position() {
        for list in [List::Live, List::Conflating, List::Replaying, List::Link] {
            for position in [0, 1, (1 << POSITION_BITS) - 1] {
                let seat = Seat::new(list, position);
                assert_eq!((seat.list(), seat.position()), (list, position));
                assert_eq!(seat.is_live(), [List::Live, List::Link].contains(&list));
            }
        }
    }
}
