//! Counters of all that the server does.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::proto::ErrorCode;

/// The common name of all codes that applications define.
pub(crate) const APPLICATION: &str = "app";

/// Counters since the start of the server.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// let counters = server.get_stats().counters;
/// assert_eq!((counters.accepted, counters.slow_consumers), (0, 0));
/// assert!(counters.errors.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Connections accepted, including the refused ones.
    pub accepted: u64,
    /// Connections closed as soon as they were accepted, for lack of descriptors.
    pub shed: u64,
    /// Whole frames received.
    pub frames_in: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Frames put into queues.
    pub frames_out: u64,
    /// Bytes put into queues.
    pub bytes_out: u64,
    /// Publications, from peers and from inside the process.
    pub publications: u64,
    /// Publications and broadcasts with attachments that a connection without the extension did not
    /// get, because in base64 they exceed the limit for a frame.
    pub publications_too_large: u64,
    /// Publications without a subscriber.
    pub publications_unheard: u64,
    /// Publications that a subscriber that conflates did not get, because a newer one of the same channel
    /// took their place while it read too slowly.
    pub publications_conflated: u64,
    /// Deliveries: each publication counts once for each subscriber that it reached.
    pub deliveries: u64,
    /// Messages of histories and last values that were sent to subscribers who asked for them.
    pub replayed: u64,
    /// Messages passed on to workers.
    pub forwarded: u64,
    /// Notifications that nobody handles.
    pub notifications_unhandled: u64,
    /// Responses that answer no request of their sender as a worker, and that no handler takes.
    pub responses_ignored: u64,
    /// Answers whose requester had left.
    pub answers_undeliverable: u64,
    /// Handlers that returned an error.
    pub handler_failures: u64,
    /// Handlers and hooks that panicked.
    pub handler_panics: u64,
    /// Times a message was held back for a slow reader: publications for subscribers, and requests
    /// and notifications for workers.
    pub publishers_held: u64,
    /// Connections closed because they read too slowly.
    pub slow_consumers: u64,
    /// Connections closed because they did not complete their handshake in time.
    pub handshake_timeouts: u64,
    /// Connections closed because they sent nothing for longer than they may.
    pub idle_closed: u64,
    /// Connections, channels and subscriptions refused for lack of memory.
    pub memory_refusals: u64,
    /// Times a connection was held back for lack of memory.
    pub memory_pauses: u64,
    /// Connections closed because they held the most memory when it ran out.
    pub memory_sheds: u64,
    /// Connections closed because their bytes were not valid TLS, or because the peer broke the memory
    /// that it shared.
    pub transport_failures: u64,
    /// Connections that went over to shared memory.
    pub memory_shared: u64,
    /// Times the loop was woken from its sleep.
    pub wakeups: u64,
    /// Polls without sleep that found no event, see `Config::spin`.
    pub spins: u64,
    /// Times a connection had used up its share of a turn and had messages left.
    pub yields: u64,
    /// Requests that ended before their answer, by reason: `caller`, `deadline`, `gone`, `limit` and
    /// `drain`.
    pub cancelled: BTreeMap<&'static str, u64>,
    /// Requests whose own `ttl` was over before their answer.
    pub ttls_over: u64,
    /// Requests that another worker got because the first one was lost.
    pub retried: u64,
    /// Parts of streams that were passed on.
    pub stream_parts: u64,
    /// Parts that used up the credit of their streams: its worker waits for its requester.
    pub credit_stalls: u64,
    /// Error answers by code, those of workers included. Codes of their own (`app:…`) are counted
    /// together, as `app`.
    pub errors: BTreeMap<&'static str, u64>,
    /// Those among them that workers answered.
    pub worker_errors: BTreeMap<&'static str, u64>,
}

impl Counters {
    pub(crate) fn count_error(&mut self, code: ErrorCode) {
        *self.errors.entry(code.as_str()).or_default() += 1;
    }

    /// Counts an error that a worker answered.
    pub(crate) fn count_worker_error(&mut self, code: &'static str) {
        *self.errors.entry(code).or_default() += 1;
        *self.worker_errors.entry(code).or_default() += 1;
    }

    /// Counts an error with a code of the application's own.
    pub(crate) fn count_application_error(&mut self) {
        *self.errors.entry(APPLICATION).or_default() += 1;
    }
}
