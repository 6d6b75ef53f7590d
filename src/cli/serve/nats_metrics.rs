//! The metrics of NATS, where the server joins others over it.

use std::fmt;

use ipc_framework::NatsStats;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

/// What takes the place of labels.
type NoLabels = [(&'static str, &'static str); 0];

pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    nats: &NatsStats,
) -> Result<(), fmt::Error> {
    for (name, help, value) in [
        ("nats_reconnects", "Connections to NATS after the first one", nats.reconnects),
        ("nats_published", "Publications that NATS has confirmed", nats.published),
        ("nats_received", "Publications of other servers for own subscribers", nats.received),
        ("nats_lost", "Publications that NATS has not confirmed or that found no room", nats.lost),
        ("nats_lost_here", "Publications of other servers not taken in time", nats.lost_here),
        ("nats_too_large", "Publications over the largest message of NATS", nats.too_large),
        ("nats_refused", "Messages from NATS that are not what they should be", nats.refused),
        ("nats_denied", "Messages and subscriptions that NATS' permissions forbid", nats.denied),
        ("nats_slow", "Times that NATS threw messages away, not read in time", nats.slow),
        ("nats_broken_tunnels", "Connections between servers that broke", nats.broken_tunnels),
    ] {
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabels, u64, u64>(&value, None)?;
    }
    for (name, help, value) in [
        ("nats_connected", "1 while there is a connection to NATS", usize::from(nats.connected)),
        ("nats_peers", "Other servers that are there", nats.peers),
        ("nats_queued_bytes", "Bytes that wait for NATS", nats.queued_bytes),
        ("nats_max_payload", "The largest message that all servers can send", nats.max_payload),
    ] {
        encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&(value as u64))?;
    }
    let help = "The age of the oldest publication that NATS has not confirmed";
    encoder
        .encode_descriptor("nats_lag_seconds", help, None, MetricType::Gauge)?
        .encode_gauge(&nats.lag_seconds)
}
