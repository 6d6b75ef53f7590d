//! `ipc publish`

use std::process::ExitCode;

use clap::Args;
use ipc_framework::{Message, MessageType};

use super::failure::with_exit_codes;
use super::target::Target;
use super::{Failure, payload, target};

/// Send something to all subscribers of a channel.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Ends when the server has the publication. Whether anybody subscribed is nothing it is told.

Examples:
  ipc publish news '\"it works\"'
  ipc publish news @report.json --app bench
  date +'\"%H:%M\"' | ipc publish news -"))]
pub(super) struct Publish {
    /// Channel to publish on
    channel: String,
    /// JSON; `@file` takes it from a file, `-` from standard input
    #[arg(value_name = "JSON")]
    payload: String,
    #[command(flatten)]
    target: Target,
}

impl Publish {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let payload = payload::read(&self.payload)?;
        let mut connection = self.target.connect()?;
        connection.send_message(&Message::new(MessageType::Publish, "", self.channel, payload))?;
        target::confirm(connection)?;
        Ok(ExitCode::SUCCESS)
    }
}
