//! An open loop: one connection sends at fixed times, regardless of the answers that are missing.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use ipc_framework::client::{Connection, Options};
use ipc_framework::{Message, MessageType};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::measure::{Clock, Counted, Measured, Plan};
use super::pace::{AWAKE, Pace};
use crate::cli::failure::Failure;
use crate::cli::interrupt::LOOK_EVERY;
use crate::cli::target;

/// Bytes that may be in flight. From 1 MiB of unsent answers on, a server stops reading, and this
/// loop does not read while a message waits to be sent, so both would wait for each other.
const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;
/// Upper bound of a frame's size besides its payload.
const ENVELOPE_BYTES: usize = 512;

pub(super) struct OpenLoop {
    connection: Connection,
    message: Message,
    pace: Pace,
    timeout: Duration,
    /// Time before a message is due from which the thread stays awake.
    awake: Duration,
    in_flight_max: usize,
    in_flight: HashMap<u64, Sent>,
    /// Numbers the messages, because answers may come in another order.
    sequence: u64,
    looked_for_late: Instant,
    expects_errors: bool,
    counted: Counted,
}

struct Sent {
    /// The time at which it was due, from which its latency counts.
    due: Instant,
    /// The time at which it was sent, from which its timeout counts.
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
        // With more waking threads than cores the threads would measure each other.
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
            expects_errors: plan.expects_errors,
            counted: Counted::new(),
        }
    }

    pub(super) fn run(mut self, clock: &Clock) -> Measured {
        // Otherwise Linux may wake this thread 50 µs late. A failure does no harm.
        #[cfg(target_os = "linux")]
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        while !clock.is_over() {
            let due = self.pace.next();
            let has_room = self.in_flight.len() < self.in_flight_max;
            if has_room && due <= Instant::now() {
                self.send(due)?;
            } else {
                // The wait is short, so that the end of the measurement is noticed.
                let soon = (Instant::now() + LOOK_EVERY).min(clock.end);
                self.receive(if has_room { due.min(soon) } else { soon }, clock)?;
            }
        }
        self.pace.note_unsent(clock);
        // Messages in flight belong to the measurement; only Ctrl-C stops waiting for them.
        while !self.in_flight.is_empty() && !clock.is_stopped() {
            self.receive(Instant::now() + LOOK_EVERY, clock)?;
        }
        Ok(self.counted)
    }

    fn send(&mut self, due: Instant) -> Result<(), Failure> {
        self.message.message_id.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.message.message_id, "{}", self.sequence);
        let at = Instant::now();
        self.connection.send_message(&self.message)?;
        self.in_flight.insert(self.sequence, Sent { due, at });
        self.sequence += 1;
        self.pace.note_sent();
        Ok(())
    }

    /// Handles the next message, if one comes before `until`.
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
                // This timeout is in nanoseconds, unlike one of a socket.
                Some(asleep) => {
                    let timeout = Timespec::try_from(asleep).ok();
                    let mut readable = [PollFd::new(&self.connection, PollFlags::IN)];
                    // Waking too early does no harm, because everything is checked again.
                    let _ = poll(&mut readable, timeout.as_ref());
                }
            }
        }
    }

    fn take(&mut self, message: &Message, clock: &Clock) -> Result<(), Failure> {
        let refused = target::refused(message);
        if let Some(refused) = &refused
            && !(self.expects_errors && message.reply_to.is_some())
        {
            return Err(refused.failure());
        }
        // An answer names its request; a publication comes back as it was sent.
        let id = match self.message.message_type {
            MessageType::Request => message.reply_to.as_deref(),
            _ => (message.channel_id == self.message.channel_id).then_some(&*message.message_id),
        };
        // A message that comes after its timeout was counted as unanswered.
        let sent = id.and_then(|id| id.parse().ok()).and_then(|id| self.in_flight.remove(&id));
        match (sent, refused) {
            (Some(Sent { due, .. }), None) => clock.count(&mut self.counted, due),
            (Some(Sent { due, .. }), Some(refused)) => {
                clock.count_error(&mut self.counted, due, &refused.code);
            }
            (None, _) => {}
        }
        Ok(())
    }
}
