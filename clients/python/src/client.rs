//! `FrameworkClient` and `ipc_framework.aio` over [`ipc_framework::client`].
//!
//! The client's thread never takes the GIL: answers, messages and events go into an [`Inbox`], and
//! the requests of a served channel into its [`Jobs`]; Python empties both. An answer for which a
//! thread blocks goes straight to that thread, by a [`Waiter`].

mod asked;
mod burst;
mod errors;
mod inbox;
mod job;
mod jobs;
mod link;
mod stream;
mod waiter;

use std::collections::HashSet;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ipc_framework::client::{
    self, ClientOptions, Endpoint, Error, Event, Reconnect, RequestId, RequestOptions,
};
use ipc_framework::{MessageType, Token};
use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::attachments::{Memory, attach};
use crate::inside::{Inside, SIGNALS, after_fork, begin_end};
use crate::json::json_text;
use crate::message;
use asked::{Asked, Place};
use burst::Burst;
use errors::{Failure, error_of, raise};
use inbox::{Inbox, Item};
use job::Job;
use jobs::{Jobs, Queue};
use link::Link;
use stream::Stream;
use waiter::Waiter;

/// Pause between checks whether a full queue has room again.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Client>()?;
    module.add_class::<Job>()?;
    module.add_class::<Jobs>()?;
    module.add_class::<Waiter>()?;
    module.add_class::<Stream>()?;
    module.add_class::<Memory>()?;
    module.add_function(wrap_pyfunction!(begin_end, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork, module)?)?;
    module.add_function(wrap_pyfunction!(json_text, module)?)?;
    module.add_function(wrap_pyfunction!(attach, module)?)?;
    module.add_function(wrap_pyfunction!(error_of, module)?)
}

/// `ipc_framework.tls.Tls`: the files of the authority, the certificate and its key, and the
/// server's name.
type Tls = (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>, Option<String>);

fn tls_from_python((ca, cert, key, name): Tls) -> Result<client::Tls, ipc_framework::Error> {
    let mut tls = match ca {
        Some(path) => client::Tls::with_ca(path)?,
        None => client::Tls::with_system_roots()?,
    };
    if let Some(name) = name {
        tls = tls.server_name(&name)?;
    }
    match (cert, key) {
        (None, None) => Ok(tls),
        (Some(cert), Some(key)) => tls.certificate(cert, key),
        _ => {
            let text = "a certificate and its key belong together; give cert and key";
            Err(ipc_framework::Error::Config(text.into()))
        }
    }
}

/// A connection and everything that it receives.
#[pyclass(frozen, module = "ipc_framework._native")]
struct Client {
    /// `None` once it is closed.
    connection: Mutex<Option<client::Client>>,
    inbox: Arc<Inbox>,
    link: Arc<Link>,
    subscribed: Mutex<HashSet<String>>,
    /// The queues of all served channels, current or not, which end with the connection.
    served: Mutex<Vec<Weak<Queue>>>,
    queue_bytes_max: usize,
    timeout: Duration,
    /// Number of requests in flight.
    asked: Arc<AtomicUsize>,
    /// The program closes the client, so its requests in flight do not fail because of the server.
    is_ending: Arc<AtomicBool>,
    burst: Burst,
    /// This process is a forked child of the one that connected.
    is_parents: AtomicBool,
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (*, app_id, host, port, unix, token, tls, connection_id, connect_timeout,
        reconnect, heartbeat, queue_bytes_max, frame_bytes_max, rings))]
    #[expect(clippy::too_many_arguments, reason = "they have names where it is called")]
    fn new(
        py: Python<'_>,
        app_id: String,
        host: String,
        port: u16,
        unix: Option<PathBuf>,
        token: Option<String>,
        tls: Option<Tls>,
        connection_id: String,
        connect_timeout: f64,
        reconnect: Option<(f64, f64)>,
        heartbeat: Option<f64>,
        queue_bytes_max: usize,
        frame_bytes_max: usize,
        rings: bool,
    ) -> PyResult<Self> {
        let inside = Inside::enter(py);
        let mut options = ClientOptions::new(app_id);
        options.connection.endpoint = match unix {
            Some(path) => Endpoint::unix(path),
            None => Endpoint::tcp(host, port),
        };
        options.connection.token = token.map(Token::new);
        options.connection.tls = tls
            .map(tls_from_python)
            .transpose()
            .map_err(|error| Failure::of_tls(&error).into_py(py))?;
        options.connection.connection_id = Some(connection_id);
        options.connection.connect_timeout = seconds(connect_timeout);
        options.connection.timeout = seconds(connect_timeout);
        options.connection.frame_bytes_max = frame_bytes_max;
        options.reconnect = reconnect.map(|(min, max)| Reconnect::new(seconds(min), seconds(max)));
        options.heartbeat = heartbeat.map(seconds);
        options.queue_bytes_max = queue_bytes_max;
        let inbox = Inbox::new(rings)
            .map_err(|error| crate::errors::system(py, "pair of sockets", &error))?;
        let inbox = Arc::new(inbox);
        let link = Arc::new(Link::default());
        let connect = move || options.connect();
        // The connection attempt has its own timeout.
        let client = inside.interruptible(Duration::MAX, connect)?.unwrap_or(Err(Error::Closed));
        let client = client.map_err(|error| raise(py, &error))?;
        let (put, seen) = (Arc::clone(&inbox), Arc::clone(&link));
        client.on_event(move |event: &Event| {
            seen.follow(event);
            put.put(Item::from(event));
        });
        let put = Arc::clone(&inbox);
        client
            .on_message(move |message| put.put(Item::Message(message)))
            .map_err(|error| raise(py, &error))?;
        let (connection, subscribed) = (Mutex::new(Some(client)), Mutex::default());
        let served = Mutex::default();
        let is_parents = AtomicBool::new(false);
        let (asked, is_ending) = (Arc::default(), Arc::default());
        let timeout = seconds(connect_timeout);
        Ok(Self {
            connection,
            inbox,
            link,
            subscribed,
            served,
            queue_bytes_max,
            timeout,
            asked,
            is_ending,
            burst: Burst::default(),
            is_parents,
        })
    }

    #[getter]
    fn is_connected(&self) -> bool {
        self.open().is_ok_and(|client| client.is_connected())
    }

    /// The client has ended for good.
    #[getter]
    fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// Returns whether sending would block because the queue is full.
    #[getter]
    fn is_full(&self) -> bool {
        self.open().is_ok_and(|client| client.waiting_bytes() >= self.queue_bytes_max)
    }

    #[getter]
    fn missed(&self) -> u64 {
        self.inbox.missed()
    }

    /// Returns a duplicate of the connection's descriptor, which Python owns.
    fn duplicate_socket(&self) -> PyResult<Option<i32>> {
        let socket = self.open().ok().and_then(|client| client.duplicate_socket()).transpose()?;
        Ok(socket.map(IntoRawFd::into_raw_fd))
    }

    /// Waits for a client that is reconnecting. Returns false if it does not connect in time.
    fn wait_connected(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let inside = Inside::enter(py);
        let begin = Instant::now();
        loop {
            let left = seconds(timeout).saturating_sub(begin.elapsed());
            if left.is_zero() || self.is_connected() || self.is_closed() {
                return Ok(self.is_connected());
            }
            inside.detached(|| self.link.wait(left.min(SIGNALS)));
            py.check_signals()?;
        }
    }

    /// Returns information about the connection that the published client does not have.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inside = Inside::enter(py);
        let told = PyDict::new(py);
        if let Ok(client) = self.open() {
            let info = inside.detached(|| client.connection_info());
            told.set_item("connections", info.connections)?;
            told.set_item("pending_requests", self.asked.load(Ordering::SeqCst))?;
            told.set_item("waiting_bytes", info.waiting_bytes)?;
            told.set_item("served_channels", info.served_channels)?;
        }
        Ok(told)
    }

    /// Sends a message without changing it. An answer to it arrives as a message.
    fn send(&self, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = message.py();
        let inside = Inside::enter(py);
        let message = from_python(message)?;
        let client = self.open().map_err(|error| raise(py, &error))?;
        self.wait_for_room(&inside, &client)?;
        let sent = inside.detached(|| {
            self.begin_alone(&client);
            client.send_message(&message)
        });
        sent.map(|_id| ()).map_err(|error| raise(py, &error))
    }

    /// Sends a publication or a notification with a fresh id, and returns that. Many in a row leave
    /// together.
    fn post(
        &self,
        app_id: &Bound<'_, PyAny>,
        channel_id: &Bound<'_, PyAny>,
        message_type: &Bound<'_, PyAny>,
        payload: &Bound<'_, PyAny>,
    ) -> PyResult<String> {
        let py = payload.py();
        let inside = Inside::enter(py);
        let message = message::type_of(message_type)
            .and_then(|one| message::fresh(app_id, channel_id, one, payload));
        let message = message.map_err(|error| refused(py, error))?;
        let client = self.open().map_err(|error| raise(py, &error))?;
        self.wait_for_room(&inside, &client)?;
        let is_batching = self.burst.goes_on();
        let sent = inside.detached(|| {
            client.set_batching(is_batching);
            client.send_message(&message)
        });
        sent.map_err(|error| raise(py, &error))
    }

    /// Sends the messages that wait for others.
    fn send_held(&self, py: Python<'_>) {
        let inside = Inside::enter(py);
        if let Ok(client) = self.open() {
            inside.detached(|| client.set_batching(false));
        }
    }

    /// Sends a request without changing it. Its answer goes to the waiter, or into the inbox if
    /// there is none. If the id is not a UUID the client cannot wait for the answer, which then
    /// arrives as a message; this returns false.
    #[pyo3(signature = (message, timeout, travels, waiter))]
    fn ask(
        &self,
        message: &Bound<'_, PyAny>,
        timeout: f64,
        travels: bool,
        waiter: Option<&Bound<'_, Waiter>>,
    ) -> PyResult<bool> {
        let inside = Inside::enter(message.py());
        let sent = message;
        let message = from_python(sent)?;
        if RequestId::of_message_id(&message.message_id).is_none() {
            return self.send(sent).map(|()| false);
        }
        self.ask_for(&inside, message, (timeout, travels), waiter.map(Bound::get))?;
        Ok(true)
    }

    /// Sends a request and waits for the answer; None if the time is over.
    fn request<'py>(
        &self,
        message_id: String,
        app_id: &Bound<'py, PyAny>,
        channel_id: &Bound<'py, PyAny>,
        payload: &Bound<'py, PyAny>,
        timeout: f64,
        travels: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = payload.py();
        let inside = Inside::enter(py);
        let message = message::fresh(app_id, channel_id, MessageType::Request, payload);
        let mut message = message.map_err(|error| refused(py, error))?;
        message.message_id = message_id;
        let waiter = Waiter::default();
        self.ask_for(&inside, message, (timeout, travels), Some(&waiter))?;
        waiter.answer(&inside)
    }

    /// Sends a request whose answer comes in parts. If it has a number, the inbox says by that when
    /// there may be a part, and otherwise whoever takes one blocks.
    #[pyo3(signature = (message_id, app_id, channel_id, payload, timeout, number))]
    fn open_stream(
        &self,
        message_id: String,
        app_id: &Bound<'_, PyAny>,
        channel_id: &Bound<'_, PyAny>,
        payload: &Bound<'_, PyAny>,
        timeout: f64,
        number: Option<u64>,
    ) -> PyResult<Stream> {
        let py = payload.py();
        let inside = Inside::enter(py);
        let message = message::fresh(app_id, channel_id, MessageType::Request, payload);
        let mut message = message.map_err(|error| refused(py, error))?;
        message.message_id = message_id;
        let client = self.open().map_err(|error| raise(py, &error))?;
        self.wait_for_room(&inside, &client)?;
        let options = RequestOptions::default().timeout(seconds(timeout));
        let opened = inside.detached(|| {
            self.begin_alone(&client);
            client.request_stream_message(&message, &options)
        });
        let parts = opened.map_err(|error| raise(py, &error))?;
        if let Some(number) = number {
            let inbox = Arc::clone(&self.inbox);
            parts.on_ready(move || inbox.put(Item::Ready(number)));
        }
        Ok(Stream::new(parts))
    }

    /// Stops waiting for an answer, and cancels its request.
    fn forget(&self, py: Python<'_>, message_id: &str) {
        let inside = Inside::enter(py);
        if let (Ok(client), Some(request)) = (self.open(), RequestId::of_message_id(message_id)) {
            inside.detached(|| client.cancel(request));
        }
    }

    fn subscribe(&self, py: Python<'_>, channel_id: &str) -> PyResult<()> {
        let client = self.open().map_err(|error| raise(py, &error))?;
        let mut subscribed = self.subscribed.lock().unwrap_or_else(PoisonError::into_inner);
        if subscribed.contains(channel_id) {
            return Ok(());
        }
        let put = Arc::clone(&self.inbox);
        let listen = move |message| put.put(Item::Message(message));
        client.on_publication(channel_id, listen).map_err(|error| raise(py, &error))?;
        subscribed.insert(channel_id.to_owned());
        Ok(())
    }

    fn unsubscribe(&self, channel_id: &str) {
        let mut subscribed = self.subscribed.lock().unwrap_or_else(PoisonError::into_inner);
        if subscribed.remove(channel_id)
            && let Ok(client) = self.open()
        {
            client.unsubscribe(channel_id);
        }
    }

    /// Blocks until the server has accepted. All requests go into `jobs` at once, where handlers
    /// find the next one without the client's thread. The server hands out `announced` at a time.
    fn serve(
        &self,
        py: Python<'_>,
        channel_id: String,
        jobs: &Bound<'_, Jobs>,
        announced: Option<u32>,
    ) -> PyResult<()> {
        let inside = Inside::enter(py);
        let client = self.open().map_err(|error| raise(py, &error))?;
        let queue = Arc::clone(&jobs.get().queue);
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.retain(|queue| queue.strong_count() > 0);
        served.push(Arc::downgrade(&queue));
        drop(served);
        // A queue serves one channel.
        let _ = queue.client.set(client.downgrade());
        let pass_on = move |message, responder| queue.put(message, responder);
        let serve = move || client.serve_through(&channel_id, usize::MAX, announced, pass_on);
        let served = inside.interruptible(Duration::MAX, serve)?.unwrap_or(Err(Error::Closed));
        served.map_err(|error| raise(py, &error))
    }

    fn stop_serving(&self, py: Python<'_>, channel_id: String) -> PyResult<()> {
        let inside = Inside::enter(py);
        let client = self.open().map_err(|error| raise(py, &error))?;
        let stop = move || client.stop_serving(&channel_id);
        let stopped = inside.interruptible(Duration::MAX, stop)?.unwrap_or(Err(Error::Closed));
        stopped.map_err(|error| raise(py, &error))
    }

    /// Blocks until something arrives; None at the end.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
        let inside = Inside::enter(py);
        let Some(items) = inside.detached(|| self.inbox.take()) else { return Ok(None) };
        items.into_iter().map(|item| item.into_py(&inside)).collect::<PyResult<_>>().map(Some)
    }

    /// Returns what has arrived, for an event loop whose descriptor became readable; None at the
    /// end.
    fn take_now<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
        let inside = Inside::enter(py);
        if self.is_parents.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let Some(items) = self.inbox.take_now() else { return Ok(None) };
        if let Ok(client) = self.open() {
            // What several answers bring about is sent together, see `send_held`.
            client.set_batching(items.len() > 1);
        }
        items.into_iter().map(|item| item.into_py(&inside)).collect::<PyResult<_>>().map(Some)
    }

    /// Returns a descriptor that becomes readable when something arrives, if the client was made
    /// with one.
    fn fileno(&self) -> i32 {
        self.inbox.descriptor().unwrap_or(-1)
    }

    /// Drains and closes. If that is not done in time, it ends at once and returns false.
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let inside = Inside::enter(py);
        let Ok(client) = self.open() else { return Ok(true) };
        self.is_ending.store(true, Ordering::SeqCst);
        let closing = client.clone();
        let closed = inside.interruptible(seconds(timeout), move || closing.close().is_ok());
        if !matches!(closed, Ok(Some(true))) {
            client.abort();
        }
        closed.map(|closed| closed == Some(true))
    }

    /// Ends at once. Requests in flight fail, and `take` returns None after what has arrived.
    fn abort(&self, py: Python<'_>) {
        let inside = Inside::enter(py);
        if self.is_parents.load(Ordering::SeqCst) {
            return;
        }
        self.is_ending.store(true, Ordering::SeqCst);
        let client = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        let served =
            std::mem::take(&mut *self.served.lock().unwrap_or_else(PoisonError::into_inner));
        inside.detached(|| {
            if let Some(client) = client {
                client.abort();
            }
            self.link.close();
            self.inbox.close();
            for queue in served.iter().filter_map(Weak::upgrade) {
                queue.close();
                queue.discard();
            }
        });
    }

    /// Reads what has arrived, and puts a mark behind it: when Python gets that it has seen all of
    /// it.
    fn mark(&self, py: Python<'_>, number: u64) {
        let inside = Inside::enter(py);
        if let Ok(client) = self.open() {
            inside.detached(|| client.catch_up());
        }
        self.inbox.put(Item::Mark(number));
    }

    /// Drops what has arrived and was not taken.
    fn discard(&self) {
        self.inbox.discard();
    }

    /// Leaves everything to the parent, in a forked child. Nothing may run here, not even the
    /// destructor, because it would take locks that threads of the parent held, and write to the
    /// parent's connection.
    fn leave_to_parent(&self) {
        self.is_parents.store(true, Ordering::SeqCst);
        // The lock is only taken with the GIL, which the forking thread had.
        if let Ok(mut client) = self.connection.try_lock() {
            std::mem::forget(client.take());
        }
        std::mem::forget(Arc::clone(&self.inbox));
    }
}

impl Client {
    fn ask_for(
        &self,
        inside: &Inside<'_>,
        message: ipc_framework::Message,
        (timeout, travels): (f64, bool),
        waiter: Option<&Waiter>,
    ) -> PyResult<()> {
        let py = inside.py();
        let client = self.open().map_err(|error| raise(py, &error))?;
        let place = match waiter {
            Some(waiter) => Place::Room(Arc::clone(&waiter.room)),
            None => Place::Inbox(Arc::clone(&self.inbox), message.message_id.clone()),
        };
        self.wait_for_room(inside, &client)?;
        let timeout = seconds(timeout);
        // A time that is over before it begins is not worth telling.
        let travels = travels && !timeout.is_zero();
        let asked = Asked::new(place, &self.asked, &self.is_ending, travels.then_some(timeout));
        let told = move |answer| asked.take(answer);
        let asked = inside.detached(|| {
            self.begin_alone(&client);
            if travels {
                let options = RequestOptions::default().timeout(timeout);
                client.send_request_message_with(&message, &options, told)
            } else {
                client.send_request_message(&message, timeout, told)
            }
        });
        let request = asked.map_err(|error| raise(py, &error))?;
        if let Some(waiter) = waiter {
            // A waiter is used once.
            let _ = waiter.asked.set((client.downgrade(), request));
        }
        Ok(())
    }

    /// Waits while sending would block, in a way that signals can interrupt.
    fn wait_for_room(&self, inside: &Inside<'_>, client: &client::Client) -> PyResult<()> {
        let begin = Instant::now();
        while client.waiting_bytes() >= self.queue_bytes_max && client.is_connected() {
            // An event loop checks for room before it sends, and must not be blocked.
            if self.inbox.descriptor().is_some() || begin.elapsed() >= self.timeout {
                let full = Error::QueueFull { bytes_max: self.queue_bytes_max };
                return Err(raise(inside.py(), &full));
            }
            inside.detached(|| std::thread::sleep(ROOM_PAUSE));
            inside.py().check_signals()?;
        }
        Ok(())
    }

    /// Sends what waits for others, before a message that is none of many. An event loop decides by
    /// itself, see `take_now`.
    fn begin_alone(&self, client: &client::Client) {
        if self.inbox.descriptor().is_none() {
            client.set_batching(false);
        }
    }

    fn open(&self) -> Result<client::Client, Error> {
        let client = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        client.clone().ok_or(Error::Closed)
    }
}

/// Converts seconds of Python to a duration. A value that is too large means forever.
fn seconds(seconds: f64) -> Duration {
    let fallback = if seconds > 0.0 { Duration::MAX } else { Duration::ZERO };
    Duration::try_from_secs_f64(seconds).unwrap_or(fallback)
}

/// # Errors
/// If it is not a message; `SerializationError` if its payload is not JSON.
fn from_python(message: &Bound<'_, PyAny>) -> PyResult<ipc_framework::Message> {
    message::from_python(message).map_err(|error| refused(message.py(), error))
}

/// Returns the exception for a message that cannot be sent as it is.
fn refused(py: Python<'_>, error: PyErr) -> PyErr {
    let is_of_value = error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyAttributeError>(py);
    // Others were raised by the handler of a signal, such as Ctrl-C or a time limit.
    if is_of_value { Failure::of_value(py, &error).caused_by(py, error) } else { error }
}
