//! Publications that follow one another in one read, delivered together.
//!
//! They are relayed as they came, so the bytes that were read are the bytes that are to be sent,
//! length prefixes included: each subscriber's queue is looked up once for all of them, and many
//! small frames become one large one that all queues share.

use super::{measuring, subscriptions};
use crate::broker::state::core::Core;
use crate::broker::state::keys::ChannelKey;
use crate::proto::OutFrame;
use crate::proto::frame::HEADER_BYTES;

/// The publications to one channel that the current read has brought and that no subscriber has
/// got yet. Whatever else may put a message into a queue delivers them first.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// Everything that was read.
    chunk: &'a [u8],
    channel: Option<ChannelKey>,
    start: usize,
    end: usize,
    frames: u32,
}

impl<'a> Run<'a> {
    pub(crate) fn new(chunk: &'a [u8]) -> Self {
        Self { chunk, channel: None, start: 0, end: 0, frames: 0 }
    }

    /// Adds a publication whose frame has this body.
    pub(crate) fn publish(&mut self, core: &mut Core, channel: ChannelKey, body: &[u8]) {
        let Some((start, end)) = self.place_of(body) else {
            // It did not arrive in one piece, and what came of it before was kept elsewhere.
            self.deliver(core);
            let frame = OutFrame::relay(body, &mut core.pool);
            return deliver(core, channel, &frame, 1);
        };
        let bytes_max = core.limits.run_bytes_max();
        let follows = self.channel == Some(channel) && self.end == start;
        if !follows || end - self.start > bytes_max {
            self.deliver(core);
            (self.channel, self.start, self.frames) = (Some(channel), start, 0);
        }
        self.end = end;
        self.frames += 1;
        if end - self.start > bytes_max {
            self.deliver(core);
        }
    }

    /// Puts the publications into the queues of their subscribers.
    #[inline]
    pub(crate) fn deliver(&mut self, core: &mut Core) {
        if let Some(channel) = self.channel.take() {
            self.deliver_to(core, channel);
        }
    }

    fn deliver_to(&self, core: &mut Core, channel: ChannelKey) {
        let frames = &self.chunk[self.start..self.end];
        let frame = OutFrame::relay_framed(frames, &mut core.pool);
        deliver(core, channel, &frame, self.frames);
    }

    /// The position in what was read of the frame with this body, length prefix included.
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
