//! The state that callers of a client share with the thread that drives it.
//!
//! A caller writes to the socket itself if nothing is queued before its message. So a request costs
//! one wake-up more than on a blocking connection, that of the driver, which reads. Code of the
//! caller (serializers, handlers, callbacks, wakers) never runs, and its values are never dropped,
//! with the state locked.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::outbox::{Kind, Outgoing};
use super::shield::shielded;
use super::state::{Link, State};
use super::waiter::{Slot, Waiter};
use crate::client::client_options::{ClientOptions, WhileDisconnected};
use crate::client::error::{Error, Execution};
use crate::client::event::Event;
use crate::client::payload::Payload;
use crate::client::wire::encoder::{Encoder, Heading};
use crate::proto::{Extensions, Message};

/// The number of encoders that are kept, for threads that send at the same time.
const ENCODERS_KEPT: usize = 16;

/// Bytes that callers hold back at most, see [`Shared::set_batching`].
const BATCH_BYTES_MAX: usize = 64 << 10;

/// The longest wait for a driver that does not read, in steps.
const CATCH_UP_STEP: Duration = Duration::from_millis(50);
const CATCH_UP_STEPS: u32 = 100;

pub(crate) type Listener = Box<dyn FnMut(&Event) + Send>;

/// The shared part of a client, see the module.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Notified when the queue has room or is empty, when the last job is done, and at the end.
    pub(crate) progress: Condvar,
    pub(crate) waker: mio::Waker,
    pub(crate) options: ClientOptions,
    pub(crate) driver: std::sync::OnceLock<ThreadId>,
    /// `None` after the end.
    pub(crate) listeners: Mutex<Option<Vec<Listener>>>,
    encoders: Mutex<Vec<Encoder>>,
    is_batching: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The end of the time for a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) deadline: Option<Instant>,
    /// Set if the driver watches the deadline, and not the waiter.
    pub(crate) is_watched: bool,
    /// Set if the caller gave the deadline, and not the client's own timeout.
    pub(crate) is_given: bool,
}

impl Limit {
    /// The client's own timeout, which the driver watches.
    pub(crate) fn watched(deadline: Option<Instant>) -> Self {
        Self { deadline, is_watched: true, is_given: false }
    }

    /// The client's own timeout, which the waiter watches.
    fn waited_for(deadline: Option<Instant>) -> Self {
        Self { deadline, is_watched: false, is_given: false }
    }
}

/// An encoder that the calling thread has borrowed, and returns when this is dropped.
pub(crate) struct Lent<'a> {
    shared: &'a Shared,
    encoder: Option<Encoder>,
}

impl Deref for Lent<'_> {
    type Target = Encoder;

    fn deref(&self) -> &Encoder {
        self.encoder.as_ref().unwrap_or_else(|| unreachable!("until it is dropped"))
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Encoder {
        self.encoder.as_mut().unwrap_or_else(|| unreachable!("until it is dropped"))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut encoders = self.shared.encoders.lock().unwrap_or_else(PoisonError::into_inner);
        if encoders.len() < ENCODERS_KEPT {
            encoders.extend(self.encoder.take());
        }
    }
}

impl Shared {
    pub(crate) fn new(options: ClientOptions, encoder: Encoder, waker: mio::Waker) -> Self {
        Self {
            state: Mutex::new(State::new(&options)),
            progress: Condvar::new(),
            waker,
            options,
            driver: std::sync::OnceLock::new(),
            listeners: Mutex::new(Some(Vec::new())),
            encoders: Mutex::new(vec![encoder]),
            is_batching: AtomicBool::new(false),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn encoder(&self) -> Result<Lent<'_>, Error> {
        let kept = self.encoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let encoder = if let Some(encoder) = kept {
            encoder
        } else {
            let options = &self.options.connection;
            Encoder::new(&options.app_id, options.frame_bytes_max)?
        };
        Ok(Lent { shared: self, encoder: Some(encoder) })
    }

    /// Wakes the driver, so that it looks at the state. This fails only if the kernel lacks memory,
    /// and then the driver wakes up for its next heartbeat.
    pub(crate) fn wake(&self) {
        let _ = self.waker.wake();
    }

    /// Makes the driver end.
    pub(crate) fn abort(&self) {
        // The driver owns the socket too, so it is not closed here.
        let mut state = self.lock();
        if state.holds_back {
            state.flush();
        }
        state.link = Link::Closed;
        drop(state);
        self.wake();
    }

    /// While this is set, messages wait for others, to leave in one write with them: until it is
    /// set back, or for as long as the driver lingers.
    pub(crate) fn set_batching(&self, is_batching: bool) {
        if self.is_batching.swap(is_batching, Ordering::Relaxed) && !is_batching {
            let mut state = self.lock();
            if state.holds_back {
                self.send_held(&mut state);
            }
        }
    }

    fn send_held(&self, state: &mut State) {
        state.flush();
        if state.outbox.has_queued() {
            // The driver waits for room, or notices that the connection is lost.
            self.wake();
        }
        self.progress.notify_all();
    }

    pub(crate) fn is_driver(&self) -> bool {
        self.driver.get() == Some(&std::thread::current().id())
    }

    /// Sends a message that has no answer.
    pub(crate) fn post<T: Payload + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        kind: Kind,
    ) -> Result<(), Error> {
        let mut encoder = self.encoder()?;
        encoder.value(heading, payload)?;
        self.dispatch(&mut *self.room(kind)?, &mut encoder, kind, None)
    }

    /// Sends a message without changing it. Returns its id if that is a fresh one.
    pub(crate) fn post_message(
        &self,
        message: &Message,
        meta: Option<&[u8]>,
        kind: Kind,
    ) -> Result<Option<Uuid>, Error> {
        let mut encoder = self.encoder()?;
        let fresh = encoder.message(message, meta)?;
        self.dispatch(&mut *self.room(kind)?, &mut encoder, kind, None)?;
        Ok(fresh)
    }

    /// Sends a message whose answer goes to `waiter`.
    pub(crate) fn ask<T: Payload + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        kind: Kind,
        waiter: Waiter,
        limit: Limit,
    ) -> Result<Uuid, Error> {
        let mut encoder = self.encoder()?;
        let id = encoder.value(heading, payload)?;
        self.ask_encoded(&mut encoder, id, kind, waiter, limit)
    }

    /// Sends a request without changing it, under its own id, which is a UUID. See
    /// [`ask`](Self::ask).
    pub(crate) fn ask_message(
        &self,
        message: &Message,
        meta: Option<&[u8]>,
        id: Uuid,
        waiter: Waiter,
        limit: Limit,
    ) -> Result<Uuid, Error> {
        let mut encoder = self.encoder()?;
        encoder.message(message, meta)?;
        self.ask_encoded(&mut encoder, id, Kind::AnyConnection, waiter, limit)
    }

    pub(crate) fn ask_encoded(
        &self,
        encoder: &mut Encoder,
        id: Uuid,
        kind: Kind,
        waiter: Waiter,
        limit: Limit,
    ) -> Result<Uuid, Error> {
        let Limit { deadline, is_watched, is_given } = limit;
        let mut state = self.room(kind)?;
        if state.pending.contains(id) {
            return Err(Error::BadId { field: "message_id" });
        }
        state.pending.insert(id, waiter, deadline);
        if is_given {
            state.pending.note_given(id, encoder.meta_bytes() > 0 && deadline.is_some());
        }
        if let Err(error) = self.dispatch(&mut state, encoder, kind, Some(id)) {
            let unasked = state.pending.forget(id);
            drop(state);
            drop(unasked);
            return Err(error);
        }
        if is_watched {
            self.watch(&mut state, id);
        }
        Ok(id)
    }

    /// Makes the driver watch the deadline of a request.
    pub(crate) fn watch(&self, state: &mut State, id: Uuid) {
        if let Some(deadline) = state.pending.watch(id)
            && state.alarm.is_none_or(|alarm| deadline < alarm)
        {
            state.alarm = Some(deadline);
            if !self.is_driver() {
                self.wake();
            }
        }
    }

    /// Sends a message and blocks until its answer comes.
    pub(crate) fn ask_and_wait<T: Payload + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        kind: Kind,
        timeout: Duration,
    ) -> Result<Message, Error> {
        if self.is_driver() {
            return Err(Error::OnClientThread);
        }
        let begin = Instant::now();
        let slot = Arc::new(Slot::default());
        let waiter = Waiter::Slot(Arc::clone(&slot));
        let deadline = begin.checked_add(timeout);
        let id = self.ask(heading, payload, kind, waiter, Limit::waited_for(deadline))?;
        self.wait_for(&slot, id, begin, deadline)
    }

    /// Blocks until the answer to a request comes, or its deadline.
    pub(crate) fn wait_for(
        &self,
        slot: &Slot,
        id: Uuid,
        begin: Instant,
        deadline: Option<Instant>,
    ) -> Result<Message, Error> {
        // A timeout that no clock can express means no timeout.
        let deadline = deadline.unwrap_or(begin + Duration::from_secs(u32::MAX.into()));
        if let Some(answer) = slot.wait(deadline) {
            return answer;
        }
        self.catch_up();
        let mut state = self.lock();
        let is_begun = state.outbox.begun() == Some(id);
        let generation = state.generation;
        if let Some(forgotten) = state.pending.forget(id) {
            drop(state);
            let execution = if is_begun { Execution::Possible } else { forgotten.execution };
            if execution == Execution::Possible && !forgotten.is_told {
                self.send_cancel(id, generation);
            }
            let waited = deadline.duration_since(begin);
            return Err(Error::Deadline { waiting_for: "the answer", waited, execution });
        }
        drop(state);
        // The answer has come at this moment, and the thread that took the request out is about to
        // hand it over.
        let soon = Instant::now() + Duration::from_secs(60);
        slot.wait(soon).unwrap_or(Err(Error::lost(Execution::Possible, None)))
    }

    /// Returns once the driver has read everything that has arrived. A caller whose deadline passed
    /// looks again after this, because the process may have been stopped or busy, with the answer in
    /// the socket. Does not wait for a driver that is kept from reading, by a handler that blocks.
    pub(crate) fn catch_up(&self) {
        if self.is_driver() {
            return;
        }
        let mut state = self.lock();
        state.catch_ups.asked += 1;
        let asked = state.catch_ups.asked;
        self.wake();
        let mut steps_left = CATCH_UP_STEPS;
        // Steps and not a deadline: they do not pass while the process is stopped.
        while steps_left > 0
            && state.catch_ups.done < asked
            && matches!(state.link, Link::Up(_) | Link::Leaving(_))
        {
            let woken = self.progress.wait_timeout(state, CATCH_UP_STEP);
            let (locked, woken) = woken.unwrap_or_else(PoisonError::into_inner);
            state = locked;
            steps_left -= u32::from(woken.timed_out());
        }
    }

    /// Waits for room for another message, and returns the state locked, or an error that says why
    /// there is none.
    fn room(&self, kind: Kind) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.lock();
        let queue_bytes_max = self.options.queue_bytes_max;
        let begin = Instant::now();
        loop {
            if matches!(state.link, Link::Closed) {
                return Err(Error::Closed);
            }
            let waits_for_next =
                kind == Kind::AnyConnection && matches!(state.link, Link::Down | Link::Leaving(_));
            if waits_for_next && self.options.while_disconnected == WhileDisconnected::Fail {
                return Err(Error::Disconnected);
            }
            let has_room = |state: &State| match kind {
                Kind::AnyConnection => state.outbox.waiting_bytes() < queue_bytes_max,
                // Messages for the next connection do not count, because they stay until a server
                // that ends has its answers.
                Kind::ThisConnection => state.outbox.queue_bytes() < queue_bytes_max,
                Kind::Control | Kind::Refusal => true,
            };
            if has_room(&state) {
                return Ok(state);
            }
            state.drop_expired();
            if has_room(&state) {
                return Ok(state);
            }
            let left = self.options.connection.timeout.saturating_sub(begin.elapsed());
            if waits_for_next || self.is_driver() || left.is_zero() {
                return Err(Error::QueueFull { bytes_max: queue_bytes_max });
            }
            let woken = self.progress.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns whether an answer by this connection would not have to wait for room.
    pub(crate) fn has_room_for_answer(&self) -> bool {
        let state = self.lock();
        state.outbox.queue_bytes() < self.options.queue_bytes_max
            || matches!(state.link, Link::Closed)
    }

    /// Sends the frame that was encoded last, or queues it.
    pub(crate) fn dispatch(
        &self,
        state: &mut State,
        encoder: &mut Encoder,
        kind: Kind,
        request: Option<Uuid>,
    ) -> Result<(), Error> {
        if encoder.meta_bytes() > 0 {
            suit_meta(state, encoder, kind, request)?;
        }
        let mut sent = 0;
        // Behind messages that wait for room, there is nothing to hold back.
        let waits = self.is_batching.load(Ordering::Relaxed)
            && (state.holds_back || !state.outbox.has_queued());
        let for_this_link = match &state.link {
            Link::Up(socket) => {
                if !state.outbox.has_queued() && !waits {
                    // The driver notices a failed write too, and handles it.
                    sent = socket.send_frame(encoder.frame(), 0).unwrap_or_default();
                }
                true
            }
            Link::Leaving(_) => kind != Kind::AnyConnection,
            Link::Down if kind != Kind::AnyConnection => return Err(Error::Disconnected),
            Link::Down => false,
            Link::Closed => return Err(Error::Closed),
        };
        let frame_bytes = encoder.frame().len();
        let number = state.outbox.number();
        let meta_bytes = encoder.meta_bytes();
        if sent == frame_bytes {
            let kept = || (encoder.take_frame(), meta_bytes);
            state.pending.note_sent(kind, request, number, frame_bytes, kept);
            encoder.release();
            return Ok(());
        }
        if meta_bytes > 0
            && let Some(id) = request
        {
            state.pending.note_delayed(id);
        }
        let outgoing = Outgoing { frame: encoder.take_frame(), kind, request, number, meta_bytes };
        if for_this_link {
            state.outbox.queue(outgoing, sent);
            if !waits {
                // Otherwise what was held back leaves with it.
                state.holds_back = false;
                self.wake();
            } else if !state.holds_back {
                state.holds_back = true;
                self.wake();
            } else if state.outbox.queue_bytes() >= BATCH_BYTES_MAX {
                self.send_held(state);
            }
        } else {
            state.outbox.hold(outgoing);
        }
        Ok(())
    }

    /// Calls the event listeners. Must not be called with the state locked.
    pub(crate) fn emit(&self, event: &Event) {
        let lock = || self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        // The list is not locked during the calls, because a listener may add another one.
        let Some(mut listeners) = lock().as_mut().map(std::mem::take) else { return };
        for listener in &mut listeners {
            shielded(|| listener(event));
        }
        if let Some(newer) = lock().as_mut() {
            newer.splice(0..0, listeners);
        }
    }
}

/// Removes the `meta` of the frame that was encoded last if the connection does not take it. The
/// connection may have changed since the frame was encoded.
#[cold]
fn suit_meta(
    state: &State,
    encoder: &mut Encoder,
    kind: Kind,
    request: Option<Uuid>,
) -> Result<(), Error> {
    // Without a connection, the next one decides.
    let is_open = matches!(state.link, Link::Up(_) | Link::Leaving(_));
    if is_open && !state.extensions.contains(Extensions::TOPIC) && encoder.needs_topic() {
        return Err(Error::unsupported_topics());
    }
    if encoder.has_attachments() {
        // Their `meta` is no part to remove: it says where they belong.
        let is_refused = is_open && !state.extensions.contains(Extensions::BINARY);
        return if is_refused { Err(Error::unsupported_attachments()) } else { Ok(()) };
    }
    if !state.extensions.is_empty() {
        return Ok(());
    }
    let waiter = request.and_then(|id| state.pending.waiter(id));
    // A part of a stream, or a request for one, means nothing without it.
    let is_part = waiter.is_none() && kind == Kind::ThisConnection;
    if is_part || matches!(waiter, Some(Waiter::Stream(_))) {
        return Err(Error::unsupported_streams());
    }
    if encoder.has_headers() {
        return Err(Error::unsupported_headers());
    }
    encoder.strip_meta();
    Ok(())
}
