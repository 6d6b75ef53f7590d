//! The connections of a server by `connection_id` alone, as in the published `ConnectionManager`.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipc_framework::{ConnectionInfo, ConnectionKey};
use pyo3::prelude::*;

use super::turn::Door;
use crate::message;

#[derive(Clone)]
pub(super) struct Known {
    pub(super) key: ConnectionKey,
    pub(super) app_id: Arc<str>,
    pub(super) connection_id: Arc<str>,
}

/// The connections of one server, behind a lock.
#[derive(Default)]
pub(super) struct ConnectionTable(Mutex<Connections>);

impl ConnectionTable {
    pub(super) fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(super) struct Connections {
    /// An id is unique within one application only. Lookups return the newest connection.
    by_id: HashMap<Arc<str>, Vec<Known>>,
    by_key: HashMap<ConnectionKey, Arc<str>>,
    /// Subscriptions of connections that have not come yet: application and channel.
    awaited: HashMap<String, Vec<(String, String)>>,
}

impl Connections {
    pub(super) fn add(&mut self, info: &ConnectionInfo<'_>) -> Known {
        let connection_id: Arc<str> = info.connection_id.into();
        let known = Known {
            key: info.key,
            app_id: info.app_id.into(),
            connection_id: connection_id.clone(),
        };
        self.by_id.entry(connection_id.clone()).or_default().push(known.clone());
        self.by_key.insert(info.key, connection_id);
        known
    }

    pub(super) fn remove(&mut self, info: &ConnectionInfo<'_>) {
        self.by_key.remove(&info.key);
        let Some(same_id) = self.by_id.get_mut(info.connection_id) else { return };
        same_id.retain(|known| known.key != info.key);
        if same_id.is_empty() {
            self.by_id.remove(info.connection_id);
        }
    }

    pub(super) fn find(&self, connection_id: &str) -> Option<Known> {
        self.by_id.get(connection_id)?.last().cloned()
    }

    pub(super) fn find_in(&self, app_id: &str, connection_id: &str) -> Option<Known> {
        self.by_id.get(connection_id)?.iter().rfind(|known| &*known.app_id == app_id).cloned()
    }

    pub(super) fn id_of(&self, key: ConnectionKey) -> Option<String> {
        self.by_key.get(&key).map(ToString::to_string)
    }

    pub(super) fn all(&self) -> Vec<Known> {
        self.by_id.values().filter_map(|same_id| same_id.last()).cloned().collect()
    }

    pub(super) fn of_application(&self, app_id: &str) -> Vec<Known> {
        let all = self.by_id.values().flatten();
        all.filter(|known| &*known.app_id == app_id).cloned().collect()
    }

    pub(super) fn await_connection(&mut self, id: String, app_id: String, channel_id: String) {
        let awaited = self.awaited.entry(id).or_default();
        let subscription = (app_id, channel_id);
        if !awaited.contains(&subscription) {
            awaited.push(subscription);
        }
    }

    pub(super) fn forget_awaited(&mut self, id: &str, app_id: &str, channel_id: &str) {
        let Some(awaited) = self.awaited.get_mut(id) else { return };
        awaited.retain(|(app, channel)| app != app_id || channel != channel_id);
        if awaited.is_empty() {
            self.awaited.remove(id);
        }
    }

    /// Returns the ids of connections that will be subscribed when they come.
    pub(super) fn awaited_by(&self, app_id: &str, channel_id: &str) -> Vec<String> {
        let by = |subscriptions: &[(String, String)]| {
            subscriptions.iter().any(|(app, channel)| app == app_id && channel == channel_id)
        };
        let awaited = self.awaited.iter().filter(|(_, subscriptions)| by(subscriptions));
        awaited.map(|(id, _)| id.clone()).collect()
    }

    /// Takes the channels to which a new connection is to be subscribed. Those of other
    /// applications stay.
    pub(super) fn take_awaited(&mut self, known: &Known) -> Vec<String> {
        let Some(awaited) = self.awaited.get_mut(&*known.connection_id) else { return Vec::new() };
        let of_this = |(app, _): &mut (String, String)| **app == *known.app_id;
        let channels = awaited.extract_if(.., of_this).map(|(_, channel)| channel).collect();
        if awaited.is_empty() {
            self.awaited.remove(&*known.connection_id);
        }
        channels
    }
}

/// A connected client, for `send_to_connection`.
#[pyclass(frozen, name = "Connection", module = "ipc_framework._native")]
pub(crate) struct PyConnection {
    door: Arc<Door>,
    known: Known,
}

impl PyConnection {
    pub(super) fn new(door: Arc<Door>, known: Known) -> Self {
        Self { door, known }
    }

    pub(super) fn key(&self) -> ConnectionKey {
        self.known.key
    }
}

#[pymethods]
impl PyConnection {
    /// The id that the client chose.
    #[getter]
    fn connection_id(&self) -> &str {
        &self.known.connection_id
    }

    /// The application to which it belongs.
    #[getter]
    fn app_id(&self) -> &str {
        &self.known.app_id
    }

    /// Sends a message, if the client is still connected.
    fn send(&self, py: Python<'_>, message: &Bound<'_, PyAny>) -> PyResult<()> {
        self.door.send(py, self.known.key, message::from_python(message)?)
    }

    /// Closes it after sending what was sent before.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let key = self.known.key;
        self.door.ask(py, move |context| context.close_connection(key)).map(|_| ())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| {
            let other = other.get();
            other.known.key == self.known.key && Arc::ptr_eq(&other.door, &self.door)
        })
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        self.known.key.hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        format!("<Connection {} of {}>", self.known.connection_id, self.known.app_id)
    }
}
