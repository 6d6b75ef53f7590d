//! `ipc subscribe`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use ipc_framework::Message;
use ipc_framework::client::{Connection, Position, SubscribeOptions};

use super::attach::{Save, Saver};
use super::comeback::{Comeback, is_temporary, shown_since};
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::following::Following;
use super::interrupt::{Interrupt, LOOK_EVERY};
use super::output::{Output, Style, printable, tell};
use super::target::Target;
use super::{audience, document, units};

/// Show the publications on channels, until interrupted.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Times are those of the senders, in UTC. With --json every message is a document of one line: \
channel, type, payload, timestamp, message_id, and epoch, offset and retained where the server \
keeps publications. If the connection is lost, it subscribes again as soon as the server is back: to \
a channel with a history it goes on where it was. It says what was missed on standard error, and \
with --json in a document too, whose type is resumed or gap. Ctrl-C ends the program with exit code \
0. Bytes and tensors are shown as \"<f32 [224,224,3], 602112 bytes>\", and with \
--save written into files.

Examples:
  ipc subscribe news
  ipc subscribe general tech_talk --app chat_app
  ipc subscribe news --json --count 1
  ipc subscribe 'prices.*' --pattern --last 1
  ipc subscribe --all
  ipc subscribe orders --since k3XmQ81a:42"))]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct Subscribe {
    /// Channels to subscribe to
    #[arg(value_name = "CHANNEL", required_unless_present = "all")]
    channels: Vec<String>,
    /// Take CHANNEL for a pattern: tokens between dots, where `*` stands for one and a last `>` for the
    /// rest
    #[arg(long)]
    pattern: bool,
    /// Show all publications of the application; the pattern `>`
    #[arg(long, conflicts_with = "channels")]
    all: bool,
    /// Begin with the newest N publications of each channel that the server keeps
    #[arg(long, value_name = "N", value_parser = units::at_least(1_u32))]
    last: Option<u32>,
    /// Begin after this place in the channel's history, as --json shows it
    #[arg(long, value_name = "EPOCH:OFFSET", value_parser = position)]
    #[arg(conflicts_with_all = ["pattern", "all"])]
    since: Option<Position>,
    /// Skip to the newest publication of each channel whenever they are read too slowly
    #[arg(long)]
    conflate: bool,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "N", value_parser = units::at_least(1_u64))]
    count: Option<u64>,
    /// Show every message as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    save: Save,
    #[command(flatten)]
    target: Target,
}

/// Time without an empty socket after which a subscriber is behind.
const BEHIND: Duration = Duration::from_secs(2);
const TOO_SLOW: &str = "the connection is gone, perhaps because its messages were read too slowly; \
                        connecting again";

impl Subscribe {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut saver = self.save.saver()?;
        let interrupt = Interrupt::watch()?;
        let output = Output::new(self.json);
        let mut comeback = Comeback::new(&self.target, Some(&interrupt));
        let mut following = self.following()?;
        let mut connection = self.target.connect()?;
        let app = self.target.app();
        let channels = if self.all { "all channels".to_owned() } else { self.channels.join(", ") };
        let note = audience::of_application(&mut connection, app);
        following.subscribe(&mut connection)?;
        // Standard error, which no reader of the messages sees.
        tell(&format!("subscribed to {channels} of application {app}; stop with Ctrl-C"));
        if let Some(note) = note.or_else(|| self.pattern_note()) {
            tell(&note);
        }
        following.tell_missed(output, "")?;
        let mut left = self.count;
        let mut caught_up = Instant::now();
        while left != Some(0) && !interrupt.is_noted() {
            let next = match connection.try_receive() {
                Ok(None) => {
                    caught_up = Instant::now();
                    connection.receive(Some(LOOK_EVERY))
                }
                next => next,
            };
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => continue,
                Err(error) if is_temporary(&error) => {
                    // Whoever reads the messages may have been too slow, and then the connection
                    // ended while earlier ones waited here.
                    let is_behind = caught_up.elapsed() > BEHIND;
                    let begin = if is_behind { caught_up } else { Instant::now() };
                    tell(if is_behind { TOO_SLOW } else { "the server is gone; waiting for it" });
                    let subscribe = |connection: &mut Connection| following.subscribe(connection);
                    let Some(another) = comeback.connect(connection.endpoint(), subscribe)? else {
                        break;
                    };
                    connection = another;
                    let missed = shown_since(begin);
                    following.tell_missed(
                        output,
                        &if is_behind {
                            format!("parts of the last {missed} are missed")
                        } else {
                            format!("what was published in {missed} is missed")
                        },
                    )?;
                    caught_up = Instant::now();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            comeback.note_use();
            if !following.takes(&message) {
                continue;
            }
            show(output, &mut saver, message)?;
            left = left.map(|left| left - 1);
        }
        if let Some(position) = following.position().filter(|_| interrupt.is_noted()) {
            tell(&format!("to go on after this: --since {position}"));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn following(&self) -> Result<Following, Failure> {
        if self.since.is_some() && self.channels.len() > 1 {
            return Err(Failure::usage(
                "--since is a place in the history of one channel; name one",
            ));
        }
        let names = if self.all { vec![">".to_owned()] } else { self.channels.clone() };
        let options = SubscribeOptions::default()
            .pattern(self.pattern || self.all)
            .last(self.last)
            .since(self.since.clone())
            .conflate(self.conflate);
        Ok(Following::new(names, options))
    }

    /// Returns a note if a channel has a name that was perhaps meant as a pattern.
    fn pattern_note(&self) -> Option<String> {
        let is_like_one = |name: &&String| {
            let mut tokens = name.split('.').rev();
            let last = tokens.next();
            last == Some(">") || last == Some("*") || tokens.any(|token| token == "*")
        };
        let name = self.channels.iter().find(is_like_one).filter(|_| !self.pattern)?;
        Some(format!("{name} is the name of one channel here; with --pattern it stands for many"))
    }
}

fn position(text: &str) -> Result<Position, String> {
    Position::parse(text).ok_or_else(|| "a place is EPOCH:OFFSET, such as k3XmQ81a:42".to_owned())
}

fn show(output: Output, saver: &mut Saver, mut message: Message) -> Result<(), Failure> {
    if !message.payload.attachments().is_empty() {
        message.payload = saver.shown(&message.payload)?;
    }
    if output.json {
        return output.line(document::of(&message)?);
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
