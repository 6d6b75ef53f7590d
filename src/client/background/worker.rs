//! A served channel: requests wait, are handed to the handler, and are answered.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::outbox::Kind;
use super::shared::Shared;
use super::shield::shielded;
use super::state::{Link, Service};
use crate::client::error::Error;
use crate::client::payload::Payload;
use crate::client::wire::encoder::Heading;
use crate::handler_error::{HandlerError, shortened};
use crate::proto::Message;
use crate::proto::system::Failure;
use crate::proto::{ErrorCode, MessageType};

/// Requests that may wait for the handler. The server's own limit for all workers of a channel is
/// far higher.
const WAITING_MAX: usize = 4096;
/// The pause between checks whether a thread has ended, because nothing announces that.
const JOIN_PAUSE: Duration = Duration::from_millis(1);
/// The error that a requester gets when the handler panicked.
const PANICKED: &str = "the handler panicked; see the worker's output";

thread_local! {
    /// The address of the client whose handlers this thread runs.
    static SERVES: Cell<usize> = const { Cell::new(0) };
}

type Handler = Box<dyn Fn(Message, Responder) + Send + Sync>;

pub(crate) struct Worker {
    shared: Weak<Shared>,
    handler: Handler,
    /// Set where the handler only passes requests on to threads. Then whoever answers a request
    /// may hand out the next one; otherwise only the driver may.
    passes_on: bool,
    concurrency: usize,
    /// See [`Service::announced`].
    announced: Option<u32>,
    queue: Mutex<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Message, u64)>,
    waiting_bytes: usize,
    /// Requests handed out and not answered yet.
    running: usize,
    /// A thread is handing out requests.
    is_starting: bool,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("concurrency", &self.concurrency).finish_non_exhaustive()
    }
}

impl Worker {
    pub(crate) fn deferred(
        shared: &Arc<Shared>,
        concurrency: usize,
        announced: Option<u32>,
        handler: Handler,
    ) -> Arc<Self> {
        Self::new(shared, concurrency, announced, handler, false)
    }

    /// Starts that many threads. They end when the worker is dropped.
    pub(crate) fn threads<T, F>(
        shared: &Arc<Shared>,
        threads: usize,
        announced: Option<u32>,
        handler: F,
    ) -> Result<Arc<Self>, Error>
    where
        T: Payload,
        F: Fn(&Message) -> Result<T, HandlerError> + Send + Sync + 'static,
    {
        let (jobs, taken) = channel();
        // The threads end when the sender is dropped, which the worker owns.
        let pass_on = move |message, responder| drop(jobs.send((message, responder)));
        let worker = Self::new(shared, threads, announced, Box::new(pass_on), true);
        let taken = Arc::new(Mutex::new(taken));
        let handler = Arc::new(handler);
        for _ in 0..worker.concurrency {
            let (taken, handler) = (Arc::clone(&taken), Arc::clone(&handler));
            let serves = Arc::as_ptr(shared) as usize;
            let thread = std::thread::Builder::new()
                .name("ipc-worker".into())
                .spawn(move || {
                    SERVES.set(serves);
                    work(&taken, &*handler);
                })
                .map_err(Error::system("a thread"))?;
            worker.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(worker)
    }

    fn new(
        shared: &Arc<Shared>,
        concurrency: usize,
        announced: Option<u32>,
        handler: Handler,
        passes_on: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::downgrade(shared),
            handler,
            passes_on,
            concurrency: concurrency.max(1),
            announced,
            queue: Mutex::default(),
            threads: Mutex::default(),
        })
    }

    /// Returns whether the calling thread belongs to a worker of this client.
    pub(crate) fn is_own_thread(shared: &Arc<Shared>) -> bool {
        SERVES.get() == Arc::as_ptr(shared) as usize
    }

    /// Waits for the threads of workers that have been dropped. False if `is_over` before that.
    pub(crate) fn join(threads: Vec<JoinHandle<()>>, is_over: impl Fn() -> bool) -> bool {
        for thread in threads {
            while !thread.is_finished() {
                if is_over() {
                    return false;
                }
                std::thread::sleep(JOIN_PAUSE);
            }
            // A panic of a handler was caught in the thread.
            let _ = thread.join();
        }
        true
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(self: &Arc<Self>, message: Message, generation: u64) {
        let job = Job::new(&message, generation);
        let is_void = |shared: Arc<Shared>| {
            let state = shared.lock();
            state.generation != generation || matches!(state.link, Link::Closed)
        };
        // The server has told the requester of an older connection that the worker is lost, and
        // the requester may have asked again.
        if job.is_request() && self.shared.upgrade().is_none_or(is_void) {
            self.queue().running -= 1;
            return;
        }
        let responder = Responder { job: Some(job), worker: Arc::clone(self) };
        shielded(|| (self.handler)(message, responder));
    }

    /// Makes room for the next request after one was answered.
    fn finished(self: &Arc<Self>, shared: &Shared) {
        let mut queue = self.queue();
        queue.running -= 1;
        let is_next = !queue.waiting.is_empty() && !queue.is_starting;
        drop(queue);
        if is_next && (self.passes_on || shared.is_driver()) {
            Arc::clone(self).start();
        } else if is_next {
            let mut state = shared.lock();
            // After the end no driver would take it out again.
            if !matches!(state.link, Link::Closed) {
                state.ready.push(Arc::clone(self) as Arc<dyn Service>);
                shared.wake();
            }
        }
    }
}

impl Service for Worker {
    fn take(self: Arc<Self>, message: Message, generation: u64) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.lock().jobs += 1;
        let bytes = size(&message);
        let mut queue = self.queue();
        let is_full = queue.waiting.len() >= WAITING_MAX
            || (!queue.waiting.is_empty()
                && queue.waiting_bytes + bytes > shared.options.unread_bytes_max);
        if is_full {
            drop(queue);
            let job = Job::new(&message, generation);
            if job.is_request() {
                let text = "the worker has too much to do; try again";
                job.refuse(&shared, ErrorCode::LimitExceeded, text);
            } else {
                shared.lock().missed_notifications += 1;
            }
            job.finish(&shared);
            return;
        }
        queue.waiting_bytes += bytes;
        queue.waiting.push_back((message, generation));
        drop(queue);
        self.start();
    }

    fn announced(&self) -> Option<u32> {
        self.announced
    }

    fn start(self: Arc<Self>) {
        let mut queue = self.queue();
        // The thread that is handing out, which may be further up on this very stack, looks again.
        if std::mem::replace(&mut queue.is_starting, true) {
            return;
        }
        while queue.running < self.concurrency
            && let Some((message, generation)) = queue.waiting.pop_front()
        {
            queue.waiting_bytes -= size(&message);
            queue.running += 1;
            drop(queue);
            self.hand_out(message, generation);
            queue = self.queue();
        }
        queue.is_starting = false;
    }

    fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn size(message: &Message) -> usize {
    message.payload.as_str().len() + message.channel_id.len() + message.message_id.len()
}

fn work<T: Payload>(
    taken: &Mutex<Receiver<(Message, Responder)>>,
    handler: &(impl Fn(&Message) -> Result<T, HandlerError> + Send + Sync),
) {
    loop {
        let job = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((message, responder)) = job else { return };
        // A panic drops the responder, which reports it to the requester.
        shielded(|| {
            // An answer that cannot be sent was replaced by the reason, or its connection is gone.
            let _ = match handler(&message) {
                Ok(payload) => responder.reply(&payload),
                Err(error) => responder.refuse(&error),
            };
        });
    }
}

/// The part of a message that its answer needs.
#[derive(Debug)]
struct Job {
    channel_id: String,
    /// The id of a request. A notification has none, because it is never answered.
    message_id: Option<String>,
    /// The connection by which it came. An answer by another one would reach nobody.
    generation: u64,
}

impl Job {
    fn new(message: &Message, generation: u64) -> Self {
        let is_request = message.message_type == MessageType::Request;
        let message_id = is_request.then(|| message.message_id.clone());
        Self { channel_id: message.channel_id.clone(), message_id, generation }
    }

    fn is_request(&self) -> bool {
        self.message_id.is_some()
    }

    /// Sends the answer, unless its connection is gone: then the server has told the requester.
    fn send<T: Payload + ?Sized>(
        &self,
        shared: &Shared,
        payload: &T,
        kind: Kind,
    ) -> Result<(), Error> {
        let Some(message_id) = &self.message_id else { return Ok(()) };
        if shared.lock().generation != self.generation {
            return Ok(());
        }
        let heading = Heading::answer(&self.channel_id, message_id);
        match shared.post(heading, payload, kind) {
            Err(Error::Closed | Error::Disconnected | Error::Lost { .. }) => Ok(()),
            sent => sent,
        }
    }

    fn refuse(&self, shared: &Shared, code: ErrorCode, text: &str) {
        // So small an answer fails only for lack of random bytes. Then the requester's timeout at
        // the server answers it.
        let _ = self.send(shared, &Failure::new(code, text), Kind::Refusal);
    }

    /// Takes it from the number of jobs that a drain waits for.
    fn finish(&self, shared: &Shared) {
        let mut state = shared.lock();
        if state.generation == self.generation {
            state.jobs = state.jobs.saturating_sub(1);
        }
        drop(state);
        shared.progress.notify_all();
    }
}

/// Answers one request of a channel that is [served](crate::client::Client::serve_deferred), from
/// any thread. Dropped without an answer, it answers `handler_failed`. It does nothing if the
/// requester, or the connection by which the request came, is gone, or if the message was a
/// notification; a notification counts towards the concurrency until this is used or dropped.
///
/// ```
/// # use ipc_framework::client::{ClientOptions, Endpoint};
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config::default().port(0))?;
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
/// # let mut options = ClientOptions::new("app");
/// # options.connection.endpoint = Endpoint::tcp("localhost", port);
/// let worker = options.connect()?;
/// worker.serve_deferred("square", 100, |request, responder| {
///     // On the client's own thread, so do not work here: let another thread, or a runtime, do.
///     std::thread::spawn(move || match request.payload.decode::<u64>() {
///         Ok(x) => responder.reply(&(x * x)),
///         Err(error) => responder.fail(&error.to_string()),
///     });
/// })?;
/// let square: u64 = worker.request_as("square", &12)?;
/// assert_eq!(square, 144);
/// # worker.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Responder {
    job: Option<Job>,
    worker: Arc<Worker>,
}

impl Responder {
    /// Answers with any value, or with [`Json`](crate::Json) as it is.
    ///
    /// # Errors
    /// [`Error::NotJson`], [`Error::TooLarge`], [`Error::QueueFull`] if the answer cannot be sent;
    /// the requester then gets that error as `handler_failed`.
    pub fn reply<T: Payload + ?Sized>(mut self, payload: &T) -> Result<(), Error> {
        self.answer(payload)
    }

    /// Returns whether an answer can be queued at once. Otherwise [`reply`](Self::reply) waits until
    /// the server has read enough, which an event loop must not do.
    pub fn has_room(&self) -> bool {
        self.worker.shared.upgrade().is_none_or(|shared| shared.has_room_for_answer())
    }

    /// Answers `handler_failed` with a text for the requester.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn fail(self, text: &str) -> Result<(), Error> {
        self.fail_with(ErrorCode::HandlerFailed, shortened(text))
    }

    /// Answers an error with a code of your choice.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn fail_with(mut self, code: ErrorCode, text: &str) -> Result<(), Error> {
        self.answer(&Failure::new(code, text))
    }

    /// Answers with a handler's error: one of the application as such, and any other as
    /// `handler_failed`.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn refuse(mut self, error: &HandlerError) -> Result<(), Error> {
        match error.payload() {
            Some(payload) => self.answer(payload),
            None => self.fail(error.text()),
        }
    }

    fn answer<T: Payload + ?Sized>(&mut self, payload: &T) -> Result<(), Error> {
        let Some(job) = self.job.take() else { return Ok(()) };
        let Some(shared) = self.worker.shared.upgrade() else { return Ok(()) };
        // The payload is written by code of the caller, which may panic.
        let done = Done { job, worker: &self.worker, shared: &shared, is_answered: false };
        done.answer(payload)
    }
}

/// Makes room for the next request when it is dropped, whatever happens before.
struct Done<'a> {
    job: Job,
    worker: &'a Arc<Worker>,
    shared: &'a Shared,
    is_answered: bool,
}

impl Done<'_> {
    fn answer<T: Payload + ?Sized>(mut self, payload: &T) -> Result<(), Error> {
        let sent = self.job.send(self.shared, payload, Kind::ThisConnection);
        if let Err(error) = &sent {
            self.job.refuse(self.shared, ErrorCode::HandlerFailed, &error.to_string());
        }
        self.is_answered = true;
        sent
    }
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.job.refuse(self.shared, ErrorCode::HandlerFailed, PANICKED);
        }
        self.job.finish(self.shared);
        self.worker.finished(self.shared);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let (Some(job), Some(shared)) = (self.job.take(), self.worker.shared.upgrade()) else {
            return;
        };
        let text = if std::thread::panicking() {
            PANICKED
        } else {
            "the handler of this channel dropped the request unanswered"
        };
        let failure = Failure::new(ErrorCode::HandlerFailed, text);
        let done = Done { job, worker: &self.worker, shared: &shared, is_answered: false };
        // The requester is told; an error here has nobody to go to.
        let _ = done.answer(&failure);
    }
}
