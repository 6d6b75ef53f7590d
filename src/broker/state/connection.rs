//! The life of one connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{ApplicationKey, ChannelKey, RequestKey};
use super::latency::Distribution;
use super::timers::TimerKey;
use super::turn::Place;
use crate::broker::flow::queues::Obstacle;
use crate::broker::limits::{HANDSHAKE_QUEUE_BYTES_MAX, Limits};
use crate::proto::{RecvBuffer, SendQueue};

/// One connection as the broker sees it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(crate) struct Connection {
    pub(crate) state: State,
    pub(crate) recv: RecvBuffer,
    pub(crate) send: SendQueue,
    /// Handshake and lingering have a deadline, an open connection an idle timeout.
    pub(crate) timer: Option<TimerKey>,
    /// Set while the queue is over its high-water mark: the end of its grace.
    pub(crate) congested: Option<TimerKey>,
    pub(crate) last_activity: Duration,
    /// When bytes of it were last read: what it had sent has waited since then.
    pub(crate) last_read: Duration,
    /// When the message came of which it has a part.
    pub(crate) unfinished_since: Duration,
    /// What its next frame waits for.
    pub(crate) parked: Option<Obstacle>,
    /// What it waited for until just now; when it had its turn, the next one is let go on.
    pub(crate) woken: Option<Obstacle>,
    /// It gave up its turn with whole frames left; they come before anything else is read.
    pub(crate) yielded: bool,
    /// Its next frame waits until there is memory again.
    pub(crate) paused: bool,
    /// Its next frame is more than the turn could take on.
    pub(crate) place: Place,
    /// What its transport holds, which counts among the memory of the server.
    pub(crate) transport_bytes: u32,
    /// It took bytes from the queue that the kernel has not taken yet.
    pub(crate) transport_holds: bool,
    /// It was seen to write header and body apart, as the published clients do.
    pub(crate) splits_writes: bool,
    /// It was over the limit, and does not count against it.
    pub(crate) refused: bool,
    /// It is closed as soon as nobody iterates over connections.
    pub(crate) doomed: bool,
    /// A flush is already in the list of actions.
    pub(crate) flush_due: bool,
}

/// Where a connection is in its life. It only ever moves down this list.
#[derive(Debug)]
pub(crate) enum State {
    /// Nothing but a connect is accepted.
    Handshake,
    Open(Session),
    /// A newer connection has its id. It is told when it next sends something, and is sent
    /// nothing before, see [`Core::supersede`](super::core::Core::supersede).
    Superseded,
    /// What is queued still goes out, nothing that comes in is looked at.
    Closing,
    /// The write side is shut; the peer gets time to read the reason.
    Lingering,
    /// Waits for the end of the turn.
    Closed,
}

/// What a connection owns once it has introduced itself.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) application: ApplicationKey,
    pub(crate) id: Arc<str>,
    /// The last channels it named, so that the next message needs no look-up by string.
    pub(crate) recent: [Option<ChannelKey>; RECENT_CHANNELS],
    pub(crate) recent_next: u8,
    /// Requests it waits for that a worker or another thread answers.
    pub(crate) requests: Vec<RequestKey>,
    /// What the ids of those take that are no UUIDs.
    pub(crate) message_id_bytes: usize,
    /// With the position in the channel's list, so that leaving is not a search.
    pub(crate) subscriptions: BTreeMap<ChannelKey, u32>,
    /// Channels it was the first to name.
    pub(crate) created: Vec<ChannelKey>,
    pub(crate) worker: Option<Box<Worker>>,
}

/// Channels remembered per connection: programs use one to three.
const RECENT_CHANNELS: usize = 4;

/// What a connection that serves requests has taken on.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) channels: Vec<ChannelKey>,
    pub(crate) in_flight: Vec<RequestKey>,
    pub(crate) round_trip: Distribution,
}

impl Connection {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            state: State::Handshake,
            recv: RecvBuffer::default(),
            send: SendQueue::default(),
            timer: None,
            congested: None,
            last_activity: now,
            last_read: now,
            unfinished_since: now,
            parked: None,
            woken: None,
            yielded: false,
            paused: false,
            place: Place::Nowhere,
            transport_bytes: 0,
            transport_holds: false,
            splits_writes: false,
            refused: false,
            doomed: false,
            flush_due: false,
        }
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.state {
            State::Open(session) => Some(session),
            _ => None,
        }
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.state {
            State::Open(session) => Some(session),
            _ => None,
        }
    }

    /// Whether frames are still looked at.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, State::Handshake | State::Open(_) | State::Superseded)
    }

    /// Whether anything may be put into its queue.
    pub(crate) fn takes_messages(&self) -> bool {
        !self.doomed && matches!(self.state, State::Handshake | State::Open(_))
    }

    /// Whether its next frame may be processed now.
    pub(crate) fn may_proceed(&self) -> bool {
        self.is_live()
            && self.parked.is_none()
            && self.congested.is_none()
            && !self.paused
            && self.place != Place::Waiting
    }

    pub(crate) fn high_water_bytes(&self, limits: &Limits) -> usize {
        match self.state {
            State::Handshake => HANDSHAKE_QUEUE_BYTES_MAX,
            _ => limits.queue_high_water_bytes,
        }
    }
}

impl Session {
    pub(crate) fn new(application: ApplicationKey, id: Arc<str>) -> Self {
        Self {
            application,
            id,
            recent: [None; RECENT_CHANNELS],
            recent_next: 0,
            requests: Vec::new(),
            message_id_bytes: 0,
            subscriptions: BTreeMap::new(),
            created: Vec::new(),
            worker: None,
        }
    }

    pub(crate) fn remember(&mut self, channel: ChannelKey) {
        let place = usize::from(self.recent_next);
        self.recent[place] = Some(channel);
        self.recent_next = ((place + 1) % RECENT_CHANNELS) as u8;
    }

    pub(crate) fn requests_in_flight(&self) -> usize {
        self.worker.as_ref().map_or(0, |worker| worker.in_flight.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_small() {
        // An idle connection is promised to cost under 1 KiB of the server's memory in all.
        let bytes = size_of::<Connection>();
        assert!(bytes <= 384, "{bytes} bytes");
    }
}
