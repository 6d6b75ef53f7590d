//! The fan-out load: one connection publishes, the others subscribe.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use ipc_framework::client::{Connection, Options};
use serde::Deserialize;

use super::measure::{Clock, Counted, Measured, Plan, Tally, late, sum_up};
use super::pace::{self, Pace};
use crate::cli::failure::Failure;
use crate::cli::interrupt::LOOK_EVERY;
use crate::cli::target;

/// Progress that the publisher and the subscribers share.
struct Progress {
    published: AtomicU64,
    delivered: AtomicU64,
    /// Set when nothing more will be published.
    over: AtomicBool,
}

#[derive(Deserialize)]
struct Timed {
    /// Time of publication in nanoseconds since the start.
    at: u64,
}

pub(super) fn run(
    plan: &Plan,
    options: &Options,
    mut subscribers: Vec<Connection>,
    channel: &str,
    watch: &impl Fn(&Clock),
) -> Result<Tally, Failure> {
    subscribe_all(&mut subscribers, channel, options.timeout)?;
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
        // The publisher comes first, because its failure is the reason for those of subscribers.
        let mut threads = vec![publication];
        threads.extend(receiving);
        sum_up(clock, threads, watch)
    })
}

/// Subscribes all connections. Every later publication reaches each of them.
fn subscribe_all(
    subscribers: &mut [Connection],
    channel: &str,
    timeout: Duration,
) -> Result<(), Failure> {
    for at in 0..subscribers.len() {
        target::subscribe(&mut subscribers[at], channel)?;
        if subscribers[at].server().is_none() {
            // The published server confirms no subscription, but takes the messages of a connection
            // in order: its publication reaches itself, and those that have subscribed before it.
            subscribers[at].publish(channel, &())?;
            for subscriber in &mut subscribers[..=at] {
                subscriber.receive(Some(timeout))?.ok_or_else(|| late(timeout))?;
            }
        }
    }
    Ok(())
}

fn publish(
    plan: &Plan,
    channel: &str,
    mut publisher: Connection,
    clock: &Clock,
    progress: &Progress,
) -> Measured {
    let mut pace = plan.rate.map(|rate| Pace::new(clock, rate, 0, 1));
    let padding = "x".repeat(plan.payload_bytes.saturating_sub("{'at':1234567890,'pad':''}".len()));
    loop {
        let due = pace.as_mut().map_or_else(Instant::now, Pace::next);
        pace::wait_until(due.min(clock.end));
        if clock.is_over() {
            if let Some(pace) = &pace {
                pace.note_unsent(clock);
            }
            return Ok(Counted::new());
        }
        let at = due.saturating_duration_since(clock.start).as_nanos() as u64;
        let payload = serde_json::json!({ "at": at, "pad": padding });
        let sequence = progress.published.fetch_add(1, Ordering::AcqRel) + 1;
        publisher.publish(channel, &payload)?;
        if let Some(pace) = &mut pace {
            pace.note_sent();
        } else {
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
    let mut counted = Counted::new();
    let mut heard = 0;
    let mut last = Instant::now();
    loop {
        let is_over = progress.over.load(Ordering::Acquire);
        if is_over && heard == progress.published.load(Ordering::Acquire) {
            return Ok(counted);
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
        clock.count(&mut counted, clock.start + Duration::from_nanos(at));
        heard += 1;
        let delivered = progress.delivered.fetch_add(1, Ordering::AcqRel) + 1;
        // The last delivery wakes the publisher.
        if delivered.is_multiple_of(u64::from(plan.clients)) {
            publisher.unpark();
        }
    }
}
