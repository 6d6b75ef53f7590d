//! `ipc publish`

use std::process::ExitCode;

use clap::Args;
use ipc_framework::client::PublishOptions;

use super::failure::Failure;
use super::failure::with_exit_codes;
use super::feed::Kind;
use super::sending::Sending;

/// Send something to all subscribers of a channel.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Ends when the server has received everything. On a terminal it says if nobody subscribes, which is \
no error.

With --lines it waits for a server that goes away and comes back. Lines that were sent and not \
confirmed by then may be lost: they are named on standard error and not sent again, and the exit \
code is 1. With --json each line gets a receipt once its fate is known.

With --retain the server keeps it as the last value of its channel, for those who subscribe later \
with --last 1; null makes it forget the value. With --ack it shows the place in the channel's \
history, as EPOCH:OFFSET, if the channel has one.

Examples:
  ipc publish news '\"it works\"'
  ipc publish news @report.json --app bench
  date +'\"%H:%M\"' | ipc publish news -
  seq 1000 | ipc publish numbers --lines --json
  ipc publish prices.tea 3 --retain"))]
pub(super) struct Publish {
    /// Keep it as the last value of the channel
    #[arg(long)]
    retain: bool,
    /// Wait until the server has taken it, and show its place in the channel's history
    #[arg(long, conflicts_with = "lines")]
    ack: bool,
    #[command(flatten)]
    sending: Sending,
}

impl Publish {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let options = PublishOptions::default().retain(self.retain);
        self.sending.run(&Kind::Publication { options, ack: self.ack })
    }
}
