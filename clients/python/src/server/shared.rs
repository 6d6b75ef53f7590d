//! What the loop's thread and Python's threads have in common.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ipc_framework::{ConnectionKey, Envelope, Handle, Message, MessageType};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::connections::Connections;
use super::origin::{Origin, PyOrigin};
use super::pending::Pending;
use super::turn;
use crate::message::{self, Fields};

/// Around the payload of a frame, beside the ids.
const ENVELOPE_BYTES: usize = 256;

pub(super) struct Shared {
    pub(super) handle: Handle,
    pub(super) frame_bytes_max: usize,
    pub(super) request_timeout: Duration,
    /// Types that go through `route_message`.
    pub(super) routed: Vec<MessageType>,
    /// A weak reference to the `FrameworkServer`: a message or a connection that a program keeps
    /// leads here, and would keep the whole server for ever, out of the garbage collector's sight.
    server: Py<PyAny>,
    /// Whether Python wants to hear of connections.
    pub(super) is_watched: AtomicBool,
    /// By application and channel.
    handlers: RwLock<HashMap<String, HashMap<String, ChannelHandlers>>>,
    connections: Mutex<Connections>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct ChannelHandlers {
    request: Option<Arc<Handler>>,
    notification: Option<Arc<Handler>>,
    response: Option<Arc<Handler>>,
}

pub(super) struct Handler {
    function: Py<PyAny>,
    /// Whether what it returns is the answer.
    serves: bool,
}

/// What is called with a message.
#[derive(Clone)]
pub(super) enum Call {
    Handler(Arc<Handler>),
    Route,
}

impl Call {
    /// What `FrameworkServer._run` is called with to deal with a message. What comes of it stands
    /// in the origin.
    pub(super) fn arguments<'py>(
        &self,
        py: Python<'py>,
        fields: &Fields<'_>,
        origin: &Arc<Origin>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let message = message::to_python(py, fields)?;
        let origin = Bound::new(py, PyOrigin(origin.clone()))?;
        message.setattr("_origin", &origin)?;
        let (handler, serves) = match self {
            Call::Handler(handler) => (Some(&handler.function), handler.serves),
            Call::Route => (None, false),
        };
        (handler, message, origin, serves).into_pyobject(py)
    }
}

impl Shared {
    pub(super) fn new(
        handle: Handle,
        limits: &ipc_framework::Limits,
        routed: Vec<MessageType>,
        server: Py<PyAny>,
    ) -> Self {
        Self {
            handle,
            frame_bytes_max: limits.frame_bytes_max,
            request_timeout: limits.request_timeout,
            routed,
            server,
            is_watched: AtomicBool::new(false),
            handlers: RwLock::default(),
            connections: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be called with a message, if anything is. Needs no GIL, so that what no
    /// Python program wants to see never waits for one.
    pub(super) fn call_for(&self, message: &Envelope<'_>) -> Option<Call> {
        if self.routed.contains(&message.message_type()) {
            return Some(Call::Route);
        }
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        let of_application = handlers.get(&*message.app_id().decode())?;
        let of_channel = of_application.get(&*message.channel_id().decode())?;
        let handler = match message.message_type() {
            MessageType::Request => &of_channel.request,
            MessageType::Notification => &of_channel.notification,
            _ => &of_channel.response,
        };
        handler.clone().map(Call::Handler)
    }

    pub(super) fn set_handler(
        &self,
        app_id: &str,
        channel_id: &str,
        message_type: MessageType,
        function: Py<PyAny>,
        serves: bool,
    ) {
        let handler = Arc::new(Handler { function, serves });
        let mut handlers = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
        let of_application = handlers.entry(app_id.to_owned()).or_default();
        let of_channel = of_application.entry(channel_id.to_owned()).or_default();
        let place = match message_type {
            MessageType::Request => &mut of_channel.request,
            MessageType::Notification => &mut of_channel.notification,
            _ => &mut of_channel.response,
        };
        *place = Some(handler);
    }

    pub(super) fn drop_handlers(&self, app_id: &str, channel_id: &str) {
        let mut handlers = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_application) = handlers.get_mut(app_id) {
            of_application.remove(channel_id);
        }
    }

    /// The loop has ended. What handlers refer to may refer to the server.
    pub(super) fn drop_all_handlers(&self) {
        let all =
            std::mem::take(&mut *self.handlers.write().unwrap_or_else(PoisonError::into_inner));
        drop(all);
    }

    /// The `FrameworkServer`.
    pub(super) fn server<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let server = self.server.bind(py).call0()?;
        if server.is_none() {
            return Err(PyRuntimeError::new_err("the server is gone"));
        }
        Ok(server)
    }

    /// Sends a message to one connection: in a turn at once, from elsewhere soon. Not if the
    /// server has ended.
    pub(super) fn send(&self, py: Python<'_>, to: ConnectionKey, message: Message) -> PyResult<()> {
        self.check_size(&message)?;
        if let Ok(sent) = turn::try_now(self, |now| now.send_to_connection(to, &message)) {
            return sent.map(|_| ()).map_err(|error| PyValueError::new_err(error.to_string()));
        }
        let sent = self.handle.send_to_connection(to, message);
        turn::unless_ended(py, sent).map(|_| ())
    }

    /// Sends a message to all subscribers of a channel: in a turn at once, from elsewhere soon.
    pub(super) fn publish(
        &self,
        py: Python<'_>,
        app_id: &str,
        channel_id: &str,
        message: Message,
    ) -> PyResult<()> {
        self.check_size(&message)?;
        if let Ok(sent) = turn::try_now(self, |now| now.publish_to(app_id, channel_id, &message)) {
            return sent.map(|_| ()).map_err(|error| PyValueError::new_err(error.to_string()));
        }
        let sent = self.handle.publish_to(app_id, channel_id, message);
        turn::unless_ended(py, sent).map(|_| ())
    }

    /// What goes to the loop is not there to be told that it is too large.
    pub(super) fn check_size(&self, message: &Message) -> PyResult<()> {
        let ids = message.message_id.len() + message.app_id.len() + message.channel_id.len();
        let bytes = message.payload.as_str().len() + ids + ENVELOPE_BYTES;
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
