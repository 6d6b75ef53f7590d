//! `ipc request`

use std::io;
use std::process::ExitCode;

use clap::Args;
use ipc_framework::client::{Connection, RequestOptions};
use ipc_framework::{Json, Message};

use super::attach::{Attach, Save};
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::output::Output;
use super::payload;
use super::target::Target;

/// Send a request, and show the answer.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
The answer's payload is shown: indented on a terminal, unchanged elsewhere and with --json. With \
--lines each line is answered before the next one is sent; the first error ends the program.

With --stream the answer comes in parts, each on one line as soon as it is there, as fast as they \
are read. Whoever serves the channel learns how long --timeout is, if it is given, and after Ctrl-C \
that nobody waits any more.

Bytes and tensors go beside the payload with --attach, in place of its nulls. Those that come are shown \
as \"<f32 [224,224,3], 602112 bytes>\", and with --save written into files.

Examples:
  ipc request echo '{\"a\": 1}' --app bench
  ipc request echo @order.json
  echo '[1, 2, 3]' | ipc request echo - --json
  seq 3 | ipc request echo --lines
  ipc request echo 1 --stream --timeout 1m
  ipc request echo null --app bench --attach =@cat.jpg --save out
  ipc request system '{\"action\": \"get_time\"}'"))]
pub(super) struct Request {
    /// Channel to send the request on
    channel: String,
    /// JSON; `@file` takes it from a file, `-` from standard input
    #[arg(value_name = "JSON", default_value = "null")]
    payload: String,
    /// Send every line of standard input as a separate request
    #[arg(short, long, conflicts_with = "payload")]
    lines: bool,
    /// Show the parts of the answer as they come, each on one line
    #[arg(short, long)]
    stream: bool,
    /// Show the payload as it came, on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    attach: Attach,
    #[command(flatten)]
    save: Save,
    #[command(flatten)]
    target: Target,
}

impl Request {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let output = Output::new(self.json || self.stream);
        let options = RequestOptions::default().timeout(self.target.given_timeout());
        let mut saver = self.save.saver()?;
        let mut ask = |connection: &mut Connection, payload: &Json<'_>| {
            let mut show = |answer: Message| {
                if answer.payload.attachments().is_empty() {
                    return output.line(output.payload(answer.payload.as_str()));
                }
                output.line(output.payload(saver.shown(&answer.payload)?.as_str()))
            };
            if self.stream {
                let mut parts = connection.request_stream_with(&self.channel, payload, &options)?;
                return parts.try_for_each(|part| show(part?));
            }
            show(connection.request_with(&self.channel, payload, &options)?)
        };
        if self.lines {
            let mut connection = self.target.connect()?;
            payload::each_line(io::stdin().lock(), |line| {
                line.map_or(Ok(()), |line| ask(&mut connection, &line))
            })?;
        } else {
            // The payload is checked before anything is connected.
            let payload = self.attach.to(payload::read(&self.payload)?)?;
            ask(&mut self.target.connect()?, &payload)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
