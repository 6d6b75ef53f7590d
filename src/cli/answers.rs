//! The server's answers about itself, as far as they are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use ipc_framework::client::Connection;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::failure::Failure;

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Stats {
    pub(super) total_applications: u64,
    pub(super) total_connections: u64,
    pub(super) max_connections: u64,
    pub(super) version: String,
    pub(super) uptime_seconds: f64,
    pub(super) total_channels: u64,
    pub(super) pending_requests: u64,
    /// Absent in the answer of an older server.
    #[serde(default)]
    pub(super) kept_requests: u64,
    pub(super) buffered_bytes: u64,
    /// Absent where the server joins no others.
    #[serde(default)]
    pub(super) nats: Option<NatsStats>,
    pub(super) counters: Counters,
}

/// How it is with NATS, and as `ipc top --json` shows it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct NatsStats {
    pub(super) connected: bool,
    pub(super) reconnects: u64,
    pub(super) peers: u64,
    pub(super) published: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) lost_here: u64,
    pub(super) too_large: u64,
    pub(super) refused: u64,
    pub(super) denied: u64,
    pub(super) slow: u64,
    pub(super) broken_tunnels: u64,
    pub(super) queued_bytes: u64,
    pub(super) lag_seconds: f64,
    pub(super) max_payload: u64,
}

impl NatsStats {
    /// Says it in a line.
    pub(super) fn line(&self) -> String {
        let state = if self.connected { "connected" } else { "away" };
        let Self { peers, published, received, lost, lost_here, too_large, .. } = self;
        let queued = bytesize::ByteSize(self.queued_bytes);
        let servers = if *peers == 1 { "server" } else { "servers" };
        let lag = Duration::try_from_secs_f64(self.lag_seconds).unwrap_or_default();
        let lag = match lag.as_secs() {
            0 => String::new(),
            seconds => {
                format!(", {} behind", humantime::format_duration(Duration::from_secs(seconds)))
            }
        };
        let lost = lost.saturating_add(*lost_here).saturating_add(*too_large);
        // What changes least comes last, where a narrow screen cuts it off.
        format!(
            "{state}, {peers} other {servers}, {lost} lost, {queued} waiting{lag}, {published} publications \
             sent, {received} received"
        )
    }
}

impl Stats {
    /// Returns the uptime for people, in whole seconds.
    pub(super) fn uptime(&self) -> humantime::FormattedDuration {
        let uptime = Duration::try_from_secs_f64(self.uptime_seconds).unwrap_or_default();
        humantime::format_duration(Duration::from_secs(uptime.as_secs()))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Counters {
    pub(super) frames_in: u64,
    pub(super) bytes_in: u64,
    pub(super) frames_out: u64,
    pub(super) bytes_out: u64,
    pub(super) publications: u64,
    pub(super) deliveries: u64,
    pub(super) forwarded: u64,
    pub(super) slow_consumers: u64,
    pub(super) errors: BTreeMap<String, u64>,
    // These are absent in the answer of an older server.
    #[serde(default)]
    pub(super) worker_errors: BTreeMap<String, u64>,
    #[serde(default)]
    pub(super) cancelled: BTreeMap<String, u64>,
    #[serde(default)]
    pub(super) stream_parts: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Channel {
    pub(super) subscribers: u64,
    pub(super) workers: u64,
    pub(super) has_handler: bool,
    /// Absent in the answer of an older server.
    #[serde(default)]
    pub(super) kept_requests: u64,
    /// Publications that nobody heard. Absent in the answer of an older server.
    #[serde(default)]
    pub(super) publications_unheard: u64,
    /// Absent where the channel has none.
    pub(super) history: Option<History>,
    /// The age of the last value; absent where there is none.
    pub(super) retained_age_seconds: Option<f64>,
}

/// The history of a channel.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct History {
    pub(super) offset: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Application {
    pub(super) channels: Vec<String>,
    pub(super) connections: u64,
    pub(super) created_at: f64,
    pub(super) last_activity: f64,
}

pub(super) type Applications = BTreeMap<String, Application>;

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Connections {
    pub(super) connections: Vec<OneConnection>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OneConnection {
    pub(super) address: String,
    pub(super) user: Option<u32>,
    pub(super) app: String,
    pub(super) connected_at: f64,
    pub(super) queued_bytes: u64,
    pub(super) subscriptions: u64,
    pub(super) patterns: u64,
    pub(super) serves: Vec<String>,
}

pub(super) type Channels = BTreeMap<String, Channel>;

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Latencies {
    pub(super) channels: BTreeMap<String, ChannelLatency>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ChannelLatency {
    pub(super) request: Option<Summary>,
    pub(super) publication: Option<Summary>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Summary {
    pub(super) count: u64,
    pub(super) mean_us: f64,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) max_us: f64,
}

/// Sends a request to the server itself and reads the answer.
pub(super) fn ask<T: DeserializeOwned>(
    connection: &mut Connection,
    action: &str,
) -> Result<T, Failure> {
    let answer = connection.system(&serde_json::json!({ "action": action }))?;
    serde_json::from_str(answer.payload.as_str()).map_err(|error| {
        Failure::runtime(format!(
            "the answer to {action} is of another form ({error}); see that server and program \
             are of the same version"
        ))
    })
}
