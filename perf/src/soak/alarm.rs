//! The first broken promise ends the run. Those that follow from it are reported after it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::lock;

/// The most broken promises that are reported; more are consequences of the first.
const TOLD_MAX: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// The time is over, or a promise is broken.
    pub(super) stop: AtomicBool,
    broken: Mutex<Vec<String>>,
}

impl Alarm {
    pub(super) fn raise(&self, what: String) {
        let mut broken = lock(&self.broken);
        if broken.len() < TOLD_MAX {
            broken.push(what);
        }
        drop(broken);
        self.end();
    }

    pub(super) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn is_raised(&self) -> bool {
        !lock(&self.broken).is_empty()
    }

    /// Returns all broken promises in the order in which they were raised.
    pub(super) fn what(&self) -> Result<(), String> {
        let broken = std::mem::take(&mut *lock(&self.broken));
        if broken.is_empty() { Ok(()) } else { Err(broken.join("\nthen ")) }
    }
}
