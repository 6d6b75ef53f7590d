//! The health of the server, as its loop itself tells it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipc_framework::{Handle, HandleError};

/// Time for the loop to answer. A turn takes milliseconds, unless a handler blocks it.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It takes connections and requests.
    Ready,
    /// It answers what is in flight, and ends.
    Draining,
    /// The loop did not answer in time.
    Stuck,
}

impl Health {
    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::Ready => "ready\n",
            Self::Draining => "draining: the server answers what is in flight, and ends\n",
            Self::Stuck => "stuck: the loop has not answered for half a second\n",
        }
    }
}

/// Asks the loop how it is. At most one question waits for it, however many clients ask here.
pub(super) struct Pulse {
    handle: Handle,
    /// A question that was not answered in time.
    late: Mutex<Option<Receiver<bool>>>,
}

impl Pulse {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, late: Mutex::new(None) }
    }

    pub(super) fn feel(&self) -> Health {
        // The lock is never poisoned, because a panic ends the process.
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = late.take()
            && before.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout)
        {
            *late = Some(before);
            return Health::Stuck;
        }
        let (answer, answered) = sync_channel(1);
        let asked = self.handle.post(move |context| {
            // A client that waits no longer needs no answer.
            let _ = answer.send(context.stats().running);
        });
        match asked {
            Ok(()) => {}
            Err(HandleError::Stopped) => return Health::Draining,
            Err(_) => return Health::Stuck,
        }
        match answered.recv_timeout(PATIENCE) {
            Ok(true) => Health::Ready,
            Ok(false) | Err(RecvTimeoutError::Disconnected) => Health::Draining,
            Err(RecvTimeoutError::Timeout) => {
                *late = Some(answered);
                Health::Stuck
            }
        }
    }
}
