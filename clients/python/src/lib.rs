//! The native module behind the Python package: the server and the client of `ipc-framework`,
//! driven from Python. The published classes are Python (`python/ipc_framework`); Rust moves bytes,
//! keeps connections and tells messages apart, without the GIL.

mod aside;
mod attachments;
mod cancelled;
mod client;
mod errors;
mod inside;
mod json;
mod message;
mod notices;
mod parts;
mod server;

use pyo3::prelude::*;

/// Free-threaded builds take the GIL for this module, because its classes are shared by threads and
/// rely on it. Only the first interpreter of a process may import it, because its state exists once
/// per process.
#[pymodule(gil_used = true)]
mod _native {
    use std::sync::OnceLock;

    use pyo3::exceptions::PyImportError;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        static FIRST: OnceLock<usize> = OnceLock::new();
        // Each interpreter has its own module `sys`, which lives as long as the interpreter.
        let this = module.py().import("sys")?.as_ptr() as usize;
        if *FIRST.get_or_init(|| this) != this {
            return Err(PyImportError::new_err(
                "ipc_framework works in one interpreter of a process, and another has it already; \
                 import it in the main one only, or use a process for each",
            ));
        }
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add_class::<super::cancelled::Cancelled>()?;
        module.add_class::<super::notices::Notices>()?;
        super::server::register(module)?;
        super::client::register(module)
    }
}
