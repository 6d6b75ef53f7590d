//! `ipc notify`

use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::failure::with_exit_codes;
use super::feed::Kind;
use super::sending::Sending;

/// Send something to whoever serves a channel, without an answer.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Ends when the server has received everything. On a terminal it says if nobody serves the channel, \
which is no error. With --lines it waits for a server that goes away, see `ipc publish --help`.

Examples:
  ipc notify metrics '{\"metric\": \"cpu_usage\", \"value\": 93}' --app monitoring
  ipc notify general '{\"username\": \"Ada\"}' --app chat_app"))]
pub(super) struct Notify {
    #[command(flatten)]
    sending: Sending,
}

impl Notify {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        self.sending.run(&Kind::Notification)
    }
}
