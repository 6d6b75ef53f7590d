//! A served channel: requests wait, are handed to the handler, and are answered.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::answering::{self, Answering, Crew};
use super::job::Job;
use super::shared::Shared;
use super::shield::shielded;
use super::state::{Link, Service};
use crate::client::call::Call;
use crate::client::error::Error;
use crate::client::part_sender::PartSender;
use crate::client::payload::Payload;
use crate::handler_error::{HandlerError, shortened};
use crate::proto::ErrorCode;
use crate::proto::Message;
use crate::proto::system::Failure;

/// Requests that may wait for the handler. The server's own limit for all workers of a channel is
/// far higher.
const WAITING_MAX: usize = 4096;
/// The pause between checks whether a thread has ended, because nothing announces that.
const JOIN_PAUSE: Duration = Duration::from_millis(1);

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
    waiting: VecDeque<(Message, Arc<Job>)>,
    waiting_bytes: usize,
    /// The number of waiting requests that were cancelled meanwhile.
    cancelled: usize,
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

    /// Starts that many threads, which run the handler. They end when the worker is dropped.
    pub(crate) fn threads(
        shared: &Arc<Shared>,
        threads: usize,
        announced: Option<u32>,
        handler: impl Fn(Message, Responder) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
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

    fn hand_out(self: &Arc<Self>, message: Message, job: Arc<Job>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let is_void = || {
            let state = shared.lock();
            state.generation != job.generation || matches!(state.link, Link::Closed)
        };
        // The server has told the requester of an older connection that the worker is lost, and
        // the requester may have asked again.
        if job.is_request() && (job.is_cancelled() || is_void()) {
            self.queue().running -= 1;
            answering::finish(&job, &shared);
            return;
        }
        drop(shared);
        let crew: Arc<dyn Crew> = Arc::clone(self) as Arc<dyn Crew>;
        let responder = Responder { answering: Answering::new(job, crew) };
        shielded(|| (self.handler)(message, responder));
    }
}

impl Crew for Worker {
    fn client(&self) -> &Weak<Shared> {
        &self.shared
    }

    fn freed(self: Arc<Self>, shared: &Shared) {
        let mut queue = self.queue();
        queue.running -= 1;
        let is_next = !queue.waiting.is_empty() && !queue.is_starting;
        drop(queue);
        if is_next && (self.passes_on || shared.is_driver()) {
            self.start();
        } else if is_next {
            let mut state = shared.lock();
            // After the end no driver would take it out again.
            if !matches!(state.link, Link::Closed) {
                state.ready.push(self);
                shared.wake();
            }
        }
    }
}

impl Service for Worker {
    fn take(self: Arc<Self>, message: Message, job: Job) {
        let Some(shared) = self.shared.upgrade() else { return };
        let job = Arc::new(job);
        let mut state = shared.lock();
        state.jobs += 1;
        if let Some(key) = job.key()
            && state.has_call()
        {
            state.running.insert(key, Arc::clone(&job));
        }
        drop(state);
        let bytes = size(&message);
        let mut queue = self.queue();
        let is_full = queue.waiting.len() >= WAITING_MAX
            || (!queue.waiting.is_empty()
                && queue.waiting_bytes + bytes > shared.options.unread_bytes_max);
        if is_full {
            drop(queue);
            if job.is_request() {
                let text = "the worker has too much to do; try again";
                answering::refuse(&job, &shared, ErrorCode::LimitExceeded, text);
            } else {
                shared.lock().missed_notifications += 1;
            }
            answering::finish(&job, &shared);
            return;
        }
        queue.waiting_bytes += bytes;
        queue.waiting.push_back((message, job));
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
            && let Some((message, job)) = queue.waiting.pop_front()
        {
            queue.waiting_bytes -= size(&message);
            queue.running += 1;
            queue.cancelled = queue.cancelled.min(queue.waiting.len());
            drop(queue);
            self.hand_out(message, job);
            queue = self.queue();
        }
        queue.is_starting = false;
    }

    fn note_cancelled(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut queue = self.queue();
        queue.cancelled = (queue.cancelled + 1).min(queue.waiting.len());
        // To look through the queue for each of many would take the square of their number.
        if queue.cancelled * 2 < queue.waiting.len() {
            return;
        }
        let waiting = std::mem::take(&mut queue.waiting);
        let (gone, waiting): (Vec<_>, _) =
            waiting.into_iter().partition(|(_, job)| job.is_cancelled());
        queue.waiting = waiting.into();
        queue.cancelled = 0;
        queue.waiting_bytes -= gone.iter().map(|(message, _)| size(message)).sum::<usize>();
        drop(queue);
        for (_, job) in gone {
            answering::finish(&job, &shared);
        }
    }

    fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn size(message: &Message) -> usize {
    message.payload_bytes() + message.channel_id.len() + message.message_id.len()
}

fn work(
    taken: &Mutex<Receiver<(Message, Responder)>>,
    handler: &(impl Fn(Message, Responder) + Send + Sync),
) {
    loop {
        let job = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((message, responder)) = job else { return };
        if responder.answering.job().is_cancelled() {
            responder.answering.give_up();
            continue;
        }
        // A panic drops the responder, which reports it to the requester.
        shielded(|| handler(message, responder));
    }
}

/// Answers one request of a channel that is [served](crate::client::Client::serve_deferred), from
/// any thread. Dropped without an answer, it answers `handler_failed`. It does nothing if nobody wants
/// the answer any more, the connection by which the request came is gone, or the message was a
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
    answering: Answering,
}

impl Responder {
    /// Returns whether nobody wants the answer any more, see [`Call::is_cancelled`].
    pub fn is_cancelled(&self) -> bool {
        self.answering.job().is_cancelled()
    }

    /// Returns what is known of the request besides the message: whether somebody still wants the
    /// answer, and until when.
    pub fn call(&self) -> Call {
        Call::new(Arc::clone(self.answering.job()))
    }

    /// Answers with any value, or with [`Json`](crate::Json) as it is.
    ///
    /// # Errors
    /// [`Error::NotJson`], [`Error::TooLarge`], [`Error::QueueFull`] if the answer cannot be sent;
    /// the requester then gets that error as `handler_failed`.
    pub fn reply<T: Payload + ?Sized>(self, payload: &T) -> Result<(), Error> {
        self.answering.finish(payload, None)
    }

    /// Answers in parts, as many as there are.
    pub fn parts(self) -> PartSender {
        PartSender::new(self.answering)
    }

    /// Returns whether an answer can be queued at once. Otherwise [`reply`](Self::reply) waits until
    /// the server has read enough, which an event loop must not do.
    pub fn has_room(&self) -> bool {
        self.answering.client().is_none_or(|shared| shared.has_room_for_answer())
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
    pub fn fail_with(self, code: ErrorCode, text: &str) -> Result<(), Error> {
        self.reply(&Failure::new(code, text))
    }

    /// Answers with a handler's error: one of the application as such, and any other as
    /// `handler_failed`.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn refuse(self, error: &HandlerError) -> Result<(), Error> {
        match error.payload() {
            Some(payload) => self.reply(payload),
            None => self.fail(error.text()),
        }
    }

    /// Gives a request up whose requester has cancelled it before the handler began: nothing is
    /// answered, and the next request can begin.
    pub fn give_up(self) {
        self.answering.give_up();
    }
}
