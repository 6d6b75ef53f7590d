//! `FrameworkClient` and `ipc_framework.aio` over [`ipc_framework::client`].

use pyo3::prelude::*;

pub(crate) fn register(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
