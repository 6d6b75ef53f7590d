//! What the threads that call a client share with the thread that drives it.
//!
//! A caller writes to the socket itself where nothing is queued before it, so that a request
//! costs one wake-up more than on the caller's own connection: that of the driver, which reads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use super::answer::Subscription;
use super::client_options::{ClientOptions, WhileDisconnected};
use super::encoder::{Encoder, Heading};
use super::error::{Error, Execution};
use super::event::Event;
use super::slot::{Slot, Waiter};
use super::state::{Kind, Link, Outgoing, Pending, Route, Sink, State};
use crate::broker::Message;
use crate::proto::MessageType;

pub(super) const SYSTEM: &str = "system";

pub(super) type Listener = Box<dyn FnMut(&Event) + Send>;

/// See the module.
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is room in the queue, or nothing in it, or no job any more.
    pub(super) progress: Condvar,
    pub(super) waker: mio::Waker,
    pub(super) options: ClientOptions,
    pub(super) driver: std::sync::OnceLock<ThreadId>,
    pub(super) listeners: Mutex<Vec<Listener>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(options: ClientOptions, encoder: Encoder, waker: mio::Waker) -> Self {
        Self {
            state: Mutex::new(State::new(encoder)),
            progress: Condvar::new(),
            waker,
            options,
            driver: std::sync::OnceLock::new(),
            listeners: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the driver look at the state. It cannot fail but by a lack of kernel memory, and
    /// then the driver wakes up for its next heartbeat.
    pub(super) fn wake(&self) {
        let _ = self.waker.wake();
    }

    pub(super) fn is_driver(&self) -> bool {
        self.driver.get() == Some(&std::thread::current().id())
    }

    /// Sends a message that nothing answers.
    pub(super) fn post<T: Serialize + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        kind: Kind,
    ) -> Result<(), Error> {
        let mut state = self.room(kind)?;
        state.encoder.value(heading, payload)?;
        self.dispatch(&mut state, kind, None)?;
        state.unconfirmed += u64::from(kind == Kind::Free);
        Ok(())
    }

    /// Sends a message whose answer goes to `waiter`.
    pub(super) fn ask<T: Serialize + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        kind: Kind,
        waiter: Waiter,
        timeout: Duration,
    ) -> Result<Uuid, Error> {
        let mut state = self.room(kind)?;
        let id = state.encoder.value(heading, payload)?;
        let begin = Instant::now();
        let is_watched = !matches!(waiter, Waiter::Slot(_));
        let deadline = begin.checked_add(timeout);
        state.pending.insert(id, Pending { waiter, deadline, begin, left: false });
        if let Err(error) = self.dispatch(&mut state, kind, Some(id)) {
            state.pending.remove(&id);
            return Err(error);
        }
        if let Some(deadline) = deadline.filter(|_| is_watched) {
            state.watch(id, deadline, self);
        }
        Ok(id)
    }

    /// As [`ask`](Self::ask), for a future: a slot whose deadline the driver watches.
    pub(super) fn ask_watched<T: Serialize + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        slot: Arc<Slot>,
        timeout: Duration,
    ) -> Result<(), Error> {
        let id = self.ask(heading, payload, Kind::Free, Waiter::Slot(slot), timeout)?;
        let mut state = self.lock();
        if let Some(deadline) = state.pending.get(&id).and_then(|pending| pending.deadline) {
            state.watch(id, deadline, self);
        }
        Ok(())
    }

    /// Sends a message and blocks until it is answered.
    pub(super) fn ask_and_wait<T: Serialize + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        timeout: Duration,
    ) -> Result<Message, Error> {
        if self.is_driver() {
            return Err(Error::OnClientThread);
        }
        let begin = Instant::now();
        let slot = Arc::new(Slot::default());
        let waiter = Waiter::Slot(Arc::clone(&slot));
        let id = self.ask(heading, payload, Kind::Free, waiter, timeout)?;
        // What no clock can express is forever.
        let deadline = begin.checked_add(timeout);
        let deadline = deadline.unwrap_or(begin + Duration::from_secs(u32::MAX.into()));
        if let Some(answer) = slot.wait(deadline) {
            return answer;
        }
        let mut state = self.lock();
        if state.forget(id).is_some() {
            return Err(Error::Deadline { waiting_for: "the answer", waited: timeout });
        }
        drop(state);
        // It came in this very moment, and whoever took it out is about to hand it over.
        let soon = Instant::now() + Duration::from_secs(60);
        slot.wait(soon).unwrap_or(Err(Error::lost(Execution::Possible, None)))
    }

    /// The state once there is room for another message, or an error that says why not.
    fn room(&self, kind: Kind) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.lock();
        let queue_bytes_max = self.options.queue_bytes_max;
        let begin = Instant::now();
        loop {
            let waits = match state.link {
                Link::Closed => return Err(Error::Closed),
                Link::Up(_) => state.waiting_bytes >= queue_bytes_max,
                // Answers are what a server that ends still waits for.
                Link::Leaving(_) if kind == Kind::Bound => false,
                Link::Down | Link::Leaving(_) => {
                    match self.options.while_disconnected {
                        WhileDisconnected::Fail => return Err(Error::Disconnected),
                        WhileDisconnected::Wait if state.waiting_bytes >= queue_bytes_max => {
                            return Err(Error::QueueFull { bytes_max: queue_bytes_max });
                        }
                        WhileDisconnected::Wait => {}
                    }
                    false
                }
            };
            if !waits {
                return Ok(state);
            }
            let left = self.options.connection.timeout.saturating_sub(begin.elapsed());
            if self.is_driver() || left.is_zero() {
                return Err(Error::QueueFull { bytes_max: queue_bytes_max });
            }
            let woken = self.progress.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes the frame that was encoded last, or queues it.
    fn dispatch(&self, state: &mut State, kind: Kind, request: Option<Uuid>) -> Result<(), Error> {
        let mut sent = 0;
        let for_this_link = match &state.link {
            Link::Up(socket) => {
                if state.queue.is_empty() {
                    // A failure is seen by the driver too, which does what is to be done.
                    sent = socket.send(state.encoder.frame()).unwrap_or_default();
                }
                true
            }
            Link::Leaving(_) => kind == Kind::Bound,
            Link::Down if kind == Kind::Bound => return Err(Error::Disconnected),
            Link::Down => false,
            Link::Closed => return Err(Error::Closed),
        };
        if sent == state.encoder.frame().len() {
            state.left(request);
            return Ok(());
        }
        let outgoing = Outgoing { frame: state.encoder.frame().to_vec(), kind, request };
        state.waiting_bytes += outgoing.frame.len();
        if for_this_link {
            if state.queue.is_empty() {
                state.head_sent = sent;
            }
            state.queue.push_back(outgoing);
            self.wake();
        } else {
            state.held.push_back(outgoing);
        }
        Ok(())
    }

    /// Listens to a channel; a first subscriber tells the server.
    pub(super) fn listen(
        &self,
        channel_id: &str,
        sink: Sink,
        subscribes: bool,
    ) -> Result<u64, Error> {
        super::encoder::check_id("channel_id", channel_id)?;
        let mut state = self.lock();
        if matches!(state.link, Link::Closed) {
            return Err(Error::Closed);
        }
        state.next_key += 1;
        let key = state.next_key;
        let route = state.routes.entry(channel_id.to_owned()).or_default();
        route.listeners.push((key, sink));
        if subscribes && !std::mem::replace(&mut route.is_subscribed, true) {
            self.subscription(&mut state, MessageType::Subscribe, channel_id)?;
        }
        Ok(key)
    }

    pub(super) fn remove_listener(&self, channel_id: &str, key: u64) {
        let mut state = self.lock();
        let Some(route) = state.routes.get_mut(channel_id) else { return };
        let Some(at) = route.listeners.iter().position(|(of, _)| *of == key) else { return };
        let listener = route.listeners.remove(at);
        let is_last = route.listeners.is_empty();
        let route = if is_last { self.remove_route(&mut state, channel_id) } else { None };
        drop(state);
        // Not with the state locked: a handler may own what locks it when dropped.
        drop((listener, route));
    }

    pub(super) fn unsubscribe(&self, channel_id: &str) {
        let route = self.remove_route(&mut self.lock(), channel_id);
        drop(route);
    }

    fn remove_route(&self, state: &mut State, channel_id: &str) -> Option<Route> {
        let route = state.routes.remove(channel_id)?;
        route.close();
        if route.is_subscribed {
            // Disconnected, there is nothing to be taken back.
            let _ = self.subscription(state, MessageType::Unsubscribe, channel_id);
        }
        Some(route)
    }

    fn subscription(
        &self,
        state: &mut State,
        message_type: MessageType,
        channel_id: &str,
    ) -> Result<(), Error> {
        if !matches!(state.link, Link::Up(_)) {
            // Restored with the next connection.
            return Ok(());
        }
        let heading = Heading::new(message_type, channel_id);
        let State { encoder, connection_id, .. } = &mut *state;
        encoder.value(heading, &Subscription { connection_id, ack: false })?;
        self.dispatch(state, Kind::Bound, None)
    }

    /// Tells those who listen to events. Not to be called with the state locked.
    pub(super) fn emit(&self, event: &Event) {
        let lock = || self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        // Not locked meanwhile: a listener may bring another one.
        let mut listeners = std::mem::take(&mut *lock());
        for listener in &mut listeners {
            shielded(|| listener(event));
        }
        lock().splice(0..0, listeners);
    }
}

/// Runs what the caller gave us. A panic of its is its own affair, told by the panic hook; the
/// client lives on.
pub(super) fn shielded(run: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(run));
}
