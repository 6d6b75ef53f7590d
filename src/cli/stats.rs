//! `ipc stats`

use std::collections::BTreeMap;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use serde_json::json;

use super::answers::Stats as Answer;
use super::document;
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::output::{Output, Style};
use super::target::Target;

/// Show the server's totals and counters.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Examples:
  ipc stats
  ipc stats --json"))]
pub(super) struct Stats {
    /// Show the server's whole answer, as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Stats {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let output = Output::new(self.json);
        let mut connection = self.target.connect_for("statistics")?;
        if self.json {
            let answer = connection.system(&json!({"action": "get_stats"}))?;
            output.line(document::one_line(answer.payload.as_str()))?;
        } else {
            let stats: Answer = super::answers::ask(&mut connection, "get_stats")?;
            output.line(report(output, &connection.endpoint().to_string(), &stats))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn report(output: Output, name: &str, stats: &Answer) -> String {
    let counters = &stats.counters;
    let up = stats.uptime();
    let of_wire = |frames: u64, bytes: u64| format!("{frames} frames, {}", ByteSize(bytes));
    let mut rows = vec![
        ("connections", format!("{} of {}", stats.total_connections, stats.max_connections)),
        ("applications", stats.total_applications.to_string()),
        ("channels", stats.total_channels.to_string()),
        (
            "pending requests",
            format!("{}, {} kept for workers", stats.pending_requests, stats.kept_requests),
        ),
        ("buffered", ByteSize(stats.buffered_bytes).to_string()),
        ("received", of_wire(counters.frames_in, counters.bytes_in)),
        ("sent", of_wire(counters.frames_out, counters.bytes_out)),
        (
            "publications",
            format!("{}, delivered {} times", counters.publications, counters.deliveries),
        ),
        ("forwarded to workers", counters.forwarded.to_string()),
        ("slow readers closed", counters.slow_consumers.to_string()),
    ];
    if let Some(nats) = &stats.nats {
        rows.push(("NATS", nats.line()));
    }
    rows.push(("errors", each(&counters.errors)));
    if !counters.worker_errors.is_empty() {
        rows.push(("those of workers", each(&counters.worker_errors)));
    }
    if !counters.cancelled.is_empty() {
        rows.push(("cancelled", each(&counters.cancelled)));
    }
    if counters.stream_parts > 0 {
        rows.push(("parts of streams", counters.stream_parts.to_string()));
    }
    let title = format!("ipc-framework {} on {name}, up {up}", stats.version);
    let mut lines = vec![output.paint(Style::Bold, title)];
    lines.extend(rows.iter().map(|(label, value)| {
        let label = format!("{label:22}");
        format!("{}{value}", output.paint(Style::Dim, label))
    }));
    lines.join("\n")
}

/// Returns the counts by what they count.
fn each(counts: &BTreeMap<String, u64>) -> String {
    let counts: Vec<String> =
        counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}
