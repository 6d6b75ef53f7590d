//! `ipc purge`

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::document;
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::output::{Output, printable};
use super::target::Target;

/// Make the server forget last values or histories.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
For the operator: over a Unix socket, as the user who runs the server. A history that is purged begins \
anew, so that subscribers who come back to it are told that they missed something.

Examples:
  ipc purge retained prices.tea --app shop --unix /run/ipc.sock
  ipc purge history --app shop --unix /run/ipc.sock"))]
pub(super) struct Purge {
    /// What is forgotten
    #[arg(value_enum)]
    what: What,
    /// Channel of which it is forgotten; without one, all channels of the application
    channel: Option<String>,
    /// Show the server's whole answer, as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// The last values, which publishers asked to retain
    Retained,
    /// The publications in the histories of channels
    History,
}

#[derive(Serialize)]
struct Purging<'a> {
    action: &'static str,
    app: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
}

#[derive(Deserialize)]
struct Purged {
    messages: u64,
}

impl Purge {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let output = Output::new(self.json);
        let mut connection = self.target.connect_for("last values and histories")?;
        let action = match self.what {
            What::Retained => "purge_retained",
            What::History => "purge_history",
        };
        let (app, channel) = (self.target.app(), self.channel.as_deref());
        let answer = connection.system(&Purging { action, app, channel })?;
        if self.json {
            output.line(document::one_line(answer.payload.as_str()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let Purged { messages } = answer.payload.decode().map_err(|error| {
            Failure::runtime(format!("the answer to {action} is of another form: {error}"))
        })?;
        let (one, many) = match self.what {
            What::Retained => ("last value", "last values"),
            What::History => ("publication", "publications"),
        };
        let noun = if messages == 1 { one } else { many };
        let of = channel.map_or(String::new(), |channel| format!(" of {}", printable(channel)));
        output.line(format_args!("{messages} {noun}{of} forgotten"))?;
        Ok(ExitCode::SUCCESS)
    }
}
