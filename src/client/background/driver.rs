//! The thread behind a client: it reads, watches deadlines, and reconnects.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chacha20::ChaCha8Rng;
use chacha20::rand_core::SeedableRng;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::incoming::{Incoming, classify, deliver};
use super::open::Open;
use super::outbox::Kind;
use super::pending::Expired;
use super::shared::Shared;
use super::state::{Link, LinkedUp, Loss};
use super::topic::Topic;
use super::waiter::Waiter;
use crate::client::connection::opening::connect;
use crate::client::connection::{Connection, Parts};
use crate::client::error::{Error, Execution, Fault};
use crate::client::event::Event;
use crate::client::reconnect::Reconnect;
use crate::client::servers::Servers;
use crate::client::wire::encoder::Heading;
use crate::client::wire::frames::front;
use crate::proto::frame::Frame;
use crate::proto::system::Failure;
use crate::proto::{ErrorCode, Message};

pub(crate) const WAKER: Token = Token(0);
const SOCKET: Token = Token(1);
/// Reads in a row before deadlines are checked again.
const READS_MAX: usize = 16;
/// The time for which messages that are held back wait for more. The kernel adds its timer slack,
/// which is as long.
const LINGER: Duration = Duration::from_micros(50);
/// Bytes of refusals that may wait, even if the queue is smaller.
const REFUSAL_BYTES_MIN: usize = 64 << 10;

/// The result of a thread that connects.
type Attempt = Result<Connection, Error>;

#[derive(Debug)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
    poll: Poll,
    link: Option<Open>,
    /// Locked by the thread that connects, while there is one.
    servers: Arc<Mutex<Servers>>,
    attempts: (Sender<Attempt>, Receiver<Attempt>),
    next_attempt: Option<Instant>,
    random: ChaCha8Rng,
    has_ended: bool,
}

const LONG: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Returns whether another attempt would fail for the same reason. A frame that was too large, or
/// was garbled on its way, is gone with its connection.
fn is_for_good(error: &Error) -> bool {
    match error {
        Error::Answered { code, .. } => {
            matches!(code, ErrorCode::AuthFailed | ErrorCode::TakenOver)
        }
        Error::NoServer { failures } => failures.iter().all(|(_, error)| is_for_good(error)),
        // Certificates on either side may be renewed.
        #[cfg(feature = "tls")]
        Error::Tls { .. } => false,
        error => error.fault() == Fault::Caller,
    }
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        poll: Poll,
        servers: Servers,
        connection: Connection,
        seed: [u8; 32],
    ) -> Result<Self, Error> {
        let mut driver = Self {
            shared,
            poll,
            link: None,
            servers: Arc::new(Mutex::new(servers)),
            attempts: channel(),
            next_attempt: None,
            random: ChaCha8Rng::from_seed(seed),
            has_ended: false,
        };
        // Nothing is restored yet.
        let _ = driver.adopt(connection)?;
        Ok(driver)
    }

    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(16);
        while self.turn(&mut events) {}
    }

    /// Waits for events and handles them. Returns false at the end.
    fn turn(&mut self, events: &mut Events) -> bool {
        let timeout = self.timeout();
        let is_interrupted = match self.poll.poll(events, timeout) {
            Ok(()) => false,
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) => {
                self.close(Some(Error::System { doing: "waiting for events", source: error }));
                return false;
            }
        };
        // The clock is read first, then the socket, and only then is anybody late: a process that
        // was stopped, or was busy, finds the answers that came in time.
        let now = Instant::now();
        let mut state = self.shared.lock();
        let is_closed = matches!(state.link, Link::Closed);
        let is_due = state.alarm.is_some_and(|alarm| alarm <= now);
        let catch_ups = state.catch_ups.asked;
        let mistakable = state.mistakable.as_mut().and_then(Option::take);
        let is_waited_for = catch_ups != state.catch_ups.done;
        drop(state);
        if let Some(link) = &mut self.link {
            link.is_readable |= is_interrupted || is_due || is_waited_for;
            for event in events.iter().filter(|event| event.token() == SOCKET) {
                link.has_ended |= event.is_read_closed() || event.is_error();
                link.is_readable |= event.is_readable() || link.has_ended;
            }
        }
        if is_closed {
            self.close(None);
            return false;
        }
        if let Some(channel_id) = mistakable {
            self.shared.emit(&Event::LooksLikePattern { channel_id });
        }
        if let Err(error) = self.read() {
            self.lost(error);
        }
        if is_due || is_waited_for {
            let read_up_to = self.link.as_mut().map_or(Some(now), |link| link.read_up_to(now));
            if let Some(now) = read_up_to {
                self.keep_time(now);
                self.caught_up(catch_ups);
            }
        }
        let ready = std::mem::take(&mut self.shared.lock().ready);
        for worker in ready {
            worker.start();
        }
        while let Ok(attempt) = self.attempts.1.try_recv() {
            let adopted = attempt.and_then(|connection| self.adopt(connection));
            match adopted {
                Ok(events) => {
                    let state = self.shared.lock();
                    let (connection_id, endpoint) =
                        (state.connection_id.clone(), state.endpoint.clone());
                    drop(state);
                    self.shared.emit(&Event::Connected { connection_id, endpoint });
                    for event in events {
                        self.shared.emit(&event);
                    }
                }
                Err(error) => self.failed(error),
            }
        }
        self.flush();
        // A close by the driver itself has told all callers; one by a caller is handled in the next
        // turn.
        !self.has_ended
    }

    fn is_closed(&self) -> bool {
        matches!(self.shared.lock().link, Link::Closed)
    }

    /// Returns the time until the next deadline, and notes the deadline, so that callers know
    /// whether they have to wake the driver for an earlier one.
    fn timeout(&self) -> Option<Duration> {
        let mut state = self.shared.lock();
        let heartbeat = self.link.as_ref().and_then(Open::next_heartbeat);
        let alarms = [state.pending.next_deadline(), heartbeat, self.next_attempt];
        let alarm = alarms.into_iter().flatten().min();
        state.alarm = alarm;
        drop(state);
        if self.link.as_ref().is_some_and(|link| link.is_readable) {
            return Some(Duration::ZERO);
        }
        alarm.map(|alarm| alarm.saturating_duration_since(Instant::now()))
    }

    /// Adopts a new connection. Returns the events to report after it.
    fn adopt(&mut self, connection: Connection) -> Result<Vec<Event>, Error> {
        let Parts { mut socket, buffer, endpoint, id: connection_id, welcome } =
            connection.into_parts();
        let extensions = welcome.extensions;
        socket.set_nonblocking().map_err(Error::system("a non-blocking socket"))?;
        let heartbeat = self.shared.options.heartbeat;
        socket.keep_alive(heartbeat).map_err(Error::system("keep-alive"))?;
        let socket = Arc::new(socket);
        self.poll
            .registry()
            .register(&mut SourceFd(&socket.as_raw_fd()), SOCKET, Interest::READABLE)
            .map_err(Error::system("watching a socket"))?;
        let mut encoder = self.shared.encoder()?;
        let mut state = self.shared.lock();
        if matches!(state.link, Link::Closed) {
            return Err(Error::Closed);
        }
        let LinkedUp { subscribes, serves, unsupported, refused, mut events } =
            state.link_up(Arc::clone(&socket), connection_id, &welcome, &mut encoder);
        state.endpoint = endpoint;
        for (id, channel_id) in serves {
            let shared = Arc::downgrade(&self.shared);
            let tell = move |answer: Result<Message, Error>| {
                let (Err(error), Some(shared)) = (answer, shared.upgrade()) else { return };
                if !error.is_end_of_connection() {
                    shared.emit(&Event::NotRestored { channel_id, error });
                }
            };
            state.pending.insert(id, Waiter::Restored(Box::new(tell)), None);
        }
        for (id, name, is_pattern) in subscribes {
            self.shared.await_subscribed(&mut state, Topic { name: &name, is_pattern }, id);
        }
        drop(state);
        drop(encoder);
        for (waiter, error) in unsupported {
            waiter.tell(Err(error));
        }
        self.link = Some(Open::new(socket, buffer, extensions, heartbeat.is_some()));
        self.shared.progress.notify_all();
        events.extend(refused.into_iter().map(|(channel_id, message_id, error)| Event::Refused {
            channel_id,
            message_id: Some(message_id),
            error,
        }));
        Ok(events)
    }

    fn read(&mut self) -> Result<(), Error> {
        for _ in 0..READS_MAX {
            if !self.link.as_ref().is_some_and(|link| link.is_readable) {
                return Ok(());
            }
            self.take_frames()?;
            let Some(link) = self.link.as_mut() else { return Ok(()) };
            if link.read()? {
                self.take_frames()?;
            }
        }
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), Error> {
        loop {
            let Some(link) = &mut self.link else { return Ok(()) };
            if let Frame::Partial { .. } = link.buffer.peek() {
                return Ok(());
            }
            link.buffer.detach();
            let received = front(&link.buffer, link.extensions)?;
            let frame_bytes = received.frame_bytes;
            let incoming = classify(&self.shared, &received);
            link.buffer.consume(frame_bytes);
            match incoming {
                Incoming::Answer(waiter, answer) => {
                    link.is_proven |= !waiter.is_own();
                    if let Waiter::Heartbeat = waiter {
                        self.shared.lock().answers_ping = true;
                    }
                    waiter.tell(answer);
                }
                Incoming::Unasked(sinks, message, refused) => self.unasked(sinks, message, refused),
                Incoming::Message(sinks, message) => {
                    link.is_proven = true;
                    deliver(sinks, message);
                }
                Incoming::Part(parts, id, seq, part) => {
                    link.is_proven = true;
                    if let Err(what) = parts.put(seq, part) {
                        self.shared.end_broken(id, what);
                    }
                }
                Incoming::End(parts, seq) => {
                    link.is_proven = true;
                    if let Err(what) = parts.end(seq) {
                        parts.finish(Err(Error::broken_stream(what)));
                    }
                }
                Incoming::Broken(id, what) => self.shared.end_broken(id, &what),
                Incoming::Job(worker, message, job) => {
                    link.is_proven = true;
                    worker.take(message, job);
                }
                Incoming::Cancel(job, worker, reason) => {
                    job.cancel(reason);
                    if let Some(worker) = worker {
                        worker.note_cancelled();
                    }
                }
                Incoming::Credit(job, credit) => {
                    if let Some(its) = job.credit() {
                        its.add(credit);
                    }
                }
                Incoming::Unserved(request) => self.refuse(&request),
                Incoming::Unusable { channel_id, message_id, is_request, error } => {
                    if is_request {
                        let heading = Heading::answer(&channel_id, &message_id);
                        let (code, text) = (ErrorCode::HandlerFailed, error.to_string());
                        // As in `refuse`.
                        let _ =
                            self.shared.post(heading, &Failure::new(code, &text), Kind::Refusal);
                    }
                    let message_id = Some(message_id);
                    self.shared.emit(&Event::Refused { channel_id, message_id, error });
                }
                Incoming::Leave => self.leave(),
                Incoming::LastWords(error) => return Err(error),
                Incoming::Nothing => {}
            }
            let state = self.shared.lock();
            if matches!(state.link, Link::Closed) {
                return Ok(());
            }
            let bytes_max = self.shared.options.queue_bytes_max.max(REFUSAL_BYTES_MIN);
            if state.outbox.refusal_bytes() > bytes_max {
                let text =
                    "the server sends requests that are refused, and does not read the refusals";
                return Err(Error::lost(Execution::Possible, std::io::Error::other(text)));
            }
        }
    }

    fn unasked(&self, sinks: Vec<super::routes::Sink>, message: Message, refused: Option<Error>) {
        if let Some(error) = refused {
            let (channel_id, message_id) = (message.channel_id.clone(), message.reply_to.clone());
            self.shared.emit(&Event::Refused { channel_id, message_id, error });
        }
        deliver(sinks, message);
    }

    /// Refuses a request, so that the requester does not wait in vain.
    fn refuse(&self, request: &Message) {
        let heading = Heading::answer(&request.channel_id, &request.message_id);
        let text = "this client no longer serves the channel; ask again";
        let failure = Failure::new(ErrorCode::NoHandler, text);
        // If it cannot be sent the connection is gone, and the server tells the requester.
        let _ = self.shared.post(heading, &failure, Kind::Refusal);
    }

    /// Handles the server's notice that it is about to end: new messages wait for the next
    /// connection.
    fn leave(&mut self) {
        let mut state = self.shared.lock();
        if let Link::Up(socket) = &state.link {
            state.link = Link::Leaving(Arc::clone(socket));
            drop(state);
            self.shared.emit(&Event::Leaving);
        }
    }

    /// Handles everything that is due at `now`, up to which the socket has been read.
    fn keep_time(&mut self, now: Instant) {
        let mut state = self.shared.lock();
        let begun = state.outbox.begun();
        let expired = state.pending.expired(now, begun);
        let generation = state.generation;
        drop(state);
        for Expired { id, waiter, error, needs_cancel } in expired {
            if needs_cancel {
                self.shared.send_cancel(id, generation);
            }
            waiter.tell(Err(error));
        }
        if self.next_attempt.is_some_and(|at| at <= now) {
            self.next_attempt = None;
            self.attempt();
        }
        let alive = self.link.as_mut().map_or(Ok(()), |link| link.heartbeat(&self.shared, now));
        if let Err(error) = alive {
            self.lost(error);
        }
    }

    /// Tells the callers that wait in [`Shared::catch_up`].
    fn caught_up(&self, asked: u64) {
        let mut state = self.shared.lock();
        if state.catch_ups.done < asked {
            state.catch_ups.done = asked;
            drop(state);
            self.shared.progress.notify_all();
        }
    }

    /// Handles the loss of the connection.
    fn lost(&mut self, error: Error) {
        // A server that accepts connections and closes them at once must not be asked again at
        // once.
        let held = self.link.as_ref().map_or(Duration::ZERO, |link| link.since.elapsed());
        let was_of_use = self.link.as_ref().is_some_and(|link| link.is_proven)
            || held >= self.reconnect().pause_max;
        self.forget_link();
        let mut is_final = self.shared.options.reconnect.is_none() || self.ends_client(&error);
        let is_round_over = is_final || was_of_use || self.servers().failed(error.repeated());
        let mut state = self.shared.lock();
        // A caller may have closed the client since this turn began, and waits for its end.
        is_final |= matches!(state.link, Link::Closed);
        if was_of_use {
            state.failures = 0;
        } else if is_round_over {
            state.failures = state.failures.saturating_add(1);
        }
        let endpoint = state.endpoint.clone();
        let mut loss = state.link_down(is_final, Some(&error));
        drop(state);
        self.shared.progress.notify_all();
        let unanswered = loss.unanswered();
        loss.tell();
        let Loss { unconfirmed, waiting, unsent, .. } = loss;
        if is_final {
            let disconnected =
                |execution| Error::lost(execution, std::io::Error::from(ErrorKind::NotConnected));
            let why = disconnected(Execution::Possible);
            self.shared.emit(&Event::Disconnected {
                error: why,
                endpoint,
                unanswered,
                unconfirmed,
                waiting,
            });
            let ended = match (unconfirmed, unsent) {
                (0, 0) => Ok(()),
                (0, _) => Err(disconnected(Execution::Never)),
                _ => Err(disconnected(Execution::Possible)),
            };
            self.end(Some(error), unsent, ended);
            return;
        }
        self.shared.emit(&Event::Disconnected {
            error,
            endpoint,
            unanswered,
            unconfirmed,
            waiting,
        });
        if is_round_over {
            let _ = self.servers().begin_round();
            self.schedule();
        } else {
            // The others come before a pause.
            self.next_attempt = Some(Instant::now());
        }
    }

    /// Returns whether the client ends with a connection that ended like this. Another server may take a
    /// token that this one takes no more.
    fn ends_client(&self, error: &Error) -> bool {
        let is_token = matches!(error, Error::Answered { code: ErrorCode::AuthFailed, .. });
        is_for_good(error) && !(is_token && self.servers().has_several())
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reconnect(&self) -> Reconnect {
        self.shared.options.reconnect.unwrap_or_default()
    }

    fn forget_link(&mut self) {
        if let Some(link) = self.link.take() {
            // A socket that was not registered any more is closed all the same.
            let _ = self.poll.registry().deregister(&mut SourceFd(&link.socket.as_raw_fd()));
        }
    }

    fn schedule(&mut self) {
        let failures = self.shared.lock().failures;
        let pause = self.reconnect().pause(failures, &mut self.random);
        let now = Instant::now();
        // A pause that no clock can express becomes a very long one.
        self.next_attempt = Some(now.checked_add(pause).unwrap_or(now + LONG));
    }

    /// Connects in a thread of its own, because connecting blocks, above all resolving names.
    fn attempt(&mut self) {
        let (sender, shared) = (self.attempts.0.clone(), Arc::clone(&self.shared));
        let servers = Arc::clone(&self.servers);
        let attempt = move || {
            let mut servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
            let connected = connect(&shared.options.connection, &mut servers);
            drop(servers);
            // If the driver has ended, no connection is needed.
            let _ = sender.send(connected);
            shared.wake();
        };
        let thread = std::thread::Builder::new().name("ipc-connect".into());
        match thread.spawn(attempt) {
            Ok(_) => {}
            Err(error) => self.failed(Error::System { doing: "a thread", source: error }),
        }
    }

    fn failed(&mut self, error: Error) {
        if self.is_closed() {
            return;
        }
        let _ = self.servers().begin_round();
        let mut state = self.shared.lock();
        state.failures = state.failures.saturating_add(1);
        drop(state);
        if is_for_good(&error) {
            self.close(Some(error));
            return;
        }
        self.schedule();
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let pause = self.next_attempt.map_or(Duration::ZERO, left);
        self.shared.emit(&Event::Unreachable { error, pause });
    }

    /// Writes queued messages, and waits for writability if the kernel takes no more.
    fn flush(&mut self) {
        let Some(link) = &mut self.link else { return };
        let mut state = self.shared.lock();
        if !state.outbox.has_queued() && link.interest == Interest::READABLE {
            return;
        }
        if state.holds_back {
            drop(state);
            std::thread::sleep(LINGER);
            state = self.shared.lock();
        }
        let (written, takes_more) = state.flush();
        drop(state);
        if written > 0 {
            link.has_written();
        }
        self.shared.progress.notify_all();
        let interest =
            if takes_more { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        if interest != link.interest {
            link.interest = interest;
            let fd = link.socket.as_raw_fd();
            // If this fails, the next heartbeat finds the connection dead.
            let _ = self.poll.registry().reregister(&mut SourceFd(&fd), SOCKET, interest);
        }
    }

    /// Closes the client for good, and tells all callers that wait.
    fn close(&mut self, error: Option<Error>) {
        let socket = self.link.as_ref().map(|link| Arc::clone(&link.socket));
        self.forget_link();
        let mut loss = self.shared.lock().link_down(true, None);
        loss.tell();
        let timeout = self.shared.options.connection.timeout;
        let ended = socket.map_or(Ok(()), |socket| socket.end(timeout));
        // If no message was on its way, none can be lost.
        let ended = match ended {
            Err(source) if loss.unconfirmed > 0 => Err(match source.kind() {
                ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                    Error::deadline("the end of the connection", timeout)
                }
                _ => Error::lost(Execution::Possible, source),
            }),
            _ => Ok(()),
        };
        self.end(error, loss.unsent, ended);
    }

    fn end(&mut self, error: Option<Error>, unsent: usize, ended: Result<(), Error>) {
        self.next_attempt = None;
        self.has_ended = true;
        let mut state = self.shared.lock();
        let routes = std::mem::take(&mut state.routes);
        let served = std::mem::take(&mut state.served);
        let ready = std::mem::take(&mut state.ready);
        let rest = state.rest.take();
        drop(state);
        drop((served, ready, rest));
        for route in routes.into_values() {
            route.close();
        }
        self.shared.emit(&Event::Closed { error, unsent });
        // Listeners may own the client itself, so they are dropped without the lock.
        let lock = self.shared.listeners.lock();
        let listeners = lock.unwrap_or_else(PoisonError::into_inner).take();
        drop(listeners);
        self.shared.lock().end = Some(ended);
        self.shared.progress.notify_all();
    }
}
