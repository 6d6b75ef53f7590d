//! The queue between the loop's thread and the threads that run slow handlers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use ipc_framework::Message;

use super::calls::Call;
use super::origin::Origin;
use crate::message::payload_bytes;

/// Bytes of the payloads that may wait for a thread.
const JOB_BYTES_MAX: usize = 256 << 20;

/// One message and the call that handles it.
pub(super) struct Job {
    pub(super) message: Message,
    pub(super) origin: Arc<Origin>,
    pub(super) call: Call,
}

/// The loop's end of the queue. When it is dropped the threads run what is left, and end.
pub(super) struct Jobs {
    sender: SyncSender<Job>,
    waiting_bytes: Arc<AtomicUsize>,
    idle: Arc<AtomicUsize>,
}

/// The threads' end of the queue.
pub(super) struct Waiting {
    receiver: Mutex<Receiver<Job>>,
    bytes: Arc<AtomicUsize>,
    /// The number of threads that wait for a message.
    idle: Arc<AtomicUsize>,
}

/// Returns both ends of a queue for `jobs_max` messages.
pub(super) fn queue(jobs_max: usize) -> (Jobs, Waiting) {
    let (sender, receiver) = sync_channel(jobs_max);
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let idle = Arc::new(AtomicUsize::new(0));
    let receiver = Mutex::new(receiver);
    let waiting = Waiting { receiver, bytes: waiting_bytes.clone(), idle: idle.clone() };
    (Jobs { sender, waiting_bytes, idle }, waiting)
}

impl Jobs {
    /// Returns whether one more message may wait.
    pub(super) fn has_room(&self, payload_bytes: usize) -> bool {
        self.waiting_bytes.load(Ordering::Relaxed) + payload_bytes <= JOB_BYTES_MAX
    }

    /// Returns whether the next message will wait for a thread.
    pub(super) fn are_busy(&self) -> bool {
        let is_idle = self.idle.load(Ordering::Relaxed) > 0;
        !is_idle || self.waiting_bytes.load(Ordering::Relaxed) > 0
    }

    /// Returns whether the queue took it.
    pub(super) fn push(&self, job: Job) -> bool {
        let bytes = payload_bytes(&job.message.payload);
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let taken = self.sender.try_send(job).is_ok();
        if !taken {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }
}

impl Waiting {
    /// Waits for the next message; `None` once the server has ended and everything is done.
    pub(super) fn next(&self) -> Option<Job> {
        self.idle.fetch_add(1, Ordering::Relaxed);
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let job = receiver.recv();
        self.idle.fetch_sub(1, Ordering::Relaxed);
        let job = job.ok()?;
        self.bytes.fetch_sub(payload_bytes(&job.message.payload), Ordering::Relaxed);
        Some(job)
    }
}
