//! All bounds of the broker, by name, with their reasons.

use std::time::Duration;

use super::history_rule::HistoryRule;
use super::turn_limits::TurnLimits;
use crate::proto::frame::HEADER_BYTES;
use crate::setters::setters;

/// The bounds on what peers may use of the server. Units are last in the names.
///
/// ```
/// use ipc_framework::Limits;
///
/// let limits = Limits::default().connections_max(100);
/// assert_eq!(limits.frame_bytes_max, 16 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time, 10,000. One more is told `server_full` and closed, or takes the place
    /// of one that has not completed its handshake within a twentieth of
    /// [`Limits::handshake_timeout`].
    pub connections_max: usize,
    /// Bytes of a frame's body in either direction, 16 MiB. A larger frame from a peer is answered
    /// `frame_too_large` and closes its connection; an answer that is larger is replaced by an error.
    pub frame_bytes_max: usize,
    /// Time from the accept to the end of the connect message, 5 s, however slowly it arrives.
    pub handshake_timeout: Duration,
    /// Time without a byte from the peer after which its connection is closed. With `None`, the
    /// default, it never is: a published client that only subscribes never sends again.
    pub idle_timeout: Option<Duration>,
    /// Time from a request's arrival to the answer of its worker or of its
    /// [`Responder`](crate::Responder), 30 s. Then it is answered `timeout`. With `None`, a request
    /// waits until it is answered, its worker or its requester leaves, or the server is drained.
    pub request_timeout: Option<Duration>,
    /// Unsent bytes of one connection above which the server processes nothing that would add to
    /// them, 1 MiB. They can exceed it by one frame.
    pub queue_high_water_bytes: usize,
    /// Time that a queue may stay over its high-water mark before its connection is closed as a
    /// slow consumer, 5 s.
    pub slow_consumer_grace: Duration,
    /// Memory that the server holds for peers, 1 GiB: connections, applications, channels,
    /// subscriptions, unanswered requests, queues and unfinished frames. Above three quarters of
    /// it, new connections, channels and subscriptions are refused. Above seven eighths, unfinished
    /// messages and publications wait, for [`Limits::slow_consumer_grace`] at most. After that, or
    /// above the whole, the connection that holds the most is closed. It does not include the
    /// kernel's memory for sockets, and about 20 MB of the process itself.
    pub memory_bytes_max: usize,
    /// Channels of all applications, 65,536. A channel is created by the first subscription to it,
    /// the first worker for it, or a message to it that the fallback handles. It is removed when
    /// nobody uses it any more and its creator has left or unsubscribed, or when its place is needed.
    pub channels_max: usize,
    /// Channels that one connection may create, 4,096.
    pub channels_per_connection_max: usize,
    /// Subscriptions of one connection, 4,096.
    pub subscriptions_per_connection_max: usize,
    /// Channels that one connection may serve, 256.
    pub services_per_connection_max: usize,
    /// Unanswered forwarded or deferred requests of one connection, 1,024.
    pub pending_per_connection_max: usize,
    /// Such requests of all connections, 262,144. If their ids are UUIDs, they count as 126 MB of
    /// [`Limits::memory_bytes_max`].
    pub pending_max: usize,
    /// Time for a drain, 10 s. Requests that are still unanswered at its end are answered `timeout`.
    pub drain_timeout: Duration,
    /// Bytes of all last values, the publications with `retain`, 64 MiB. One that does not fit is
    /// refused with `limit_exceeded`.
    pub retained_bytes_max: usize,
    /// Last values of all channels, 4,096.
    pub retained_values_max: usize,
    /// The channels that keep a history; none by default.
    pub histories: Vec<HistoryRule>,
    /// Whether connections on a Unix socket may go over to shared memory, false. Together their rings
    /// take at most a quarter of [`Limits::memory_bytes_max`].
    pub shared_memory: bool,
    /// Bytes of each of the two rings of such a connection, 256 KiB: a power of two between 4 KiB and
    /// 256 MiB.
    pub ring_bytes: usize,
    /// The bounds of one turn of the loop.
    pub turn: TurnLimits,
}

setters! {
    Limits {
        [connections_max: usize]
        [frame_bytes_max: usize]
        [handshake_timeout: Duration]
        into [idle_timeout: Option<Duration>]
        into [request_timeout: Option<Duration>]
        [queue_high_water_bytes: usize]
        [slow_consumer_grace: Duration]
        [memory_bytes_max: usize]
        [channels_max: usize]
        [channels_per_connection_max: usize]
        [subscriptions_per_connection_max: usize]
        [services_per_connection_max: usize]
        [pending_per_connection_max: usize]
        [pending_max: usize]
        [drain_timeout: Duration]
        [retained_bytes_max: usize]
        [retained_values_max: usize]
        into [histories: Vec<HistoryRule>]
        [shared_memory: bool]
        [ring_bytes: usize]
        [turn: TurnLimits]
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            frame_bytes_max: 16 << 20,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: None,
            request_timeout: Some(Duration::from_secs(30)),
            queue_high_water_bytes: 1 << 20,
            slow_consumer_grace: Duration::from_secs(5),
            memory_bytes_max: 1 << 30,
            channels_max: 65_536,
            channels_per_connection_max: 4_096,
            subscriptions_per_connection_max: 4_096,
            services_per_connection_max: 256,
            pending_per_connection_max: 1_024,
            pending_max: 262_144,
            drain_timeout: Duration::from_secs(10),
            retained_bytes_max: 64 << 20,
            retained_values_max: 4_096,
            histories: Vec::new(),
            shared_memory: false,
            ring_bytes: 256 << 10,
            turn: TurnLimits::default(),
        }
    }
}

/// The valid range: no message fits into a smaller frame, and none should need a larger one.
const FRAME_BYTES_SENSIBLE: std::ops::RangeInclusive<usize> = 1 << 10..=1 << 30;
/// The least memory, in frames: with less, a connection would be closed for sending the largest
/// message.
const FRAMES_IN_MEMORY_MIN: usize = 4;
/// The least memory: with less, a few connections and their channels would use all of it.
const MEMORY_BYTES_MIN: usize = 1 << 20;
/// The valid range of a ring: a page at least, and not so much that a few take all of the memory.
const RING_BYTES_SENSIBLE: std::ops::RangeInclusive<usize> = 4 << 10..=256 << 20;
/// All rings together take this part of the memory at most: what they hold is taken whether it is used
/// or not, and is given back by closing a connection alone.
pub(crate) const RINGS_MEMORY_PARTS: usize = 4;

impl Limits {
    /// Returns the invalid limits, each with advice. A server refuses to start with such limits.
    ///
    /// ```
    /// use ipc_framework::Limits;
    ///
    /// assert!(Limits::default().problems().is_empty());
    /// let tight = Limits::default().memory_bytes_max(16 << 20);
    /// assert!(tight.problems()[0].contains("lower frame_bytes_max (--max-frame-bytes)"));
    /// ```
    pub fn problems(&self) -> Vec<String> {
        let Self { frame_bytes_max, memory_bytes_max, .. } = *self;
        let is_frame_sensible = FRAME_BYTES_SENSIBLE.contains(&frame_bytes_max);
        let frames_bytes = frame_bytes_max.saturating_mul(FRAMES_IN_MEMORY_MIN);
        let checks = [
            (
                self.connections_max == 0,
                "connections_max (--max-connections) is 0; let at least one in".to_owned(),
            ),
            (
                !is_frame_sensible,
                "frame_bytes_max (--max-frame-bytes) is not between 1KiB and 1GiB; choose a size \
                 in between"
                    .to_owned(),
            ),
            (
                is_frame_sensible && memory_bytes_max < frames_bytes,
                format!(
                    "memory_bytes_max (--max-memory) is {memory_bytes_max}, less than four \
                     frames; raise it to {frames_bytes}, or lower frame_bytes_max \
                     (--max-frame-bytes)"
                ),
            ),
            (
                memory_bytes_max >= frames_bytes && memory_bytes_max < MEMORY_BYTES_MIN,
                format!(
                    "memory_bytes_max (--max-memory) is {memory_bytes_max}, which a few \
                     connections use up; raise it to 1MiB at least"
                ),
            ),
            (
                self.handshake_timeout.is_zero(),
                "handshake_timeout (--handshake-timeout) is 0; give clients time to connect"
                    .to_owned(),
            ),
            (
                self.request_timeout.is_some_and(|timeout| timeout.is_zero()),
                "request_timeout (--request-timeout) is 0; give workers time to answer, \
                 or say never"
                    .to_owned(),
            ),
            (
                self.queue_high_water_bytes == 0,
                "queue_high_water_bytes (--queue-high-water) is 0; let a few messages wait for \
                 their reader"
                    .to_owned(),
            ),
            (
                memory_bytes_max >= frames_bytes.max(MEMORY_BYTES_MIN)
                    && self.queue_high_water_bytes > memory_bytes_max,
                format!(
                    "queue_high_water_bytes (--queue-high-water) is {}, more than all of the \
                     memory; lower it to {memory_bytes_max}, or raise memory_bytes_max \
                     (--max-memory)",
                    self.queue_high_water_bytes
                ),
            ),
            (
                self.slow_consumer_grace.is_zero(),
                "slow_consumer_grace (--slow-consumer-grace) is 0; give readers time to catch up"
                    .to_owned(),
            ),
            (
                !(self.ring_bytes.is_power_of_two()
                    && RING_BYTES_SENSIBLE.contains(&self.ring_bytes)),
                "ring_bytes (--shm-ring) is no power of two between 4KiB and 256MiB; choose one, \
                 such as 256KiB"
                    .to_owned(),
            ),
        ];
        let wrong = checks.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, text)| text);
        let histories = self.histories.iter().flat_map(HistoryRule::problems);
        wrong.chain(histories).chain(self.turn.problems()).collect()
    }

    /// Unsent bytes at which a connection is closed without any grace, for publications from inside
    /// the process cannot be held back: one frame above the high-water mark, its length prefix
    /// included. A connection that conflates may hold one more, where a conflated publication alone is
    /// over the mark.
    pub fn queue_bytes_max(&self) -> usize {
        self.queue_high_water_bytes
            .saturating_add(HEADER_BYTES)
            .saturating_add(self.frame_bytes_max)
    }

    /// Returns the rule for the history of a channel, if it has one.
    pub(crate) fn history_of(&self, app_id: &str, channel_id: &str) -> Option<&HistoryRule> {
        self.histories.iter().find(|rule| rule.is_of(app_id, channel_id))
    }

    /// Bytes of publications that are delivered together: the bytes that a queue may be over its
    /// high-water mark before its publishers wait is small beside the mark.
    pub(crate) fn run_bytes_max(&self) -> usize {
        RUN_BYTES_MAX.min(self.queue_high_water_bytes / 16).min(self.frame_bytes_max)
    }
}

/// Bytes of publications that are delivered together: beyond these the cost of a delivery is the
/// copy of its bytes, which the kernel makes.
const RUN_BYTES_MAX: usize = 16 << 10;
/// Body of a frame before the handshake is complete: a connect message with a token fits ten times.
pub(crate) const HANDSHAKE_FRAME_BYTES_MAX: usize = 16 << 10;
/// Unsent bytes of a connection that has not completed its handshake: a few errors.
pub(crate) const HANDSHAKE_QUEUE_BYTES_MAX: usize = 4 << 10;
/// Connections over `connections_max` that get an error at one time. More are closed without one.
pub(crate) const REFUSALS_MAX: usize = 64;
/// In a full server a connection has this part of the time for the handshake, 250 ms by default,
/// before a new connection may take its place.
pub(crate) const HANDSHAKE_PARTS: u32 = 20;
/// Time for a peer to read why it is closed. If the socket were closed before that, the kernel would
/// reset the connection and drop the reason.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// If the server finds that a deadline is over for longer than this, it did not run when it came.
pub(crate) const AWAY_MIN: Duration = Duration::from_millis(100);
/// Workers of one channel: each request looks at all of them.
pub(crate) const WORKERS_PER_CHANNEL_MAX: usize = 1_024;
/// The most unanswered requests of a channel that a worker may ask for at a time.
pub(crate) const CONCURRENCY_MAX: u32 = 65_536;
/// A worker that has requests and has answered none for this long gets no more of them until it
/// answers, if the channel has others: one that hangs, or is stopped, would keep a part of all
/// requests until they time out. A worker that needs longer for its work is only asked last.
pub(crate) const WORKER_STUCK_AFTER: Duration = Duration::from_secs(5);
/// Bytes of requests that are kept for the workers of a channel, in high-water marks of a queue: 16 MiB
/// by default. More are refused. If their requesters waited instead, their other messages would wait
/// as well, heartbeats among them.
pub(crate) const KEPT_MARKS_MAX: usize = 16;
/// Capacity of the encoding buffer that is kept from message to message.
pub(crate) const SCRATCH_BYTES_KEPT: usize = 64 << 10;
