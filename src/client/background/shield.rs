//! Callbacks of the program around the client, kept from ending its threads.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a callback. If it panics, the panic hook reports that, and the client goes on.
pub(crate) fn shielded(run: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(run));
}
