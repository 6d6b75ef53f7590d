//! `ipc request`

use std::process::ExitCode;

use clap::Args;

use super::failure::with_exit_codes;
use super::output::Output;
use super::target::Target;
use super::{Failure, payload};

/// Ask for an answer, and show it.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
The answer's payload is shown: indented on a terminal, as it came elsewhere and with --json.

Examples:
  ipc request echo '{\"a\": 1}' --app bench
  ipc request echo @order.json
  echo '[1, 2, 3]' | ipc request echo - --json
  ipc request system '{\"action\": \"get_time\"}'"))]
pub(super) struct Request {
    /// Channel to ask on
    channel: String,
    /// JSON; `@file` takes it from a file, `-` from standard input
    #[arg(value_name = "JSON", default_value = "null")]
    payload: String,
    /// Show the payload as it came, on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Request {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let payload = payload::read(&self.payload)?;
        let mut connection = self.target.connect()?;
        let answer = connection.request_json(&self.channel, &payload)?;
        let output = Output::new(self.json);
        output.line(output.payload(answer.payload.as_str()))?;
        Ok(ExitCode::SUCCESS)
    }
}
