//! The errors of a client as Python exceptions.

use std::borrow::Cow;

use ipc_framework::client::{Error, Execution};
use ipc_framework::{ErrorCode, Json};
use pyo3::exceptions::{
    PyMemoryError, PyOverflowError, PyRecursionError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use crate::json;

/// An error on its way to Python, where another thread raises it later.
#[derive(Debug)]
pub(super) struct Failure {
    /// The class in `ipc_framework.exceptions`.
    class: &'static str,
    code: Cow<'static, str>,
    text: String,
    details: Option<Json<'static>>,
    may_be_executed: bool,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let (class, code) = match error {
            Error::Unsupported { .. } => ("IPCError", "unsupported"),
            Error::Cancelled { .. } => ("IPCError", "cancelled"),
            Error::Application { code, text, details } => {
                let class = "ApplicationError";
                let details = details.clone();
                return Self {
                    details,
                    may_be_executed: true,
                    ..Self::new(class, code.clone(), text.clone())
                };
            }
            Error::BadId { .. } => ("ChannelError", "bad_id"),
            Error::BadPattern { .. } => ("ChannelError", "bad_pattern"),
            Error::AlreadySubscribed { .. } => ("ChannelError", "already_subscribed"),
            Error::NotJson(_) => ("SerializationError", "not_json"),
            Error::TooLarge { .. } => ("SerializationError", "too_large"),
            Error::BadAttachments { .. } => ("SerializationError", "undecodable"),
            Error::Deadline { .. } => ("TimeoutError", "timeout"),
            Error::Unreachable { .. } => ("ConnectionError", "unreachable"),
            Error::NoServer { failures } => {
                // All may have the same reason, such as a wrong token.
                let mut each = failures.iter().map(|(_, error)| Self::from(error));
                let first = each.next().map(|it| (it.class, it.code));
                let same = first.filter(|(class, code)| {
                    each.all(|other| (other.class, &other.code) == (*class, code))
                });
                let (class, code) =
                    same.unwrap_or(("ConnectionError", Cow::Borrowed("unreachable")));
                return Self::new(class, code, error.to_string());
            }
            Error::BadAddresses { .. } => ("ConnectionError", "bad_address"),
            Error::Tls { .. } => ("ConnectionError", "tls"),
            Error::Lost { .. } => ("ConnectionError", "lost"),
            Error::Disconnected => ("ConnectionError", "disconnected"),
            Error::QueueFull { .. } => ("ConnectionError", "queue_full"),
            Error::Protocol { .. } => ("ConnectionError", "protocol"),
            Error::Closed => ("ConnectionError", "closed"),
            Error::Answered { code, .. } => (class_of(*code), code.as_str()),
            _ => ("IPCError", "system"),
        };
        let may_be_executed = error.execution() == Execution::Possible;
        Self { may_be_executed, ..Self::new(class, code, error.to_string()) }
    }
}

/// Picks the published class that is documented for the error.
fn class_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::AuthFailed => "AuthenticationError",
        ErrorCode::Timeout => "TimeoutError",
        ErrorCode::HandlerFailed => "ApplicationError",
        ErrorCode::NoHandler | ErrorCode::WorkerLost => "RoutingError",
        ErrorCode::ServerFull | ErrorCode::TakenOver | ErrorCode::ShuttingDown => "ConnectionError",
        _ => "IPCError",
    }
}

impl Failure {
    fn new(class: &'static str, code: impl Into<Cow<'static, str>>, text: String) -> Self {
        Self { class, code: code.into(), text, details: None, may_be_executed: false }
    }

    /// The error of a request in flight when the program closes its client.
    pub(super) fn of_closed() -> Self {
        let text =
            "the client was closed before the answer came; the request may have been carried out";
        Self { may_be_executed: true, ..Self::new("ConnectionError", "closed", text.into()) }
    }

    /// An error of files that cannot be used.
    pub(super) fn of_tls(error: &ipc_framework::Error) -> Self {
        Self::new("ConnectionError", "tls", error.to_string())
    }

    pub(super) fn of_payload(error: &PyErr) -> Self {
        let text = format!("what came cannot be a Python object: {error}");
        Self { may_be_executed: true, ..Self::new("SerializationError", "undecodable", text) }
    }

    pub(super) fn of_value(py: Python<'_>, error: &PyErr) -> Self {
        Self::new("SerializationError", "not_json", error.value(py).to_string())
    }

    pub(super) fn caused_by(self, py: Python<'_>, cause: PyErr) -> PyErr {
        let error = self.into_py(py);
        error.set_cause(py, Some(cause));
        error
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_deadline(&self) -> bool {
        self.class == "TimeoutError"
    }

    pub(super) fn into_py(self, py: Python<'_>) -> PyErr {
        static CLASSES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
        let build = || {
            let module = CLASSES
                .get_or_try_init(py, || py.import("ipc_framework.exceptions").map(Bound::unbind))?;
            let error = module.bind(py).getattr(self.class)?.call1((self.text,))?;
            error.setattr("code", &*self.code)?;
            error.setattr("may_be_executed", self.may_be_executed)?;
            if let Some(details) = &self.details {
                error.setattr("details", json::to_python(py, details)?)?;
            }
            Ok(PyErr::from_value(error))
        };
        build().unwrap_or_else(|error| error)
    }
}

/// Returns the exception for a payload that cannot be a Python object. What the handler of a signal has
/// raised meanwhile, such as Ctrl-C, stays what it is.
pub(super) fn undecodable(py: Python<'_>, error: PyErr) -> PyErr {
    let is_of_value = error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyOverflowError>(py)
        || error.is_instance_of::<PyMemoryError>(py)
        || error.is_instance_of::<PyRecursionError>(py);
    if is_of_value { Failure::of_payload(&error).into_py(py) } else { error }
}

/// Returns the exception for an error.
pub(super) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    Failure::from(error).into_py(py)
}

/// Returns the exception for an answer, if its payload is an error of the protocol or of an
/// application.
#[pyfunction]
pub(super) fn error_of<'py>(payload: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = payload.py();
    let Ok(payload) = payload.cast::<PyDict>() else { return Ok(None) };
    let field = |name: &str| -> PyResult<Option<String>> {
        let value = payload.get_item(name)?;
        Ok(value.and_then(|value| value.cast_into::<PyString>().ok()?.extract().ok()))
    };
    let (Some(status), Some(code), Some(text)) =
        (field("status")?, field("code")?, field("error")?)
    else {
        return Ok(None);
    };
    let details = payload.get_item("details")?;
    if status != "error" || payload.len() != 3 + usize::from(details.is_some()) {
        return Ok(None);
    }
    let known = ErrorCode::ALL.into_iter().find(|known| known.as_str() == code);
    let error = match known {
        Some(code) => Error::Answered { code, text },
        None if code.starts_with("app:") => Error::Application { code, text, details: None },
        None => return Ok(None),
    };
    let error = raise(py, &error).into_value(py).into_bound(py).into_any();
    if let Some(details) = details {
        error.setattr("details", details)?;
    }
    Ok(Some(error))
}
