//! The package's own exceptions.

use ipc_framework::HandlerError;
use pyo3::prelude::*;

use crate::json;

/// Returns an `ipc_framework.exceptions.ConnectionError`.
pub(crate) fn connection(py: Python<'_>, text: &str) -> PyErr {
    let class =
        py.import("ipc_framework.exceptions").and_then(|all| all.getattr("ConnectionError"));
    match class.and_then(|class| class.call1((text,))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

/// Returns the error for something that the system does not give, such as one more descriptor.
pub(crate) fn system(py: Python<'_>, what: &str, error: &std::io::Error) -> PyErr {
    let text = format!(
        "the system gives no {what} ({error}); close what is not needed, or raise the limit of the \
         process"
    );
    let told = connection(py, &text);
    // An error whose code cannot be set says enough.
    let _ = told.value(py).setattr("code", "system");
    told
}

/// Returns what a handler raised with a code of its application.
///
/// # Errors
/// If the details are no JSON. The class `HandlerError` has checked everything.
pub(crate) fn of_application(
    code: &str,
    text: String,
    details: &Bound<'_, PyAny>,
) -> PyResult<HandlerError> {
    let error = HandlerError::app(code, text);
    if details.is_none() {
        return Ok(error);
    }
    Ok(error.details_json(&json::from_python(details)?))
}
