//! What the bridge counts.

use std::time::Duration;

/// How it is with NATS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// There is no connection.
    #[default]
    Away,
    /// There is one.
    Connected,
    /// The bridge has said goodbye.
    Stopped,
}

/// Counters since the start, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgeStats {
    /// How it is with NATS.
    pub(crate) state: State,
    /// Other servers that are there.
    pub(crate) peers: usize,
    /// Publications of local clients that NATS has confirmed.
    pub(crate) published: u64,
    /// Publications of other servers that went to local subscribers.
    pub(crate) received: u64,
    /// Copies of publications that came by more than one subscription.
    pub(crate) doubled: u64,
    /// Messages from NATS that are not what they should be, and publications that may not be sent there.
    pub(crate) refused: u64,
    /// Publications of local clients that NATS has not confirmed or that found no room in the queue.
    pub(crate) lost: u64,
    /// Publications of other servers that the own server did not take in time, or that came out of order.
    pub(crate) lost_here: u64,
    /// Publications of local clients over the smallest `max_payload`, and notifications over what the other
    /// server takes.
    pub(crate) too_large: u64,
    /// The smallest `max_payload` of all servers, in bytes; 0 while there is no connection.
    pub(crate) max_payload: usize,
    /// Bytes that wait for NATS.
    pub(crate) queued_bytes: usize,
    /// The age of the oldest publication that NATS has not confirmed; zero if there is none.
    pub(crate) lag: Duration,
    /// Tunnels that are open.
    pub(crate) tunnels: usize,
    /// Tunnels that broke, with the requests in them.
    pub(crate) broken_tunnels: u64,
    /// Connections to NATS after the first one.
    pub(crate) reconnects: u64,
    /// Messages and subscriptions that NATS did not allow.
    pub(crate) denied: u64,
    /// Times that NATS or its client dropped messages, because they were not taken in time.
    pub(crate) slow: u64,
}
