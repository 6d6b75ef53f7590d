//! `ipc notify`

use std::process::ExitCode;

use clap::Args;
use ipc_framework::{Message, MessageType};

use super::failure::with_exit_codes;
use super::target::Target;
use super::{Failure, payload, target};

/// Tell whoever handles a channel something that needs no answer.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Ends when the server has the notification. Whether anybody handles it is nothing it is told.

Examples:
  ipc notify metrics '{\"metric\": \"cpu_usage\", \"value\": 93}' --app monitoring
  ipc notify general '{\"username\": \"Ada\"}' --app chat_app"))]
pub(super) struct Notify {
    /// Channel to notify on
    channel: String,
    /// JSON; `@file` takes it from a file, `-` from standard input
    #[arg(value_name = "JSON")]
    payload: String,
    #[command(flatten)]
    target: Target,
}

impl Notify {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let payload = payload::read(&self.payload)?;
        let mut connection = self.target.connect()?;
        connection.send_message(&Message::new(
            MessageType::Notification,
            "",
            self.channel,
            payload,
        ))?;
        target::confirm(connection)?;
        Ok(ExitCode::SUCCESS)
    }
}
