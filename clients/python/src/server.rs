//! `FrameworkServer` over [`ipc_framework::Server`].
//!
//! The event loop has a thread of its own and takes the GIL for handlers alone.

mod connections;
mod dispatch;
mod jobs;
mod options;
mod origin;
mod pending;
mod shared;
mod turn;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipc_framework::{Address, Json, MessageType};
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
    /// Until its thread takes it.
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
        let (config, workers) = options::read(options, limits)?;
        let routed = routed.iter().map(|name| message_type(name)).collect::<PyResult<_>>()?;
        let limits = config.limits.clone();
        let mut native = ipc_framework::Server::bind(config)
            .map_err(|error| errors::connection(py, &format!("Failed to start server: {error}")))?;
        let port = native.addresses().iter().find_map(|address| match address {
            Address::Tcp(address) => Some(address.port()),
            Address::Unix(_) => None,
        });
        let shared = Arc::new(Shared::new(native.handle(), &limits, routed, server));
        let (jobs, waiting) = if workers == 0 {
            (None, None)
        } else {
            let (jobs, waiting) = jobs::queue();
            (Some(jobs), Some(waiting))
        };
        dispatch::install(&mut native, &shared, jobs);
        let (idle, port) = (Mutex::new(Some(native)), port.unwrap_or_default());
        Ok(Self { idle, shared, waiting, port, drain_timeout: limits.drain_timeout })
    }

    /// The TCP port, 0 without one.
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
        self.shared.drop_all_handlers();
        ended.map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    /// Waits for a message for a thread of Python's, as `FrameworkServer._run` is called with it;
    /// `None` once the server has ended and all is done. No frame of this module is below a
    /// handler there: one that never returns may be left behind when the process ends.
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

    /// Begins to drain. What nobody is known to work on is not waited for.
    fn stop(&self) {
        let abandoned = self.shared.pending().stop();
        for origin in abandoned {
            origin.abandon();
        }
        self.shared.handle.stop();
    }

    /// Whether Python hears of connections that come and go.
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
        turn::ask(py, &self.shared, move |context| {
            context.create_application(&app_id, name.as_deref());
        })
    }

    fn create_channel(&self, py: Python<'_>, app_id: String, channel_id: String) -> PyResult<()> {
        turn::ask(py, &self.shared, move |context| context.create_channel(&app_id, &channel_id))
    }

    fn remove_channel(&self, py: Python<'_>, app_id: String, channel_id: String) -> PyResult<bool> {
        self.shared.drop_handlers(&app_id, &channel_id);
        turn::ask(py, &self.shared, move |context| context.remove_channel(&app_id, &channel_id))
    }

    fn has_application(&self, py: Python<'_>, app_id: String) -> PyResult<bool> {
        turn::ask(py, &self.shared, move |context| context.has_application(&app_id))
    }

    fn has_channel(&self, py: Python<'_>, app_id: String, channel_id: String) -> PyResult<bool> {
        turn::ask(py, &self.shared, move |context| context.has_channel(&app_id, &channel_id))
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
        self.shared.set_handler(app_id, channel_id, of_type, handler, serves);
        Ok(())
    }

    /// Subscribes a connection; one that is not there yet, once it comes.
    fn subscribe(
        &self,
        py: Python<'_>,
        app_id: String,
        channel_id: String,
        connection_id: String,
    ) -> PyResult<()> {
        let shared = self.shared.clone();
        turn::ask(py, &self.shared, move |context| {
            let mut connections = shared.connections();
            match connections.find_in(&app_id, &connection_id) {
                Some(known) => drop(context.subscribe(known.key, &channel_id)),
                None => connections.await_connection(connection_id, app_id, channel_id),
            }
        })
    }

    fn unsubscribe(
        &self,
        py: Python<'_>,
        app_id: String,
        channel_id: String,
        connection_id: String,
    ) -> PyResult<()> {
        let shared = self.shared.clone();
        turn::ask(py, &self.shared, move |context| {
            let mut connections = shared.connections();
            connections.forget_awaited(&connection_id, &app_id, &channel_id);
            if let Some(known) = connections.find_in(&app_id, &connection_id) {
                context.unsubscribe(known.key, &channel_id);
            }
        })
    }

    fn subscribers(
        &self,
        py: Python<'_>,
        app_id: String,
        channel_id: String,
    ) -> PyResult<Vec<String>> {
        let shared = self.shared.clone();
        turn::ask(py, &self.shared, move |context| {
            let keys = context.subscribers(&app_id, &channel_id);
            let ids = keys.into_iter().filter_map(|key| context.connection_id(key));
            let mut ids: Vec<String> = ids.map(str::to_owned).collect();
            ids.extend(shared.connections().awaited_by(&app_id, &channel_id));
            ids
        })
    }

    /// The connection with this id; the last that came, where several applications have one.
    fn connection(&self, connection_id: &str) -> Option<PyConnection> {
        let known = self.shared.connections().find(connection_id)?;
        Some(PyConnection { shared: self.shared.clone(), known })
    }

    /// The same of one application.
    fn connection_of(&self, app_id: &str, connection_id: &str) -> Option<PyConnection> {
        let known = self.shared.connections().find_in(app_id, connection_id)?;
        Some(PyConnection { shared: self.shared.clone(), known })
    }

    fn connections(&self) -> Vec<PyConnection> {
        let all = self.shared.connections().all().into_iter();
        all.map(|known| PyConnection { shared: self.shared.clone(), known }).collect()
    }

    fn connections_of(&self, app_id: &str) -> Vec<PyConnection> {
        let all = self.shared.connections().of_application(app_id).into_iter();
        all.map(|known| PyConnection { shared: self.shared.clone(), known }).collect()
    }

    /// Sends a message to a connection, or to whoever asked what it answers. Returns whether
    /// there was anybody to send it to.
    fn send(
        &self,
        py: Python<'_>,
        connection: Option<&Bound<'_, PyConnection>>,
        response: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let message = message::from_python(response)?;
        let to = connection.map(|connection| connection.get().known.key);
        if let Some(reply_to) = &message.reply_to {
            let is_meant = |origin: &origin::Origin| {
                *origin.message_id == **reply_to && to.is_none_or(|to| to == origin.from)
            };
            let carried = response.getattr("_origin").ok();
            let carried = carried.as_ref().and_then(|carried| carried.cast::<PyOrigin>().ok());
            let origin = match carried.map(|carried| &carried.get().0) {
                Some(origin) if is_meant(origin) => Some(origin.clone()),
                _ => self.shared.pending().find(reply_to, &message.app_id, to),
            };
            if let Some(origin) = origin {
                origin.answer(py, message)?;
                return Ok(true);
            }
        }
        match to {
            Some(to) => self.shared.send(py, to, message).map(|()| true),
            None => Ok(false),
        }
    }

    fn publish(
        &self,
        py: Python<'_>,
        app_id: &str,
        channel_id: &str,
        message: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.shared.publish(py, app_id, channel_id, message::from_python(message)?)
    }

    fn broadcast(&self, py: Python<'_>, app_id: &str, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let message = message::from_python(message)?;
        self.shared.check_size(&message)?;
        // The message keeps the application it names, whoever gets it.
        let app_id = app_id.to_owned();
        let sent = turn::ask(py, &self.shared, move |context| {
            context.broadcast_to_application(&app_id, &message).err()
        })?;
        sent.map_or(Ok(()), |error| Err(PyValueError::new_err(error.to_string())))
    }

    /// As `get_stats` on `system` answers it.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats =
            |context: &mut ipc_framework::Context<'_>| Some(Json::from_serialize(&context.stats()));
        listed(py, turn::ask(py, &self.shared, stats)?)
    }

    fn list_applications<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let list = |context: &mut ipc_framework::Context<'_>| {
            Some(Json::from_serialize(&context.list_applications()))
        };
        listed(py, turn::ask(py, &self.shared, list)?)
    }

    fn list_channels<'py>(&self, py: Python<'py>, app_id: String) -> PyResult<Bound<'py, PyAny>> {
        let list = move |context: &mut ipc_framework::Context<'_>| {
            Some(Json::from_serialize(&context.list_channels(&app_id)))
        };
        listed(py, turn::ask(py, &self.shared, list)?)
    }
}

fn listed<'py>(
    py: Python<'py>,
    listing: Option<Result<Json<'static>, ipc_framework::JsonError>>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(listing) = listing else { return Ok(PyDict::new(py).into_any()) };
    json::to_python(py, &listing.map_err(|error| PyValueError::new_err(error.to_string()))?)
}

fn message_type(name: &str) -> PyResult<MessageType> {
    let found = MessageType::ALL.into_iter().find(|one| one.as_str() == name);
    found.ok_or_else(|| PyValueError::new_err(format!("{name} is no type of message")))
}
