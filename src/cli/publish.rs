//! `ipc publish`

use std::process::ExitCode;

use clap::Args;
use ipc_framework::MessageType;

use super::failure::Failure;
use super::failure::with_exit_codes;
use super::sending::Sending;

/// Send something to all subscribers of a channel.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Ends when the server has received everything. On a terminal it says if nobody subscribes, which is \
no error.

With --lines it waits for a server that goes away and comes back. Lines that were sent and not \
confirmed by then may be lost: they are named on standard error and not sent again, and the exit \
code is 1. With --json each line gets a receipt once its fate is known.

Examples:
  ipc publish news '\"it works\"'
  ipc publish news @report.json --app bench
  date +'\"%H:%M\"' | ipc publish news -
  seq 1000 | ipc publish numbers --lines --json"))]
pub(super) struct Publish {
    #[command(flatten)]
    sending: Sending,
}

impl Publish {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        self.sending.run(MessageType::Publish)
    }
}
