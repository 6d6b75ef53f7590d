//! What a client serves, and its end in good order.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::background::outbox::Kind;
use super::background::state::{Link, Service};
use super::background::worker::{Responder, Worker};
use super::client::Client;
use super::error::{Error, Execution};
use super::payload::Payload;
use super::wire::encoder::{Heading, check_id};
use crate::handler_error::HandlerError;
use crate::proto::Message;
use crate::proto::MessageType;
use crate::proto::system::{SYSTEM, Serve};

impl Client {
    /// Becomes a worker of the channel: `threads` threads call `handler` for its requests, and
    /// send what it returns. An error or a panic is answered as `handler_failed`. For
    /// notifications the result is dropped. A handler that needs the client takes a
    /// [`WeakClient`](super::WeakClient), for a clone would keep it alive.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request). The published server has no workers: there it
    /// is [`Error::Deadline`].
    pub fn serve<T, F>(&self, channel_id: &str, threads: usize, handler: F) -> Result<(), Error>
    where
        T: Payload,
        F: Fn(&Message) -> Result<T, HandlerError> + Send + Sync + 'static,
    {
        check_id("channel_id", channel_id)?;
        self.serve_by(channel_id, Worker::threads(self.shared(), threads, handler)?)
    }

    /// Becomes a worker of the channel that answers later: `handler` is called on the client's
    /// thread, must not block, and gives the [`Responder`] to whoever will answer, another thread
    /// or a runtime. No more than `concurrency` requests are unanswered at a time; others wait.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_deferred(
        &self,
        channel_id: &str,
        concurrency: usize,
        handler: impl Fn(Message, Responder) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        check_id("channel_id", channel_id)?;
        let worker = Worker::deferred(self.shared(), concurrency, Box::new(handler));
        self.serve_by(channel_id, worker)
    }

    fn serve_by(&self, channel_id: &str, worker: Arc<dyn Service>) -> Result<(), Error> {
        // Inserted before the server is asked: the first request may come with the server's answer.
        let newer = Arc::clone(&worker);
        let older = self.shared().lock().served.insert(channel_id.to_owned(), newer);
        match self.system(&Serve::start(channel_id)) {
            Ok(_serving) => Ok(()),
            // With the next connection it is taken up like all others.
            Err(Error::Lost { .. }) if self.shared().options.reconnect.is_some() => Ok(()),
            Err(error) => {
                self.unserve(channel_id, &worker, older);
                Err(error)
            }
        }
    }

    /// Puts back what a worker replaced that the server does not admit.
    fn unserve(
        &self,
        channel_id: &str,
        worker: &Arc<dyn Service>,
        older: Option<Arc<dyn Service>>,
    ) {
        let mut state = self.shared().lock();
        // Neither after the end nor where another thread has put its own there.
        let unused = match state.served.get_mut(channel_id) {
            Some(current) if Arc::ptr_eq(current, worker) => match older {
                Some(older) => Some(std::mem::replace(current, older)),
                None => state.served.remove(channel_id),
            },
            _ => older,
        };
        drop(state);
        drop(unused);
    }

    /// Is a worker of the channel no longer. What it has is still answered.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request); all the same this client answers none but those
    /// it has.
    pub fn stop_serving(&self, channel_id: &str) -> Result<(), Error> {
        check_id("channel_id", channel_id)?;
        self.stop_since(channel_id, Instant::now())
    }

    /// As [`stop_serving`](Self::stop_serving), with what is left of the time that began then.
    fn stop_since(&self, channel_id: &str, begin: Instant) -> Result<(), Error> {
        let stopped = self.tell_stop(channel_id, begin);
        // Last, for requests may come until the answer does.
        let worker = self.shared().lock().served.remove(channel_id);
        drop(worker);
        stopped
    }

    fn tell_stop(&self, channel_id: &str, begin: Instant) -> Result<(), Error> {
        let shared = self.shared();
        loop {
            let heading = Heading::new(MessageType::Request, SYSTEM);
            let stop = Serve::stop(channel_id);
            // It waits neither for room nor for a connection: the next would not serve at all.
            let timeout = shared.options.connection.timeout.saturating_sub(begin.elapsed());
            let error = match shared.ask_and_wait(heading, &stop, Kind::Control, timeout) {
                Ok(_stopped) => return Ok(()),
                Err(error) => error,
            };
            if !matches!(error, Error::Disconnected | Error::Lost { .. } | Error::Closed) {
                return Err(error);
            }
            let mut state = shared.lock();
            if matches!(state.link, Link::Down | Link::Closed) {
                let worker = state.served.remove(channel_id);
                drop(state);
                drop(worker);
                return Ok(());
            }
        }
    }

    /// Drains and closes: takes no more requests to serve, answers those it has, sends what
    /// waits, and ends the connection and all threads. When it returns without an error, the
    /// server has processed all that was sent. Requests of other threads that are without an
    /// answer then fail with [`Error::Lost`]; on a closed client all else is [`Error::Closed`].
    ///
    /// # Errors
    /// [`Error::Deadline`] if that took longer than a request may, or the first error on the way:
    /// it is closed all the same. [`Error::OnClientThread`] in a handler, be it of a
    /// subscription or of a served channel, which it would wait for: nothing is done then.
    #[doc(alias = "disconnect")]
    pub fn close(&self) -> Result<(), Error> {
        let shared = self.shared();
        if shared.is_driver() || Worker::is_own_thread(shared) {
            return Err(Error::OnClientThread);
        }
        let timeout = shared.options.connection.timeout;
        let begin = Instant::now();
        let deadline = begin.checked_add(timeout);
        let is_over = || deadline.is_some_and(|deadline| deadline <= Instant::now());
        let served: Vec<(String, Arc<dyn Service>)> = {
            let state = shared.lock();
            state.served.iter().map(|(id, worker)| (id.clone(), Arc::clone(worker))).collect()
        };
        let mut result = Ok(());
        let mut threads = Vec::new();
        for (channel_id, worker) in served {
            // The rest is drained all the same.
            result = result.and(self.stop_since(&channel_id, begin));
            threads.extend(worker.take_threads());
        }
        result = result.and(self.drain(deadline));
        shared.lock().link = Link::Closed;
        shared.wake();
        let thread = self.owner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It catches what handlers do; a panic of its own was told by the panic hook.
            let _ = thread.join();
        }
        let ended = self.wait_for_end(deadline);
        if !Worker::join(threads, is_over) {
            result = result.and(Err(Error::deadline("the end of a handler", timeout)));
        }
        result.and(ended)
    }

    fn drain(&self, deadline: Option<Instant>) -> Result<(), Error> {
        let shared = self.shared();
        let waited = shared.options.connection.timeout;
        let mut state = shared.lock();
        loop {
            state.drop_expired();
            let is_sent = !state.outbox.has_queued() && state.outbox.held() == 0;
            if (state.jobs == 0 && is_sent) || matches!(state.link, Link::Closed) {
                return Ok(());
            }
            let left = deadline.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                let (waiting_for, execution) = match state.link {
                    _ if state.jobs > 0 => ("the last answer", Execution::Possible),
                    Link::Down => ("a connection for what waits", Execution::Never),
                    _ => ("room at the server for what waits", Execution::Possible),
                };
                return Err(Error::Deadline { waiting_for, waited, execution });
            }
            let woken = shared.progress.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Another thread may have closed it, and still be at it.
    fn wait_for_end(&self, deadline: Option<Instant>) -> Result<(), Error> {
        let shared = self.shared();
        let waited = shared.options.connection.timeout;
        let mut state = shared.lock();
        loop {
            if let Some(ended) = &mut state.end {
                return std::mem::replace(ended, Ok(()));
            }
            let left = deadline.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Err(Error::deadline("the end of the connection", waited));
            }
            let woken = shared.progress.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
