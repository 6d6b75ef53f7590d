//! The clients that put load on a server: a thread each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{ScopedJoinHandle, Thread};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ipc_framework::client::{Connection, Options};
use ipc_framework::{Json, Message, MessageType};
use serde::Deserialize;

use super::super::interrupt::LOOK_EVERY;
use super::super::latency;
use super::pace::Pace;
use super::{Failure, Load};

/// The channel that answers in `ipc serve --demo`.
const ECHO: &str = "echo";

pub(super) struct Plan {
    pub(super) load: Load,
    pub(super) channel: Option<String>,
    pub(super) clients: u32,
    pub(super) payload_bytes: usize,
    pub(super) rate: Option<f64>,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// What all threads go by.
pub(super) struct Clock {
    start: Instant,
    measure_from: Instant,
    end: Instant,
    stopped: AtomicBool,
    /// For the progress bar: everything so far, the warm-up included.
    pub(super) done: AtomicU64,
    /// In an open loop: what was due and could not be sent in time.
    unsent: AtomicU64,
}

/// What was measured, and for how long.
pub(super) struct Tally {
    pub(super) nanos: Histogram<u64>,
    pub(super) took: Duration,
    pub(super) unsent: u64,
}

impl Clock {
    fn start(plan: &Plan) -> Self {
        let start = Instant::now();
        let measure_from = start + plan.warmup;
        Self {
            start,
            measure_from,
            end: measure_from + plan.duration,
            stopped: AtomicBool::new(false),
            done: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn note_unsent(&self, pace: &Pace) {
        let unsent = pace.unsent(self.end.min(Instant::now()));
        self.unsent.fetch_add(unsent, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || Instant::now() >= self.end
    }

    fn count(&self, nanos: &mut Histogram<u64>, intended: Instant) {
        self.done.fetch_add(1, Ordering::Relaxed);
        if intended >= self.measure_from {
            latency::record(nanos, intended.elapsed());
        }
    }
}

/// Connects everybody, runs the load, and calls `watch` again and again meanwhile.
pub(super) fn run(
    plan: &Plan,
    options: &Options,
    watch: impl Fn(&Clock),
) -> Result<Tally, Failure> {
    let connect = |_| Ok(options.connect()?);
    let connections = (0..plan.clients).map(connect).collect::<Result<Vec<_>, Failure>>()?;
    let channel = plan.channel.clone().unwrap_or_else(|| match plan.load {
        Load::Request => ECHO.to_owned(),
        _ => format!("bench-{}", connections[0].connection_id()),
    });
    match plan.load {
        Load::Request => {
            let payload = padding(plan.payload_bytes)?;
            run_loops(plan, connections, &watch, |connection, _| {
                Ok(connection.request_json(&channel, &payload).map(|_| ())?)
            })
        }
        Load::Publish => {
            let payload = padding(plan.payload_bytes)?;
            let mut connections = connections;
            let mut messages = Vec::new();
            for (at, connection) in connections.iter_mut().enumerate() {
                let channel = format!("{channel}-{at}");
                connection.subscribe_confirmed(&channel)?;
                messages.push(Message::new(MessageType::Publish, "", channel, payload.clone()));
            }
            let timeout = options.timeout;
            run_loops(plan, connections, &watch, |connection, at| {
                connection.send_message(&messages[at as usize])?;
                connection.receive(Some(timeout))?.map(|_| ()).ok_or_else(|| late(timeout))
            })
        }
        Load::FanOut => fan_out(plan, options, connections, &channel, &watch),
    }
}

fn late(timeout: Duration) -> Failure {
    let timeout = humantime::format_duration(timeout);
    Failure::Timeout(format!(
        "a publication did not arrive within {timeout}; see `ipc stats` for readers that were too \
         slow, or give a longer --timeout"
    ))
}

/// JSON of this many bytes.
fn padding(bytes: usize) -> Result<Json<'static>, Failure> {
    let text = "x".repeat(bytes.saturating_sub("\"\"".len()));
    Json::from_serialize(&text).map_err(|error| Failure::usage(error.to_string()))
}

/// Each connection does one thing after another, on a thread of its own.
fn run_loops(
    plan: &Plan,
    connections: Vec<Connection>,
    watch: &impl Fn(&Clock),
    once: impl Fn(&mut Connection, u32) -> Result<(), Failure> + Sync,
) -> Result<Tally, Failure> {
    let clock = Clock::start(plan);
    std::thread::scope(|scope| {
        let threads = connections.into_iter().zip(0..).map(|(mut connection, at)| {
            let (clock, once) = (&clock, &once);
            scope.spawn(move || {
                let mut pace = pace(plan, clock, at);
                let mut nanos = latency::histogram();
                loop {
                    let intended = pace.wait(clock.end);
                    if clock.is_over() {
                        clock.note_unsent(&pace);
                        return Ok(nanos);
                    }
                    // One that fails ends it for all.
                    once(&mut connection, at).inspect_err(|_| clock.stop())?;
                    clock.count(&mut nanos, intended);
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        sum_up(&clock, threads, watch)
    })
}

fn pace(plan: &Plan, clock: &Clock, at: u32) -> Pace {
    let clients = if plan.load == Load::FanOut { 1 } else { plan.clients };
    plan.rate.map_or_else(Pace::closed, |rate| Pace::open(clock.start, rate, at, clients))
}

type Measured = Result<Histogram<u64>, Failure>;

fn sum_up(
    clock: &Clock,
    threads: Vec<ScopedJoinHandle<'_, Measured>>,
    watch: &impl Fn(&Clock),
) -> Result<Tally, Failure> {
    while !threads.iter().all(ScopedJoinHandle::is_finished) {
        watch(clock);
    }
    let mut nanos = latency::histogram();
    for thread in threads {
        let measured = thread.join().unwrap_or_else(|_| Err(Failure::runtime("a bug of ours")))?;
        nanos
            .add(&measured)
            .map_err(|error| Failure::runtime(format!("cannot add up latencies: {error:?}")))?;
    }
    let end = Instant::now().min(clock.end);
    let took = end.saturating_duration_since(clock.measure_from);
    Ok(Tally { nanos, took, unsent: clock.unsent.load(Ordering::Relaxed) })
}

/// What publisher and subscribers tell one another.
struct Progress {
    published: AtomicU64,
    delivered: AtomicU64,
    /// Whether nothing is published any more.
    over: AtomicBool,
}

#[derive(Deserialize)]
struct Timed {
    /// Nanoseconds since the start.
    at: u64,
}

fn fan_out(
    plan: &Plan,
    options: &Options,
    mut subscribers: Vec<Connection>,
    channel: &str,
    watch: &impl Fn(&Clock),
) -> Result<Tally, Failure> {
    for subscriber in &mut subscribers {
        subscriber.subscribe_confirmed(channel)?;
    }
    let publisher = options.connect()?;
    let clock = Clock::start(plan);
    let progress = Progress {
        published: AtomicU64::new(0),
        delivered: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let (clock, progress) = (&clock, &progress);
        let publication = scope.spawn(move || {
            let done = publish(plan, channel, publisher, clock, progress);
            progress.over.store(true, Ordering::Release);
            done.inspect_err(|_| clock.stop())
        });
        let wakes = publication.thread().clone();
        let receiving = subscribers.into_iter().map(|mut subscriber| {
            let wakes = wakes.clone();
            scope.spawn(move || {
                let received = receive(plan, options, &mut subscriber, clock, progress, &wakes);
                received.inspect_err(|_| clock.stop())
            })
        });
        // What went wrong with the publisher is why subscribers waited: it is told first.
        let mut threads = vec![publication];
        threads.extend(receiving);
        sum_up(clock, threads, watch)
    })
}

fn publish(
    plan: &Plan,
    channel: &str,
    mut publisher: Connection,
    clock: &Clock,
    progress: &Progress,
) -> Measured {
    let mut pace = pace(plan, clock, 0);
    let padding = "x".repeat(plan.payload_bytes.saturating_sub("{'at':1234567890,'pad':''}".len()));
    loop {
        let intended = pace.wait(clock.end);
        if clock.is_over() {
            clock.note_unsent(&pace);
            return Ok(latency::histogram());
        }
        let at = intended.saturating_duration_since(clock.start).as_nanos() as u64;
        let payload = serde_json::json!({ "at": at, "pad": padding });
        let sequence = progress.published.fetch_add(1, Ordering::AcqRel) + 1;
        publisher.publish(channel, &payload)?;
        if plan.rate.is_none() {
            let wanted = sequence * u64::from(plan.clients);
            while progress.delivered.load(Ordering::Acquire) < wanted && !clock.is_over() {
                std::thread::park_timeout(LOOK_EVERY);
            }
        }
    }
}

fn receive(
    plan: &Plan,
    options: &Options,
    subscriber: &mut Connection,
    clock: &Clock,
    progress: &Progress,
    publisher: &Thread,
) -> Measured {
    let mut nanos = latency::histogram();
    let mut heard = 0;
    let mut last = Instant::now();
    loop {
        let is_over = progress.over.load(Ordering::Acquire);
        if is_over && heard == progress.published.load(Ordering::Acquire) {
            return Ok(nanos);
        }
        let Some(message) = subscriber.receive(Some(LOOK_EVERY))? else {
            if is_over && last.elapsed() > options.timeout {
                return Err(late(options.timeout));
            }
            continue;
        };
        last = Instant::now();
        let Ok(Timed { at }) = message.payload.decode() else {
            let text = "others publish on the channel too; leave --channel out to have one alone";
            return Err(Failure::runtime(text));
        };
        clock.count(&mut nanos, clock.start + Duration::from_nanos(at));
        heard += 1;
        let delivered = progress.delivered.fetch_add(1, Ordering::AcqRel) + 1;
        // The last one lets the publisher go on.
        if delivered.is_multiple_of(u64::from(plan.clients)) {
            publisher.unpark();
        }
    }
}
