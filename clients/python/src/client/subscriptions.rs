//! The channels and patterns to which a client subscribes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A program has at most one subscription to each channel and each pattern: several readers of an
/// event loop share it.
#[derive(Default)]
pub(super) struct Subscriptions {
    /// By the name and whether it is a pattern: true if it conflates.
    pub(super) known: Mutex<HashMap<(String, bool), bool>>,
}

impl Subscriptions {
    /// Forgets one. Returns whether it was there.
    pub(super) fn remove(&self, name: &str, is_pattern: bool) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&(name.to_owned(), is_pattern)).is_some()
    }
}
