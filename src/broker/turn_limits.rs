//! The bounds of one turn of the loop: how long everybody else waits for one connection.

use crate::setters::setters;

/// The bounds on what one turn takes on, whoever asks for it. Everything beyond them waits for the
/// next turn, in order; nothing is lost. Lower them where a turn has to be short, as inside another
/// loop, and see `Budget` for a bound on the whole turn.
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
    /// Events taken from the system's queue at once, 1,024: more connections than this that have
    /// something at the same time are looked at in the next turn. Fixed when the server is built.
    pub events_max: usize,
    /// Bytes of one read, 64 KiB. All connections share one buffer, so that an idle connection
    /// holds none. Fixed when the server is built.
    pub read_bytes_max: usize,
    /// Reads of one connection, 4: at most 256 KiB, so that a bulk sender does not hold up others.
    pub reads_per_connection_max: usize,
    /// Messages of one connection, 128: small messages cost by their number and not by their bytes.
    pub frames_per_connection_max: usize,
    /// Deliveries of publications, 16,384, which is the work of 128 publications to 128
    /// subscribers: a message of few bytes may be much work. Light messages and heavy ones, those
    /// over a sixteenth of it, have as much each. Listings count by their bytes. One message that
    /// is more has a turn of its own.
    pub work_max: usize,
    /// Things that other threads asked for by a [`Handle`](crate::Handle), 1,024.
    pub commands_max: usize,
    /// New connections, 64: who is connected comes before a flood of newcomers.
    pub accepts_max: usize,
    /// Steps of TLS handshakes, 8: each is up to a millisecond that everybody else waits. While
    /// some of them wait, no connection is accepted that would begin another one.
    pub handshake_steps_max: usize,
}

/// A message is light up to this part of [`TurnLimits::work_max`]: a publication to few does not
/// wait for a list of all channels.
pub(crate) const LIGHT_WORK_PARTS: usize = 16;
/// A publication counts as this part of [`TurnLimits::work_max`] at most. Most of the cost of one to
/// very many subscribers is in the sends at the turn's end, which take thirty times as long as its
/// deliveries, and which eight publications share.
pub(crate) const CROWD_WORK_PARTS: usize = 8;
/// So many more bytes of a delivery count as another delivery, because the kernel copies them.
pub(crate) const DELIVERED_BYTES_PER_WORK: usize = 1 << 10;
/// So many bytes of a listing take as long as a delivery.
pub(crate) const LISTED_BYTES_PER_WORK: usize = 16;
/// Work of summing up the histograms of a channel or connection.
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

/// What the operating system takes at once, and the memory that is set aside for it.
const EVENTS_SENSIBLE_MAX: usize = 1 << 16;
/// Less would be a system call for every small message, more is a buffer that no cache holds.
const READ_BYTES_SENSIBLE: std::ops::RangeInclusive<usize> = 1 << 10..=16 << 20;

impl TurnLimits {
    /// What of them makes no sense.
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
