//! Serving a channel: its requests, handled by a bounded number of threads.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::Serialize;

use super::answer::Failure;
use super::encoder::Heading;
use super::error::Error;
use super::shared::{Shared, shielded};
use super::state::Kind;
use crate::HandlerError;
use crate::broker::Message;
use crate::proto::{ErrorCode, MessageType};

/// Requests that wait for a thread; the server's own bound for all workers is far above.
const WAITING_MAX: usize = 4096;

struct Job {
    message: Message,
    /// The connection it came by: an answer by another one is for nobody.
    generation: u64,
}

#[derive(Debug)]
pub(super) struct Worker {
    jobs: SyncSender<Job>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("message", &self.message).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts the threads. They end when the worker is dropped.
    pub(super) fn start<T, F>(
        shared: &Arc<Shared>,
        threads: usize,
        handler: F,
    ) -> Result<Arc<Self>, Error>
    where
        T: Serialize,
        F: Fn(&Message) -> Result<T, HandlerError> + Send + Sync + 'static,
    {
        let (jobs, taken) = sync_channel(WAITING_MAX);
        let taken = Arc::new(Mutex::new(taken));
        let handler = Arc::new(handler);
        for _ in 0..threads.max(1) {
            let (taken, handler) = (Arc::clone(&taken), Arc::clone(&handler));
            let shared = Arc::downgrade(shared);
            std::thread::Builder::new()
                .name("ipc-worker".into())
                .spawn(move || work(&taken, &shared, &*handler))
                .map_err(Error::system("a thread"))?;
        }
        Ok(Arc::new(Self { jobs }))
    }

    /// Hands a request or notification to a thread; too many are refused.
    pub(super) fn hand(&self, shared: &Shared, message: Message, generation: u64) {
        let job = Job { message, generation };
        shared.lock().jobs += 1;
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
            self.jobs.try_send(job)
        {
            let failure =
                Failure::new(ErrorCode::LimitExceeded, "the worker has too much to do; try again");
            finish(shared, &job, &failure);
        }
    }
}

fn work<T: Serialize>(
    taken: &Mutex<Receiver<Job>>,
    shared: &Weak<Shared>,
    handler: &(impl Fn(&Message) -> Result<T, HandlerError> + Send + Sync),
) {
    loop {
        let job = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let mut result = Err(HandlerError::new("the handler panicked; see the worker's output"));
        shielded(|| result = handler(&job.message));
        let Some(shared) = shared.upgrade() else { return };
        match result {
            Ok(payload) => finish(&shared, &job, &payload),
            Err(error) => {
                finish(&shared, &job, &Failure::new(ErrorCode::HandlerFailed, error.text()));
            }
        }
    }
}

/// Answers a request, unless its connection is gone: then the server has told the requester.
fn finish<T: Serialize>(shared: &Shared, job: &Job, payload: &T) {
    let message = &job.message;
    if shared.lock().generation != job.generation {
        return;
    }
    if message.message_type == MessageType::Request {
        let heading = Heading::answer(&message.channel_id, &message.message_id);
        match shared.post(heading, payload, Kind::Bound) {
            Ok(()) | Err(Error::Closed | Error::Disconnected | Error::Lost { .. }) => {}
            Err(error) => {
                let text = error.to_string();
                let failure = Failure::new(ErrorCode::HandlerFailed, &text);
                // Nothing more can be done for it: the server answers when its time is over.
                let _ = shared.post(heading, &failure, Kind::Bound);
            }
        }
    }
    let mut state = shared.lock();
    if state.generation == job.generation {
        state.jobs = state.jobs.saturating_sub(1);
    }
    drop(state);
    shared.progress.notify_all();
}
