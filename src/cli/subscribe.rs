//! `ipc subscribe`

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ipc_framework::Message;

use super::failure::Failure;
use super::failure::with_exit_codes;
use super::interrupt::{Interrupt, LOOK_EVERY};
use super::output::{Output, Style, printable};
use super::target::Target;
use super::{document, target};

/// Show the publications on channels, until interrupted.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Times are those of the senders, in UTC. With --json every message is a document of one line: \
channel, type, payload, timestamp, message_id. Ctrl-C ends the program with exit code 0.

Examples:
  ipc subscribe news
  ipc subscribe general tech_talk --app chat_app
  ipc subscribe news --json --count 1"))]
pub(super) struct Subscribe {
    /// Channels to subscribe to
    #[arg(value_name = "CHANNEL", required = true)]
    channels: Vec<String>,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Show every message as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Subscribe {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let interrupt = Interrupt::watch()?;
        let output = Output::new(self.json);
        let mut connection = self.target.connect()?;
        for channel in &self.channels {
            target::subscribe(&mut connection, channel)?;
        }
        // Writes to standard error, which no reader of the messages sees; if that is closed there
        // is nobody to tell.
        let names = self.channels.join(", ");
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("subscribed to {}; stop with Ctrl-C\n", printable(&names)),
        );
        let mut left = self.count;
        while left != Some(0) && !interrupt.is_noted() {
            let Some(message) = connection.receive(Some(LOOK_EVERY))? else { continue };
            if !self.channels.contains(&message.channel_id) {
                // This may be the server's notice that it shuts down.
                continue;
            }
            show(output, &message)?;
            left = left.map(|left| left - 1);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(output: Output, message: &Message) -> Result<(), Failure> {
    if output.json {
        return output.line(document::of(message)?);
    }
    output.line(format_args!(
        "{} {} {}",
        output.paint(Style::Dim, time_of_day(message.timestamp)),
        output.paint(Style::Bold, printable(&message.channel_id)),
        output.payload_line(message.payload.as_str())
    ))
}

/// Displays a timestamp as `12:03:04.567`. A peer may send any number.
pub(super) fn time_of_day(unix_seconds: f64) -> String {
    const DAY: u64 = 86_400;
    let since_epoch = Duration::try_from_secs_f64(unix_seconds).unwrap_or_default();
    let seconds = since_epoch.as_secs() % DAY;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", seconds % 60, since_epoch.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_is_a_time() {
        assert_eq!(time_of_day(86_400.0 + 3_661.25), "01:01:01.250");
        for odd in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(time_of_day(odd), "00:00:00.000");
        }
    }
}
