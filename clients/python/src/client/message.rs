//! The Python class `Message` and the Rust type of that name.

use ipc_framework::{Message, MessageType};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::errors::Failure;
use crate::json;

const TYPES: [MessageType; 6] = [
    MessageType::Request,
    MessageType::Response,
    MessageType::Notification,
    MessageType::Subscribe,
    MessageType::Unsubscribe,
    MessageType::Publish,
];

struct Classes {
    message: Py<PyAny>,
    types: Vec<Py<PyAny>>,
}

fn classes(py: Python<'_>) -> PyResult<&'static Classes> {
    static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();
    CLASSES.get_or_try_init(py, || {
        let core = py.import("ipc_framework.core")?;
        let of_type = core.getattr("MessageType")?;
        let types = TYPES.iter().map(|one| Ok(of_type.call1((one.as_str(),))?.unbind()));
        let types = types.collect::<PyResult<_>>()?;
        Ok(Classes { message: core.getattr("Message")?.unbind(), types })
    })
}

pub(crate) fn to_python<'py>(py: Python<'py>, message: &Message) -> PyResult<Bound<'py, PyAny>> {
    let classes = classes(py)?;
    let payload = json::to_python(py, &message.payload)?;
    let at = TYPES.iter().position(|one| *one == message.message_type).unwrap_or_default();
    classes.message.bind(py).call1((
        &message.message_id,
        &message.app_id,
        &message.channel_id,
        &classes.types[at],
        payload,
        message.timestamp,
        message.reply_to.as_deref(),
    ))
}

/// # Errors
/// If it is no message; `SerializationError` if its payload is not JSON.
pub(crate) fn from_python(message: &Bound<'_, PyAny>) -> PyResult<Message> {
    let py = message.py();
    let field = |name: &str| message.getattr(name);
    let message_type = field("message_type")?;
    let types = &classes(py)?.types;
    let at = types.iter().position(|one| one.is(&message_type));
    let at = at.ok_or_else(|| PyValueError::new_err("message_type is not a MessageType"))?;
    Ok(Message {
        message_id: field("message_id")?.extract()?,
        app_id: field("app_id")?.extract()?,
        channel_id: field("channel_id")?.extract()?,
        message_type: TYPES[at],
        payload: json::from_python(&field("payload")?)
            .map_err(|error| Failure::of_value(&error).caused_by(py, error))?,
        timestamp: field("timestamp")?.extract()?,
        reply_to: field("reply_to")?.extract()?,
    })
}
