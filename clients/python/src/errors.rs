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
