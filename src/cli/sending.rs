//! Messages without an answer: the common part of `ipc publish` and `ipc notify`.

use std::io;
use std::process::ExitCode;

use clap::Args;
use ipc_framework::{Json, Message, MessageType};
use serde::Serialize;

use super::attach::Attach;
use super::failure::Failure;
use super::feed::Feed;
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
}

impl Sending {
    pub(super) fn run(self, message_type: MessageType) -> Result<ExitCode, Failure> {
        match self.payload.as_deref().map(payload::read).transpose()? {
            Some(payload) => {
                let payload = self.attach.to(payload)?;
                self.send(message_type, payload)
            }
            None => self.send_lines(message_type),
        }
    }

    fn send(self, message_type: MessageType, payload: Json<'static>) -> Result<ExitCode, Failure> {
        let mut connection = self.target.connect()?;
        let message = Message::new(message_type, "", self.channel.as_str(), payload);
        connection.send_message(&message)?;
        let confirmed = target::finish(connection, |connection| {
            let app = self.target.app();
            if let Some(note) = audience::of_message(connection, app, &self.channel, message_type) {
                tell(&note);
            }
        })?;
        if self.json {
            let channel = &self.channel;
            let message_type = message_type.as_str();
            Output::new(true).document(&Receipt { channel, message_type, sent: 1, confirmed })?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn send_lines(self, message_type: MessageType) -> Result<ExitCode, Failure> {
        let output = self.json.then(|| Output::new(true));
        let mut feed = Feed::connect(&self.target, &self.channel, message_type, output)?;
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
