//! The methods that serve channels, and the one that closes the client in good order.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::background::outbox::Kind;
use super::background::state::{Link, Service};
use super::background::worker::{Responder, Worker};
use super::call::Request;
use super::client::Client;
use super::error::{Error, Execution};
use super::part_sender::PartSender;
use super::payload::Payload;
use super::serve_options::ServeOptions;
use super::wire::encoder::{Heading, check_id};
use crate::handler_error::HandlerError;
use crate::proto::Message;
use crate::proto::MessageType;
use crate::proto::system::{SYSTEM, Serve};

impl Client {
    /// Becomes a worker of the channel: `threads` threads call `handler` for its requests and send
    /// the values that it returns. An error or a panic is answered with `handler_failed`. For
    /// notifications the returned value is dropped. If the handler needs the client it should own a
    /// [`WeakClient`](super::WeakClient), because a clone would keep the client alive.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request). The published server has no workers: there this
    /// returns [`Error::Deadline`].
    pub fn serve<T, F>(&self, channel_id: &str, threads: usize, handler: F) -> Result<(), Error>
    where
        T: Payload,
        F: Fn(&Request) -> Result<T, HandlerError> + Send + Sync + 'static,
    {
        self.serve_with(channel_id, &ServeOptions::default().concurrency(threads), handler)
    }

    /// As [`serve`](Self::serve), with options. If a handler takes more than a millisecond, a
    /// [`prefetch`](ServeOptions::prefetch) of 0 has several workers share the requests:
    ///
    /// ```no_run
    /// # use ipc_framework::client::{ClientOptions, ServeOptions};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # fn infer(_: String) -> Result<f64, ipc_framework::HandlerError> { Ok(0.5) }
    /// // Two processes of this kind share the requests; a third one helps as soon as it is started.
    /// let client = ClientOptions::new("models").connect()?;
    /// let slow = ServeOptions::default().concurrency(2).prefetch(0);
    /// client.serve_with("model", &slow, |request| infer(request.payload.decode()?))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_with<T, F>(
        &self,
        channel_id: &str,
        options: &ServeOptions,
        handler: F,
    ) -> Result<(), Error>
    where
        T: Payload,
        F: Fn(&Request) -> Result<T, HandlerError> + Send + Sync + 'static,
    {
        self.serve_by_threads(channel_id, options, move |request, responder| {
            // An answer that cannot be sent was replaced by the reason, or its connection is gone.
            let _ = match handler(&request) {
                Ok(payload) => responder.reply(&payload),
                Err(error) => responder.refuse(&error),
            };
        })
    }

    /// Becomes a worker of the channel that answers in parts: `threads` threads call `handler` for
    /// its requests, which sends each part as soon as there is one, see [`PartSender`]. A requester
    /// that does not take parts gets the array of all of them. The handler should end when sending
    /// fails, because then nobody wants the rest; an error that it returns ends the answer.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_stream<F>(&self, channel_id: &str, threads: usize, handler: F) -> Result<(), Error>
    where
        F: Fn(&Request, &mut PartSender) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        self.serve_stream_with(channel_id, &ServeOptions::default().concurrency(threads), handler)
    }

    /// As [`serve_stream`](Self::serve_stream), with options.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_stream_with<F>(
        &self,
        channel_id: &str,
        options: &ServeOptions,
        handler: F,
    ) -> Result<(), Error>
    where
        F: Fn(&Request, &mut PartSender) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        self.serve_by_threads(channel_id, options, move |request, responder| {
            let mut parts = responder.parts();
            // As above.
            let _ = match handler(&request, &mut parts) {
                Ok(()) => parts.end(),
                Err(error) => parts.fail(&error),
            };
        })
    }

    fn serve_by_threads(
        &self,
        channel_id: &str,
        options: &ServeOptions,
        handler: impl Fn(Request, Responder) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        check_id("channel_id", channel_id)?;
        let (threads, announced) = (options.concurrency, options.announced());
        let handler = move |message, responder: Responder| {
            handler(Request::new(message, responder.call()), responder);
        };
        let worker: Arc<dyn Service> = Worker::threads(self.shared(), threads, announced, handler)?;
        self.serve_by(channel_id, &worker)
    }

    /// Becomes a worker of the channel that answers later. `handler` is called on the client's
    /// thread, must not block, and passes the [`Responder`] to whatever will answer, such as
    /// another thread or an async runtime. At most `concurrency` requests are unanswered at a time;
    /// others wait.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_deferred(
        &self,
        channel_id: &str,
        concurrency: usize,
        handler: impl Fn(Message, Responder) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let options = ServeOptions::default().concurrency(concurrency);
        self.serve_deferred_with(channel_id, &options, handler)
    }

    /// As [`serve_deferred`](Self::serve_deferred), with options.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_deferred_with(
        &self,
        channel_id: &str,
        options: &ServeOptions,
        handler: impl Fn(Message, Responder) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.serve_through(channel_id, options.concurrency, options.announced(), handler)
    }

    /// As [`serve_deferred`](Self::serve_deferred), for a handler that bounds by itself what it is
    /// passed, all of it at once, and announces another number to the server.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    #[doc(hidden)]
    pub fn serve_through(
        &self,
        channel_id: &str,
        concurrency: usize,
        announced: Option<u32>,
        handler: impl Fn(Message, Responder) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        check_id("channel_id", channel_id)?;
        let worker: Arc<dyn Service> =
            Worker::deferred(self.shared(), concurrency, announced, Box::new(handler));
        self.serve_by(channel_id, &worker)
    }

    fn serve_by(&self, channel_id: &str, worker: &Arc<dyn Service>) -> Result<(), Error> {
        // Inserted before the server is asked: the first request may come with the server's answer.
        let newer = Arc::clone(worker);
        let older = self.shared().lock().served.insert(channel_id.to_owned(), newer);
        match self.system(&Serve::start(channel_id).concurrency(worker.announced())) {
            Ok(_serving) => Ok(()),
            // The next connection restores it like all served channels.
            Err(Error::Lost { .. }) if self.shared().options.reconnect.is_some() => Ok(()),
            Err(error) => {
                self.unserve(channel_id, worker, older);
                Err(error)
            }
        }
    }

    /// Restores the worker that was replaced by one that the server did not accept.
    fn unserve(
        &self,
        channel_id: &str,
        worker: &Arc<dyn Service>,
        older: Option<Arc<dyn Service>>,
    ) {
        let mut state = self.shared().lock();
        // Nothing is restored after the end, or if another thread has served the channel meanwhile.
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

    /// Ends being a worker of the channel. Requests that have arrived are still answered.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request); even then the client accepts no more requests.
    pub fn stop_serving(&self, channel_id: &str) -> Result<(), Error> {
        check_id("channel_id", channel_id)?;
        self.stop_since(channel_id, Instant::now())
    }

    /// As [`stop_serving`](Self::stop_serving), with the rest of a timeout that started at `begin`.
    fn stop_since(&self, channel_id: &str, begin: Instant) -> Result<(), Error> {
        let stopped = self.tell_stop(channel_id, begin);
        // The worker is removed last, because requests may come until the answer does.
        let worker = self.shared().lock().served.remove(channel_id);
        drop(worker);
        stopped
    }

    fn tell_stop(&self, channel_id: &str, begin: Instant) -> Result<(), Error> {
        let shared = self.shared();
        loop {
            let heading = Heading::new(MessageType::Request, SYSTEM);
            let stop = Serve::stop(channel_id);
            // This waits neither for room in the queue nor for a connection: on the next connection
            // the channel would not be served at all.
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

    /// Drains and closes the client: it accepts no more requests to serve, answers those it has,
    /// sends the messages that wait, and ends the connection and all threads. If this returns
    /// without an error, the server has processed everything that was sent. Requests of other
    /// threads that have no answer by then fail with [`Error::Lost`]; calls on a closed client fail
    /// with [`Error::Closed`].
    ///
    /// # Errors
    /// [`Error::Deadline`] if this takes longer than a request may, or the first error on the way;
    /// the client is closed all the same. [`Error::OnClientThread`] in a handler of a subscription
    /// or of a served channel, which would wait for itself; then nothing is done.
    #[doc(alias = "disconnect")]
    pub fn close(&self) -> Result<(), Error> {
        if self.is_own_thread() {
            return Err(Error::OnClientThread);
        }
        let shared = self.shared();
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
            // An error does not keep the other channels from being drained.
            result = result.and(self.stop_since(&channel_id, begin));
            threads.extend(worker.take_threads());
        }
        result = result.and(self.drain(deadline));
        // Another thread may have sent something meanwhile that waits for others.
        shared.abort();
        let thread = self.owner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Panics of handlers are caught in the thread, and the panic hook has reported one of
            // its own.
            let _ = thread.join();
        }
        let ended = self.wait_for_end(deadline);
        if !Worker::join(threads, is_over) {
            result = result.and(Err(Error::deadline("the end of a handler", timeout)));
        }
        result.and(ended)
    }

    /// Returns whether the calling thread runs a handler of this client, which must not wait for
    /// its own end.
    pub(super) fn is_own_thread(&self) -> bool {
        self.shared().is_driver() || Worker::is_own_thread(self.shared())
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
                    Link::Down => ("a connection for the waiting messages", Execution::Never),
                    _ => ("room at the server for the waiting messages", Execution::Possible),
                };
                return Err(Error::Deadline { waiting_for, waited, execution });
            }
            let woken = shared.progress.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the driver, because another thread may be closing the client.
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
