//! `ipc ping`

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use ipc_framework::client::Connection;
use ipc_framework::{Json, Message, MessageType};
use serde::Serialize;

use super::failure::Failure;
use super::failure::with_exit_codes;
use super::interrupt::{Interrupt, LOOK_EVERY};
use super::latency::{self, Latency};
use super::output::Output;
use super::target::Target;
use super::units;

/// Measure the round trip to the server, until interrupted.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
With --json every answer is a document of one line, and so is the summary at the end. Ctrl-C \
ends the program with the summary.

Examples:
  ipc ping
  ipc ping -c 3 -i 100ms
  ipc ping --unix /run/ipc.sock -c 1000 -i 0 --quiet"))]
pub(super) struct Ping {
    /// Stop after this many pings
    #[arg(short, long, value_name = "N", value_parser = units::at_least(1_u64))]
    count: Option<u64>,
    /// Time from one ping to the next
    #[arg(short, long, value_name = "DURATION", default_value = "1s")]
    #[arg(value_parser = units::duration)]
    interval: Duration,
    /// Show only the summary
    #[arg(short, long)]
    quiet: bool,
    /// Show everything as JSON documents of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Serialize)]
struct Pong {
    seq: u64,
    rtt_us: f64,
}

#[derive(Serialize)]
struct Summary {
    sent: u64,
    answered: u64,
    rtt_us: Option<Latency>,
}

impl Ping {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let interrupt = Interrupt::watch()?;
        let output = Output::new(self.json);
        let mut connection = self.target.connect_for("ping")?;
        let name = connection.endpoint().to_string();
        let mut nanos = latency::histogram();
        let mut sent = 0;
        let mut gone = None;
        while !interrupt.is_noted() && self.count.is_none_or(|count| sent < count) {
            let begin = Instant::now();
            sent += 1;
            match ping(&mut connection, sent, self.target.timeout(), &interrupt) {
                // The summary of the pings before is still useful.
                Err(failure) => {
                    gone = Some(failure);
                    break;
                }
                Ok(Some(rtt)) => {
                    latency::record(&mut nanos, rtt);
                    if !self.quiet {
                        show(output, &name, sent, rtt)?;
                    }
                }
                // An interrupted ping counts neither as answered nor as lost.
                Ok(None) if interrupt.is_noted() => sent -= 1,
                Ok(None) => tell_lost(&name, sent, self.target.timeout()),
            }
            if self.count != Some(sent) {
                interrupt.sleep(self.interval.saturating_sub(begin.elapsed()));
            }
        }
        summarize(output, &name, sent, &nanos)?;
        if let Some(failure) = gone {
            return Err(failure);
        }
        if sent > 0 && nanos.is_empty() {
            let text = format!(
                "{name} answered none of {sent} pings; check whether it is stuck, or wait longer by \
                 --timeout"
            );
            return Err(Failure::Timeout(text));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes one round trip. It waits in short pieces, so that Ctrl-C ends the wait for a stuck server.
fn ping(
    connection: &mut Connection,
    seq: u64,
    timeout: Duration,
    interrupt: &Interrupt,
) -> Result<Option<Duration>, Failure> {
    let payload = Json::parse("{\"action\":\"ping\"}").unwrap_or_default();
    let mut request = Message::new(MessageType::Request, "", "system", payload);
    request.message_id = format!("ping-{seq}");
    let begin = Instant::now();
    connection.send_message(&request)?;
    while begin.elapsed() < timeout && !interrupt.is_noted() {
        // An answer to an earlier ping came too late.
        if let Some(answer) = connection.receive(Some(LOOK_EVERY.min(timeout)))?
            && answer.reply_to.as_ref() == Some(&request.message_id)
        {
            return Ok(Some(begin.elapsed()));
        }
    }
    Ok(None)
}

/// Writes to standard error; if that is closed there is nobody to tell.
fn tell_lost(name: &str, seq: u64, timeout: Duration) {
    let timeout = humantime::format_duration(timeout);
    let _ = writeln!(io::stderr(), "no answer from {name} within {timeout}: seq={seq}");
}

fn show(output: Output, name: &str, seq: u64, rtt: Duration) -> Result<(), Failure> {
    if output.json {
        return output.document(&Pong { seq, rtt_us: latency::micros(rtt) });
    }
    output.line(format_args!("pong from {name}: seq={seq} time={}", latency::shown(rtt)))
}

fn summarize(output: Output, name: &str, sent: u64, nanos: &Histogram<u64>) -> Result<(), Failure> {
    let answered = nanos.len();
    let rtt_us = (answered > 0).then(|| Latency::of(nanos));
    if output.json {
        return output.document(&Summary { sent, answered, rtt_us });
    }
    let lost = sent - answered;
    output.line(format_args!("\n--- {name} ping statistics ---"))?;
    output.line(format_args!("{sent} sent, {answered} answered, {lost} lost"))?;
    if let Some(rtt) = rtt_us {
        let min = rtt.min.unwrap_or_default();
        output.line(format_args!(
            "rtt min/mean/p50/p99/max = {min:.1}/{:.1}/{:.1}/{:.1}/{:.1} µs",
            rtt.mean, rtt.p50, rtt.p99, rtt.max
        ))?;
    }
    Ok(())
}
