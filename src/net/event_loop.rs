//! The event loop: the steps of one turn, in their order.
//!
//! Events are edge-triggered: a connection that is not read until its socket is empty stays in
//! the ready list, and the loop does not sleep while that list is not empty.
//!
//! A turn may have a budget. Work that exceeds it stays where it is, in the ready list, in the
//! mailbox or among the broker's actions, and the next turn begins with it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::accept::{Accepted, Listeners};
use super::budget::{Bounded, Budget, Meter, Unbounded};
use super::clock::Clock;
use super::inherited::Inherited;
use super::link_opener::{LinkOpener, OpenedLinks};
use super::listener;
use super::mio_system::MioSystem;
use super::socket::{Flush, Read, Socket};
use super::system::{Event, Stream, System, WAKER};
use super::waiting::Waiting;
use crate::address::Address;
use crate::branches::{self, Branch};
use crate::broker::{Action, Broker, ConnectionKey, HangUp, Now, Peer, Progress, TurnLimits};
use crate::{Config, Error, Spin};

/// Polls that look again at everything, at least: the system may report less than it is asked for.
const POLLS_MIN: usize = 4;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(crate) struct EventLoop<S: System> {
    system: S,
    events: Vec<Event>,
    /// The system has more events than one turn takes. An outer loop that watches by edge is not
    /// told of them again, so the next turn must not wait for an event.
    has_more_events: bool,
    listeners: Listeners<S>,
    /// Links that other threads have opened, and no turn has taken yet. They wake the loop.
    links: OpenedLinks<S::Stream>,
    /// The sockets, by the index of the broker's key.
    sockets: Vec<Option<Socket<S::Stream>>>,
    /// Connections that may have bytes to be read or processed, or can be written again.
    ready: Vec<ConnectionKey>,
    /// The connection whose share of messages was cut short by the last turn's budget, and the
    /// messages of that share that were processed. The next turn serves it before all others.
    interrupted: Option<(ConnectionKey, usize)>,
    read_buffer: Box<[u8]>,
    /// The mailbox has commands of other threads that no turn has carried out yet.
    mailbox_due: bool,
    /// The last turn spent its budget before all actions were carried out.
    is_behind: bool,
    /// Steps of TLS handshakes in this turn.
    handshake_steps: usize,
    /// Some handshakes wait for the next turn. Until then, no connection is accepted that would
    /// begin another one.
    handshakes_wait: bool,
    /// Some connections of the ready list were not read in this turn, because its budget was spent or
    /// a read was interrupted.
    has_unread: bool,
    /// The time since which timers that were due by then wait for connections that could not be read.
    put_off_at: Option<Duration>,
    is_draining: bool,
    clock: Clock,
    waiting: Waiting,
}

impl EventLoop<MioSystem> {
    /// Listens on all addresses of the configuration. Returns them as well.
    pub(crate) fn bind(
        config: &Config,
        inherited: Vec<Inherited>,
    ) -> Result<(Self, Vec<Address>), Error> {
        let limits = &config.limits.turn;
        let system = MioSystem::new(limits.events_max)?;
        let (listeners, addresses) = listener::bind(config, inherited)?;
        let watching = Error::system("watching the listening sockets");
        let net = Self::new(system, listeners, limits, config.spin).map_err(watching)?;
        Ok((net, addresses))
    }

    /// Returns a function that reads the loop's time while the loop runs.
    pub(crate) fn stopwatch(&self) -> impl Fn() -> Duration + Send + use<> {
        let start = self.system.start();
        move || start.elapsed()
    }

    /// Returns a function that interrupts the loop's sleep from another thread.
    pub(crate) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        self.system.waker()
    }

    /// Returns what opens links to other servers from any thread.
    pub(crate) fn link_opener(&self) -> LinkOpener {
        LinkOpener::new(&self.links, self.system.waker())
    }

    /// Calls `take` with the other end of each link that the broker opens itself, and with its application.
    /// That end is connected already: it says and gets nothing of a handshake.
    #[cfg(any(test, feature = "nats"))]
    pub(crate) fn on_attach(
        &mut self,
        take: impl FnMut(&str, std::os::unix::net::UnixStream) + Send + 'static,
    ) {
        self.system.on_attach(take);
    }

    /// Converts a time of the loop. Returns `None` for one beyond the range of `Instant`.
    pub(crate) fn instant(&self, monotonic: Duration) -> Option<Instant> {
        self.system.start().checked_add(monotonic)
    }
}

impl<S: System> EventLoop<S> {
    pub(crate) fn new(
        mut system: S,
        listeners: Vec<S::Listener>,
        limits: &TurnLimits,
        spin: Spin,
    ) -> io::Result<Self> {
        Ok(Self {
            links: OpenedLinks::new(),
            listeners: Listeners::new(listeners, &mut system)?,
            events: Vec::new(),
            has_more_events: false,
            sockets: Vec::new(),
            ready: Vec::new(),
            interrupted: None,
            read_buffer: vec![0; limits.read_bytes_max].into(),
            mailbox_due: false,
            is_behind: false,
            handshake_steps: 0,
            handshakes_wait: false,
            has_unread: false,
            put_off_at: None,
            is_draining: false,
            clock: Clock::new(&system),
            waiting: Waiting::new(spin),
            system,
        })
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now(&self.system)
    }

    /// Returns the time at which the next turn is due even if nothing happens, in
    /// [`Now::monotonic`].
    pub(crate) fn next_deadline(&self, broker: &Broker) -> Option<Duration> {
        if self.has_work() || broker.has_work() || self.system.is_awake() {
            return Some(Duration::ZERO);
        }
        self.next_timer(broker)
    }

    #[inline]
    fn next_timer(&self, broker: &Broker) -> Option<Duration> {
        earlier(broker.next_deadline(), self.listeners.retry_at())
    }

    /// Runs one turn: sleeps until something happens, processes all input, and sends the results.
    pub(crate) fn turn(
        &mut self,
        broker: &mut Broker,
        timeout: Option<Duration>,
        budget: Option<Budget>,
    ) -> Result<(), Error> {
        let polled = if self.has_work() || broker.has_work() {
            self.system.look(&mut self.events)
        } else {
            let timeout = self.sleep_at_most(broker, timeout);
            self.waiting.wait(&mut self.system, &mut self.events, timeout)
        };
        match polled {
            Ok(has_more) => self.has_more_events = has_more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::system("waiting for events")(error)),
        }
        let (wakeups, spins) = self.waiting.take_counts();
        broker.count_wakeups(wakeups, spins);
        let now = self.now();
        broker.begin_turn(now);
        match budget {
            None => self.work(broker, now, &mut Unbounded),
            Some(budget) => self.work(broker, now, &mut Bounded::new(budget, now.monotonic)),
        }
        Ok(())
    }

    /// Does the work of a turn that has waited.
    fn work(&mut self, broker: &mut Broker, now: Now, meter: &mut impl Meter) {
        self.handshake_steps = 0;
        self.handshakes_wait = false;
        self.has_unread = false;
        self.take_events();
        // Send all answers of the last turn before anything else: otherwise the loop would read
        // more than it sends, without bound.
        if self.is_behind {
            self.act(broker, meter);
        }
        if !self.is_behind {
            self.take_in(broker, now, meter);
            // Flush before timers fire, so that a queue about to drain is not closed as slow.
            self.act(broker, meter);
        }
        if !self.is_behind {
            self.advance(broker, now, meter);
            if broker.has_work() {
                self.act(broker, meter);
            }
        }
        broker.end_turn(|| self.system.monotonic());
    }

    /// Reads connections, accepts new ones, and carries out the commands of other threads.
    fn take_in(&mut self, broker: &mut Broker, now: Now, meter: &mut impl Meter) {
        // Half of a budget is for input, and each of its three sources has a part of its own.
        meter.keep_eighths(5, &self.system);
        self.serve_ready(broker, meter);
        meter.keep_eighths(7, &self.system);
        if self.listeners.any_ready() {
            self.accept(broker, now, meter);
        }
        if self.mailbox_due {
            meter.keep_eighths(7, &self.system);
            self.run_mailbox(broker, meter);
        }
        meter.keep_eighths(0, &self.system);
        if broker.is_draining() && !self.is_draining {
            self.begin_drain(broker);
        }
    }

    fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || self.has_more_events
            || self.mailbox_due
            || self.listeners.has_backlog()
    }

    fn sleep_at_most(&self, broker: &Broker, timeout: Option<Duration>) -> Option<Duration> {
        let until_due = self.next_timer(broker).map(|due| {
            if due.is_zero() { due } else { due.saturating_sub(self.system.monotonic()) }
        });
        earlier(timeout, until_due)
    }

    fn take_events(&mut self) {
        for event in &self.events {
            match event.token {
                WAKER => self.mailbox_due = true,
                token if self.listeners.note_ready(token) => {}
                token => {
                    // The token may have passed to a later connection, for which the event is
                    // harmless.
                    if let Some(socket) = self.sockets.get_mut(token).and_then(Option::as_mut) {
                        socket.note(event);
                        socket.enlist(&mut self.ready);
                    }
                }
            }
        }
        self.events.clear();
    }

    #[inline]
    fn serve_ready<M: Meter>(&mut self, broker: &mut Broker, meter: &mut M) {
        // The list is taken out, so that connections that need another turn join a new one.
        let mut ready = std::mem::take(&mut self.ready);
        if M::IS_BOUNDED {
            let served = self.serve_some(&mut ready, broker, meter);
            // The next turn begins with the connections that were not served in this one.
            ready.drain(..served);
            self.has_unread |= !ready.is_empty();
            ready.append(&mut self.ready);
            self.ready = ready;
            return;
        }
        let messages_max = broker.limits().turn.frames_per_connection_max;
        for key in &ready {
            self.serve(broker, *key, messages_max);
        }
        ready.clear();
        if self.ready.is_empty() {
            self.ready = ready;
        }
    }

    /// Serves connections until the budget is spent. Returns how many were served.
    fn serve_some(
        &mut self,
        ready: &mut [ConnectionKey],
        broker: &mut Broker,
        meter: &mut impl Meter,
    ) -> usize {
        let interrupted = self.interrupted.take();
        let mut had = 0;
        if let Some((key, messages)) = interrupted
            && let Some(at) = ready.iter().position(|ready| *ready == key)
        {
            ready[..=at].rotate_right(1);
            had = messages;
        }
        let share_max = broker.limits().turn.frames_per_connection_max;
        for (served, key) in ready.iter().enumerate() {
            if served > 0 && meter.is_spent(&self.system) {
                return served;
            }
            let steps_max = meter.steps().min(share_max.saturating_sub(had).max(1));
            broker.limit_steps(steps_max);
            let before = broker.messages_received();
            self.serve(broker, *key, steps_max);
            let messages = (broker.messages_received() - before) as usize;
            meter.spend(messages.max(1));
            had += messages;
            if messages == steps_max && had < share_max && meter.is_spent(&self.system) {
                branches::note(Branch::ShareInterrupted);
                self.interrupted = Some((*key, had));
            }
            had = 0;
        }
        ready.len()
    }

    /// Writes to a connection if its socket has room again, then reads it and processes at most
    /// `messages_max` messages. For the first read, [`Broker::receive`] enforces that limit.
    fn serve(&mut self, broker: &mut Broker, key: ConnectionKey, messages_max: usize) {
        let Some(socket) = find(&mut self.sockets, key) else { return };
        let messages_before = broker.messages_received();
        let (is_resumed, is_writable) = socket.leave_list();
        if is_writable {
            let was_held_back = !broker.wants_read(key);
            flush(socket, broker, &mut self.system);
            if was_held_back && broker.wants_read(key) {
                // Its queue drained, so those that waited for that are resumed, and it is resumed behind
                // them. If it was read now, its own answers would fill its queue before they go on.
                return;
            }
        }
        let mut reads_on =
            if is_resumed { broker.receive(key, &[]).reads_on } else { broker.wants_read(key) };
        let is_handshaking = socket.is_handshaking() && socket.is_readable();
        if is_handshaking && self.handshake_steps >= broker.limits().turn.handshake_steps_max {
            branches::note(Branch::HandshakePutOff);
            self.handshakes_wait = true;
            socket.enlist(&mut self.ready);
            return;
        }
        let reads_max = broker.limits().turn.reads_per_connection_max;
        let mut budget_bytes = reads_max * self.read_buffer.len();
        let (mut is_first, mut is_limited) = (!is_resumed, false);
        while socket.is_readable() && reads_on {
            if !std::mem::take(&mut is_first) {
                let messages = (broker.messages_received() - messages_before) as usize;
                if budget_bytes == 0 || messages >= messages_max {
                    branches::note(Branch::ReadShareSpent);
                    socket.enlist(&mut self.ready);
                    break;
                }
                broker.limit_steps(messages_max - messages);
                is_limited = true;
            }
            let mut buffer = &mut self.read_buffer[..];
            let mut is_in_room = false;
            if socket.has_room {
                let room = broker.room(key);
                if !room.is_empty() {
                    let bytes = room.len().min(budget_bytes);
                    (buffer, is_in_room) = (&mut room[..bytes], true);
                }
            }
            match socket.receive(buffer) {
                Read::Bytes(bytes) => {
                    let received = if is_in_room {
                        broker.receive_in_room(key, bytes)
                    } else {
                        broker.receive(key, &self.read_buffer[..bytes])
                    };
                    socket.has_room = received.has_room;
                    if received.bare_header {
                        socket.acknowledge_at_once();
                    }
                    reads_on = received.reads_on;
                    budget_bytes = budget_bytes.saturating_sub(socket.read_cost_bytes(bytes));
                }
                // A read that brings nothing may take as much time, with TLS for example.
                Read::Nothing => {
                    budget_bytes = budget_bytes.saturating_sub(self.read_buffer.len());
                    // It was interrupted, and not read.
                    self.has_unread |= socket.is_readable();
                }
                Read::End => broker.hang_up(key, HangUp::EndOfStream),
                Read::Broken(error) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        broker.count_garbled(key, &error);
                    }
                    broker.hang_up(key, HangUp::Reset);
                }
            }
        }
        if is_limited {
            broker.limit_steps(usize::MAX);
        }
        if is_handshaking {
            self.handshake_steps += socket.take_handshake_steps();
        }
        if self.is_draining && !socket.is_readable() {
            broker.exhausted(key);
        }
        if socket.wants_flush() {
            flush(socket, broker, &mut self.system);
        }
    }

    fn accept(&mut self, broker: &mut Broker, now: Now, meter: &mut impl Meter) {
        for accepts in 0..broker.limits().turn.accepts_max {
            if accepts > 0 && meter.is_spent(&self.system) {
                return;
            }
            meter.spend(1);
            let may_handshake = !self.handshakes_wait;
            match self.listeners.accept(&mut self.system, now.monotonic, may_handshake) {
                Accepted::Stream(stream, peer) => self.take_on(broker, stream, peer),
                Accepted::Shed => {
                    branches::note(Branch::AcceptShed);
                    broker.count_shed();
                }
                Accepted::Failed => {}
                Accepted::Nothing => return,
            }
        }
    }

    fn take_on(&mut self, broker: &mut Broker, stream: S::Stream, peer: Peer) {
        if let Some(key) = broker.accept_from(peer) {
            self.watch(broker, key, stream);
        }
    }

    /// Reads a connection from now on.
    fn watch(&mut self, broker: &mut Broker, key: ConnectionKey, stream: S::Stream) {
        broker.add_transport_bytes(key, stream.held_bytes());
        let Ok(socket) = Socket::new(stream, key, &mut self.system) else {
            branches::note(Branch::WatchFailed);
            broker.hang_up(key, HangUp::Reset);
            return;
        };
        let index = key.index();
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        self.sockets[index] = Some(socket);
        // Its registration reports bytes that have already arrived, to the next turn.
    }

    /// Makes the socket of a link that the broker has opened itself.
    #[cold]
    fn attach(&mut self, broker: &mut Broker, key: ConnectionKey) {
        let Some(application) = broker.application_of(key) else { return };
        match self.system.attach(&application) {
            Ok(stream) => self.watch(broker, key, stream),
            // There are no descriptors left. Whoever holds the other ends of links opens it later.
            Err(_) => broker.hang_up(key, HangUp::Reset),
        }
        if let Some(socket) = find(&mut self.sockets, key) {
            flush(socket, broker, &mut self.system);
        }
    }

    fn run_mailbox(&mut self, broker: &mut Broker, meter: &mut impl Meter) {
        if self.links.are_any() {
            for stream in self.links.take() {
                self.take_on(broker, stream, Peer::Link);
            }
        }
        self.mailbox_due = Self::in_steps(&self.system, broker, meter, Broker::run_mailbox);
    }

    /// Does what is due. The process may have been stopped, or a handler may have taken long: so a
    /// deadline can have passed while the bytes that it waits for lie in a socket, and nobody is
    /// judged by time before all sockets have been looked at once more.
    fn advance(&mut self, broker: &mut Broker, now: Now, meter: &mut impl Meter) {
        if !broker.has_due() {
            self.put_off_at = None;
            return;
        }
        if !self.look_again(broker, meter) {
            if self.awaits_reads(now) {
                return;
            }
            broker.judge_until(self.put_off_at.unwrap_or(now.monotonic));
        }
        self.put_off_at = None;
        // Timers that are left over make the next turn due at once, because they have expired.
        Self::in_steps(&self.system, broker, meter, Broker::advance);
    }

    /// Returns whether timers have to wait for connections that could not be read in this turn. They
    /// wait for those that are in the list when it begins, and not for later ones, so that they do not
    /// wait for ever.
    fn awaits_reads(&mut self, now: Now) -> bool {
        let is_first = self.put_off_at.is_none();
        self.put_off_at.get_or_insert(now.monotonic);
        let mut is_any_owed = false;
        for key in &self.ready {
            if let Some(socket) = find(&mut self.sockets, *key) {
                is_any_owed |= socket.is_owed_a_read(is_first);
            }
        }
        is_any_owed
    }

    /// Reads every socket that has something by now, but for those that have had their share of the
    /// turn. Returns whether all of them were read in this turn.
    #[cold]
    fn look_again(&mut self, broker: &mut Broker, meter: &mut impl Meter) -> bool {
        let mut waiting = std::mem::take(&mut self.ready);
        // The system reports in the order in which things happened. So many polls report everything
        // that had happened before the first of them.
        let mut polls = self.sockets.len() / broker.limits().turn.events_max + POLLS_MIN;
        while polls > 0 {
            match self.system.look(&mut self.events) {
                Ok(has_more) => {
                    self.has_more_events = has_more;
                    polls = if has_more { polls - 1 } else { 0 };
                    self.take_events();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The next turn reports it.
                Err(_) => break,
            }
        }
        self.serve_ready(broker, meter);
        waiting.append(&mut self.ready);
        self.ready = waiting;
        if self.mailbox_due {
            self.run_mailbox(broker, meter);
        }
        self.act(broker, meter);
        !self.has_unread && !self.handshakes_wait
    }

    /// Repeats `work` until all of it is done or the budget is spent. Returns whether some is left.
    fn in_steps<M: Meter>(
        system: &S,
        broker: &mut Broker,
        meter: &mut M,
        work: impl Fn(&mut Broker) -> Progress,
    ) -> bool {
        if !M::IS_BOUNDED {
            return work(broker).has_more;
        }
        loop {
            broker.limit_steps(meter.steps());
            let progress = work(broker);
            meter.spend(progress.steps);
            if !progress.has_more || meter.is_spent(system) {
                return progress.has_more;
            }
        }
    }

    /// Carries out the broker's actions in their order. A flush may add more of them.
    fn act<M: Meter>(&mut self, broker: &mut Broker, meter: &mut M) {
        self.is_behind = false;
        let mut has_acted = false;
        loop {
            if M::IS_BOUNDED && has_acted && meter.is_spent(&self.system) && broker.has_work() {
                branches::note(Branch::ActionsLeft);
                self.is_behind = true;
                return;
            }
            let Some(action) = broker.next_action() else { return };
            has_acted = true;
            if matches!(action, Action::Flush(_) | Action::FinishWrite(_)) {
                meter.spend(1);
            }
            let (Action::Flush(key)
            | Action::Resume(key)
            | Action::FinishWrite(key)
            | Action::Share(key)
            | Action::Close(key)
            | Action::Attach(key)) = action;
            let Some(socket) = find(&mut self.sockets, key) else {
                if matches!(action, Action::Attach(_)) {
                    self.attach(broker, key);
                }
                continue;
            };
            match action {
                Action::Flush(_) => flush(socket, broker, &mut self.system),
                Action::Resume(_) => {
                    socket.note_resumed();
                    socket.enlist(&mut self.ready);
                }
                Action::FinishWrite(_) => {
                    socket.finish_write();
                    // TLS ends its write side with an alert, which has to be sent.
                    flush(socket, broker, &mut self.system);
                    socket.enlist(&mut self.ready);
                }
                Action::Share(_) => share(socket, broker, &mut self.system),
                Action::Close(_) => {
                    self.system.forget(key.index());
                    self.sockets[key.index()] = None;
                }
                Action::Attach(_) => {}
            }
        }
    }

    /// Begins a drain: the loop accepts no more connections and reads each of them once more,
    /// because messages that had arrived before the drain are still answered.
    fn begin_drain(&mut self, broker: &Broker) {
        self.is_draining = true;
        self.listeners.close();
        for key in broker.connections() {
            if let Some(socket) = find(&mut self.sockets, key) {
                socket.note_readable();
                socket.enlist(&mut self.ready);
            }
        }
    }
}

/// The earlier of two times, as far as there are any.
#[inline]
fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn find<T: Stream>(
    sockets: &mut [Option<Socket<T>>],
    key: ConnectionKey,
) -> Option<&mut Socket<T>> {
    sockets.get_mut(key.index())?.as_mut().filter(|socket| socket.key() == key)
}

fn flush<S: System>(socket: &mut Socket<S::Stream>, broker: &mut Broker, system: &mut S) {
    match socket.flush(broker, system) {
        Flush::Done | Flush::Blocked => {}
        Flush::Broken => broker.hang_up(socket.key(), HangUp::Reset),
    }
}

/// Makes rings in shared memory for a connection that has asked for them, and has it go over to them behind
/// the answer.
#[cold]
fn share<S: System>(socket: &mut Socket<S::Stream>, broker: &mut Broker, system: &mut S) {
    let key = socket.key();
    let make = |ring_bytes| socket.share(ring_bytes, system).map_err(|error| error.to_string());
    if let Some(turnover) = broker.share(key, make) {
        socket.turn_over(turnover);
    }
}

impl AsRawFd for EventLoop<MioSystem> {
    fn as_raw_fd(&self) -> RawFd {
        self.system.as_raw_fd()
    }
}
