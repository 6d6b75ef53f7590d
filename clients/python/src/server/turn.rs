//! The loop's own state, for what Python calls while the loop waits for it.
//!
//! A handler that runs on the loop's thread cannot wait for the loop: the loop waits for the
//! handler. What it calls works on the borrowed state instead, at once and in order.

use std::sync::Arc;

use ipc_framework::{Context, HandleError};
use pyo3::prelude::*;
use scoped_tls_hkt::scoped_thread_local;

use super::shared::Shared;
use crate::errors;

trait Turn {
    fn is_of(&self, shared: &Shared) -> bool;
    fn with(&mut self, call: &mut dyn FnMut(&mut Context<'_>));
}

struct Running<'a, 'c> {
    shared: &'a Shared,
    context: &'a mut Context<'c>,
}

impl Turn for Running<'_, '_> {
    fn is_of(&self, shared: &Shared) -> bool {
        std::ptr::eq(self.shared, shared)
    }

    fn with(&mut self, call: &mut dyn FnMut(&mut Context<'_>)) {
        call(self.context);
    }
}

scoped_thread_local!(static mut TURN: for<'a> &'a mut (dyn Turn + 'a));

/// Runs `call`, which may come back into this server by [`ask`] and [`try_now`].
pub(super) fn enter<R>(shared: &Shared, context: &mut Context<'_>, call: impl FnOnce() -> R) -> R {
    let mut running = Running { shared, context };
    TURN.set(&mut running, call)
}

/// Runs `call` now if this thread is in a turn of the server; hands it back if not.
pub(super) fn try_now<R, F: FnOnce(&mut Context<'_>) -> R>(
    shared: &Shared,
    call: F,
) -> Result<R, F> {
    if !TURN.is_set() {
        return Err(call);
    }
    TURN.with(|turn| {
        if !turn.is_of(shared) {
            return Err(call);
        }
        let (mut call, mut result) = (Some(call), None);
        turn.with(&mut |context| result = call.take().map(|call| call(context)));
        result.ok_or_else(|| unreachable!("a turn runs what it is given"))
    })
}

/// Runs `call` on the loop's thread and waits for what it returns, without the GIL. A server that
/// has ended, which it may at any time, knows nothing any more: it gives what is empty.
///
/// # Errors
/// If too much waits for the loop.
pub(super) fn ask<R: Default + Send + 'static>(
    py: Python<'_>,
    shared: &Arc<Shared>,
    call: impl FnOnce(&mut Context<'_>) -> R + Send + 'static,
) -> PyResult<R> {
    match try_now(shared, call) {
        Ok(result) => Ok(result),
        Err(call) => {
            let asked = py.detach(|| shared.handle.with(call));
            unless_ended(py, asked).map(Option::unwrap_or_default)
        }
    }
}

/// `None` if the server has ended.
pub(super) fn unless_ended<R>(py: Python<'_>, done: Result<R, HandleError>) -> PyResult<Option<R>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(HandleError::Stopped) => Ok(None),
        Err(error) => Err(errors::connection(py, &error.to_string())),
    }
}
