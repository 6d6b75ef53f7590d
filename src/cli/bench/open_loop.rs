//! One connection that sends at fixed times, however many answers are outstanding.

use std::collections::HashMap;
use std::fmt::Write;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ipc_framework::client::{Connection, Options};
use ipc_framework::{Message, MessageType};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::measure::{Clock, Measured, Plan};
use super::pace::{AWAKE, Pace};
use crate::cli::failure::Failure;
use crate::cli::interrupt::LOOK_EVERY;
use crate::cli::{latency, target};

/// What is under way may not hold each other up: from 1 MiB on a server stops reading what it has
/// no room to answer, and nobody reads here while a message waits to be sent.
const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;
/// What a frame has beside its payload, generously.
const ENVELOPE_BYTES: usize = 512;

pub(super) struct OpenLoop {
    connection: Connection,
    message: Message,
    pace: Pace,
    timeout: Duration,
    /// How long before something is due it is waited for awake.
    awake: Duration,
    in_flight_max: usize,
    in_flight: HashMap<u64, Sent>,
    /// Numbers the messages: answers may come in another order.
    sequence: u64,
    looked_for_late: Instant,
    nanos: Histogram<u64>,
}

struct Sent {
    /// When it was to be sent, from which its latency counts.
    due: Instant,
    /// When it was, from which its timeout counts.
    at: Instant,
}

impl OpenLoop {
    pub(super) fn new(
        plan: &Plan,
        options: &Options,
        connection: Connection,
        message: Message,
        pace: Pace,
    ) -> Self {
        // More threads awake than there are cores would measure one another.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let is_alone = options.spin || (plan.clients as usize) < cores;
        let frame_bytes = message.payload.as_str().len() + ENVELOPE_BYTES;
        Self {
            connection,
            message,
            pace,
            timeout: options.timeout,
            awake: match (options.spin, is_alone) {
                (true, _) => Duration::MAX,
                (false, true) => AWAKE,
                (false, false) => Duration::ZERO,
            },
            in_flight_max: plan.in_flight_max.min(IN_FLIGHT_BYTES_MAX / frame_bytes).max(1),
            in_flight: HashMap::new(),
            sequence: 0,
            looked_for_late: Instant::now(),
            nanos: latency::histogram(),
        }
    }

    pub(super) fn run(mut self, clock: &Clock) -> Measured {
        // Otherwise the kernel may wake this thread 50 µs late. It is no harm if it will not.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        while !clock.is_over() {
            let due = self.pace.next();
            let has_room = self.in_flight.len() < self.in_flight_max;
            if has_room && due <= Instant::now() {
                self.send(due)?;
            } else {
                // Whatever is due later, it is looked now and then whether all is over.
                let soon = (Instant::now() + LOOK_EVERY).min(clock.end);
                self.receive(if has_room { due.min(soon) } else { soon }, clock)?;
            }
        }
        self.pace.note_unsent(clock);
        // Those that are under way belong to it; only Ctrl-C waits for nothing.
        while !self.in_flight.is_empty() && !clock.is_stopped() {
            self.receive(Instant::now() + LOOK_EVERY, clock)?;
        }
        Ok(self.nanos)
    }

    fn send(&mut self, due: Instant) -> Result<(), Failure> {
        self.message.message_id.clear();
        // Text takes whatever is written to it.
        let _ = write!(self.message.message_id, "{}", self.sequence);
        let at = Instant::now();
        self.connection.send_message(&self.message)?;
        self.in_flight.insert(self.sequence, Sent { due, at });
        self.sequence += 1;
        self.pace.note_sent();
        Ok(())
    }

    /// Takes the next message, if one comes before `until`.
    fn receive(&mut self, until: Instant, clock: &Clock) -> Result<(), Failure> {
        if let Some(message) = self.wait(until)? {
            self.take(&message, clock)?;
        }
        if self.looked_for_late.elapsed() > LOOK_EVERY {
            self.looked_for_late = Instant::now();
            let timeout = self.timeout;
            self.in_flight.retain(|_, sent| {
                let is_late = sent.at.elapsed() > timeout;
                if is_late {
                    clock.note_unanswered(sent.due);
                }
                !is_late
            });
        }
        Ok(())
    }

    fn wait(&mut self, until: Instant) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(message) = self.connection.try_receive()? {
                return Ok(Some(message));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match left.checked_sub(self.awake) {
                None | Some(Duration::ZERO) => std::hint::spin_loop(),
                // In nanoseconds, which a socket's own timeout is not.
                Some(asleep) => {
                    let timeout = Timespec::try_from(asleep).ok();
                    let mut readable = [PollFd::new(&self.connection, PollFlags::IN)];
                    // Too early is no harm: it is looked at everything anyway.
                    let _ = poll(&mut readable, timeout.as_ref());
                }
            }
        }
    }

    fn take(&mut self, message: &Message, clock: &Clock) -> Result<(), Failure> {
        if let Some(failure) = target::refusal(message) {
            return Err(failure);
        }
        // An answer names its request; a publication comes back as it was sent.
        let id = match self.message.message_type {
            MessageType::Request => message.reply_to.as_deref(),
            _ => (message.channel_id == self.message.channel_id).then_some(&*message.message_id),
        };
        // What is later than its timeout was counted as that.
        let sent = id.and_then(|id| id.parse().ok()).and_then(|id| self.in_flight.remove(&id));
        if let Some(Sent { due, .. }) = sent {
            clock.count(&mut self.nanos, due);
        }
        Ok(())
    }
}
