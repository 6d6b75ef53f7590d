//! The result of a load, for people and as a document.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measure::Load;
use crate::cli::latency::{Latency, shown_micros};
use crate::cli::output::{Output, Style, printable};

/// The result. Every latency is in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) load: Load,
    pub(super) clients: u32,
    pub(super) payload_bytes: usize,
    /// Absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<f64>,
    /// Messages that were due and not sent by the end, because too many were in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unsent: Option<u64>,
    /// Messages that were sent and not answered in time. No latency contains them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unanswered: Option<u64>,
    /// Error answers by code, which only a load that expects them counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) errors: Option<BTreeMap<String, u64>>,
    pub(super) seconds: f64,
    /// Number of requests that were answered, publications that came back, deliveries, or
    /// parts.
    pub(super) count: u64,
    pub(super) per_second: f64,
    /// Streams of each connection, side by side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) streams_each: Option<usize>,
    /// Streams that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) streams: Option<u64>,
    /// Latencies to the first parts of streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_part_us: Option<Latency>,
    /// Latencies of messages, and of whole streams.
    pub(super) latency_us: Option<Latency>,
}

/// Returns the result for people.
pub(super) fn shown(output: Output, report: &Report) -> String {
    let Report { clients, payload_bytes, seconds, count, per_second, .. } = report;
    let connections = if *clients == 1 { "connection" } else { "connections" };
    let pace = match report.rate {
        Some(rate) => format!("open loop at {rate} a second"),
        None => match report.streams_each {
            Some(1) => "one stream at a time".to_owned(),
            Some(streams) => format!("{streams} streams side by side on each"),
            None => "closed loop".to_owned(),
        },
    };
    let what = match report.load {
        Load::Request => "requests",
        Load::Publish => "publications",
        Load::FanOut => "deliveries",
        Load::Stream => "parts",
    };
    let title = report.load.as_str();
    let mut lines = vec![
        format!(
            "{}: {clients} {connections}, payloads of {payload_bytes} bytes, {pace}",
            output.paint(Style::Bold, title)
        ),
        format!("{count} {what} in {seconds:.1} s, {per_second} a second"),
    ];
    if let Some(unsent @ 1..) = report.unsent {
        lines.push(format!(
            "{unsent} were due and not sent: the server or a connection cannot keep up"
        ));
    }
    if let Some(unanswered @ 1..) = report.unanswered {
        lines.push(format!("{unanswered} were not answered in time, and are in no latency below"));
    }
    if let Some(errors) = report.errors.as_ref().filter(|errors| !errors.is_empty()) {
        let errors: Vec<String> =
            errors.iter().map(|(code, count)| format!("{} {count}", printable(code))).collect();
        lines.push(format!("answered with errors: {}", errors.join(", ")));
    }
    if let Some(streams) = report.streams {
        lines.push("to the first part of a stream".to_owned());
        lines.extend(table(output, report.first_part_us.as_ref()));
        lines.push(format!("whole streams, of which {streams} ended"));
    }
    lines.extend(table(output, report.latency_us.as_ref()));
    lines.join("\n")
}

fn table(output: Output, latency: Option<&Latency>) -> impl Iterator<Item = String> {
    latency.into_iter().flat_map(Latency::named).map(move |(name, micros)| {
        let name = format!("  {name:6}");
        format!("{}{:>10}", output.paint(Style::Dim, name), shown_micros(micros))
    })
}
