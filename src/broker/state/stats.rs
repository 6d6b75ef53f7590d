//! Statistics and listings: the shapes of the published server, with additional fields.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::budget::MemoryPressure;
use super::counters::Counters;
use super::keys::ApplicationKey;
use super::latency::ChannelLatency;
use super::router::{Application, Channel, Router};

/// Totals and counters since the start. The first six fields are those of the published
/// server's `get_stats`.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// let stats = server.get_stats();
/// assert!(stats.running);
/// assert_eq!((stats.total_connections, stats.max_connections), (0, 10_000));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The server accepts new work, because it is not draining.
    pub running: bool,
    /// The host as configured.
    pub host: String,
    /// The TCP port, 0 without one.
    pub port: u16,
    /// The number of applications.
    pub total_applications: usize,
    /// Connections that have completed their handshake.
    pub total_connections: usize,
    /// The limit on connections.
    pub max_connections: usize,
    /// The version of this package.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// The number of channels.
    pub total_channels: usize,
    /// The patterns that at least one connection has subscribed to.
    pub total_patterns: usize,
    /// Requests that wait for a worker or a deferred answer.
    pub pending_requests: usize,
    /// Those of them that no worker has got yet, because all are at their `concurrency`.
    pub kept_requests: usize,
    /// Bytes held in queues and unfinished frames.
    pub buffered_bytes: usize,
    /// All memory that the server holds for peers, including `buffered_bytes`.
    pub memory_bytes: usize,
    /// The limit on `memory_bytes`.
    pub max_memory: usize,
    /// The measures that are taken because memory runs short.
    pub memory_pressure: MemoryPressure,
    /// How it is with the other servers, if this one joins others over NATS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsStats>,
    /// Counts since the start.
    pub counters: Counters,
}

/// How it is with NATS and the servers that are joined over it. The counts are since the start.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// assert_eq!(server.get_stats().nats, None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NatsStats {
    /// There is a connection to a NATS server.
    pub connected: bool,
    /// Connections after the first one.
    pub reconnects: u64,
    /// Other servers that are there.
    pub peers: usize,
    /// Publications of own clients that NATS has confirmed.
    pub published: u64,
    /// Publications of other servers that came for own subscribers.
    pub received: u64,
    /// Publications of own clients that NATS has not confirmed, or that found no room in the queue.
    pub lost: u64,
    /// Publications of other servers that were not taken in time, or that came behind a younger one.
    pub lost_here: u64,
    /// Publications of own clients over `max_payload`, and notifications over the limit for a frame of the
    /// server that they are for.
    pub too_large: u64,
    /// Messages from NATS that are not what they should be.
    pub refused: u64,
    /// Messages and subscriptions that the permissions of NATS forbid. The publications among them count
    /// as lost, too.
    pub denied: u64,
    /// Times that NATS or its client threw messages away, because they were not read in time.
    pub slow: u64,
    /// Connections between two servers that broke, with the requests in them.
    pub broken_tunnels: u64,
    /// Bytes that wait for NATS.
    pub queued_bytes: usize,
    /// The age of the oldest publication of an own client that NATS has not confirmed, in seconds. 0 if there is
    /// none.
    pub lag_seconds: f64,
    /// The largest message that all servers can send, in bytes. 0 while there is no connection.
    pub max_payload: usize,
}

/// What the bridge writes and the broker reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct NatsStatsSource(Arc<Mutex<NatsStats>>);

impl NatsStatsSource {
    #[cfg(feature = "nats")]
    pub(crate) fn set(&self, stats: NatsStats) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    pub(crate) fn get(&self) -> NatsStats {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One application, in the shape of the published `list_applications`.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
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
/// let mut server = Server::bind(Config::default().port(0))?;
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
    /// The process itself has a handler for it.
    pub has_handler: bool,
    /// Requests that wait until one of its workers has room, because each of them has as many
    /// unanswered ones as it said that it takes at a time.
    pub kept_requests: usize,
    /// Publications that no subscriber took, since it was created. Absent in a listing if there were none.
    #[serde(skip_serializing_if = "is_zero")]
    pub publications_unheard: u64,
    /// Its history, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryInfo>,
    /// The age of its last value, if one is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_age_seconds: Option<f64>,
}

/// The history of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HistoryInfo {
    /// Its name, which is another one whenever it is made anew.
    pub epoch: String,
    /// The number of publications since then.
    pub offset: u64,
    /// The newest ones, which are kept.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An application in a listing, which borrows the fields that [`ApplicationInfo`] owns.
#[derive(Serialize)]
pub(crate) struct ListedApplication<'a> {
    name: &'a str,
    channels: Vec<&'a str>,
    connections: usize,
    created_at: f64,
    last_activity: f64,
}

/// Returns all applications by id, or a single one.
pub(crate) fn list_applications(
    router: &Router,
    only: Option<ApplicationKey>,
) -> BTreeMap<&str, ListedApplication<'_>> {
    let one = only.and_then(|key| router.applications.get(key));
    let all = router.applications.iter().take_while(|_| only.is_none());
    let listed = one.into_iter().chain(all.map(|(_, application)| application));
    listed.map(|application| (&*application.id, application.into())).collect()
}

/// Returns the channels of an application by id.
pub(crate) fn list_channels(
    router: &Router,
    key: ApplicationKey,
    unix: Duration,
) -> BTreeMap<&str, ChannelInfo> {
    let channels = router.channels_of(key);
    channels.map(|channel| (&*channel.id, ChannelInfo::of(channel, unix))).collect()
}

/// Returns the latencies of an application's channels by id, in no particular order.
pub(crate) fn list_latencies(
    router: &Router,
    key: ApplicationKey,
) -> impl Iterator<Item = (&str, ChannelLatency)> {
    let channels = router.channels_of(key);
    channels.filter_map(|channel| Some((&*channel.id, channel.latencies.report()?)))
}

impl<'a> From<&'a Application> for ListedApplication<'a> {
    fn from(application: &'a Application) -> Self {
        let mut channels: Vec<&str> = application.channels.keys().map(|id| &**id).collect();
        channels.sort_unstable();
        Self {
            name: &application.name,
            channels,
            connections: application.connections.len(),
            created_at: application.created_at.as_secs_f64(),
            last_activity: application.last_activity.as_secs_f64(),
        }
    }
}

impl From<ListedApplication<'_>> for ApplicationInfo {
    fn from(listed: ListedApplication<'_>) -> Self {
        Self {
            name: listed.name.to_owned(),
            channels: listed.channels.into_iter().map(str::to_owned).collect(),
            connections: listed.connections,
            created_at: listed.created_at,
            last_activity: listed.last_activity,
        }
    }
}

impl ChannelInfo {
    pub(crate) fn of(channel: &Channel, unix: Duration) -> Self {
        let topic = channel.topic.as_ref();
        let history = topic.and_then(|topic| topic.history.as_ref());
        let last = topic.and_then(|topic| topic.last.as_ref());
        Self {
            history: history.map(|history| HistoryInfo {
                epoch: history.epoch().as_str().to_owned(),
                offset: history.offset(),
                messages: history.len(),
                bytes: history.bytes(),
            }),
            retained_age_seconds: last
                .map(|value| unix.saturating_sub(value.published_at).as_secs_f64()),
            subscribers: channel.subscribers.len()
                + topic.map_or(0, |topic| topic.conflating.len()),
            created_at: channel.created_at.as_secs_f64(),
            workers: channel.service.workers.len(),
            has_handler: channel.has_handler,
            kept_requests: channel.service.kept.len(),
            publications_unheard: channel.unheard,
        }
    }
}
