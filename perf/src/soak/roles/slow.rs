//! A subscriber that does not read. The server closes it alone, and the others lose nothing.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::super::account::{Account, kind};
use super::super::context::{Context, Random};
use super::super::peer::{Peer, excerpt};
use crate::endpoint::Endpoint;

const HEALTHY: usize = 3;
const TEXT_BYTES: usize = 64 << 10;
/// Far more publications than the sockets and the queue of a stalled reader hold.
const PUBLICATIONS_MAX: u64 = 400;
/// Publications that fit into its queue.
const SHORT_STOP_PUBLICATIONS: u64 = 8;
/// The number of publications after which the remaining subscribers are counted.
const LOOK_EVERY: u64 = 8;

/// Returns the payload of a publication, which follows from its number in any process.
fn payload(number: u64) -> Value {
    let digits = format!("{number} ");
    let text = digits.repeat(TEXT_BYTES / digits.len());
    json!({"number": number, "text": text})
}

/// A publisher and its healthy subscribers. The slow one is separate.
struct Channel<'a> {
    context: &'a Context<'a>,
    publisher: Peer,
    healthy: Vec<Peer>,
    published: u64,
}

impl<'a> Channel<'a> {
    fn open(context: &'a Context<'a>, random: &mut Random) -> Result<Self, String> {
        let name = &context.round;
        let publisher = context.connect(random, &format!("{name}-publisher"))?;
        let mut healthy = Vec::new();
        for index in 0..HEALTHY {
            let id = format!("{name}-healthy-{index}");
            let mut peer = context.connect(random, &id)?;
            peer.subscribe(name, &id)?;
            healthy.push(peer);
        }
        Ok(Self { context, publisher, healthy, published: 0 })
    }

    /// Publishes once more. The healthy subscribers get it, at the latest after the slow one's grace.
    fn publish(&mut self) -> Result<(), String> {
        let due = payload(self.published);
        self.published += 1;
        self.publisher.publish(&self.context.round, &due)?;
        self.context.sent(kind::DELIVERY, HEALTHY);
        for peer in &mut self.healthy {
            let message = peer.receive()?;
            if message["payload"] != due {
                return Err(format!("lost for a slow reader: {}", excerpt(&message)));
            }
        }
        self.context.done(kind::PUBLICATION, 1);
        Ok(())
    }

    /// Publishes until the slow subscriber is closed, and once more.
    fn until_it_goes(&mut self) -> Result<(), String> {
        while self.published < PUBLICATIONS_MAX {
            for _ in 0..LOOK_EVERY {
                self.publish()?;
            }
            let listed = self.healthy[0].system(&json!({"action": "list_channels"}))?;
            if listed[&self.context.round]["subscribers"] == HEALTHY {
                self.context.expect("slow_consumers", 1);
                // The publisher had to wait for the slow subscriber at least once.
                self.context.expect("publishers_held", 1);
                self.publish()?;
                self.publisher.expect_nothing_else()?;
                return self.healthy.iter_mut().try_for_each(Peer::expect_nothing_else);
            }
        }
        Err(format!("a reader that does not read is kept through {PUBLICATIONS_MAX} messages"))
    }

    /// Accounts for the slow subscriber, which got the first `received` publications. Those that
    /// were queued for it are lost.
    fn settle(&self, received: u64) {
        let unread = (self.published - received) as usize;
        self.context.perhaps("deliveries", unread);
        self.context.perhaps("frames_out", unread);
    }
}

pub(super) fn never_reads(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let mut channel = Channel::open(context, random)?;
    let id = format!("{}-slow", context.round);
    let mut slow = context.connect(random, &id)?;
    slow.subscribe(&context.round, &id)?;
    channel.until_it_goes()?;
    context.fault("a subscriber that does not read");
    let mut received = 0;
    while let Ok(message) = slow.receive() {
        if message["payload"] != payload(received) {
            return Err(format!("a slow reader got something else: {}", excerpt(&message)));
        }
        received += 1;
    }
    context.sent(kind::DELIVERY, received as usize);
    channel.settle(received);
    Ok(())
}

/// Stops a reader process: first for a short time, after which it loses nothing, then for longer
/// than the server waits.
pub(super) fn is_stopped(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let mut channel = Channel::open(context, random)?;
    let mut reader = ReaderProcess::start(context, random)?;
    reader.signal(Signal::STOP)?;
    for _ in 0..SHORT_STOP_PUBLICATIONS {
        channel.publish()?;
    }
    reader.signal(Signal::CONT)?;
    for number in 0..SHORT_STOP_PUBLICATIONS {
        reader.expect_line(&number.to_string())?;
    }
    reader.signal(Signal::STOP)?;
    channel.until_it_goes()?;
    context.fault("a reader process stopped");
    reader.signal(Signal::CONT)?;
    let received = reader.rest(SHORT_STOP_PUBLICATIONS)?;
    // The reader process has an account of its own, so its share is added here.
    for (counter, count) in [("accepted", 1), ("frames_in", 2), ("frames_out", 2)] {
        context.expect(counter, count);
    }
    context.perhaps("bytes_in", READER_BYTES_IN_MAX);
    context.expect("frames_out", received as usize);
    context.expect("deliveries", received as usize);
    context.sent(kind::DELIVERY, received as usize);
    context.done(kind::DELIVERY, received as usize);
    channel.settle(received);
    Ok(())
}

/// The most bytes of a handshake and a subscription.
const READER_BYTES_IN_MAX: usize = 2_000;

/// Reads a channel and prints a line for each publication; for the soak alone
#[derive(Args, Debug)]
pub(crate) struct Reader {
    #[arg(long)]
    tcp: Option<std::net::SocketAddr>,
    #[arg(long)]
    unix: Option<PathBuf>,
    #[arg(long)]
    application: String,
    #[arg(long)]
    channel: String,
}

impl Reader {
    pub(crate) fn run(self) -> Result<(), String> {
        let target = match (self.tcp, self.unix) {
            (Some(address), None) => Endpoint::Tcp(address),
            (None, Some(path)) => Endpoint::Unix(path),
            _ => return Err("either --tcp or --unix".to_owned()),
        };
        let id = format!("{}-process", self.channel);
        let account = Rc::<std::cell::RefCell<Account>>::default();
        let mut peer = Peer::connect(&target, &self.application, &id, &account)?;
        peer.subscribe(&self.channel, &id)?;
        let mut out = std::io::stdout().lock();
        let mut say = |text: String| writeln!(out, "{text}").map_err(|error| error.to_string());
        say("subscribed".to_owned())?;
        let mut number = 0;
        while let Ok(message) = peer.receive() {
            if message["payload"] != payload(number) {
                return say(format!("wrong: {}", excerpt(&message)));
            }
            say(number.to_string())?;
            number += 1;
        }
        say("end".to_owned())
    }
}

/// A reader process, which is killed when this is dropped.
struct ReaderProcess {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl ReaderProcess {
    fn start(context: &Context<'_>, random: &mut Random) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(["soak-reader", "--channel", &context.round, "--application"]);
        command.arg(&context.application);
        match context.target(random) {
            Endpoint::Tcp(address) => command.arg("--tcp").arg(address.to_string()),
            Endpoint::Unix(path) => command.arg("--unix").arg(path),
        };
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("a reader process: {error}"))?;
        let lines = BufReader::new(child.stdout.take().ok_or("a reader without output")?);
        let mut reader = Self { child, lines };
        reader.expect_line("subscribed")?;
        Ok(reader)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let sent = kill_process(Pid::from_child(&self.child), signal);
        sent.map_err(|error| format!("cannot signal the reader: {error}"))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.lines.read_line(&mut line).map_err(|error| format!("a reader process: {error}"))?;
        Ok(line.trim_end().to_owned())
    }

    fn expect_line(&mut self, due: &str) -> Result<(), String> {
        let line = self.line()?;
        if line == due { Ok(()) } else { Err(format!("a reader says {line:?}, not {due:?}")) }
    }

    /// Lets it read to the end. Returns the number of publications that it got in all.
    fn rest(&mut self, mut received: u64) -> Result<u64, String> {
        loop {
            let line = self.line()?;
            if line == "end" {
                return Ok(received);
            }
            if line != received.to_string() {
                return Err(format!("a reader says {line:?}, not {received}"));
            }
            received += 1;
        }
    }
}

impl Drop for ReaderProcess {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
