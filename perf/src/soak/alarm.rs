//! The first broken promise ends the run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::lock;

#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// The time is over, or something is broken.
    pub(super) stop: AtomicBool,
    first: Mutex<Option<String>>,
}

impl Alarm {
    pub(super) fn raise(&self, what: String) {
        lock(&self.first).get_or_insert(what);
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn is_raised(&self) -> bool {
        lock(&self.first).is_some()
    }

    pub(super) fn what(&self) -> Result<(), String> {
        lock(&self.first).take().map_or(Ok(()), Err)
    }
}
