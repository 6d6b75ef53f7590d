//! The operating system of a simulated run: sockets, an edge-triggered event queue,
//! descriptors and the time.
//!
//! It behaves like Linux at its worst: bytes arrive in pieces, readiness in any order, calls are
//! interrupted, buffers are small, peers vanish.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::decisions::Decisions;
use super::pipe::Pipe;
use super::scenario::Faults;
use super::trace::Trace;
use crate::broker::Peer;
use crate::net::{Event, WAKER};

pub(super) type PipeId = usize;
/// The kernel, shared by the loop, its streams and the clients.
pub(super) type SharedKernel = Rc<RefCell<Kernel>>;

const EMFILE: i32 = 24;
const ENOMEM: i32 = 12;
/// The wall clock at the begin of a run.
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

pub(super) struct Backlog {
    token: Option<usize>,
    waiting: VecDeque<PipeId>,
    /// Set if a connection has come since the last report.
    ready: bool,
    pub(super) is_open: bool,
    /// Set if its connections begin with a handshake.
    pub(super) has_handshakes: bool,
    /// After a failed accept the server may wait until this time.
    put_off_until: Duration,
}

/// Time for which the server may delay accepting after an error.
const PUT_OFF: Duration = Duration::from_millis(50);

/// Reads in a row that signals interrupt: more than a connection has in two turns.
pub(super) const BURST: u32 = 12;

/// The result of the last poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastPoll {
    /// It returned events, or was interrupted.
    Found,
    /// It returned nothing, and the loop did not want to wait.
    InVain,
    /// It returned nothing, and the loop would have slept.
    Slept,
}

/// A time for which the server's process is stopped, as by a debugger or a paused container.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    pub(super) time: Duration,
    /// The poll has its events before that, and is not interrupted.
    pub(super) keeps_events: bool,
}

pub(super) struct Kernel {
    pub(super) decisions: Decisions,
    pub(super) trace: Trace,
    pub(super) faults: Faults,
    pub(super) pipes: Vec<Pipe>,
    pub(super) backlogs: Vec<Backlog>,
    pub(super) descriptors: usize,
    pub(super) descriptors_max: usize,
    /// The most that there were at a time.
    pub(super) descriptors_peak: usize,
    pub(super) accepted: u64,
    /// Links that the server has opened, with the application of each, until somebody takes them.
    pub(super) attached: Vec<(String, PipeId)>,
    /// Bytes that the loop has read.
    pub(super) read_bytes: u64,
    now_nanos: Arc<AtomicU64>,
    wall_offset: Duration,
    woken: bool,
    /// Happens in the next poll.
    pub(super) stop: Option<Stop>,
    /// When the last one was over.
    pub(super) stopped_until: Duration,
    pub(super) last_poll: LastPoll,
    /// Set if the last poll has left events out, and reported that.
    pub(super) has_more_events: bool,
}

impl Kernel {
    pub(super) fn new(decisions: Decisions, trace: Trace, listeners: usize) -> Self {
        let backlog = || Backlog {
            token: None,
            waiting: VecDeque::new(),
            ready: false,
            is_open: true,
            has_handshakes: false,
            put_off_until: Duration::ZERO,
        };
        Self {
            decisions,
            trace,
            faults: Faults::default(),
            pipes: Vec::new(),
            backlogs: (0..listeners).map(|_| backlog()).collect(),
            descriptors: 0,
            descriptors_max: usize::MAX,
            descriptors_peak: 0,
            accepted: 0,
            attached: Vec::new(),
            read_bytes: 0,
            now_nanos: Arc::default(),
            wall_offset: EPOCH,
            woken: false,
            stop: None,
            stopped_until: Duration::ZERO,
            last_poll: LastPoll::Found,
            has_more_events: false,
        }
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_nanos(self.now_nanos.load(Ordering::Relaxed))
    }

    pub(super) fn wall_clock(&self) -> Duration {
        self.wall_offset + self.now()
    }

    pub(super) fn stopwatch(&self) -> impl Fn() -> Duration + Send + 'static {
        let now_nanos = self.now_nanos.clone();
        move || Duration::from_nanos(now_nanos.load(Ordering::Relaxed))
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
        self.now_nanos.fetch_add(nanos, Ordering::Relaxed);
        for pipe in &mut self.pipes {
            pipe.pass(time);
        }
        self.trace.note(format_args!("time passes: {time:?}"));
    }

    /// Sets the wall clock.
    pub(super) fn set_wall_clock(&mut self, offset: Duration) {
        self.wall_offset = EPOCH + offset;
    }

    pub(super) fn wake(&mut self) {
        self.woken = true;
    }

    /// Connects a client, which is in the backlog until it is accepted.
    pub(super) fn connect(&mut self, listener: usize, send_bytes_max: usize) -> Option<PipeId> {
        let backlog = &mut self.backlogs[listener];
        if !backlog.is_open {
            return None;
        }
        let id = self.pipes.len();
        let flights = if backlog.has_handshakes { 1 + self.decisions.below(3) } else { 0 };
        self.pipes.push(Pipe::new(send_bytes_max, flights));
        backlog.waiting.push_back(id);
        backlog.ready = true;
        self.trace.note(format_args!("{id} connects"));
        Some(id)
    }

    pub(super) fn watch_listener(&mut self, at: usize, token: usize) {
        self.backlogs[at].token = Some(token);
        self.backlogs[at].ready = !self.backlogs[at].waiting.is_empty();
    }

    pub(super) fn close_listener(&mut self, at: usize) {
        self.backlogs[at].is_open = false;
        for id in std::mem::take(&mut self.backlogs[at].waiting) {
            self.pipes[id].refuse();
        }
    }

    /// Fills the backlog with connections that are closed at once.
    pub(super) fn rush(&mut self, listener: usize) {
        const WAITING_MAX: usize = 4;
        while self.backlogs[listener].waiting.len() < WAITING_MAX {
            let Some(id) = self.connect(listener, 1_000) else { return };
            self.pipes[id].reset_by_client(false);
        }
    }

    /// Notes which connections have something that the server would read, before time passes.
    pub(super) fn note_unread(&mut self) {
        let now = self.now();
        self.pipes.iter_mut().for_each(|pipe| pipe.note_unread(now));
    }

    /// Ends a turn. Returns how many connections the server has closed in it that had not said
    /// anything in time that it has not read.
    pub(super) fn take_closed(&mut self, handshake: Duration, idle: Option<Duration>) -> u64 {
        let mut count = 0;
        let was_stopped = self.now() == self.stopped_until;
        for pipe in self.pipes.iter_mut().filter(|pipe| pipe.was_closed) {
            pipe.was_closed = false;
            // Its grace may have ended a moment before the server went on.
            pipe.is_cut_short &= !was_stopped;
            let is_in_time = |said_at: Duration| {
                pipe.accepted_at.is_some_and(|at| said_at < at + handshake)
                    || idle.is_some_and(|idle| said_at < pipe.read_at + idle)
            };
            count += u64::from(!pipe.unread_since.is_some_and(is_in_time));
        }
        count
    }

    /// Ends a turn. Returns the longest time, in turns, for which a connection has been in a
    /// backlog although the server could have accepted it.
    pub(super) fn count_waiting(&mut self) -> u32 {
        let now = self.now();
        let mut longest = 0;
        for backlog in self.backlogs.iter().filter(|backlog| backlog.is_open && !backlog.ready) {
            for id in backlog.waiting.iter().filter(|_| backlog.put_off_until <= now) {
                self.pipes[*id].waiting_turns += 1;
                longest = longest.max(self.pipes[*id].waiting_turns);
            }
        }
        longest
    }

    /// Takes a descriptor, if one is left.
    pub(super) fn open_descriptor(&mut self) -> io::Result<()> {
        if self.descriptors >= self.descriptors_max {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.descriptors += 1;
        self.descriptors_peak = self.descriptors_peak.max(self.descriptors);
        Ok(())
    }

    pub(super) fn accept(&mut self, at: usize) -> io::Result<PipeId> {
        if self.decisions.chance(self.faults.interrupted) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.backlogs[at].waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.decisions.chance(self.faults.accept) {
            if self.decisions.below(2) == 0 {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            self.backlogs[at].put_off_until = self.now() + PUT_OFF;
            return Err(io::Error::from_raw_os_error(ENOMEM));
        }
        if let Err(error) = self.open_descriptor() {
            let until = self.now() + PUT_OFF;
            self.backlogs.iter_mut().for_each(|backlog| backlog.put_off_until = until);
            return Err(error);
        }
        let Some(id) = self.backlogs[at].waiting.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        self.accepted += 1;
        let now = self.now();
        self.pipes[id].accepted_at = Some(now);
        self.trace.note(format_args!("{id} is accepted"));
        Ok(id)
    }

    /// Makes a link of the server, which needs a descriptor.
    pub(super) fn attach(&mut self, application: &str) -> io::Result<PipeId> {
        self.open_descriptor()?;
        let id = self.pipes.len();
        let send_bytes_max = [1 << 20, 2_000][self.decisions.below(2)];
        let mut pipe = Pipe::new(send_bytes_max, 0);
        (pipe.accepted_at, pipe.client) = (Some(self.now()), Peer::Link);
        self.pipes.push(pipe);
        self.attached.push((application.to_owned(), id));
        self.trace.note(format_args!("{id} is a link of {application}"));
        Ok(id)
    }

    /// Returns whether a connection waits to be accepted.
    pub(super) fn has_waiting(&self) -> bool {
        self.backlogs.iter().any(|backlog| !backlog.waiting.is_empty())
    }

    pub(super) fn watch(&mut self, id: PipeId, token: usize) -> io::Result<()> {
        if self.decisions.chance(self.faults.watch) {
            self.pipes[id].was_failed = true;
            return Err(io::Error::from_raw_os_error(ENOMEM));
        }
        self.pipes[id].watch(token);
        Ok(())
    }

    pub(super) fn watch_writable(&mut self, id: PipeId, wanted: bool) -> io::Result<()> {
        if self.decisions.chance(self.faults.watch) {
            self.pipes[id].was_failed = true;
            return Err(io::Error::from_raw_os_error(ENOMEM));
        }
        self.pipes[id].watch_writable(wanted);
        Ok(())
    }

    pub(super) fn poll(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        let Some(stop) = self.stop.take() else { return self.poll_at_once(events, timeout) };
        let polled = if stop.keeps_events {
            self.poll_at_once(events, timeout)
        } else {
            Err(io::ErrorKind::Interrupted.into())
        };
        // What the clients send meanwhile arrives, and the server does not know.
        for pipe in &mut self.pipes {
            if !pipe.in_flight.is_empty() && self.decisions.below(2) == 0 {
                pipe.arrive(usize::MAX);
            }
        }
        self.note_unread();
        self.pass(stop.time);
        self.stopped_until = self.now();
        self.last_poll = LastPoll::Found;
        polled
    }

    fn poll_at_once(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        self.last_poll = LastPoll::Found;
        self.has_more_events = false;
        if self.decisions.chance(self.faults.interrupted) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        for pipe in &mut self.pipes {
            if pipe.is_pressed {
                pipe.relieve();
            }
        }
        let mut found = Vec::new();
        if std::mem::take(&mut self.woken) {
            found.push(Event { token: WAKER, readable: true, ..Event::default() });
        }
        for backlog in &mut self.backlogs {
            if let (Some(token), true) = (backlog.token, backlog.ready && backlog.is_open) {
                backlog.ready = false;
                found.push(Event { token, readable: true, ..Event::default() });
            }
        }
        let few = self.decisions.chance(self.faults.few_events);
        let mut has_more = false;
        for pipe in &mut self.pipes {
            // An event that was left out too often is not left out again, because the kernel's list
            // is in order.
            if few && pipe.is_ready && pipe.passed_over < 2 && self.decisions.below(2) == 0 {
                pipe.passed_over += 1;
                has_more = true;
                continue;
            }
            pipe.passed_over = 0;
            found.extend(pipe.take_event());
        }
        if found.is_empty() {
            // It does not sleep if it has left out an event.
            has_more = false;
            found.extend(self.pipes.iter_mut().filter_map(Pipe::take_event));
        }
        if self.decisions.chance(self.faults.spurious) && !self.pipes.is_empty() {
            let id = self.decisions.below(self.pipes.len());
            let token = self.pipes[id].token.filter(|_| self.pipes[id].is_open());
            let is_found = found.iter().any(|event| Some(event.token) == token);
            let event = token.map(|token| Event { token, readable: true, ..Event::default() });
            found.extend(event.filter(|_| !is_found));
        }
        // Events from now on are reported by the next poll.
        for id in 0..self.pipes.len() {
            self.arrive_by_chance(id);
        }
        if found.is_empty() {
            let is_idle = timeout != Some(Duration::ZERO);
            self.last_poll = if is_idle { LastPoll::Slept } else { LastPoll::InVain };
            return Ok(false);
        }
        for at in (1..found.len()).rev() {
            let other = self.decisions.below(at + 1);
            found.swap(at, other);
        }
        for event in &found {
            let what = (event.token, event.readable, event.writable, event.finished);
            self.trace.note(format_args!("event {what:?}"));
        }
        events.append(&mut found);
        self.has_more_events = has_more;
        Ok(has_more)
    }

    pub(super) fn read(&mut self, id: PipeId, buffer: &mut [u8]) -> io::Result<usize> {
        if self.interrupts_read(id) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.arrive_by_chance(id);
        let read = self.pipes[id].read(buffer);
        let bytes = &buffer[..*read.as_ref().unwrap_or(&0)];
        if !bytes.is_empty() {
            self.pipes[id].read_at = self.now();
        }
        let failed = read.as_ref().err().map(io::Error::kind);
        self.trace.note_bytes(format_args!("{id} is read: {failed:?}"), bytes);
        self.arrive_by_chance(id);
        read
    }

    /// Signals come one at a time, or in a burst.
    fn interrupts_read(&mut self, id: PipeId) -> bool {
        let pipe = &mut self.pipes[id];
        if pipe.interruptions > 0 {
            pipe.interruptions -= 1;
            return true;
        }
        let is_interrupted = self.decisions.chance(self.faults.interrupted);
        if is_interrupted && self.decisions.below(4) == 3 {
            self.pipes[id].interruptions = BURST;
        }
        is_interrupted
    }

    /// Bytes may arrive in the middle of a turn.
    fn arrive_by_chance(&mut self, id: PipeId) {
        let in_flight = self.pipes[id].in_flight.len();
        if in_flight > 0 && self.decisions.chance(self.faults.arrival) {
            let bytes = 1 + self.decisions.below(in_flight);
            self.pipes[id].arrive(bytes);
        }
    }

    pub(super) fn write(&mut self, id: PipeId, slices: &[&[u8]]) -> io::Result<usize> {
        if self.decisions.chance(self.faults.interrupted) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let is_short = wanted > 1 && self.decisions.chance(self.faults.short_write);
        let bytes_max = if is_short { 1 + self.decisions.below(wanted) } else { wanted };
        let written = self.pipes[id].write(slices, bytes_max, wanted);
        let what = (written.as_ref().ok(), written.as_ref().err().map(io::Error::kind));
        let bytes = slices.concat();
        let bytes = &bytes[..*written.as_ref().unwrap_or(&0)];
        self.trace.note_bytes(format_args!("{id} is written {wanted}: {what:?}"), bytes);
        written
    }

    pub(super) fn shutdown_write(&mut self, id: PipeId) {
        self.trace.note(format_args!("{id} is shut down"));
        self.pipes[id].server_finished = true;
    }

    /// Closes the server's end, perhaps with unsent bytes.
    pub(super) fn close(&mut self, id: PipeId, is_cut_short: bool) {
        self.descriptors -= 1;
        let lost = self.decisions.below(self.pipes[id].outbound.len() + 1);
        self.pipes[id].close(lost);
        self.pipes[id].is_cut_short = is_cut_short;
        self.pipes[id].reset_to_client |= is_cut_short;
        self.trace.note(format_args!("{id} is closed"));
    }
}
