//! The native module behind the Python package: the server and the client of `ipc-framework`,
//! driven from Python. The published classes are Python (`python/ipc_framework`); what moves
//! bytes, keeps connections and tells messages apart is Rust, and holds no GIL while it does.

mod client;
mod errors;
mod inside;
mod json;
mod message;
mod server;

use pyo3::prelude::*;

/// Free-threaded builds take the GIL for this module: its classes are shared by threads that
/// count on it. Sub-interpreters are refused by `PyO3`, with an `ImportError` that says so.
#[pymodule(gil_used = true)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        super::server::register(module)?;
        super::client::register(module)
    }
}
