//! The thread behind a client: reads, keeps the time, comes back after a loss.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use uuid::Uuid;

use super::answer::{self, Failure, PING};
use super::connection::{Connection, front};
use super::encoder::Heading;
use super::error::{Error, Execution, Fault};
use super::event::Event;
use super::read_buffer::ReadBuffer;
use super::shared::{SYSTEM, Shared, shielded};
use super::slot::Waiter;
use super::socket::Socket;
use super::state::{Kind, Link, Sink};
use crate::broker::Message;
use crate::proto::frame::Frame;
use crate::proto::{Envelope, ErrorCode, MessageType};

pub(super) const WAKER: Token = Token(0);
const SOCKET: Token = Token(1);
/// Reads in a row before the time is looked at again.
const READS_MAX: usize = 16;

/// What a thread that connects brings back.
type Attempt = Result<Connection, Error>;

#[derive(Debug)]
pub(super) struct Driver {
    shared: Arc<Shared>,
    poll: Poll,
    link: Option<Open>,
    attempts: (Sender<Attempt>, Receiver<Attempt>),
    is_attempting: bool,
    next_attempt: Option<Instant>,
    failures: u32,
    random: ChaCha8Rng,
    has_ended: bool,
    /// The server has answered a ping once, so a silent one is a dead one.
    answers_ping: bool,
}

/// A connection, as the driver knows it.
#[derive(Debug)]
struct Open {
    socket: Arc<Socket>,
    buffer: ReadBuffer,
    interest: Interest,
    is_readable: bool,
    /// The end is behind what is still to be read, and is not announced a second time.
    has_ended: bool,
    last_read: Instant,
    /// When a ping was sent that nothing has come after.
    asked: Option<Instant>,
    next_heartbeat: Option<Instant>,
    /// Publications and the like that the ping on its way will confirm.
    confirms: u64,
}

const LONG: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Whether the server would close the next connection for the same reason. A frame that was
/// too large is gone with the connection it was sent on.
fn is_for_good(error: &Error) -> bool {
    matches!(error, Error::Answered { code: ErrorCode::AuthFailed | ErrorCode::TakenOver, .. })
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        poll: Poll,
        connection: Connection,
        seed: [u8; 32],
    ) -> Result<Self, Error> {
        let mut driver = Self {
            shared,
            poll,
            link: None,
            attempts: channel(),
            is_attempting: false,
            next_attempt: None,
            failures: 0,
            random: ChaCha8Rng::from_seed(seed),
            has_ended: false,
            answers_ping: false,
        };
        driver.adopt(connection)?;
        Ok(driver)
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(16);
        while self.turn(&mut events) {}
    }

    /// Waits for something to do and does it. False at the end.
    fn turn(&mut self, events: &mut Events) -> bool {
        let timeout = self.timeout();
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                self.close(Some(Error::System { doing: "waiting for events", source: error }));
                return false;
            }
            _ => {}
        }
        if let Some(link) = &mut self.link {
            for event in events.iter().filter(|event| event.token() == SOCKET) {
                link.has_ended |= event.is_read_closed() || event.is_error();
                link.is_readable |= event.is_readable() || link.has_ended;
            }
        }
        if self.is_closed() {
            self.close(None);
            return false;
        }
        if let Err(error) = self.read() {
            self.lost(error);
        }
        self.keep_time();
        while let Ok(attempt) = self.attempts.1.try_recv() {
            self.is_attempting = false;
            let adopted = attempt.and_then(|connection| self.adopt(connection));
            match adopted {
                Ok(()) => {
                    self.failures = 0;
                    let connection_id = self.shared.lock().connection_id.clone();
                    self.shared.emit(&Event::Connected { connection_id });
                }
                Err(error) => self.failed(error),
            }
        }
        self.flush();
        // What closed it from inside has told everybody; a caller's wish is seen next turn.
        !self.has_ended
    }

    fn is_closed(&self) -> bool {
        matches!(self.shared.lock().link, Link::Closed)
    }

    /// Until when there is nothing to do but what comes; noted, so that callers know whether
    /// they have to wake us for an earlier deadline.
    fn timeout(&self) -> Option<Duration> {
        let mut state = self.shared.lock();
        let heartbeat = self.link.as_ref().and_then(|link| link.next_heartbeat);
        let alarms = [state.next_deadline(), heartbeat, self.next_attempt];
        let alarm = alarms.into_iter().flatten().min();
        state.alarm = alarm;
        drop(state);
        if self.link.as_ref().is_some_and(|link| link.is_readable) {
            return Some(Duration::ZERO);
        }
        alarm.map(|alarm| alarm.saturating_duration_since(Instant::now()))
    }

    /// Makes a new connection the client's.
    fn adopt(&mut self, connection: Connection) -> Result<(), Error> {
        let (socket, buffer, connection_id) = connection.into_parts();
        // It may be another server than the one before.
        self.answers_ping = false;
        socket.set_nonblocking().map_err(Error::system("a non-blocking socket"))?;
        let heartbeat = self.shared.options.heartbeat;
        socket.keep_alive(heartbeat).map_err(Error::system("keep-alive"))?;
        let socket = Arc::new(socket);
        self.poll
            .registry()
            .register(&mut SourceFd(&socket.as_raw_fd()), SOCKET, Interest::READABLE)
            .map_err(Error::system("watching a socket"))?;
        let mut state = self.shared.lock();
        if matches!(state.link, Link::Closed) {
            return Err(Error::Closed);
        }
        for id in state.link_up(Arc::clone(&socket), connection_id) {
            let shared = Arc::downgrade(&self.shared);
            let tell = move |answer: Result<Message, Error>| {
                if let (Err(error), Some(shared)) = (answer, shared.upgrade()) {
                    shared.emit(&Event::NotRestored { error });
                }
            };
            state.expect_restored(id, Waiter::Callback(Box::new(tell)));
        }
        drop(state);
        let now = Instant::now();
        self.link = Some(Open {
            socket,
            buffer,
            interest: Interest::READABLE,
            // What came with the welcome is in the buffer already.
            is_readable: true,
            has_ended: false,
            last_read: now,
            asked: None,
            next_heartbeat: heartbeat.map(|_| now),
            confirms: 0,
        });
        self.shared.progress.notify_all();
        Ok(())
    }

    fn read(&mut self) -> Result<(), Error> {
        for _ in 0..READS_MAX {
            if !self.link.as_ref().is_some_and(|link| link.is_readable) {
                return Ok(());
            }
            self.take_frames()?;
            let Some(link) = self.link.as_mut() else { return Ok(()) };
            let room = link.buffer.room();
            let room_bytes = room.len();
            match link.socket.try_recv(room) {
                Ok(0) => return Err(Error::lost(Execution::Possible, None)),
                Ok(bytes) => {
                    link.buffer.filled(bytes);
                    link.last_read = Instant::now();
                    link.asked = None;
                    // A short read has emptied the socket: the next one would only say so.
                    link.is_readable = bytes == room_bytes || link.has_ended;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => link.is_readable = false,
                Err(error) => return Err(Error::lost(Execution::Possible, error)),
            }
            self.take_frames()?;
        }
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), Error> {
        loop {
            let Some(link) = &mut self.link else { return Ok(()) };
            if let Frame::Partial { .. } = link.buffer.peek() {
                return Ok(());
            }
            let (envelope, frame_bytes) = front(&link.buffer)?;
            let news = news(&self.shared, &envelope);
            link.buffer.consume(frame_bytes);
            match news {
                News::Answer(waiter, answer) => self.answered(waiter, answer),
                News::Message(sinks, message) => deliver(sinks, message),
                News::Job(worker, message, generation) => {
                    worker.hand(&self.shared, message, generation);
                }
                News::Unserved(request) => self.refuse(&request),
                News::Leave => self.leave(),
                News::LastWords(error) => return Err(error),
                News::Nothing => {}
            }
            if self.is_closed() {
                return Ok(());
            }
        }
    }

    /// The requester shall not wait for nothing.
    fn refuse(&self, request: &Message) {
        let heading = Heading::answer(&request.channel_id, &request.message_id);
        let text = "this client serves the channel no longer; ask again";
        let failure = Failure::new(ErrorCode::NoHandler, text);
        // If it cannot be sent the connection is gone, and the server says so itself.
        let _ = self.shared.post(heading, &failure, Kind::Bound);
    }

    fn answered(&mut self, waiter: Waiter, answer: Result<Message, Error>) {
        if let Waiter::Heartbeat = waiter {
            self.answers_ping = true;
            if let Some(link) = &mut self.link {
                let mut state = self.shared.lock();
                state.unconfirmed = state.unconfirmed.saturating_sub(link.confirms);
                link.confirms = 0;
            }
        }
        waiter.tell(answer);
    }

    /// The server is about to end: from here on messages wait for the next connection.
    fn leave(&mut self) {
        let mut state = self.shared.lock();
        if let Link::Up(socket) = &state.link {
            state.link = Link::Leaving(Arc::clone(socket));
            drop(state);
            self.shared.emit(&Event::Leaving);
        }
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        let expired = self.shared.lock().expired(now);
        for (waiter, error) in expired {
            waiter.tell(Err(error));
        }
        if self.next_attempt.is_some_and(|at| at <= now) {
            self.next_attempt = None;
            self.attempt();
        }
        if let Some(error) = self.heartbeat(now) {
            self.lost(error);
        }
    }

    /// Asks a silent server whether it lives. The error says that it does not.
    fn heartbeat(&mut self, now: Instant) -> Option<Error> {
        let interval = self.shared.options.heartbeat?;
        let link = self.link.as_mut()?;
        if link.next_heartbeat? > now {
            return None;
        }
        link.next_heartbeat = now.checked_add(interval);
        if let Some(asked) = link.asked
            && now.duration_since(asked) >= interval
        {
            if self.answers_ping {
                let silent = std::io::Error::from(ErrorKind::TimedOut);
                return Some(Error::lost(Execution::Possible, silent));
            }
            // Never answered: a server that knows no ping. Keep-alive has to do.
            link.next_heartbeat = None;
            return None;
        }
        let is_known = self.answers_ping && now.duration_since(link.last_read) < interval;
        let unconfirmed = self.shared.lock().unconfirmed;
        if link.asked.is_none() && !(is_known && unconfirmed == 0) {
            let heading = Heading::new(MessageType::Request, SYSTEM);
            // Until the server is known to answer, nobody may wait for it in vain forever.
            let timeout = interval.saturating_mul(2);
            let waiter = Waiter::Heartbeat;
            if let Ok(id) = self.shared.ask(heading, &PING, Kind::Bound, waiter, timeout) {
                self.shared.lock().heartbeat = Some(id);
                link.asked = Some(now);
                link.confirms = unconfirmed;
            }
        }
        None
    }

    /// The connection is gone.
    fn lost(&mut self, error: Error) {
        self.forget_link();
        let is_final = self.shared.options.reconnect.is_none() || is_for_good(&error);
        let mut state = self.shared.lock();
        let unsent = state.held();
        let told = state.link_down(is_final);
        let waiting = state.held();
        let unconfirmed = state.take_unconfirmed();
        drop(state);
        self.shared.progress.notify_all();
        let unanswered =
            told.iter().filter(|(waiter, _)| !matches!(waiter, Waiter::Heartbeat)).count();
        for (waiter, execution) in told {
            waiter.tell(Err(Error::lost(execution, None)));
        }
        if is_final {
            let disconnected = std::io::Error::from(ErrorKind::NotConnected);
            let why = Error::lost(Execution::Possible, disconnected);
            self.shared.emit(&Event::Disconnected { error: why, unanswered, unconfirmed, waiting });
            self.end(Some(error), unsent);
            return;
        }
        self.shared.emit(&Event::Disconnected { error, unanswered, unconfirmed, waiting });
        self.schedule();
    }

    fn forget_link(&mut self) {
        if let Some(link) = self.link.take() {
            // It may be gone already; closing it is what counts.
            let _ = self.poll.registry().deregister(&mut SourceFd(&link.socket.as_raw_fd()));
        }
    }

    fn schedule(&mut self) {
        let reconnect = self.shared.options.reconnect.unwrap_or_default();
        let pause = reconnect.pause(self.failures, &mut self.random);
        let now = Instant::now();
        // A pause that no clock can express is a very long one.
        self.next_attempt = Some(now.checked_add(pause).unwrap_or(now + LONG));
    }

    /// Connecting blocks, resolving names above all: a thread of its own does it.
    fn attempt(&mut self) {
        let (sender, shared) = (self.attempts.0.clone(), Arc::clone(&self.shared));
        let attempt = move || {
            // If the driver is gone, so is the need for a connection.
            let _ = sender.send(shared.options.connection.connect());
            shared.wake();
        };
        let thread = std::thread::Builder::new().name("ipc-connect".into());
        match thread.spawn(attempt) {
            Ok(_) => self.is_attempting = true,
            Err(error) => self.failed(Error::System { doing: "a thread", source: error }),
        }
    }

    fn failed(&mut self, error: Error) {
        if self.is_closed() {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if error.fault() == Fault::Caller {
            self.close(Some(error));
            return;
        }
        self.schedule();
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let pause = self.next_attempt.map_or(Duration::ZERO, left);
        self.shared.emit(&Event::Unreachable { error, pause });
    }

    /// Writes what is queued, and asks to be woken where the kernel takes no more.
    fn flush(&mut self) {
        let Some(link) = &mut self.link else { return };
        let mut state = self.shared.lock();
        if !state.has_queued() && link.interest == Interest::READABLE {
            return;
        }
        let interest = if state.flush() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        drop(state);
        self.shared.progress.notify_all();
        if interest != link.interest {
            link.interest = interest;
            let fd = link.socket.as_raw_fd();
            // Where it fails the next heartbeat finds the connection dead.
            let _ = self.poll.registry().reregister(&mut SourceFd(&fd), SOCKET, interest);
        }
    }

    /// For good: whoever waits is told.
    fn close(&mut self, error: Option<Error>) {
        self.forget_link();
        let mut state = self.shared.lock();
        let unsent = state.held();
        let told = state.link_down(true);
        drop(state);
        for (waiter, execution) in told {
            waiter.tell(Err(Error::lost(execution, None)));
        }
        self.end(error, unsent);
    }

    fn end(&mut self, error: Option<Error>, unsent: usize) {
        self.next_attempt = None;
        self.has_ended = true;
        let mut state = self.shared.lock();
        let routes = std::mem::take(&mut state.routes);
        let served = std::mem::take(&mut state.served);
        drop(state);
        drop(served);
        for route in routes.into_values() {
            route.close();
        }
        self.shared.progress.notify_all();
        self.shared.emit(&Event::Closed { error, unsent });
    }
}

/// What a frame is to the client.
enum News {
    Answer(Waiter, Result<Message, Error>),
    Message(Vec<Sink>, Message),
    Job(Arc<super::worker::Worker>, Message, u64),
    /// A request that none of ours is for.
    Unserved(Message),
    Leave,
    LastWords(Error),
    Nothing,
}

fn news(shared: &Shared, envelope: &Envelope<'_>) -> News {
    if let Some(reply_to) = envelope.reply_to() {
        // An id that is not one of ours, or a late answer, is nobody's.
        let Ok(id) = Uuid::try_parse(&reply_to.decode()) else { return News::Nothing };
        let Some(waiter) = shared.lock().forget(id) else { return News::Nothing };
        let error = answer::error_of(envelope);
        return News::Answer(waiter, error.map_or_else(|| Ok(Message::from(envelope)), Err));
    }
    match answer::error_of(envelope) {
        Some(Error::Answered { code: ErrorCode::ShuttingDown, .. }) => return News::Leave,
        Some(error @ Error::Answered { code, .. }) if code.closes_connection() => {
            return News::LastWords(error);
        }
        _ => {}
    }
    let channel_id = envelope.channel_id().decode();
    let state = shared.lock();
    let is_job =
        matches!(envelope.message_type(), MessageType::Request | MessageType::Notification);
    if is_job && let Some(worker) = state.served.get(&*channel_id) {
        return News::Job(Arc::clone(worker), Message::from(envelope), state.generation);
    }
    let sinks = state.sinks(&channel_id);
    match envelope.message_type() {
        _ if !sinks.is_empty() => News::Message(sinks, Message::from(envelope)),
        MessageType::Request => News::Unserved(Message::from(envelope)),
        _ => News::Nothing,
    }
}

/// Most channels have one listener, which needs no copy.
fn deliver(mut sinks: Vec<Sink>, message: Message) {
    let last = sinks.pop();
    for sink in &sinks {
        hand(sink, message.clone());
    }
    if let Some(last) = last {
        hand(&last, message);
    }
}

fn hand(sink: &Sink, message: Message) {
    match sink {
        Sink::Inbox(inbox) => inbox.put(message),
        Sink::Handler(handler) => {
            let mut handler = handler.lock().unwrap_or_else(PoisonError::into_inner);
            shielded(|| handler(message));
        }
    }
}
