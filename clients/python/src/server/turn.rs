//! The door to the loop: what Python calls goes through it, on whatever thread it is called.
//!
//! A handler that runs on the loop's thread cannot wait for the loop, because the loop waits for
//! the handler. Its calls work on the borrowed state of the loop instead, at once and in order.

use std::sync::Arc;

use ipc_framework::{ConnectionKey, Context, Handle, HandleError, Message, SendError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use scoped_tls_hkt::scoped_thread_local;

use crate::errors;

/// Upper bound of a frame's size besides the payload and the ids.
const ENVELOPE_BYTES: usize = 256;

/// The way to the loop of one server.
pub(super) struct Door {
    handle: Handle,
    frame_bytes_max: usize,
}

trait Turn {
    fn is_of(&self, door: &Door) -> bool;
    fn with(&mut self, call: &mut dyn FnMut(&mut Context<'_>));
}

struct Running<'a, 'c> {
    door: &'a Door,
    context: &'a mut Context<'c>,
}

impl Turn for Running<'_, '_> {
    fn is_of(&self, door: &Door) -> bool {
        std::ptr::eq(self.door, door)
    }

    fn with(&mut self, call: &mut dyn FnMut(&mut Context<'_>)) {
        call(self.context);
    }
}

scoped_thread_local!(static mut TURN: for<'a> &'a mut (dyn Turn + 'a));

impl Door {
    pub(super) fn new(handle: Handle, frame_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { handle, frame_bytes_max })
    }

    pub(super) fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    /// Makes the server drain and end.
    pub(super) fn stop(&self) {
        self.handle.stop();
    }

    /// Runs `call` in a turn of the loop. The call may come back into this server by the other
    /// methods.
    pub(super) fn enter<R>(&self, context: &mut Context<'_>, call: impl FnOnce() -> R) -> R {
        let mut running = Running { door: self, context };
        TURN.set(&mut running, call)
    }

    /// Runs `call` on the loop's thread and waits for its result, without the GIL. A server that
    /// has ended, which may happen at any time, gives an empty result.
    ///
    /// # Errors
    /// If too many calls wait for the loop.
    pub(super) fn ask<R: Default + Send + 'static>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Context<'_>) -> R + Send + 'static,
    ) -> PyResult<R> {
        match self.try_now(call) {
            Ok(result) => Ok(result),
            Err(call) => {
                let asked = py.detach(|| self.handle.with(call));
                unless_ended(py, asked).map(Option::unwrap_or_default)
            }
        }
    }

    /// Sends a message to one connection: at once in a turn, soon from elsewhere, and never if the
    /// server has ended.
    pub(super) fn send(&self, py: Python<'_>, to: ConnectionKey, message: Message) -> PyResult<()> {
        self.check_size(&message)?;
        if let Ok(sent) = self.try_now(|now| now.send_to_connection(to, &message)) {
            return sent.map(drop).map_err(|error| refused(&error));
        }
        unless_ended(py, self.handle.send_to_connection(to, message)).map(drop)
    }

    /// Sends a message to all subscribers of a channel: at once in a turn, soon from elsewhere. With
    /// `retain` it is kept as the channel's last value.
    pub(super) fn publish(
        &self,
        py: Python<'_>,
        app_id: &str,
        channel_id: &str,
        message: Message,
        retain: bool,
    ) -> PyResult<()> {
        self.check_size(&message)?;
        let now = self.try_now(|now| {
            if retain {
                now.publish_retained_to(app_id, channel_id, &message)
            } else {
                now.publish_to(app_id, channel_id, &message)
            }
        });
        if let Ok(sent) = now {
            return sent.map(drop).map_err(|error| refused(&error));
        }
        let sent = if retain {
            self.handle.publish_retained_to(app_id, channel_id, message)
        } else {
            self.handle.publish_to(app_id, channel_id, message)
        };
        unless_ended(py, sent).map(drop)
    }

    /// Sends a message to all connections of an application, and waits until that is done.
    pub(super) fn broadcast(
        &self,
        py: Python<'_>,
        app_id: String,
        message: Message,
    ) -> PyResult<()> {
        self.check_size(&message)?;
        let sent =
            self.ask(py, move |now| now.broadcast_to_application(&app_id, &message).err())?;
        sent.map_or(Ok(()), |error| Err(refused(&error)))
    }

    /// Runs `call` now if this thread is in a turn of the server, and otherwise hands it back.
    fn try_now<R, F: FnOnce(&mut Context<'_>) -> R>(&self, call: F) -> Result<R, F> {
        if !TURN.is_set() {
            return Err(call);
        }
        TURN.with(|turn| {
            if !turn.is_of(self) {
                return Err(call);
            }
            let (mut call, mut result) = (Some(call), None);
            turn.with(&mut |context| result = call.take().map(|call| call(context)));
            result.ok_or_else(|| unreachable!("a turn runs the call that it is given"))
        })
    }

    /// Refuses a message that is too large here, because the sender does not wait for the loop.
    fn check_size(&self, message: &Message) -> PyResult<()> {
        let ids = message.message_id.len() + message.app_id.len() + message.channel_id.len();
        let payload = &message.payload;
        let payload_bytes = payload.as_str().len() + payload.attachments().frame_bytes();
        let bytes = payload_bytes + ids + ENVELOPE_BYTES;
        if bytes > self.frame_bytes_max {
            return Err(PyValueError::new_err(format!(
                "the message has some {bytes} bytes, over the {} of a frame; send less, or raise \
                 the limit frame_bytes_max here and at the clients",
                self.frame_bytes_max
            )));
        }
        Ok(())
    }
}

fn refused(error: &SendError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Returns `None` if the server has ended.
fn unless_ended<R>(py: Python<'_>, done: Result<R, HandleError>) -> PyResult<Option<R>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(HandleError::Stopped) => Ok(None),
        Err(error) => Err(errors::connection(py, &error.to_string())),
    }
}
