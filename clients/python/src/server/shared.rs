//! The state that the loop's thread and the threads of Python share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ipc_framework::{Handle, Limits, MessageType};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::calls::Calls;
use super::connections::{ConnectionTable, Known, PyConnection};
use super::origin::Origins;
use super::turn::Door;

pub(super) struct Shared {
    pub(super) door: Arc<Door>,
    pub(super) connections: Arc<ConnectionTable>,
    pub(super) origins: Arc<Origins>,
    pub(super) calls: Calls,
    /// Set if Python wants to know of connections.
    pub(super) is_watched: AtomicBool,
    /// A weak reference to the `FrameworkServer`. A message or a connection that a program keeps
    /// leads here, and would otherwise keep the whole server forever, because the garbage
    /// collector does not see it.
    server: Py<PyAny>,
}

impl Shared {
    pub(super) fn new(
        handle: Handle,
        limits: &Limits,
        routed: Vec<MessageType>,
        server: Py<PyAny>,
    ) -> Self {
        let door = Door::new(handle, limits.frame_bytes_max);
        let connections = Arc::new(ConnectionTable::default());
        let origins = Origins::new(door.clone(), connections.clone(), limits.request_timeout);
        Self {
            door,
            connections,
            origins,
            calls: Calls::new(routed),
            is_watched: AtomicBool::new(false),
            server,
        }
    }

    /// Returns the `FrameworkServer`.
    pub(super) fn server<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let server = self.server.bind(py).call0()?;
        if server.is_none() {
            return Err(PyRuntimeError::new_err("the server is gone"));
        }
        Ok(server)
    }

    /// Returns a connection as Python sees it.
    pub(super) fn connection(&self, known: Known) -> PyConnection {
        PyConnection::new(self.door.clone(), known)
    }
}
