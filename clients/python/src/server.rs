//! `FrameworkServer` over [`ipc_framework::Server`].
//!
//! The event loop has a thread of its own, and takes the GIL only for handlers.

mod calls;
mod connections;
mod dispatch;
mod jobs;
mod options;
mod origin;
mod reply;
mod shared;
mod turn;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipc_framework::{Address, Context, Json, JsonError, MessageType};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use self::connections::PyConnection;
use self::jobs::Waiting;
use self::origin::PyOrigin;
use self::shared::Shared;
use crate::{errors, json, message};

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Server>()?;
    module.add_class::<PyConnection>()?;
    module.add_class::<PyOrigin>()
}

/// A server that listens, from its start to its end.
#[pyclass(frozen, module = "ipc_framework._native")]
struct Server {
    /// `None` after its thread has taken it.
    idle: Mutex<Option<ipc_framework::Server>>,
    shared: Arc<Shared>,
    waiting: Option<Waiting>,
    port: u16,
    drain_timeout: Duration,
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (options, limits, routed, server))]
    fn new(
        py: Python<'_>,
        options: &Bound<'_, PyDict>,
        limits: &Bound<'_, PyDict>,
        routed: Vec<String>,
        server: Py<PyAny>,
    ) -> PyResult<Self> {
        let (config, workers, queue_max) = options::read(options, limits)?;
        let routed = routed.iter().map(|name| message_type(name)).collect::<PyResult<_>>()?;
        let limits = config.limits.clone();
        let mut native = ipc_framework::Server::bind(config)
            .map_err(|error| errors::connection(py, &format!("Failed to start server: {error}")))?;
        let port = native.addresses().iter().find_map(Address::port);
        let shared = Arc::new(Shared::new(native.handle(), &limits, routed, server));
        let (jobs, waiting) = if workers == 0 {
            (None, None)
        } else {
            let (jobs, waiting) = jobs::queue(queue_max);
            (Some(jobs), Some(waiting))
        };
        dispatch::install(&mut native, &shared, jobs);
        let (idle, port) = (Mutex::new(Some(native)), port.unwrap_or_default());
        Ok(Self { idle, shared, waiting, port, drain_timeout: limits.drain_timeout })
    }

    /// The TCP port, or 0 without TCP.
    #[getter]
    fn port(&self) -> u16 {
        self.port
    }

    /// Runs the loop on the calling thread until it is stopped.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let server = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut server) = server else { return Ok(()) };
        let ended = py.detach(move || {
            let ended = server.run();
            drop(server);
            ended
        });
        self.shared.calls.clear();
        ended.map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    /// Waits for a message for a thread of Python. Returns the arguments of `FrameworkServer._run`,
    /// or `None` once the server has ended and everything is done. No frame of this module is below
    /// a handler on such a thread, so one that never returns can be left behind when the process
    /// ends.
    fn take<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyTuple>> {
        let waiting = self.waiting.as_ref()?;
        loop {
            let job = py.detach(|| waiting.next())?;
            let taken = dispatch::take_job(py, &job);
            if taken.is_some() {
                return taken;
            }
        }
    }

    /// Seconds that a drain may take.
    #[getter]
    fn drain_timeout(&self) -> f64 {
        self.drain_timeout.as_secs_f64()
    }

    /// Begins to drain. Requests that nothing is known to work on are not waited for.
    fn stop(&self) {
        self.shared.origins.stop();
        self.shared.door.stop();
    }

    /// Sets whether Python is told about new and closed connections.
    fn set_watched(&self, is_watched: bool) {
        self.shared.is_watched.store(is_watched, Ordering::Relaxed);
    }

    #[pyo3(signature = (app_id, name=None))]
    fn create_application(
        &self,
        py: Python<'_>,
        app_id: String,
        name: Option<String>,
    ) -> PyResult<()> {
        self.shared.door.ask(py, move |context| {
            context.create_application(&app_id, name.as_deref());
        })
    }

    fn create_channel(&self, py: Python<'_>, app_id: String, channel_id: String) -> PyResult<()> {
        self.shared.door.ask(py, move |context| context.create_channel(&app_id, &channel_id))
    }

    fn remove_channel(&self, py: Python<'_>, app_id: String, channel_id: String) -> PyResult<bool> {
        self.shared.calls.remove(&app_id, &channel_id);
        self.shared.door.ask(py, move |context| context.remove_channel(&app_id, &channel_id))
    }

    fn has_application(&self, py: Python<'_>, app_id: String) -> PyResult<bool> {
        self.shared.door.ask(py, move |context| context.has_application(&app_id))
    }

    fn has_channel(&self, py: Python<'_>, app_id: String, channel_id: String) -> PyResult<bool> {
        self.shared.door.ask(py, move |context| context.has_channel(&app_id, &channel_id))
    }

    fn set_handler(
        &self,
        app_id: &str,
        channel_id: &str,
        of_type: &str,
        handler: Py<PyAny>,
        serves: bool,
    ) -> PyResult<()> {
        let of_type = message_type(of_type)?;
        self.shared.calls.set(app_id, channel_id, of_type, handler, serves);
        Ok(())
    }

    /// Subscribes or unsubscribes a connection. One that is not connected yet is subscribed when it
    /// connects.
    fn set_subscribed(
        &self,
        py: Python<'_>,
        app_id: String,
        channel_id: String,
        connection_id: String,
        is_subscribed: bool,
    ) -> PyResult<()> {
        let table = self.shared.connections.clone();
        self.shared.door.ask(py, move |context| {
            let mut connections = table.lock();
            let known = connections.find_in(&app_id, &connection_id);
            if !is_subscribed {
                connections.forget_awaited(&connection_id, &app_id, &channel_id);
            }
            match known {
                Some(known) if is_subscribed => drop(context.subscribe(known.key, &channel_id)),
                Some(known) => drop(context.unsubscribe(known.key, &channel_id)),
                None if is_subscribed => {
                    connections.await_connection(connection_id, app_id, channel_id);
                }
                None => {}
            }
        })
    }

    fn subscribers(
        &self,
        py: Python<'_>,
        app_id: String,
        channel_id: String,
    ) -> PyResult<Vec<String>> {
        let table = self.shared.connections.clone();
        self.shared.door.ask(py, move |context| {
            let keys = context.subscribers(&app_id, &channel_id);
            let ids = keys.into_iter().filter_map(|key| context.connection_id(key));
            let mut ids: Vec<String> = ids.map(str::to_owned).collect();
            ids.extend(table.lock().awaited_by(&app_id, &channel_id));
            ids
        })
    }

    /// Returns the connection with this id. If several applications have one, it is the newest.
    fn connection(&self, connection_id: &str) -> Option<PyConnection> {
        let known = self.shared.connections.lock().find(connection_id)?;
        Some(self.shared.connection(known))
    }

    /// Returns the connection with this id in one application.
    fn connection_of(&self, app_id: &str, connection_id: &str) -> Option<PyConnection> {
        let known = self.shared.connections.lock().find_in(app_id, connection_id)?;
        Some(self.shared.connection(known))
    }

    fn connections(&self) -> Vec<PyConnection> {
        let all = self.shared.connections.lock().all();
        all.into_iter().map(|known| self.shared.connection(known)).collect()
    }

    fn connections_of(&self, app_id: &str) -> Vec<PyConnection> {
        let all = self.shared.connections.lock().of_application(app_id);
        all.into_iter().map(|known| self.shared.connection(known)).collect()
    }

    /// Sends a message to a connection, or to the requester that it answers. Returns whether there
    /// was one.
    fn send(
        &self,
        py: Python<'_>,
        connection: Option<&Bound<'_, PyConnection>>,
        response: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let message = message::from_python(response)?;
        let to = connection.map(|connection| connection.get().key());
        if let Some(reply_to) = &message.reply_to {
            let carried = response.getattr("_origin").ok();
            let carried = carried.as_ref().and_then(|carried| carried.cast::<PyOrigin>().ok());
            let origin = match carried.map(|carried| &carried.get().0) {
                Some(origin) if origin.is_answered_by(reply_to, to) => Some(origin.clone()),
                _ => self.shared.origins.find(reply_to, &message.app_id, to),
            };
            if let Some(origin) = origin {
                origin.answer(py, message)?;
                return Ok(true);
            }
        }
        match to {
            Some(to) => self.shared.door.send(py, to, message).map(|()| true),
            None => Ok(false),
        }
    }

    fn publish(
        &self,
        py: Python<'_>,
        app_id: &str,
        channel_id: &str,
        message: &Bound<'_, PyAny>,
        retain: bool,
    ) -> PyResult<()> {
        self.shared.door.publish(py, app_id, channel_id, message::from_python(message)?, retain)
    }

    fn broadcast(&self, py: Python<'_>, app_id: &str, message: &Bound<'_, PyAny>) -> PyResult<()> {
        // The message keeps the application that it names, whatever connection gets it.
        self.shared.door.broadcast(py, app_id.to_owned(), message::from_python(message)?)
    }

    /// Returns the server's statistics, in the form in which `get_stats` on `system` has them.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.listing(py, |context| Json::from_serialize(&context.stats()))
    }

    fn list_applications<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.listing(py, |context| Json::from_serialize(&context.list_applications()))
    }

    fn list_channels<'py>(&self, py: Python<'py>, app_id: String) -> PyResult<Bound<'py, PyAny>> {
        self.listing(py, move |context| Json::from_serialize(&context.list_channels(&app_id)))
    }
}

impl Server {
    /// Returns a listing of the loop as a dictionary, which is empty after the server has ended.
    fn listing<'py>(
        &self,
        py: Python<'py>,
        list: impl FnOnce(&mut Context<'_>) -> Result<Json<'static>, JsonError> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.shared.door.ask(py, |context| Some(list(context)))? {
            None => Ok(PyDict::new(py).into_any()),
            Some(Ok(listing)) => json::to_python(py, &listing),
            Some(Err(error)) => Err(PyValueError::new_err(error.to_string())),
        }
    }
}

fn message_type(name: &str) -> PyResult<MessageType> {
    let found = MessageType::ALL.into_iter().find(|one| one.as_str() == name);
    found.ok_or_else(|| PyValueError::new_err(format!("{name} is no type of message")))
}
