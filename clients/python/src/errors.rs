//! The package's own exceptions.

use pyo3::prelude::*;

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
