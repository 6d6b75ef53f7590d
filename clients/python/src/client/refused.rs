//! What is no message that could be sent.

use ipc_framework::Message;
use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::errors::Failure;
use crate::message;

/// # Errors
/// If it is not a message; `SerializationError` if its payload is not JSON.
pub(super) fn from_python(message: &Bound<'_, PyAny>) -> PyResult<Message> {
    message::from_python(message).map_err(|error| refused(message.py(), error))
}

/// Returns the exception for a message that cannot be sent as it is.
pub(super) fn refused(py: Python<'_>, error: PyErr) -> PyErr {
    let is_of_value = error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyAttributeError>(py);
    // Others were raised by the handler of a signal, such as Ctrl-C or a time limit.
    if is_of_value { Failure::of_value(py, &error).caused_by(py, error) } else { error }
}
