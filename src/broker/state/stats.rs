//! What the server tells about itself: the published shapes, and what this one knows
//! beyond them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::core::Core;
use crate::broker::flow::memory::MemoryPressure;
use crate::proto::ErrorCode;

/// Totals and counters since the start. The first six fields are those of the published
/// server's `get_stats`.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// let stats = server.get_stats();
/// assert!(stats.running);
/// assert_eq!((stats.total_connections, stats.max_connections), (0, 10_000));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Whether new work is accepted: not while draining.
    pub running: bool,
    /// The host as configured.
    pub host: String,
    /// The TCP port, 0 without one.
    pub port: u16,
    /// Applications known now.
    pub total_applications: usize,
    /// Connections that have introduced themselves.
    pub total_connections: usize,
    /// The limit on connections.
    pub max_connections: usize,
    /// Version of this package.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// Channels known now.
    pub total_channels: usize,
    /// Requests that wait for a worker or a deferred answer.
    pub pending_requests: usize,
    /// Bytes held in queues and unfinished frames.
    pub buffered_bytes: usize,
    /// Everything that peers make the server hold, these bytes included.
    pub memory_bytes: usize,
    /// The limit on that.
    pub max_memory: usize,
    /// What is done because it runs short.
    pub memory_pressure: MemoryPressure,
    /// What was counted.
    pub counters: Counters,
}

/// Everything is a count since the start.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// let counters = server.get_stats().counters;
/// assert_eq!((counters.accepted, counters.slow_consumers), (0, 0));
/// assert!(counters.errors.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Connections accepted, the refused ones included.
    pub accepted: u64,
    /// Connections closed before they were accepted, for want of descriptors.
    pub shed: u64,
    /// Whole frames received.
    pub frames_in: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Frames put into queues.
    pub frames_out: u64,
    /// Bytes put into queues.
    pub bytes_out: u64,
    /// Publications, from peers and from inside.
    pub publications: u64,
    /// Publications that reached nobody.
    pub publications_unheard: u64,
    /// Publications times subscribers reached.
    pub deliveries: u64,
    /// Messages passed on to workers.
    pub forwarded: u64,
    /// Notifications nobody handles.
    pub notifications_unhandled: u64,
    /// Responses that answer no request their sender holds, and that no handler takes.
    pub responses_ignored: u64,
    /// Answers whose requester had left.
    pub answers_undeliverable: u64,
    /// Handlers that returned an error.
    pub handler_failures: u64,
    /// Handlers and hooks that panicked.
    pub handler_panics: u64,
    /// Times a message was held back for a slow reader.
    pub publishers_held: u64,
    /// Connections closed because they read too slowly.
    pub slow_consumers: u64,
    /// Connections closed because they did not introduce themselves in time.
    pub handshake_timeouts: u64,
    /// Connections closed because they said nothing for longer than they may.
    pub idle_closed: u64,
    /// Connections, channels and subscriptions refused for want of memory.
    pub memory_refusals: u64,
    /// Times a connection was held back for want of memory.
    pub memory_pauses: u64,
    /// Connections closed because they held the most memory when there was none left.
    pub memory_sheds: u64,
    /// Connections closed because what came was not the TLS that it should be.
    pub transport_failures: u64,
    /// Times the loop was woken from its sleep.
    pub wakeups: u64,
    /// Polls without sleep that found nothing, see [`Config::spin`](crate::Config).
    pub spins: u64,
    /// Turns a connection gave up with frames left, so that others have theirs.
    pub yields: u64,
    /// Error answers by code.
    pub errors: BTreeMap<&'static str, u64>,
}

impl Counters {
    pub(crate) fn count_error(&mut self, code: ErrorCode) {
        *self.errors.entry(code.as_str()).or_default() += 1;
    }
}

/// One application, in the shape of the published `list_applications`.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// server.application("shop", "The Shop").channel("price");
/// let shop = &server.list_applications()["shop"];
/// assert_eq!((shop.name.as_str(), shop.connections), ("The Shop", 0));
/// assert_eq!(shop.channels, ["price"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ApplicationInfo {
    /// The name given by the embedder, or the id.
    pub name: String,
    /// Ids of its channels, sorted.
    pub channels: Vec<String>,
    /// Connections that belong to it.
    pub connections: usize,
    /// Seconds since the Unix epoch.
    pub created_at: f64,
    /// The last message or new channel, in seconds since the Unix epoch.
    pub last_activity: f64,
}

/// One channel, in the shape of the published `list_channels`.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// server.application("shop", "The Shop").channel("price").on_request(|r| r.reply(&9.5));
/// let price = &server.list_channels("shop")["price"];
/// assert_eq!((price.subscribers, price.workers, price.has_handler), (0, 0, true));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ChannelInfo {
    /// Connections that subscribed.
    pub subscribers: usize,
    /// Seconds since the Unix epoch.
    pub created_at: f64,
    /// Connections that serve its requests.
    pub workers: usize,
    /// Whether the process itself has a handler for it.
    pub has_handler: bool,
}

impl Core {
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            running: !self.is_draining(),
            host: self.host.clone(),
            port: self.port,
            total_applications: self.router.applications.len(),
            total_connections: self.sessions,
            max_connections: self.limits.connections_max,
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.now.monotonic.saturating_sub(self.started.monotonic).as_secs_f64(),
            total_channels: self.router.channels.len(),
            pending_requests: self.requests.len(),
            buffered_bytes: self.pool.gauge().bytes(),
            memory_bytes: self.memory_bytes(),
            max_memory: self.limits.memory_bytes_max,
            memory_pressure: self.budget.pressure,
            counters: self.counters.clone(),
        }
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
