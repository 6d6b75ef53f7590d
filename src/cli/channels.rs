//! `ipc channels`

use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use serde_json::json;

use super::answers::{self, Channels as Answer, History, Latencies, Summary};
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::latency::shown_micros;
use super::output::{Output, printable, table};
use super::target::Target;
use super::units::shown_seconds;
use super::{audience, document};

/// List the channels of an application.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Latencies are the server's, since its start: from a request's last byte to its answer being with \
the kernel, or where there are publications alone, to their last subscriber's. A history is shown by \
its messages, their bytes and the offset of the newest one; the last value by its age.

Examples:
  ipc channels
  ipc channels --app chat_app
  ipc channels --json"))]
pub(super) struct Channels {
    /// Show the server's whole answer, as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Channels {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let output = Output::new(self.json);
        let mut connection = self.target.connect_for("list of channels")?;
        if self.json {
            let answer = connection.system(&json!({"action": "list_channels"}))?;
            output.line(document::one_line(answer.payload.as_str()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let channels: Answer = answers::ask(&mut connection, "list_channels")?;
        let latencies: Latencies = answers::ask(&mut connection, "get_latency")?;
        if channels.is_empty() {
            let app = self.target.app();
            let others = audience::other_applications(&mut connection, app)?;
            let app = printable(app);
            output.line(format_args!("application {app} has no channels yet{others}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let header = [
            "channel",
            "subscribers",
            "served by",
            "requests",
            "p50",
            "p99",
            "publications",
            "history",
            "last value",
        ];
        let rows: Vec<Vec<String>> = channels
            .iter()
            .map(|(name, channel)| {
                let latency = latencies.channels.get(name);
                let request = latency.and_then(|latency| latency.request.as_ref());
                let publication = latency.and_then(|latency| latency.publication.as_ref());
                let count = |of: Option<&Summary>| of.map_or(0, |of| of.count).to_string();
                let summary = request.or(publication);
                let at = |value: Option<f64>| value.map_or("-".to_owned(), shown_micros);
                vec![
                    printable(name).into_owned(),
                    channel.subscribers.to_string(),
                    served_by(channel.has_handler, channel.workers),
                    count(request),
                    at(summary.map(|of| of.p50_us)),
                    at(summary.map(|of| of.p99_us)),
                    (publication.map_or(0, |of| of.count) + channel.publications_unheard)
                        .to_string(),
                    channel.history.as_ref().map_or("-".to_owned(), history),
                    channel.retained_age_seconds.map_or("-".to_owned(), shown_seconds),
                ]
            })
            .collect();
        output.line(table(output, &header, &rows))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn history(history: &History) -> String {
    let History { offset, messages, bytes } = history;
    format!("{messages}, {}, to {offset}", ByteSize(*bytes))
}

/// Returns what answers a channel's requests.
pub(super) fn served_by(has_handler: bool, workers: u64) -> String {
    match (has_handler, workers) {
        (true, _) => "server".to_owned(),
        (false, 0) => "nobody".to_owned(),
        (false, 1) => "1 worker".to_owned(),
        (false, workers) => format!("{workers} workers"),
    }
}
