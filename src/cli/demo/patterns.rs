//! Every pattern of communication over a server, once.

use std::fmt::Display;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ipc_framework::client::{Connection, Error, Options};
use ipc_framework::{ErrorCode, MessageType, Server};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::answers::{self, Latencies};
use crate::cli::failure::Failure;
use crate::cli::latency::{self, Latency, shown, shown_micros};
use crate::cli::output::{Output, Style, table};
use crate::cli::program;

pub(super) const APP: &str = "shop";

const PATIENCE: Duration = Duration::from_secs(5);
const REQUESTS: u32 = 2_000;
const PUBLICATIONS: u32 = 2_000;

/// Adds a handler that runs in the server's process.
pub(super) fn install(server: &mut Server) {
    let mut shop = server.application(APP, "The Shop");
    shop.channel("price").on_request(|request| {
        let item: String = request.payload()?;
        match item.as_str() {
            "apple" => request.reply(&json!({ "item": item, "cents": 45 })),
            _ => Err(format!("there are no {item}s; ask for an apple").into()),
        }
    });
    shop.channel("visits").on_notification(|mut visit| {
        let who: String = visit.payload()?;
        visit.publish("news", &json!(format!("{who} came by")))?;
        Ok(())
    });
}

pub(super) fn show_all(output: Output, options: &Options) -> Result<(), Failure> {
    let mut show = Show { output, options, pattern: "" };
    show.request()?;
    show.publication()?;
    show.notification()?;
    show.worker()?;
    show.error()?;
    show.latencies()
}

struct Show<'a> {
    output: Output,
    options: &'a Options,
    /// The pattern being shown.
    pattern: &'static str,
}

/// A step, as `--json` shows it.
#[derive(Serialize)]
struct Step<'a> {
    pattern: &'a str,
    who: &'a str,
    what: String,
}

/// The latencies that `--json` shows at the end.
#[derive(Serialize)]
struct Distribution<'a> {
    measured: &'a str,
    count: u64,
    latency_us: Latency,
}

impl Show<'_> {
    fn connect(&self) -> Result<Connection, Failure> {
        Ok(self.options.connect()?)
    }

    fn heading(&mut self, text: &'static str) -> Result<(), Failure> {
        self.pattern = text;
        if self.output.json {
            return Ok(());
        }
        self.output.line(format_args!("\n{}", self.output.paint(Style::Bold, text)))
    }

    fn step(&self, who: &str, what: impl Display) -> Result<(), Failure> {
        if self.output.json {
            let what = what.to_string();
            return self.output.document(&Step { pattern: self.pattern, who, what });
        }
        let who = format!("  {who:11}");
        self.output.line(format_args!("{} {what}", self.output.paint(Style::Key, who)))
    }

    fn aside(&self, text: impl Display) -> Result<(), Failure> {
        let text = format!("  {text}");
        self.output.line(self.output.paint(Style::Dim, program::as_typed(&text)))
    }

    fn request(&mut self) -> Result<(), Failure> {
        self.heading("Request and answer")?;
        let mut client = self.connect()?;
        self.step("client", "what does an apple cost?")?;
        let begin = Instant::now();
        let answer = client.request("price", "apple")?;
        let took = shown(begin.elapsed());
        let answer = self.output.payload_line(answer.payload.as_str());
        self.step("server", format_args!("{answer}  after {took}"))
    }

    fn publication(&mut self) -> Result<(), Failure> {
        self.heading("Publish and subscribe")?;
        let mut subscribers = Vec::new();
        for name in ["subscriber1", "subscriber2"] {
            let mut subscriber = self.connect()?;
            subscriber.subscribe_confirmed("news")?;
            subscribers.push((name, subscriber));
        }
        let mut publisher = self.connect()?;
        let begin = Instant::now();
        publisher.publish("news", "apples are in")?;
        self.step("publisher", "\"apples are in\"")?;
        for (name, subscriber) in &mut subscribers {
            let heard = receive(subscriber)?;
            let took = shown(begin.elapsed());
            self.step(name, format_args!("heard {heard}  after {took}"))?;
        }
        Ok(())
    }

    fn notification(&mut self) -> Result<(), Failure> {
        self.heading("Notification: nobody waits for an answer")?;
        let mut subscriber = self.connect()?;
        subscriber.subscribe_confirmed("news")?;
        let mut visitor = self.connect()?;
        visitor.notify("visits", "Ada")?;
        self.step("visitor", "Ada comes by")?;
        let heard = receive(&mut subscriber)?;
        self.step("server", format_args!("publishes {heard}"))
    }

    fn worker(&mut self) -> Result<(), Failure> {
        self.heading("A client that serves requests")?;
        let mut worker = self.connect()?;
        worker.serve("square")?;
        self.step("worker", "serves \"square\"; it could be a program in Python")?;
        let working = std::thread::spawn(move || work(&mut worker));
        let mut client = self.connect()?;
        self.step("client", "what is 7 squared?")?;
        let begin = Instant::now();
        let answer = client.request("square", &7);
        let took = shown(begin.elapsed());
        working.join().unwrap_or_else(|_| Err(Failure::runtime("a bug of ours")))?;
        self.step("worker", format_args!("{}  after {took}", answer?.payload))
    }

    fn error(&mut self) -> Result<(), Failure> {
        self.heading("Whatever goes wrong is answered")?;
        let mut client = self.connect()?;
        for (channel, item) in [("price", "pear"), ("nobody", "there")] {
            self.step("client", format_args!("asks {channel:?} about {item:?}"))?;
            match client.request(channel, item) {
                Err(Error::Answered { code, text }) => {
                    self.step("server", format_args!("{code}: {text}"))?;
                }
                Err(error) => return Err(error.into()),
                Ok(_) => return Err(Failure::runtime("nobody should have answered")),
            }
        }
        Ok(())
    }

    fn latencies(&mut self) -> Result<(), Failure> {
        self.heading("How long it takes, one after the other")?;
        let mut client = self.connect()?;
        let mut requests = latency::histogram();
        for _ in 0..REQUESTS {
            let begin = Instant::now();
            client.request("price", "apple")?;
            latency::record(&mut requests, begin.elapsed());
        }
        client.subscribe_confirmed("ticks")?;
        let mut publications = latency::histogram();
        for at in 0..PUBLICATIONS {
            let begin = Instant::now();
            client.publish("ticks", &at)?;
            receive(&mut client)?;
            latency::record(&mut publications, begin.elapsed());
        }
        let seen: Latencies = answers::ask(&mut client, "get_latency")?;
        let inside = seen.channels.get("price").and_then(|price| price.request.as_ref());
        let of = |measured, nanos| (measured, Histogram::len(nanos), Latency::of(nanos));
        let mut all =
            vec![of("request to answer", &requests), of("publish to delivery", &publications)];
        all.extend(inside.map(|of| ("of a request, in the server", of.count, Latency::from(of))));
        self.measured(&all)
    }

    fn measured(&self, all: &[(&'static str, u64, Latency)]) -> Result<(), Failure> {
        if self.output.json {
            return all.iter().try_for_each(|&(measured, count, latency_us)| {
                self.output.document(&Distribution { measured, count, latency_us })
            });
        }
        let rows: Vec<_> = all
            .iter()
            .map(|(name, count, Latency { p50, p99, p999, max, .. })| {
                let mut row = vec![(*name).to_owned(), count.to_string()];
                row.extend([*p50, *p99, *p999, *max].map(shown_micros));
                row
            })
            .collect();
        let table = table(self.output, &["", "count", "p50", "p99", "p99.9", "max"], &rows);
        for line in table.lines() {
            self.output.line(format_args!("  {line}"))?;
        }
        self.output.line("")?;
        self.aside("Next: `ipc serve --demo` here, and in another terminal")?;
        self.aside("`ipc request echo '{\"a\": 1}' --app bench`, `ipc top`, `ipc bench`")
    }
}

fn receive(connection: &mut Connection) -> Result<String, Failure> {
    let message = connection.receive(Some(PATIENCE))?;
    let message = message.ok_or_else(|| {
        Failure::Timeout("a message did not arrive; see whether the machine is busy".to_owned())
    })?;
    Ok(message.payload.to_string())
}

/// Answers one request with its square.
fn work(worker: &mut Connection) -> Result<(), Failure> {
    while let Some(request) = worker.receive(Some(PATIENCE))? {
        if request.message_type != MessageType::Request {
            continue;
        }
        match request.payload.decode::<Value>().ok().and_then(|value| value.as_i64()) {
            Some(number) => worker.respond(&request, &(number * number))?,
            None => worker.respond_error(&request, ErrorCode::HandlerFailed, "send a number")?,
        }
        return Ok(());
    }
    Ok(())
}
