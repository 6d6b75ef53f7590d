//! The Python class `Message` and the Rust type of that name.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use ipc_framework::client::Position;
use ipc_framework::proto::Meta;
use ipc_framework::{Envelope, Json, Message, MessageType};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use crate::aside::aside;
use crate::json;

struct Classes {
    message: Py<PyAny>,
    /// Makes a message without calling its `__init__`.
    new: Py<PyAny>,
    position: Py<PyAny>,
    /// In the order of [`MessageType::ALL`].
    types: Vec<Py<PyAny>>,
}

fn classes(py: Python<'_>) -> PyResult<&'static Classes> {
    static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();
    CLASSES.get_or_try_init(py, || {
        let core = py.import("ipc_framework.core")?;
        let of_type = core.getattr("MessageType")?;
        let types = MessageType::ALL.iter();
        let types = types.map(|one| Ok(of_type.call1((one.as_str(),))?.unbind()));
        let types = types.collect::<PyResult<_>>()?;
        let message = core.getattr("Message")?;
        let new = message.getattr("__new__")?.unbind();
        let position = core.getattr("Position")?.unbind();
        Ok(Classes { message: message.unbind(), new, position, types })
    })
}

/// The fields of a Python message, borrowed from a frame or from a kept message.
pub(crate) struct Fields<'a> {
    message_id: Cow<'a, str>,
    app_id: Cow<'a, str>,
    channel_id: Cow<'a, str>,
    message_type: MessageType,
    payload: Json<'a>,
    timestamp: f64,
    reply_to: Option<Cow<'a, str>>,
    position: Option<&'a Position>,
    is_retained: bool,
}

impl<'a> From<&Envelope<'a>> for Fields<'a> {
    fn from(envelope: &Envelope<'a>) -> Self {
        Self {
            message_id: envelope.message_id().decode(),
            app_id: envelope.app_id().decode(),
            channel_id: envelope.channel_id().decode(),
            message_type: envelope.message_type(),
            payload: envelope.payload(),
            timestamp: envelope.timestamp(),
            reply_to: envelope.reply_to().map(ipc_framework::JsonStr::decode),
            position: None,
            is_retained: is_retained(envelope),
        }
    }
}

/// Returns whether a publication that a peer has sent is to be kept as the last value of its channel.
fn is_retained(envelope: &Envelope<'_>) -> bool {
    let is_publication = envelope.message_type() == MessageType::Publish;
    let meta = envelope.meta_str().filter(|_| is_publication);
    meta.and_then(|meta| Meta::parse_known(meta).ok()).is_some_and(|meta| meta.retain)
}

impl<'a> From<&'a Message> for Fields<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            message_id: (&*message.message_id).into(),
            app_id: (&*message.app_id).into(),
            channel_id: (&*message.channel_id).into(),
            message_type: message.message_type,
            payload: message.payload.borrowed(),
            timestamp: message.timestamp,
            reply_to: message.reply_to.as_deref().map(Cow::Borrowed),
            position: message.position(),
            is_retained: message.is_retained(),
        }
    }
}

/// Returns a message as an object of the Python class.
///
/// # Errors
/// If Python's `json` does not accept the payload, which is so for a number with more digits than
/// `sys.set_int_max_str_digits` allows.
pub(crate) fn to_python<'py>(py: Python<'py>, fields: &Fields<'_>) -> PyResult<Bound<'py, PyAny>> {
    let classes = classes(py)?;
    let of_type = MessageType::ALL.iter().position(|one| *one == fields.message_type);
    let of_type = &classes.types[of_type.unwrap_or_default()];
    let payload = json::to_python(py, &fields.payload)?;
    // As the class fills them in.
    let message_id = if fields.message_id.is_empty() {
        let core =
            |py: Python<'_>| py.import("ipc_framework.core")?.call_method0("fresh_id")?.extract();
        Cow::Owned(aside(py, core)?)
    } else {
        Cow::Borrowed(&*fields.message_id)
    };
    let timestamp = if fields.timestamp == 0.0 { now() } else { fields.timestamp };
    // No Python code runs here: it is there that handlers of signals run, and what one raises must
    // reach the program, and not become an error of this message.
    let message = classes.new.bind(py).call1((&classes.message,))?;
    let values = message.getattr(intern!(py, "__dict__"))?;
    let values = values.cast::<PyDict>()?;
    values.set_item(intern!(py, "message_id"), PyString::new(py, &message_id))?;
    values.set_item(intern!(py, "app_id"), PyString::new(py, &fields.app_id))?;
    values.set_item(intern!(py, "channel_id"), PyString::new(py, &fields.channel_id))?;
    values.set_item(intern!(py, "message_type"), of_type)?;
    values.set_item(intern!(py, "payload"), payload)?;
    values.set_item(intern!(py, "timestamp"), timestamp)?;
    values.set_item(intern!(py, "reply_to"), fields.reply_to.as_deref())?;
    if fields.position.is_some() || fields.is_retained {
        let place = fields.position.map(|place| position(py, place)).transpose()?;
        message.setattr(intern!(py, "_kept"), (place, fields.is_retained))?;
    }
    Ok(message)
}

/// Returns a place in a history as an object of the Python class.
pub(crate) fn position<'py>(py: Python<'py>, place: &Position) -> PyResult<Bound<'py, PyAny>> {
    classes(py)?.position.bind(py).call1((&place.epoch, place.offset))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Returns the message for an object of the Python class.
///
/// # Errors
/// If it is not a message, or its payload is not JSON.
pub(crate) fn from_python(message: &Bound<'_, PyAny>) -> PyResult<Message> {
    let text = |name: &str| text(name, &message.getattr(name)?);
    let reply_to = message.getattr("reply_to")?;
    Ok(Message {
        message_id: text("message_id")?,
        app_id: text("app_id")?,
        channel_id: text("channel_id")?,
        message_type: type_of(&message.getattr("message_type")?)?,
        payload: json::payload(&message.getattr("payload")?)?,
        timestamp: message.getattr("timestamp")?.extract()?,
        reply_to: if reply_to.is_none() { None } else { Some(text("reply_to")?) },
        publication: None,
    })
}

/// Returns a message whose id and time are filled in when it is sent.
///
/// # Errors
/// As [`from_python`].
pub(crate) fn fresh(
    app_id: &Bound<'_, PyAny>,
    channel_id: &Bound<'_, PyAny>,
    message_type: MessageType,
    payload: &Bound<'_, PyAny>,
) -> PyResult<Message> {
    Ok(Message {
        message_id: String::new(),
        app_id: text("app_id", app_id)?,
        channel_id: text("channel_id", channel_id)?,
        message_type,
        payload: json::payload(payload)?,
        timestamp: 0.0,
        reply_to: None,
        publication: None,
    })
}

/// Returns a publication with this id. Its time is filled in when it is sent.
///
/// # Errors
/// As [`from_python`].
pub(crate) fn publication(
    message_id: String,
    app_id: &Bound<'_, PyAny>,
    channel_id: &Bound<'_, PyAny>,
    payload: &Bound<'_, PyAny>,
) -> PyResult<Message> {
    Ok(Message { message_id, ..fresh(app_id, channel_id, MessageType::Publish, payload)? })
}

/// Returns the bytes of a payload, with those of its attachments.
pub(crate) fn payload_bytes(payload: &Json<'_>) -> usize {
    let attached: usize = payload.attachments().iter().map(|one| one.data.len()).sum();
    payload.as_str().len() + attached
}

fn text(name: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = value.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("{name} of a message is a string, not {value:?}"))
    })?;
    Ok(text.to_cow()?.into_owned())
}

/// # Errors
/// If it is no `MessageType`.
pub(crate) fn type_of(given: &Bound<'_, PyAny>) -> PyResult<MessageType> {
    let types = &classes(given.py())?.types;
    let at = types.iter().position(|one| one.is(given)).ok_or_else(|| {
        PyValueError::new_err(format!("message_type is a MessageType, not {given:?}"))
    })?;
    Ok(MessageType::ALL[at])
}
