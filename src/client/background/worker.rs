//! Serving a channel: its requests, handed out so that no more than so many are unanswered.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::responder::{Job, Responder};
use super::shared::{Shared, shielded};
use super::state::Link;
use crate::HandlerError;
use crate::client::error::Error;
use crate::client::payload::Payload;
use crate::proto::{ErrorCode, Message};

/// Requests that wait for their turn; the server's own bound for all workers is far above.
const WAITING_MAX: usize = 4096;
/// Between looks at whether a thread has ended, which nothing announces.
const JOIN_PAUSE: Duration = Duration::from_millis(1);

thread_local! {
    /// The client for which this thread runs handlers, by its address.
    static SERVES: Cell<usize> = const { Cell::new(0) };
}

type Handler = Box<dyn Fn(Message, Responder) + Send + Sync>;

pub(crate) struct Worker {
    shared: Weak<Shared>,
    handler: Handler,
    /// The handler only passes the request on, so that whoever finishes one may hand out the
    /// next; otherwise the driver does.
    passes_on: bool,
    concurrency: usize,
    queue: Mutex<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Message, u64)>,
    waiting_bytes: usize,
    /// Handed out and not answered.
    running: usize,
    /// Some thread hands out.
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
        handler: Handler,
    ) -> Arc<Self> {
        Self::new(shared, concurrency, handler, false)
    }

    /// Starts as many threads. They end when the worker is dropped.
    pub(crate) fn threads<T, F>(
        shared: &Arc<Shared>,
        threads: usize,
        handler: F,
    ) -> Result<Arc<Self>, Error>
    where
        T: Payload,
        F: Fn(&Message) -> Result<T, HandlerError> + Send + Sync + 'static,
    {
        let (jobs, taken) = channel();
        // They live as long as the worker, which is what the sender belongs to.
        let pass_on = move |message, responder| drop(jobs.send((message, responder)));
        let worker = Self::new(shared, threads, Box::new(pass_on), true);
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
        handler: Handler,
        passes_on: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::downgrade(shared),
            handler,
            passes_on,
            concurrency: concurrency.max(1),
            queue: Mutex::default(),
            threads: Mutex::default(),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request or notification by the connection of this generation; too many are
    /// refused, or, where nobody waits for an answer, counted.
    pub(crate) fn take(self: &Arc<Self>, shared: &Shared, message: Message, generation: u64) {
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
                job.refuse(shared, ErrorCode::LimitExceeded, text);
            } else {
                shared.lock().missed_notifications += 1;
            }
            job.finish(shared);
            return;
        }
        queue.waiting_bytes += bytes;
        queue.waiting.push_back((message, generation));
        drop(queue);
        self.start();
    }

    /// Hands out what waits, as long as there are not too many.
    pub(crate) fn start(self: &Arc<Self>) {
        let mut queue = self.queue();
        // Whoever hands out already, perhaps further up on this very stack, looks again.
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

    fn hand_out(self: &Arc<Self>, message: Message, generation: u64) {
        let job = Job::new(&message, generation);
        let is_void = |shared: Arc<Shared>| {
            let state = shared.lock();
            state.generation != generation || matches!(state.link, Link::Closed)
        };
        // Its requester was told that the worker is lost, and may have asked again.
        if job.is_request() && self.shared.upgrade().is_none_or(is_void) {
            self.queue().running -= 1;
            return;
        }
        let responder = Responder::new(job, Arc::clone(self), Weak::clone(&self.shared));
        shielded(|| (self.handler)(message, responder));
    }

    /// A request is answered, so that there is room for the next.
    pub(crate) fn finished(self: &Arc<Self>, shared: &Shared) {
        let mut queue = self.queue();
        queue.running -= 1;
        let is_next = !queue.waiting.is_empty() && !queue.is_starting;
        drop(queue);
        if is_next && (self.passes_on || shared.is_driver()) {
            self.start();
        } else if is_next {
            let mut state = shared.lock();
            // After the end nobody would take it out again.
            if !matches!(state.link, Link::Closed) {
                state.ready.push(Arc::clone(self));
                shared.wake();
            }
        }
    }

    /// Whether the calling thread is one of a worker of this client.
    pub(crate) fn is_own_thread(shared: &Arc<Shared>) -> bool {
        SERVES.get() == Arc::as_ptr(shared) as usize
    }

    /// Waits for the threads of workers that have been dropped. False if that takes too long.
    pub(crate) fn join(threads: Vec<JoinHandle<()>>, is_over: impl Fn() -> bool) -> bool {
        for thread in threads {
            while !thread.is_finished() {
                if is_over() {
                    return false;
                }
                std::thread::sleep(JOIN_PAUSE);
            }
            // It catches what handlers do.
            let _ = thread.join();
        }
        true
    }

    /// The threads, for whoever drops the worker.
    pub(crate) fn take_threads(&self) -> Vec<JoinHandle<()>> {
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
        // A panic drops the responder, which answers that there was one.
        shielded(|| {
            // What cannot be sent was answered with the reason, or its connection is gone.
            let _ = match handler(&message) {
                Ok(payload) => responder.reply(&payload),
                Err(error) => responder.fail(error.text()),
            };
        });
    }
}
