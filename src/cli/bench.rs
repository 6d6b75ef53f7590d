//! `ipc bench`

mod fan_out;
mod load;
mod measure;
mod open_loop;
mod pace;
mod report;
mod streams;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ipc_framework::Json;

use self::measure::{Counted, Load, Plan, Tally};
use self::report::{Report, shown};
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::interrupt::Interrupt;
use super::latency::{self, Latency};
use super::output::Output;
use super::payload;
use super::target::Target;
use super::units;

const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// The defaults of streams.
const PARTS: u32 = 100;
const CREDIT: u32 = 64;

/// Put load on a server, and measure its latency as clients see it.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
request: each connection sends requests to `echo`, or to the --channel.
publish: each connection publishes to itself alone.
fan-out: one connection publishes, the others subscribe; each delivery counts.
stream: each connection reads --streams side by side, from a worker of the load itself or from the \
--channel; each part counts. Latencies are those to the first part, and of whole streams.

Without --rate each message is sent when the one before is done (closed loop). With --rate \
messages are sent at fixed times, regardless of missing answers (open loop), and latency counts \
from the time at which each was due, so that a server which stalls cannot hide the delay. \
Messages that were due and found no room among the --in-flight messages of their connection (of \
1 MiB together at most) are reported as unsent, those without an answer within --timeout as \
unanswered. Ctrl-C ends the load and shows the results so far.

Examples:
  ipc bench
  ipc bench publish --clients 2 --size 1KiB
  ipc bench --channel price --payload '{\"item\": \"tea\"}' --expect-errors
  ipc bench stream --streams 100 --parts 50
  ipc bench fan-out --clients 50 --duration 10s --hdr fan-out.hlog
  ipc bench request --rate 5000 --in-flight 64 --json"))]
pub(super) struct Bench {
    /// Kind of load
    #[arg(value_enum, default_value_t)]
    load: Load,
    /// Channel to use [default: echo for requests, a fresh one otherwise]
    #[arg(long)]
    channel: Option<String>,
    /// Connections that send requests, publish, subscribe or read streams [default: 1; 10 for fan-out]
    #[arg(long, value_name = "N", value_parser = units::number(1_u32..=4096))]
    clients: Option<u32>,
    /// Bytes of each payload, which is text then
    #[arg(long, value_name = "SIZE", default_value = "64", value_parser = units::size)]
    size: usize,
    /// Streams of each connection, side by side [default: 1]
    #[arg(long, value_name = "N", value_parser = units::number(1_u16..=1024))]
    streams: Option<u16>,
    /// Parts of each stream, which the worker of the load sends [default: 100]
    #[arg(long, value_name = "N", value_parser = units::at_least(1_u32))]
    #[arg(conflicts_with = "channel")]
    parts: Option<u32>,
    /// Parts of a stream that may wait for their reader [default: 64]
    #[arg(long, value_name = "N", value_parser = units::number(1_u32..=65_536))]
    credit: Option<u32>,
    /// Payload of requests and publications: JSON, `@file`, or `-` for standard input
    #[arg(long, value_name = "JSON", conflicts_with = "size")]
    payload: Option<String>,
    /// Count requests that are answered with errors, by code, instead of ending with the first
    #[arg(long)]
    expect_errors: bool,
    /// Time to measure
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::timeout)]
    duration: Duration,
    /// Time to warm up before that
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = units::duration)]
    warmup: Duration,
    /// Messages a second, of all connections together
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Messages of each connection that may be in flight in an open loop
    #[arg(long, value_name = "N", default_value_t = 256, requires = "rate")]
    #[arg(value_parser = units::number(1_u16..=1024))]
    in_flight: u16,
    /// Never sleep while waiting for an answer
    #[arg(long)]
    spin: bool,
    /// Write all latencies to a file, as an `HdrHistogram` interval log in nanoseconds
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
    /// Show the result as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e9).contains(rate));
    rate.ok_or_else(|| "give a number of messages a second, such as 5000 or 0.5".to_owned())
}

impl Bench {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let interrupt = Interrupt::watch()?;
        let output = Output::new(self.json);
        let mut options = self.target.options()?;
        options.spin = self.spin;
        let payload = self.payload()?;
        let payload_bytes = payload.as_ref().map_or(self.size, |payload| payload.as_str().len());
        let clients = self.clients.unwrap_or(if self.load == Load::FanOut { 10 } else { 1 });
        let plan = Plan {
            load: self.load,
            channel: self.channel.clone(),
            clients,
            payload,
            payload_bytes,
            streams: self.streams.map_or(1, usize::from),
            credit: self.credit.unwrap_or(CREDIT),
            parts: self.parts.unwrap_or(PARTS),
            expects_errors: self.expect_errors,
            rate: self.rate,
            in_flight_max: self.in_flight.into(),
            warmup: self.warmup,
            duration: self.duration,
        };
        if let Some(path) = &self.hdr {
            // An unwritable path shows before the load, not after it.
            latency::create_log(path)?;
        }
        let bar = self.bar();
        let tally = load::run(&plan, &options, |clock| {
            if interrupt.is_noted() {
                clock.stop();
            }
            let ran = clock.elapsed();
            bar.set_position(millis(ran));
            let counted = clock.done.load(Ordering::Relaxed) as f64;
            bar.set_message(format!("{:.0} a second", counted / ran.as_secs_f64().max(0.001)));
            std::thread::sleep(REDRAW_EVERY.min(self.duration));
        });
        bar.finish_and_clear();
        let Tally { counted, took, unsent, unanswered } = tally?;
        let Counted { nanos, first_part_nanos, parts, errors } = counted;
        if nanos.is_empty() && unanswered > 0 {
            let timeout = humantime::format_duration(options.timeout);
            return Err(Failure::Timeout(format!(
                "none of {unanswered} messages was answered within {timeout}; check that \
                 whoever serves the channel is alive, or give a longer --timeout"
            )));
        }
        if let Some(path) = &self.hdr {
            let first_parts = Some(&first_part_nanos).filter(|_| self.load == Load::Stream);
            latency::write_log(path, &nanos, first_parts, took)?;
        }
        let seconds = took.as_secs_f64();
        let (streams, count) = match self.load {
            Load::Stream => (Some(nanos.len()), parts),
            _ => (None, nanos.len()),
        };
        let report = Report {
            load: self.load,
            clients,
            payload_bytes,
            rate: self.rate,
            unsent: self.rate.map(|_| unsent),
            unanswered: self.rate.map(|_| unanswered),
            errors: self.expect_errors.then_some(errors),
            seconds,
            count,
            per_second: (count as f64 / seconds.max(1e-9)).round(),
            streams_each: (self.load == Load::Stream).then_some(plan.streams),
            streams,
            first_part_us: Latency::of_any(&first_part_nanos),
            latency_us: Latency::of_any(&nanos),
        };
        if self.json {
            output.document(&report)?;
        } else {
            output.line(shown(output, &report))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Checks what goes with which load, and reads the payload.
    fn payload(&self) -> Result<Option<Json<'static>>, Failure> {
        if self.expect_errors && !matches!(self.load, Load::Request | Load::Stream) {
            return Err(Failure::usage(
                "only requests are answered with errors; leave out --expect-errors",
            ));
        }
        let of_streams = [
            ("--streams", self.streams.is_some()),
            ("--parts", self.parts.is_some()),
            ("--credit", self.credit.is_some()),
        ];
        if let Some((flag, _)) = of_streams.iter().find(|(_, is_given)| *is_given)
            && self.load != Load::Stream
        {
            return Err(Failure::usage(format!("{flag} goes with `ipc bench stream` alone")));
        }
        if self.load == Load::Stream && self.rate.is_some() {
            return Err(Failure::usage(
                "a stream follows when another one ends; leave out --rate, and choose --streams",
            ));
        }
        if self.payload.is_some() && self.load == Load::FanOut {
            return Err(Failure::usage(
                "fan-out publishes times, in payloads of a --size; leave out --payload",
            ));
        }
        self.payload.as_deref().map(payload::read).transpose()
    }

    /// Shows the progress on terminals only, and on standard error, so that a pipe gets the result
    /// alone.
    fn bar(&self) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(millis(self.warmup + self.duration));
        let style = ProgressStyle::with_template("{bar:40.cyan/dim} {elapsed} {msg}");
        style.map_or(bar.clone(), |style| bar.with_style(style))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
