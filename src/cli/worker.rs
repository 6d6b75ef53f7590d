//! `ipc worker`

use std::io::{self, Write};
use std::process::{Command, ExitCode, ExitStatus, Output as Finished, Stdio};

use clap::Args;
use ipc_framework::client::{self, Connection};
use ipc_framework::{ErrorCode, Json, Message, MessageType};

use super::Failure;
use super::failure::with_exit_codes;
use super::interrupt::{Interrupt, LOOK_EVERY};
use super::output::printable;
use super::target::Target;

/// Serve a channel with a command, until interrupted.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Each request runs the command, one at a time: its payload on standard input, the channel in
IPC_CHANNEL. What the command prints is the answer: JSON as it is, anything else as text. If it
ends with another code than 0, the answer is the error handler_failed with the last line of its
standard error. Start several for several requests at a time. Ctrl-C ends it with exit code 0.

Examples:
  ipc worker sort -- sort -n
  ipc worker upper -- tr a-z A-Z
  ipc worker length --app bench -- wc -c"))]
pub(super) struct Worker {
    /// Channel to serve
    channel: String,
    /// Command that answers, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    target: Target,
}

impl Worker {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let interrupt = Interrupt::watch()?;
        let mut connection = self.target.connect()?;
        connection.serve(&self.channel)?;
        tell(&format!("serving {}; stop with Ctrl-C", self.channel));
        while !interrupt.is_noted() {
            let Some(message) = connection.receive(Some(LOOK_EVERY))? else { continue };
            if message.channel_id != self.channel {
                // Such as the server's word that it shuts down: no work for the command.
                continue;
            }
            match message.message_type {
                MessageType::Request => {
                    let answer = self.answer(&message)?;
                    respond(&mut connection, &message, answer)?;
                }
                // Nobody waits for it: it is told here.
                MessageType::Notification => {
                    if let Err(text) = self.answer(&message)? {
                        tell(&text);
                    }
                }
                _ => {}
            }
        }
        connection.close()?;
        Ok(ExitCode::SUCCESS)
    }

    /// What the command says, or why there is nothing of it.
    fn answer(&self, message: &Message) -> Result<Result<Json<'static>, String>, Failure> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(Failure::usage("no command is named; give one after --"));
        };
        let mut command = Command::new(program);
        command.args(arguments).env("IPC_CHANNEL", &self.channel);
        // No secret of ours is any of its business.
        command.env_remove("IPC_TOKEN");
        let finished = feed(command, message.payload.as_str()).map_err(|error| {
            Failure::runtime(format!(
                "cannot run {program}: {error}; see that it is there and may be run"
            ))
        })?;
        if finished.status.success() {
            return Ok(Ok(json_or_text(&finished.stdout)));
        }
        let stderr = String::from_utf8_lossy(&finished.stderr);
        let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
        Ok(Err(last.map_or_else(|| how_it_ended(finished.status), str::to_owned)))
    }
}

fn how_it_ended(status: ExitStatus) -> String {
    format!("the command failed: {status}")
}

/// Runs the command with this on its standard input.
fn feed(mut command: Command, input: &str) -> io::Result<Finished> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take();
    std::thread::scope(|scope| {
        // Beside the reading: a command may print much before it has read everything. One that
        // reads nothing of it is right to.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    })
}

fn json_or_text(printed: &[u8]) -> Json<'static> {
    let text = String::from_utf8_lossy(printed);
    let trimmed = text.trim();
    Json::parse(trimmed.to_owned()).unwrap_or_else(|_| {
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Json::from_serialize(line).unwrap_or_default()
    })
}

fn respond(
    connection: &mut Connection,
    request: &Message,
    answer: Result<Json<'static>, String>,
) -> Result<(), Failure> {
    let sent = match answer {
        Ok(payload) => connection.send_message(&request.create_response(payload)),
        Err(text) => connection.respond_error(request, ErrorCode::HandlerFailed, &text),
    };
    match sent {
        // What the command printed is too much for one message: the requester is told.
        Err(error @ client::Error::TooLarge { .. }) => {
            let text = error.to_string();
            Ok(connection.respond_error(request, ErrorCode::HandlerFailed, &text)?)
        }
        other => Ok(other?),
    }
}

/// On standard error; a closed one leaves nobody to tell.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_text() {
        for (printed, json) in [
            ("{\"a\": 1}\n", "{\"a\": 1}"),
            ("7", "7"),
            ("two words\n", "\"two words\""),
            ("", "\"\""),
            ("1\n2\n", "\"1\\n2\""),
        ] {
            assert_eq!(json_or_text(printed.as_bytes()).as_str(), json);
        }
    }
}
