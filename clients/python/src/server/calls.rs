//! The handlers of a program, and how Python is called with a message.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use ipc_framework::{Envelope, MessageType};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::origin::{Origin, PyOrigin};
use crate::message::{self, Fields};

/// The calls into a program, by application, channel and type of the message.
pub(super) struct Calls {
    /// Types that go through `route_message`.
    routed: Vec<MessageType>,
    /// By application and channel.
    handlers: RwLock<HashMap<String, HashMap<String, ChannelHandlers>>>,
}

#[derive(Default)]
struct ChannelHandlers {
    request: Option<Arc<Handler>>,
    notification: Option<Arc<Handler>>,
    response: Option<Arc<Handler>>,
}

pub(super) struct Handler {
    function: Py<PyAny>,
    /// Set if its return value is the answer.
    serves: bool,
}

/// A call with one message.
#[derive(Clone)]
pub(super) enum Call {
    Handler(Arc<Handler>),
    Route,
}

impl Calls {
    pub(super) fn new(routed: Vec<MessageType>) -> Self {
        Self { routed, handlers: RwLock::default() }
    }

    pub(super) fn routes(&self, message_type: MessageType) -> bool {
        self.routed.contains(&message_type)
    }

    /// Returns the call for a message, if there is one. It needs no GIL, so that a message which
    /// no Python program wants never waits for one.
    pub(super) fn find(&self, message: &Envelope<'_>) -> Option<Call> {
        if self.routes(message.message_type()) {
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

    pub(super) fn set(
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

    pub(super) fn remove(&self, app_id: &str, channel_id: &str) {
        let mut handlers = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_application) = handlers.get_mut(app_id) {
            of_application.remove(channel_id);
        }
    }

    /// Drops all handlers after the end of the loop, because they may refer to the server.
    pub(super) fn clear(&self) {
        let all =
            std::mem::take(&mut *self.handlers.write().unwrap_or_else(PoisonError::into_inner));
        drop(all);
    }
}

impl Call {
    /// Returns the arguments with which `FrameworkServer._run` handles a message. The result of
    /// the handler is put into the origin.
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
