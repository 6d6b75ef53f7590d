//! The clients that put load on a server: a thread each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ipc_framework::client::{Connection, Options};
use ipc_framework::{Json, Message, MessageType};

use super::super::{latency, target};
use super::open_loop::OpenLoop;
use super::pace::Pace;
use super::{Failure, Load, fan_out};

/// The channel that answers in `ipc serve --demo`.
const ECHO: &str = "echo";

pub(super) struct Plan {
    pub(super) load: Load,
    pub(super) channel: Option<String>,
    pub(super) clients: u32,
    pub(super) payload_bytes: usize,
    pub(super) rate: Option<f64>,
    /// Of each connection, in an open loop.
    pub(super) in_flight_max: usize,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// What all threads go by.
pub(super) struct Clock {
    pub(super) start: Instant,
    pub(super) measure_from: Instant,
    pub(super) end: Instant,
    stopped: AtomicBool,
    /// For the progress bar: everything so far, the warm-up included.
    pub(super) done: AtomicU64,
    /// In an open loop: what was due and could not be sent in time.
    unsent: AtomicU64,
    /// What was sent then, and not answered in time.
    unanswered: AtomicU64,
}

/// What was measured, and for how long.
pub(super) struct Tally {
    pub(super) nanos: Histogram<u64>,
    pub(super) took: Duration,
    pub(super) unsent: u64,
    pub(super) unanswered: u64,
}

impl Clock {
    pub(super) fn start(plan: &Plan) -> Self {
        let start = Instant::now();
        let measure_from = start + plan.warmup;
        Self {
            start,
            measure_from,
            end: measure_from + plan.duration,
            stopped: AtomicBool::new(false),
            done: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// In a closed loop nothing is ever due.
    pub(super) fn note_unsent(&self, pace: Option<&Pace>) {
        let unsent = pace.map_or(0, |pace| pace.unsent(self.end.min(Instant::now())));
        self.unsent.fetch_add(unsent, Ordering::Relaxed);
    }

    pub(super) fn note_unanswered(&self, due: Instant) {
        if due >= self.measure_from {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_stopped() || Instant::now() >= self.end
    }

    /// What was due then is through.
    pub(super) fn count(&self, nanos: &mut Histogram<u64>, due: Instant) {
        self.done.fetch_add(1, Ordering::Relaxed);
        if due >= self.measure_from {
            latency::record(nanos, due.elapsed());
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
    let mut connections = (0..plan.clients).map(connect).collect::<Result<Vec<_>, Failure>>()?;
    let channel = plan.channel.clone().unwrap_or_else(|| match plan.load {
        Load::Request => ECHO.to_owned(),
        _ => format!("bench-{}", connections[0].connection_id()),
    });
    match plan.load {
        Load::Request => {
            let request = message(plan, MessageType::Request, channel)?;
            run_loops(plan, options, connections, &watch, &vec![request; plan.clients as usize])
        }
        Load::Publish => {
            let mut messages = Vec::new();
            for (at, connection) in connections.iter_mut().enumerate() {
                let channel = format!("{channel}-{at}");
                target::subscribe(connection, &channel)?;
                messages.push(message(plan, MessageType::Publish, channel)?);
            }
            run_loops(plan, options, connections, &watch, &messages)
        }
        Load::FanOut => fan_out::run(plan, options, connections, &channel, &watch),
    }
}

pub(super) fn late(timeout: Duration) -> Failure {
    let timeout = humantime::format_duration(timeout);
    Failure::Timeout(format!(
        "a publication did not arrive within {timeout}; see `ipc stats` for readers that were too \
         slow, or give a longer --timeout"
    ))
}

/// With JSON of as many bytes as the plan says.
fn message(plan: &Plan, message_type: MessageType, channel: String) -> Result<Message, Failure> {
    let text = "x".repeat(plan.payload_bytes.saturating_sub("\"\"".len()));
    let payload = Json::from_serialize(&text).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(Message::new(message_type, "", channel, payload))
}

/// Each connection has its message and a thread of its own.
fn run_loops(
    plan: &Plan,
    options: &Options,
    connections: Vec<Connection>,
    watch: &impl Fn(&Clock),
    messages: &[Message],
) -> Result<Tally, Failure> {
    let clock = Clock::start(plan);
    std::thread::scope(|scope| {
        let clients = connections.into_iter().zip(messages).zip(0..);
        let threads = clients.map(|((connection, message), at)| {
            let clock = &clock;
            scope.spawn(move || {
                let measured = match plan.rate {
                    None => closed_loop(connection, message, options.timeout, clock),
                    Some(rate) => {
                        let pace = Pace::new(clock, rate, at, plan.clients);
                        OpenLoop::new(plan, options, connection, message.clone(), pace).run(clock)
                    }
                };
                // One that fails ends it for all.
                measured.inspect_err(|_| clock.stop())
            })
        });
        let threads: Vec<_> = threads.collect();
        sum_up(&clock, threads, watch)
    })
}

/// One after another.
fn closed_loop(
    mut connection: Connection,
    message: &Message,
    timeout: Duration,
    clock: &Clock,
) -> Measured {
    let mut nanos = latency::histogram();
    while !clock.is_over() {
        let begin = Instant::now();
        if message.message_type == MessageType::Request {
            connection.request_json(&message.channel_id, &message.payload)?;
        } else {
            connection.send_message(message)?;
            connection.receive(Some(timeout))?.ok_or_else(|| late(timeout))?;
        }
        clock.count(&mut nanos, begin);
    }
    Ok(nanos)
}

pub(super) type Measured = Result<Histogram<u64>, Failure>;

pub(super) fn sum_up(
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
    let [unsent, unanswered] =
        [&clock.unsent, &clock.unanswered].map(|count| count.load(Ordering::Relaxed));
    Ok(Tally { nanos, took, unsent, unanswered })
}
