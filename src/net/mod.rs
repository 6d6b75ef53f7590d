//! The thin shell: moves bytes between sockets and the broker, and keeps the time.
//!
//! mio is edge-triggered: whoever stops reading before the socket is empty stands in the
//! ready list, and the loop does not sleep while that list is not empty.

mod clock;
mod listener;
mod socket;
mod unix_socket;
mod waiting;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token, Waker};

pub use listener::Address;

use self::clock::Clock;
use self::listener::{Accepted, Listeners};
use self::socket::{Flushed, Received, Socket};
use self::waiting::Waiting;
use crate::broker::{Action, Broker, ConnectionKey, HangUp, Now};
use crate::{Config, Error};

/// One buffer for all connections: what a read brings is processed before the next read.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// What one connection may read in a turn, so that the others have theirs.
const READ_BYTES_PER_TURN_MAX: usize = 4 * READ_BUFFER_BYTES;
/// Events taken from the kernel at once; the rest come with the next poll.
const EVENTS_MAX: usize = 1_024;
/// New connections accepted in a turn.
const ACCEPTS_PER_TURN_MAX: usize = 64;

const WAKER: Token = Token(usize::MAX);

#[derive(Debug)]
pub(crate) struct EventLoop {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    listeners: Listeners,
    /// By the index of the broker's key.
    sockets: Vec<Option<Socket>>,
    /// Who has bytes to be read or processed and was not at the end of them.
    ready: Vec<ConnectionKey>,
    read_buffer: Box<[u8]>,
    /// Other threads posted more than one turn takes.
    mailbox_due: bool,
    is_draining: bool,
    clock: Clock,
    waiting: Waiting,
}

impl EventLoop {
    pub(crate) fn bind(config: &Config) -> Result<Self, Error> {
        let poll = Poll::new().map_err(Error::system("an event queue"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(Error::system("a waker"))?;
        let listeners = Listeners::bind(config, poll.registry())?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker: Arc::new(waker),
            listeners,
            sockets: Vec::new(),
            ready: Vec::new(),
            read_buffer: vec![0; READ_BUFFER_BYTES].into(),
            mailbox_due: false,
            is_draining: false,
            clock: Clock::default(),
            waiting: Waiting::new(config.spin),
        })
    }

    pub(crate) fn addresses(&self) -> &[Address] {
        self.listeners.addresses()
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// The loop's time, for whoever has to read it while the loop runs.
    pub(crate) fn stopwatch(&self) -> impl Fn() -> Duration + Send + use<> {
        let start = self.clock.start();
        move || start.elapsed()
    }

    /// What interrupts the loop's sleep from another thread.
    pub(crate) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        let waker = self.waker.clone();
        // It fails only if the queue's own descriptor is gone, and the loop with it.
        move || drop(waker.wake())
    }

    pub(crate) fn next_deadline(&self, broker: &Broker) -> Option<Instant> {
        if self.has_work() || broker.has_work() {
            return Some(self.clock.start());
        }
        let next = broker.next_deadline().into_iter().chain(self.listeners.retry_at()).min();
        next.and_then(|deadline| self.clock.instant(deadline))
    }

    /// One turn: sleep until something happens, take it all in, send what comes of it.
    pub(crate) fn turn(
        &mut self,
        broker: &mut Broker,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let timeout = self.sleep_at_most(broker, timeout);
        match self.waiting.wait(&mut self.poll, &mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(Error::system("waiting for events")(error));
            }
            _ => {}
        }
        let (wakeups, spins) = self.waiting.take_counts();
        broker.count_wakeups(wakeups, spins);
        let now = self.clock.now();
        self.take_events(broker);
        self.read_ready(broker, now);
        self.accept(broker, now);
        if self.mailbox_due {
            self.mailbox_due = broker.run_mailbox(now);
        }
        if broker.is_draining() && !self.is_draining {
            self.begin_drain(broker);
        }
        // Sent before the time is looked at: what leaves now is no backlog.
        self.act(broker);
        broker.advance(now);
        self.act(broker);
        if broker.wants_turn_time() {
            broker.end_turn(self.clock.now());
        }
        Ok(())
    }

    fn has_work(&self) -> bool {
        !self.ready.is_empty() || self.mailbox_due || self.listeners.has_backlog()
    }

    fn sleep_at_most(&self, broker: &Broker, timeout: Option<Duration>) -> Option<Duration> {
        let due = self.next_deadline(broker);
        let until_due = due.map(|due| due.saturating_duration_since(self.clock.instant_now()));
        timeout.into_iter().chain(until_due).min()
    }

    fn take_events(&mut self, broker: &mut Broker) {
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            match event.token() {
                WAKER => self.mailbox_due = true,
                token if self.listeners.note_ready(token) => {}
                Token(index) => self.take_event(broker, index, event),
            }
        }
        self.events = events;
    }

    fn take_event(&mut self, broker: &mut Broker, index: usize, event: &Event) {
        // A socket is closed at a turn's end only, so an event never meets its successor.
        let Some(socket) = self.sockets.get_mut(index).and_then(Option::as_mut) else { return };
        let key = socket.key();
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            socket.note_readable(event.is_read_closed() || event.is_error());
            self.make_ready(key);
        }
        if event.is_writable() {
            self.flush(broker, key);
        }
    }

    fn make_ready(&mut self, key: ConnectionKey) {
        if let Some(socket) = self.socket(key)
            && socket.enlist()
        {
            self.ready.push(key);
        }
    }

    fn socket(&mut self, key: ConnectionKey) -> Option<&mut Socket> {
        let socket = self.sockets.get_mut(key.index())?.as_mut()?;
        (socket.key() == key).then_some(socket)
    }

    fn read_ready(&mut self, broker: &mut Broker, now: Now) {
        // Stolen first: who is not done in this turn stands in the list of the next.
        let mut ready = std::mem::take(&mut self.ready);
        for key in ready.drain(..) {
            self.read(broker, key, now);
        }
        if self.ready.is_empty() {
            self.ready = ready;
        }
    }

    fn read(&mut self, broker: &mut Broker, key: ConnectionKey, now: Now) {
        let Some(socket) = self.sockets.get_mut(key.index()).and_then(Option::as_mut) else {
            return;
        };
        if socket.key() != key {
            return;
        }
        if socket.leave_list() {
            broker.receive(key, &[], now);
        }
        let mut budget_bytes = READ_BYTES_PER_TURN_MAX;
        while socket.is_readable() && broker.wants_read(key) {
            if budget_bytes == 0 {
                self.make_ready(key);
                return;
            }
            match socket.receive(&mut self.read_buffer) {
                Received::Bytes(bytes) => {
                    broker.receive(key, &self.read_buffer[..bytes], now);
                    if broker.holds_bare_header(key) {
                        socket.expect_split_writes();
                    }
                    budget_bytes = budget_bytes.saturating_sub(bytes);
                }
                Received::Nothing => {}
                Received::End => broker.hang_up(key, HangUp::EndOfStream, now),
                Received::Broken => broker.hang_up(key, HangUp::Reset, now),
            }
        }
        if self.is_draining && !socket.is_readable() {
            broker.exhausted(key, now);
        }
    }

    fn accept(&mut self, broker: &mut Broker, now: Now) {
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            match self.listeners.accept(now.monotonic) {
                Accepted::Stream(stream) => {
                    let Some(key) = broker.accept(now) else { continue };
                    let Ok(socket) = Socket::new(stream, key, self.poll.registry()) else {
                        broker.hang_up(key, HangUp::Reset, now);
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
        match socket.flush(broker, self.poll.registry()) {
            Flushed::Done | Flushed::Blocked => {}
            Flushed::Broken => {
                let now = self.clock.now();
                broker.hang_up(key, HangUp::Reset, now);
            }
        }
    }

    /// A drain begins: nobody new comes in, and everybody is read once more, for what had
    /// arrived was sent in good faith.
    fn begin_drain(&mut self, broker: &Broker) {
        self.is_draining = true;
        self.listeners.close(self.poll.registry());
        for key in broker.connections() {
            if let Some(socket) = self.socket(key) {
                socket.note_readable(false);
            }
            self.make_ready(key);
        }
    }
}

impl AsRawFd for EventLoop {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}
