//! Messages without an answer: the common part of `ipc publish` and `ipc notify`.

use std::io;
use std::process::ExitCode;

use clap::Args;
use ipc_framework::{Json, Message};
use serde::Serialize;

use super::attach::Attach;
use super::failure::Failure;
use super::feed::{Feed, Kind};
use super::output::{Output, tell};
use super::target::Target;
use super::{audience, payload, target};

#[derive(Args, Debug)]
pub(super) struct Sending {
    /// Channel to send on
    channel: String,
    /// JSON; `@file` takes it from a file, `-` from standard input
    #[arg(value_name = "JSON", required_unless_present = "lines", conflicts_with = "lines")]
    payload: Option<String>,
    /// Send every line of standard input as a separate message, as soon as it is read
    #[arg(short, long)]
    lines: bool,
    /// Show a receipt of each message as a JSON document of one line: whether the server confirmed
    /// it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    attach: Attach,
    #[command(flatten)]
    target: Target,
}

#[derive(Serialize)]
struct Receipt<'a> {
    channel: &'a str,
    #[serde(rename = "type")]
    message_type: &'static str,
    sent: u64,
    /// Absent for the published server, which confirms nothing.
    confirmed: bool,
    /// The place in the channel's history, after `--ack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Sending {
    pub(super) fn run(self, kind: &Kind) -> Result<ExitCode, Failure> {
        match self.payload.as_deref().map(payload::read).transpose()? {
            Some(payload) => {
                let payload = self.attach.to(payload)?;
                self.send(kind, payload)
            }
            None => self.send_lines(kind),
        }
    }

    fn send(self, kind: &Kind, payload: Json<'static>) -> Result<ExitCode, Failure> {
        let mut connection = self.target.connect()?;
        let message_type = kind.message_type();
        let message = Message::new(message_type, "", self.channel.as_str(), payload);
        let position = match kind {
            Kind::Publication { options, ack: true } => connection.publish_acknowledged_with(
                &message.channel_id,
                &message.payload,
                options,
            )?,
            kind => kind.send(&mut connection, &message).map(|()| None)?,
        };
        let confirmed = target::finish(connection, |connection| {
            let app = self.target.app();
            if let Some(note) = audience::of_message(connection, app, &self.channel, message_type) {
                tell(&note);
            }
        })?;
        if self.json {
            let channel = &self.channel;
            let message_type = message_type.as_str();
            let epoch = position.as_ref().map(|position| &*position.epoch);
            let offset = position.as_ref().map(|position| position.offset);
            let receipt = Receipt { channel, message_type, sent: 1, confirmed, epoch, offset };
            Output::new(true).document(&receipt)?;
        } else if let Some(position) = position {
            Output::new(false).line(position)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn send_lines(self, kind: &Kind) -> Result<ExitCode, Failure> {
        let output = self.json.then(|| Output::new(true));
        let mut feed = Feed::connect(&self.target, &self.channel, kind, output)?;
        let read = payload::each_line(io::stdin().lock(), |line| match line {
            Some(line) => feed.send(line),
            None => feed.confirm(),
        });
        // A bad line does not affect the lines before it: they still arrive.
        if let Err(failure @ Failure::Usage(_)) = read {
            return feed.confirm().and(Err(failure));
        }
        read.and_then(|()| feed.finish()).map(|()| ExitCode::SUCCESS)
    }
}
