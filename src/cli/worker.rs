//! `ipc worker`

mod command;
mod lines;

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use ipc_framework::client::{
    ClientOptions, Error, Event, PartSender, Request, ServeOptions, WhileDisconnected,
};
use ipc_framework::{HandlerError, Json, Message, MessageType};
use serde::Serialize;

use self::command::{Bounds, Command};
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::interrupt::{Interrupt, LOOK_EVERY};
use super::output::{Output, tell};
use super::target::Target;
use super::{audience, latency, units};

/// Serve a channel with a command, until interrupted.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Each request runs the command, with its payload on standard input and the channel in IPC_CHANNEL. \
The command's output is the answer: JSON unchanged, anything else as text. If its exit code is \
not 0, the answer is the error handler_failed with the last line of its standard error. A command \
that takes too long or prints too much is killed with all its processes, and the answer says so. One \
for whose answer nobody waits any more is killed, too. Attachments stand in the payload as \
{\"$base64\": ..., \"dtype\": ..., \"shape\": ...}.

With --stream each line of the output is a part of the answer, sent as soon as it is printed, and \
--command-timeout and --max-output-bytes hold for each line. The output is read as fast as the \
requester takes the parts; one that takes none gets the array of all of them.

If the connection is lost, the worker reconnects. After Ctrl-C it accepts no more requests, and \
ends with exit code 0 once those it has are answered; a second Ctrl-C kills the commands.

Examples:
  ipc worker sort -- sort -n
  ipc worker upper --concurrency 4 -- tr a-z A-Z
  ipc worker length --app bench --command-timeout 2s --json -- wc -c
  ipc worker numbers --stream -- seq 100"))]
pub(super) struct Worker {
    /// Channel to serve
    channel: String,
    /// Command that answers requests, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Requests handled at a time; the server keeps others for whichever worker is free first
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = units::number(1_u16..=1024))]
    concurrency: u16,
    /// Requests that this worker holds besides, so that the next one is there when a command ends
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = units::number(0_u16..=4096))]
    prefetch: u16,
    /// Time that a command may take; the server waits 30 s for an answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = units::timeout)]
    command_timeout: Duration,
    /// Bytes that a command may print
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = units::size)]
    max_output_bytes: usize,
    /// Send each line that the command prints as a part of the answer
    #[arg(short, long)]
    stream: bool,
    /// Show every handled request as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// A handled request or notification, as `--json` shows it.
#[derive(Serialize)]
struct Handled<'a> {
    channel: &'a str,
    #[serde(rename = "type")]
    message_type: &'static str,
    took_us: f64,
    /// The reason for an error instead of an answer.
    error: Option<&'a str>,
}

/// State shared by the threads that run commands.
struct Work {
    channel: String,
    command: Command,
    bounds: Bounds,
    output: Output,
    /// The reason why the worker cannot go on.
    broken: Mutex<Option<Failure>>,
}

impl Worker {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let interrupt = Interrupt::watch_twice()?;
        let command = Command::new(self.command.clone());
        command.check().map_err(|error| cannot_run(command.program(), &error))?;
        // This detects the published server, which has no workers.
        let mut connection = self.target.connect_for("workers")?;
        let note = audience::of_application(&mut connection, self.target.app());
        drop(connection);
        let options = self.client_options()?;
        let work = Arc::new(Work {
            channel: self.channel.clone(),
            command,
            bounds: Bounds {
                time: self.command_timeout,
                output_bytes: self.max_output_bytes,
                killed: interrupt.again(),
            },
            output: Output::new(self.json),
            broken: Mutex::new(None),
        });
        let client = options.connect()?;
        let told = Arc::clone(&work);
        client.on_event(move |event| told.note_event(event));
        let serving = Arc::clone(&work);
        let options = ServeOptions::default()
            .concurrency(self.concurrency.into())
            .prefetch(usize::from(self.prefetch));
        if self.stream {
            let stream =
                move |request: &Request, parts: &mut PartSender| serving.stream(request, parts);
            client.serve_stream_with(&self.channel, &options, stream)?;
        } else {
            client.serve_with(&self.channel, &options, move |request| serving.answer(request))?;
        }
        let (channel, app) = (&self.channel, self.target.app());
        tell(&format!("serving {channel} of application {app}; stop with Ctrl-C"));
        if let Some(note) = note {
            tell(&note);
        }
        let broken = loop {
            if let Some(failure) = work.take_broken() {
                break Some(failure);
            }
            if interrupt.is_noted() {
                break None;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let closed = client.close();
        match broken {
            Some(failure) => Err(failure),
            None => Ok(closed.map(|()| ExitCode::SUCCESS)?),
        }
    }

    fn client_options(&self) -> Result<ClientOptions, Failure> {
        let mut options = ClientOptions::new(self.target.app());
        options.connection = self.target.options()?;
        // A requester who waits for an answer while the server is away has lost it already.
        options.while_disconnected = WhileDisconnected::Fail;
        // This also bounds the wait for running commands at the end.
        options.connection.timeout = options.connection.timeout.max(self.command_timeout);
        // Room for everything that all commands together may print before the server reads it.
        let printed = self.max_output_bytes.saturating_mul(usize::from(self.concurrency) + 1);
        options.queue_bytes_max = options.queue_bytes_max.max(printed);
        Ok(options)
    }
}

impl Work {
    /// Returns the output of the command, or the reason why there is none.
    fn answer(&self, request: &Request) -> Result<Json<'static>, HandlerError> {
        let begin = Instant::now();
        let input = input(request);
        let input = input.as_str().as_bytes();
        let is_over = || request.is_cancelled();
        let answer = match self.command.run(&self.channel, input, &self.bounds, &is_over) {
            Ok(answer) => answer.and_then(|printed| json_or_text(&printed)),
            Err(error) => Err(self.cannot_run(&error)),
        };
        self.show(request, begin.elapsed(), answer.as_ref().err());
        answer.map_err(HandlerError::new)
    }

    /// Sends the lines that the command prints. Returns the reason if it fails.
    fn stream(&self, request: &Request, parts: &mut PartSender) -> Result<(), HandlerError> {
        let begin = Instant::now();
        let input = input(request);
        let input = input.as_str().as_bytes();
        let ended = self.command.stream(&self.channel, input, &self.bounds, parts);
        let ended = ended.unwrap_or_else(|error| Err(self.cannot_run(&error)));
        self.show(request, begin.elapsed(), ended.as_ref().err());
        ended.map_err(HandlerError::new)
    }

    /// Notes that the worker cannot go on, and returns the reason for the requester.
    fn cannot_run(&self, error: &io::Error) -> String {
        let program = self.command.program();
        self.breaks(cannot_run(program, error));
        format!("cannot run {program}: {error}")
    }

    fn show(&self, message: &Message, took: Duration, error: Option<&String>) {
        if self.output.json {
            let shown = self.output.document(&Handled {
                channel: &self.channel,
                message_type: message.message_type.as_str(),
                took_us: latency::micros(took),
                error: error.map(String::as_str),
            });
            shown.unwrap_or_else(|failure| self.breaks(failure));
        } else if let Some(error) = error
            && message.message_type == MessageType::Notification
        {
            // Nobody waits for an answer to a notification, so a failure is reported here.
            tell(error);
        }
    }

    fn note_event(&self, event: &Event) {
        match event {
            Event::Connected { .. } => tell("the server is there again, and so is its worker"),
            Event::Disconnected { .. } => tell("the server is gone; waiting for it"),
            // The server refuses the channel, which may need somebody's attention.
            Event::Unreachable { error: error @ Error::Answered { .. }, .. } => {
                tell(&format!("the server refuses: {error}"));
            }
            Event::NotRestored { error, .. } => {
                self.breaks(Failure::runtime(format!("cannot serve as before: {error}")));
            }
            Event::Closed { error: Some(error), .. } => self.breaks(error.into()),
            _ => {}
        }
    }

    /// Only the first reason is reported.
    fn breaks(&self, failure: Failure) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }

    fn take_broken(&self) -> Option<Failure> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Returns the payload for a command, which reads text: attachments are in it as base64.
fn input(request: &Request) -> Json<'_> {
    let payload = &request.payload;
    if payload.attachments().is_empty() { payload.borrowed() } else { payload.to_base64() }
}

fn cannot_run(program: &str, error: &io::Error) -> Failure {
    Failure::runtime(format!("cannot run {program}: {error}; see that it is there and may be run"))
}

fn json_or_text(printed: &[u8]) -> Result<Json<'static>, String> {
    let text = str::from_utf8(printed).map_err(|error| {
        let at = error.valid_up_to();
        format!("the command printed bytes that are not UTF-8, from byte {at} on; have it print text, or Base64")
    })?;
    let trimmed = text.trim();
    Ok(Json::parse(trimmed.to_owned()).unwrap_or_else(|_| {
        let line = text.strip_suffix('\n').unwrap_or(text);
        Json::from_serialize(line).unwrap_or_default()
    }))
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
            assert_eq!(json_or_text(printed.as_bytes()).unwrap().as_str(), json);
        }
    }

    #[test]
    fn what_is_no_text_is_an_error() {
        let error = json_or_text(b"ab\xff").unwrap_err();
        assert!(error.contains("not UTF-8, from byte 2 on"), "{error}");
    }
}
