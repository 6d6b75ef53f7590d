//! `ipc chat`

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use clap::Args;
use ipc_framework::Message;
use ipc_framework::client::{Connection, Error};
use serde::{Deserialize, Serialize};

use super::comeback::{Comeback, is_temporary};
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::interrupt::Interrupt;
use super::output::{Output, Style, printable, tell};
use super::subscribe::time_of_day;
use super::target::Target;
use super::{document, target};

/// Time that a typed line may wait before it is sent.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Talk to others in a channel.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
What is typed goes to everybody in the channel, those in the published ipc-chat program \
included. The end of standard input (Ctrl-D) or Ctrl-C leaves. With --json every message of the \
others is a document of one line: channel, type, payload, timestamp, message_id. If the \
connection is lost, the chat goes on as soon as the server is back.

Examples:
  ipc chat Ada
  echo 'hello' | ipc chat Bob --channel random --json"))]
pub(super) struct Chat {
    /// Name that the others see
    name: String,
    /// Channel to talk in
    #[arg(long, default_value = "general")]
    channel: String,
    /// Show every message of the others as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// A message in the form that the published chat program reads and writes.
#[derive(Debug, Deserialize, Serialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    username: String,
    #[serde(default)]
    text: String,
}

impl Chat {
    pub(super) fn run(mut self) -> Result<ExitCode, Failure> {
        self.target = self.target.or_app("chat_app");
        let interrupt = Interrupt::watch()?;
        let output = Output::new(self.json);
        let mut comeback = Comeback::new(&self.target, Some(&interrupt));
        let join = |connection: &mut Connection| {
            target::subscribe(connection, &self.channel)?;
            self.say(connection, "user_joined", String::new())
        };
        let mut connection = self.target.connect()?;
        join(&mut connection)?;
        tell(&format!("you are {} in {}; leave with Ctrl-D", self.name, self.channel));
        let typed = lines_of_stdin()?;
        // Set if the server did not confirm the last line that was typed.
        let mut is_line_in_doubt = false;
        while !interrupt.is_noted() {
            let heard = match typed.try_recv() {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => {
                    is_line_in_doubt = true;
                    let said = self.say(&mut connection, "chat_message", line);
                    // Our own messages come back, which shows that they have arrived. A user who
                    // only talks would fill the buffers of both sides.
                    while let Ok(Some(message)) = connection.try_receive() {
                        is_line_in_doubt &= !self.show(output, &message)?;
                    }
                    said.map(|()| None)
                }
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => connection.receive(Some(LOOK_EVERY)),
            };
            match heard {
                Ok(None) => {}
                Ok(Some(message)) => {
                    comeback.note_use();
                    is_line_in_doubt &= !self.show(output, &message)?;
                }
                Err(error) if is_temporary(&error) => {
                    let doubt =
                        if is_line_in_doubt { ", and your last line may be lost" } else { "" };
                    tell(&format!("the server is gone{doubt}; waiting for it"));
                    is_line_in_doubt = false;
                    let Some(another) = comeback.connect(connection.endpoint(), join)? else {
                        break;
                    };
                    connection = another;
                    tell("the server is there again, and so are you");
                }
                Err(error) => return Err(error.into()),
            }
        }
        // When this returns, everything that was typed has arrived.
        connection.close()?;
        Ok(ExitCode::SUCCESS)
    }

    fn say(&self, connection: &mut Connection, kind: &str, text: String) -> Result<(), Error> {
        let said = Said { kind: kind.to_owned(), username: self.name.clone(), text };
        connection.publish(&self.channel, &said)
    }

    /// Shows a message of somebody else. Returns whether it is our own, which is on the screen
    /// already.
    fn show(&self, output: Output, message: &Message) -> Result<bool, Failure> {
        let said = serde_json::from_str::<Said>(message.payload.as_str()).ok();
        if said.as_ref().is_some_and(|said| said.username == self.name) {
            return Ok(true);
        }
        show_said(output, message, said).map(|()| false)
    }
}

fn show_said(output: Output, message: &Message, said: Option<Said>) -> Result<(), Failure> {
    if output.json {
        return output.line(document::of(message)?);
    }
    let time = output.paint(Style::Dim, time_of_day(message.timestamp));
    let Some(said) = said else {
        // A message in another form is shown as it is.
        let payload = output.payload_line(message.payload.as_str());
        return output.line(format_args!("{time} {payload}"));
    };
    let who = output.paint(Style::Bold, printable(&said.username));
    match said.kind.as_str() {
        "user_joined" => output.line(format_args!("{time} {who} is here")),
        _ => output.line(format_args!("{time} {who}: {}", printable(&said.text))),
    }
}

/// Reads the terminal in a thread of its own, because that blocks. The thread ends with the
/// program.
fn lines_of_stdin() -> Result<Receiver<String>, Failure> {
    // A user who types faster than the server accepts it has to wait.
    let (sender, lines) = sync_channel(64);
    let read = move || {
        for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
            // Bytes that are not UTF-8 are replaced, and do not end the chat.
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(read).map_err(|error| {
        Failure::runtime(format!("cannot start a thread to read standard input: {error}"))
    })?;
    Ok(lines)
}
