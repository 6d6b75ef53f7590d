//! `ipc notify`

use std::process::ExitCode;

use clap::Args;
use ipc_framework::MessageType;

use super::failure::Failure;
use super::failure::with_exit_codes;
use super::sending::Sending;

/// Tell whoever handles a channel something that needs no answer.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Ends when the server has it all. Whether anybody handles it is nothing it is told.

Examples:
  ipc notify metrics '{\"metric\": \"cpu_usage\", \"value\": 93}' --app monitoring
  ipc notify general '{\"username\": \"Ada\"}' --app chat_app"))]
pub(super) struct Notify {
    #[command(flatten)]
    sending: Sending,
}

impl Notify {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        self.sending.run(MessageType::Notification)
    }
}
