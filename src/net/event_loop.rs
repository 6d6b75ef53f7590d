//! The event loop: what one turn does, in which order.
//!
//! Events are edge-triggered: a connection that is not read until its socket is empty stays in
//! the ready list, and the loop does not sleep while that list is not empty.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::accept::{Accepted, Listeners};
use super::address::{Address, Inherited};
use super::clock::Clock;
use super::listener;
use super::mio_system::MioSystem;
use super::socket::{Flush, Read, Socket};
use super::system::{Event, Stream, System, WAKER};
use super::waiting::Waiting;
use crate::broker::{Action, Broker, ConnectionKey, HangUp, Now};
use crate::{Config, Error, Spin};

/// What one connection may read in a turn, so that the others have theirs: so many buffers.
const READS_PER_TURN_MAX: usize = 4;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(crate) struct EventLoop<S: System> {
    system: S,
    events: Vec<Event>,
    /// The system has more events than one turn takes. It will not report them to a loop around
    /// this one a second time, so the next turn must not wait for that.
    has_more_events: bool,
    listeners: Listeners<S>,
    /// By the index of the broker's key.
    sockets: Vec<Option<Socket<S::Stream>>>,
    /// Who has bytes to be read or processed and was not at the end of them.
    ready: Vec<ConnectionKey>,
    read_buffer: Box<[u8]>,
    /// Other threads posted more than one turn takes.
    mailbox_due: bool,
    /// Steps of handshakes in this turn.
    handshake_steps: usize,
    /// Some are put off to the next turn, and nobody who would begin one is accepted in this.
    handshakes_wait: bool,
    is_draining: bool,
    clock: Clock,
    waiting: Waiting,
}

impl EventLoop<MioSystem> {
    /// Listens on what the configuration says. Returns the addresses as well.
    pub(crate) fn bind(
        config: &Config,
        inherited: Vec<Inherited>,
    ) -> Result<(Self, Vec<Address>), Error> {
        let system = MioSystem::new()?;
        let (listeners, addresses) = listener::bind(config, inherited)?;
        let watching = Error::system("watching the listening sockets");
        let net = Self::new(system, listeners, config.spin).map_err(watching)?;
        Ok((net, addresses))
    }

    /// The loop's time, for whoever has to read it while the loop runs.
    pub(crate) fn stopwatch(&self) -> impl Fn() -> Duration + Send + use<> {
        let start = self.system.start();
        move || start.elapsed()
    }

    /// What interrupts the loop's sleep from another thread.
    pub(crate) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        self.system.waker()
    }

    /// `None` for a time so far away that it never comes.
    pub(crate) fn instant(&self, monotonic: Duration) -> Option<Instant> {
        self.system.start().checked_add(monotonic)
    }
}

impl<S: System> EventLoop<S> {
    pub(crate) fn new(mut system: S, listeners: Vec<S::Listener>, spin: Spin) -> io::Result<Self> {
        Ok(Self {
            listeners: Listeners::new(listeners, &mut system)?,
            events: Vec::new(),
            has_more_events: false,
            sockets: Vec::new(),
            ready: Vec::new(),
            read_buffer: vec![0; S::READ_BUFFER_BYTES].into(),
            mailbox_due: false,
            handshake_steps: 0,
            handshakes_wait: false,
            is_draining: false,
            clock: Clock::new(&system),
            waiting: Waiting::new(spin),
            system,
        })
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now(&self.system)
    }

    /// When the next turn is due even if nothing happens, in [`Now::monotonic`].
    pub(crate) fn next_deadline(&self, broker: &Broker) -> Option<Duration> {
        if self.has_work() || broker.has_work() {
            return Some(Duration::ZERO);
        }
        broker.next_deadline().into_iter().chain(self.listeners.retry_at()).min()
    }

    /// One turn: sleep until something happens, take it all in, send what comes of it.
    pub(crate) fn turn(
        &mut self,
        broker: &mut Broker,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let timeout = self.sleep_at_most(broker, timeout);
        match self.waiting.wait(&mut self.system, &mut self.events, timeout) {
            Ok(has_more) => self.has_more_events = has_more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::system("waiting for events")(error)),
        }
        let (wakeups, spins) = self.waiting.take_counts();
        broker.count_wakeups(wakeups, spins);
        let now = self.now();
        broker.begin_turn(now);
        self.handshake_steps = 0;
        self.handshakes_wait = false;
        self.take_events(broker);
        self.read_ready(broker);
        self.accept(broker, now);
        if self.mailbox_due {
            self.mailbox_due = broker.run_mailbox();
        }
        if broker.is_draining() && !self.is_draining {
            self.begin_drain(broker);
        }
        // Sent before the time is looked at: what leaves now is no backlog.
        self.act(broker);
        broker.advance();
        self.act(broker);
        if broker.wants_turn_time() {
            broker.end_turn(self.system.monotonic());
        }
        Ok(())
    }

    fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || self.has_more_events
            || self.mailbox_due
            || self.listeners.has_backlog()
    }

    fn sleep_at_most(&self, broker: &Broker, timeout: Option<Duration>) -> Option<Duration> {
        let until_due = self.next_deadline(broker).map(|due| {
            if due.is_zero() { due } else { due.saturating_sub(self.system.monotonic()) }
        });
        timeout.into_iter().chain(until_due).min()
    }

    fn take_events(&mut self, broker: &mut Broker) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event.token {
                WAKER => self.mailbox_due = true,
                token if self.listeners.note_ready(token) => {}
                _ => self.take_event(broker, event),
            }
        }
        self.events = events;
    }

    fn take_event(&mut self, broker: &mut Broker, event: Event) {
        // A socket is closed at a turn's end only, so an event never meets its successor.
        let Some(socket) = self.sockets.get_mut(event.token).and_then(Option::as_mut) else {
            return;
        };
        let key = socket.key();
        if event.readable {
            socket.note_readable(event.finished);
            self.make_ready(key);
        }
        if event.writable {
            self.flush(broker, key);
        }
    }

    fn make_ready(&mut self, key: ConnectionKey) {
        let socket = self.sockets.get_mut(key.index()).and_then(Option::as_mut);
        if let Some(socket) = socket.filter(|socket| socket.key() == key) {
            socket.enlist(&mut self.ready);
        }
    }

    fn socket(&mut self, key: ConnectionKey) -> Option<&mut Socket<S::Stream>> {
        let socket = self.sockets.get_mut(key.index())?.as_mut()?;
        (socket.key() == key).then_some(socket)
    }

    fn read_ready(&mut self, broker: &mut Broker) {
        // Stolen first: who is not done in this turn stands in the list of the next.
        let mut ready = std::mem::take(&mut self.ready);
        for key in ready.drain(..) {
            self.read(broker, key);
        }
        if self.ready.is_empty() {
            self.ready = ready;
        }
    }

    fn read(&mut self, broker: &mut Broker, key: ConnectionKey) {
        let Some(socket) = self.sockets.get_mut(key.index()).and_then(Option::as_mut) else {
            return;
        };
        if socket.key() != key {
            return;
        }
        let mut reads_on = if socket.leave_list() {
            broker.receive(key, &[]).reads_on
        } else {
            broker.wants_read(key)
        };
        let is_handshaking = socket.is_handshaking() && socket.is_readable();
        if is_handshaking && self.handshake_steps >= S::HANDSHAKE_STEPS_PER_TURN_MAX {
            self.handshakes_wait = true;
            socket.enlist(&mut self.ready);
            return;
        }
        let mut budget_bytes = READS_PER_TURN_MAX * S::READ_BUFFER_BYTES;
        while socket.is_readable() && reads_on {
            if budget_bytes == 0 {
                socket.enlist(&mut self.ready);
                break;
            }
            match socket.receive(&mut self.read_buffer) {
                Read::Bytes(bytes) => {
                    let received = broker.receive(key, &self.read_buffer[..bytes]);
                    if received.bare_header {
                        socket.acknowledge_at_once();
                    }
                    reads_on = received.reads_on;
                    budget_bytes = budget_bytes.saturating_sub(socket.read_cost_bytes(bytes));
                }
                // It may have taken as much all the same.
                Read::Nothing => {
                    budget_bytes = budget_bytes.saturating_sub(S::READ_BUFFER_BYTES);
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
        if is_handshaking {
            self.handshake_steps += socket.take_handshake_steps();
        }
        let wants_flush = socket.wants_flush();
        if self.is_draining && !socket.is_readable() {
            broker.exhausted(key);
        }
        if wants_flush {
            self.flush(broker, key);
        }
    }

    fn accept(&mut self, broker: &mut Broker, now: Now) {
        for _ in 0..S::ACCEPTS_PER_TURN_MAX {
            let may_handshake = !self.handshakes_wait;
            match self.listeners.accept(&mut self.system, now.monotonic, may_handshake) {
                Accepted::Stream(stream) => {
                    let Some(key) = broker.accept() else { continue };
                    broker.add_transport_bytes(key, stream.held_bytes());
                    if broker.asks_for_users() && !admits(broker, &stream) {
                        broker.turn_away(key);
                    }
                    let Ok(socket) = Socket::new(stream, key, &mut self.system) else {
                        broker.hang_up(key, HangUp::Reset);
                        continue;
                    };
                    let index = key.index();
                    if self.sockets.len() <= index {
                        self.sockets.resize_with(index + 1, || None);
                    }
                    self.sockets[index] = Some(socket);
                    // What it has sent already is dealt with in the next turn: its
                    // registration reports it.
                }
                Accepted::Shed => broker.count_shed(),
                Accepted::Failed => {}
                Accepted::Nothing => return,
            }
        }
    }

    /// Carries out what the broker decided. Flushing may decide more.
    fn act(&mut self, broker: &mut Broker) {
        while let Some(action) = broker.next_action() {
            match action {
                Action::Flush(key) => self.flush(broker, key),
                Action::Resume(key) => {
                    if let Some(socket) = self.socket(key) {
                        socket.note_resumed();
                    }
                    self.make_ready(key);
                }
                Action::FinishWrite(key) => {
                    if let Some(socket) = self.socket(key) {
                        socket.finish_write();
                    }
                    // That takes room in the kernel, too, where it is said in words.
                    self.flush(broker, key);
                    self.make_ready(key);
                }
                Action::Close(key) => {
                    if self.socket(key).is_some() {
                        self.sockets[key.index()] = None;
                    }
                }
            }
        }
    }

    fn flush(&mut self, broker: &mut Broker, key: ConnectionKey) {
        let Some(socket) = self.sockets.get_mut(key.index()).and_then(Option::as_mut) else {
            return;
        };
        if socket.key() != key {
            return;
        }
        match socket.flush(broker, &mut self.system) {
            Flush::Done | Flush::Blocked => {}
            Flush::Broken => {
                broker.hang_up(key, HangUp::Reset);
            }
        }
    }

    /// A drain begins: nobody new comes in, and everybody is read once more, for what had
    /// arrived was sent in good faith.
    fn begin_drain(&mut self, broker: &Broker) {
        self.is_draining = true;
        self.listeners.close();
        for key in broker.connections() {
            if let Some(socket) = self.socket(key) {
                socket.note_readable(false);
            }
            self.make_ready(key);
        }
    }
}

/// Who cannot be asked for is not admitted.
fn admits(broker: &Broker, stream: &impl Stream) -> bool {
    stream.user().is_ok_and(|user| user.is_none_or(|user| broker.admits_user(user)))
}

impl AsRawFd for EventLoop<MioSystem> {
    fn as_raw_fd(&self) -> RawFd {
        self.system.as_raw_fd()
    }
}
