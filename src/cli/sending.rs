//! Messages without an answer: the common part of `ipc publish` and `ipc notify`.

use std::io;
use std::process::ExitCode;

use clap::Args;
use ipc_framework::client::Connection;
use ipc_framework::{Json, Message, MessageType};
use serde::Serialize;

use super::failure::Failure;
use super::output::Output;
use super::target::Target;
use super::{payload, target};

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
    /// Show how much was sent, and whether the server confirmed it, as a JSON document of one line
    #[arg(long)]
    json: bool,
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
        let payload = self.payload.as_deref().map(payload::read).transpose()?;
        let mut connection = self.target.connect()?;
        let mut sent = 0;
        let mut post = |connection: &mut Connection, payload: Json<'static>| {
            let message = Message::new(message_type, "", self.channel.as_str(), payload);
            connection.send_message(&message)?;
            sent += 1;
            // A refusal of an earlier message ends the program, and answers do not pile up.
            while let Some(message) = connection.try_receive()? {
                target::refusal(&message).map_or(Ok(()), Err)?;
            }
            Ok(())
        };
        let done = match payload {
            Some(payload) => post(&mut connection, payload),
            None => payload::each_line(io::stdin().lock(), |line| post(&mut connection, line)),
        };
        // A bad line does not affect the lines before it: they still arrive.
        let confirmed = match done {
            Err(failure @ Failure::Usage(_)) => target::finish(connection).and(Err(failure)),
            done => done.and_then(|()| target::finish(connection)),
        }?;
        let output = Output::new(self.json);
        if self.json {
            let channel = &self.channel;
            output.document(&Receipt {
                channel,
                message_type: message_type.as_str(),
                sent,
                confirmed,
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
