//! The bounds of one turn of the loop, which limit how long other connections wait for one of them.

use crate::setters::setters;

/// The bounds on the work of one turn. Work beyond them waits for the next turn, in order, and
/// nothing is lost. Lower them if a turn has to be short, as inside another event loop. `Budget`
/// bounds the whole turn.
///
/// ```
/// use ipc_framework::{Limits, TurnLimits};
///
/// let turn = TurnLimits::default().frames_per_connection_max(16);
/// assert!(Limits::default().turn(turn).problems().is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TurnLimits {
    /// Events taken from the system's queue at once, 1,024. If more connections are ready at the same
    /// time, the others have their turn later. Fixed when the server is built.
    pub events_max: usize,
    /// Bytes of one read, 64 KiB. All connections share one buffer, so that an idle connection
    /// holds none. Fixed when the server is built.
    pub read_bytes_max: usize,
    /// Reads of one connection, 4: at most 256 KiB, so that a bulk sender does not delay others.
    pub reads_per_connection_max: usize,
    /// Messages of one connection, 128. The cost of small messages depends on their number, not on
    /// their bytes.
    pub frames_per_connection_max: usize,
    /// Deliveries of publications, 16,384, which is the work of 128 publications to 128
    /// subscribers. It bounds messages of few bytes that cause much work. Heavy messages, those over
    /// a sixteenth of it, and light ones have this much each. Listings and the `meta` of messages
    /// count by their bytes. A single message that exceeds it has a turn of its own.
    pub work_max: usize,
    /// Commands of other threads that use a [`Handle`](crate::Handle), 1,024.
    pub commands_max: usize,
    /// New connections, 64, so that a flood of them does not starve the existing ones.
    pub accepts_max: usize,
    /// Steps of TLS handshakes, 8, because each may delay all other connections by a millisecond.
    /// While handshakes wait, no connection is accepted that would begin another one.
    pub handshake_steps_max: usize,
}

/// A message is light up to this fraction of [`TurnLimits::work_max`], so that a publication to few
/// subscribers does not wait for a list of all channels.
pub(crate) const LIGHT_WORK_PARTS: usize = 16;
/// A publication counts as this fraction of [`TurnLimits::work_max`] at most. With very many
/// subscribers, most of its cost is in the sends at the turn's end, which take thirty times as long
/// as the deliveries, and which eight publications share.
pub(crate) const CROWD_WORK_PARTS: usize = 8;
/// The bytes of a delivery that count as one more delivery, because the kernel copies them.
pub(crate) const DELIVERED_BYTES_PER_WORK: usize = 1 << 10;
/// Connections that are sent more of what was kept in a turn, each 64 KiB: together as much as is read
/// from a few connections.
pub(crate) const REPLAYS_PER_TURN: usize = 16;
/// The bytes of a listing that take as long as a delivery.
pub(crate) const LISTED_BYTES_PER_WORK: usize = 16;
/// The bytes of a `meta` that take as long as a delivery. Its names are compared with one another.
pub(crate) const META_BYTES_PER_WORK: usize = 8;
/// Bytes of base64 that count as one delivery.
pub(crate) const BASE64_BYTES_PER_WORK: usize = 256;
/// The work of summing up the histograms of a channel or connection.
pub(crate) const LATENCY_WORK: usize = 64;

setters! {
    TurnLimits {
        [events_max: usize]
        [read_bytes_max: usize]
        [reads_per_connection_max: usize]
        [frames_per_connection_max: usize]
        [work_max: usize]
        [commands_max: usize]
        [accepts_max: usize]
        [handshake_steps_max: usize]
    }
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            events_max: 1_024,
            read_bytes_max: 64 << 10,
            reads_per_connection_max: 4,
            frames_per_connection_max: 128,
            work_max: 128 * 128,
            commands_max: 1_024,
            accepts_max: 64,
            handshake_steps_max: 8,
        }
    }
}

/// The largest valid number of events, for which the loop allocates memory in advance.
const EVENTS_SENSIBLE_MAX: usize = 1 << 16;
/// The valid range: less would take a system call for every small message, and a larger buffer does
/// not fit into a cache.
const READ_BYTES_SENSIBLE: std::ops::RangeInclusive<usize> = 1 << 10..=16 << 20;

impl TurnLimits {
    /// Returns the invalid bounds, each with advice.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let Self { events_max, read_bytes_max, .. } = *self;
        let counts = [
            ("events_max", events_max),
            ("reads_per_connection_max", self.reads_per_connection_max),
            ("frames_per_connection_max", self.frames_per_connection_max),
            ("work_max", self.work_max),
            ("commands_max", self.commands_max),
            ("accepts_max", self.accepts_max),
            ("handshake_steps_max", self.handshake_steps_max),
        ];
        let nothing = counts.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| {
            format!("turn.{name} is 0, so that nothing would ever be done; allow at least 1")
        });
        let events = (events_max > EVENTS_SENSIBLE_MAX)
            .then(|| format!("turn.events_max is over {EVENTS_SENSIBLE_MAX}; lower it"));
        let read = (!READ_BYTES_SENSIBLE.contains(&read_bytes_max)).then(|| {
            "turn.read_bytes_max is not between 1KiB and 16MiB; choose a size in between".to_owned()
        });
        nothing.chain(events).chain(read)
    }
}
