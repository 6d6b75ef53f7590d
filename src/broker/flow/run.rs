//! A run: publications that follow one another in one read and are delivered together.
//!
//! Publications are relayed unchanged, so the bytes that were read are the bytes to send, including
//! the length prefixes. Each subscriber's queue is looked up once for the whole run, and many small
//! frames become one large one that all queues share.

use super::forms::Publication;
use super::{measuring, subscriptions};
use crate::branches::{self, Branch};
use crate::broker::limits::Limits;
use crate::broker::state::connection::Connection;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};

use crate::proto::OutFrame;
use crate::proto::frame::HEADER_BYTES;

/// The publications to one channel that came with the current read and are not delivered yet.
/// Everything else that puts a message into a queue delivers them first.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    publisher: ConnectionKey,
    /// All bytes of the read.
    chunk: &'a [u8],
    channel: Option<ChannelKey>,
    start: usize,
    end: usize,
    frames: u32,
}

impl<'a> Run<'a> {
    pub(crate) fn new(publisher: ConnectionKey, chunk: &'a [u8]) -> Self {
        Self { publisher, chunk, channel: None, start: 0, end: 0, frames: 0 }
    }

    /// Returns whether a publication may join the run. The subscribers' queues are then checked for
    /// the run as a whole, as if it were one frame. A run of more than one publication is therefore
    /// never larger than the largest frame.
    #[inline]
    pub(crate) fn may_take(&self, limits: &Limits, channel: ChannelKey, body: &[u8]) -> bool {
        self.channel == Some(channel) && self.may_grow(limits, body)
    }

    /// It is apart, because most reads have one publication alone.
    #[inline(never)]
    fn may_grow(&self, limits: &Limits, body: &[u8]) -> bool {
        self.place_of(body).is_some_and(|(start, end)| {
            start == self.end && end - self.start <= limits.run_bytes_max()
        })
    }

    /// Adds a publication whose frame has this body. Either it may join the run, or the run is empty.
    #[expect(clippy::inline_always, reason = "each publication passes here")]
    #[inline(always)]
    pub(crate) fn publish(&mut self, core: &mut Core, channel: ChannelKey, body: &[u8]) {
        debug_assert!(self.channel.is_none() || self.may_take(&core.limits, channel, body));
        let Some((start, end)) = self.place_of(body) else {
            // The frame began in an earlier read, and is in the receive buffer.
            let frame = OutFrame::relay(body, &mut core.pool);
            return deliver(core, channel, &frame, 1);
        };
        if self.channel.is_none() {
            (self.channel, self.start, self.frames) = (Some(channel), start, 0);
        }
        if self.frames > 0 {
            branches::note(Branch::RunJoined);
        }
        self.end = end;
        self.frames += 1;
    }

    /// Puts the publications into the queues of their subscribers. Returns whether their publisher
    /// may go on. If it subscribes to the channel itself, its own queue may hold it back now.
    #[expect(
        clippy::inline_always,
        reason = "each message passes here, and a call costs 22 instructions"
    )]
    #[inline(always)]
    pub(crate) fn deliver(&mut self, core: &mut Core) -> bool {
        match self.channel.take() {
            Some(channel) => self.deliver_to(core, channel),
            None => true,
        }
    }

    fn deliver_to(&self, core: &mut Core, channel: ChannelKey) -> bool {
        let frames = &self.chunk[self.start..self.end];
        if self.frames > 1 {
            branches::note(Branch::RunDelivered);
        }
        let frame = OutFrame::relay_framed(frames, &mut core.pool);
        deliver(core, channel, &frame, self.frames);
        core.connections.get(self.publisher).is_some_and(Connection::may_proceed)
    }

    /// Returns the position in the read of the frame with this body, including its length prefix.
    fn place_of(&self, body: &[u8]) -> Option<(usize, usize)> {
        let offset = body.as_ptr().addr().checked_sub(self.chunk.as_ptr().addr())?;
        let start = offset.checked_sub(HEADER_BYTES)?;
        let end = offset + body.len();
        (end <= self.chunk.len()).then_some((start, end))
    }
}

fn deliver(core: &mut Core, channel: ChannelKey, frame: &OutFrame<'_>, publications: u32) {
    if subscriptions::fan_out(core, channel, frame, publications) > 0 {
        measuring::note_publications(core, channel, core.turn.arrived, publications);
    }
}

/// Delivers a publication by itself, in the form that each subscriber takes.
#[cold]
pub(crate) fn deliver_alone(core: &mut Core, channel: ChannelKey, publication: &Publication<'_>) {
    if subscriptions::fan_out_in_forms(core, channel, publication) > 0 {
        measuring::note_publications(core, channel, core.turn.arrived, 1);
    }
}
