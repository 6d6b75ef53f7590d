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
mod listening;
mod refused;
mod sending;
mod stream;
mod subscriptions;
mod waiter;

use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ipc_framework::client::{
    self, AddressOrder, ClientOptions, Endpoint, Error, Event, Position, PublishOptions, Reconnect,
    RequestId, RequestOptions, SubscribeOptions,
};
use ipc_framework::{MessageType, Token};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::attachments::{Memory, attach};
use crate::inside::{Inside, SIGNALS, after_fork, begin_end};
use crate::json::json_text;
use crate::message;
use burst::Burst;
use errors::{Failure, error_of, raise};
use inbox::{Inbox, Item};
use job::Job;
use jobs::{Jobs, Queue};
use link::Link;
use refused::{from_python, refused};
use stream::Stream;
use subscriptions::Subscriptions;
use waiter::Waiter;

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
    subscriptions: Subscriptions,
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
    #[pyo3(signature = (*, app_id, host, port, hosts, unix, address_order, shared_memory, token, tls,
        connection_id, connect_timeout, reconnect, heartbeat, queue_bytes_max, frame_bytes_max, rings))]
    #[expect(clippy::too_many_arguments, reason = "they have names where it is called")]
    fn new(
        py: Python<'_>,
        app_id: String,
        host: String,
        port: u16,
        hosts: Option<String>,
        unix: Vec<PathBuf>,
        address_order: &str,
        shared_memory: bool,
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
        let mut servers: Vec<Endpoint> = unix.into_iter().map(Endpoint::unix).collect();
        if let Some(hosts) = hosts {
            servers.extend(Endpoint::list(&hosts, port).map_err(|error| raise(py, &error))?);
        } else if servers.is_empty() {
            servers.push(Endpoint::tcp(host, port));
        }
        options.connection.endpoint = servers.remove(0);
        options.connection.alternatives = servers;
        options.connection.address_order = match address_order {
            "random" => AddressOrder::Random,
            _ => AddressOrder::Listed,
        };
        options.connection.shared_memory = shared_memory;
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
        let connection = Mutex::new(Some(client));
        let served = Mutex::default();
        let is_parents = AtomicBool::new(false);
        let (asked, is_ending) = (Arc::default(), Arc::default());
        let timeout = seconds(connect_timeout);
        Ok(Self {
            connection,
            inbox,
            link,
            subscriptions: Subscriptions::default(),
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
            told.set_item("address", info.endpoint.to_string())?;
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
        let inside = Inside::enter(payload.py());
        let message = message::type_of(message_type)
            .and_then(|one| message::fresh(app_id, channel_id, one, payload));
        self.send_one_of_many(&inside, message, client::Client::send_message)
    }

    /// Sends a publication that the server keeps as the channel's last value. See `post`.
    fn retain(
        &self,
        message_id: String,
        app_id: &Bound<'_, PyAny>,
        channel_id: &Bound<'_, PyAny>,
        payload: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let inside = Inside::enter(payload.py());
        let message = message::publication(message_id, app_id, channel_id, payload);
        let options = PublishOptions::default().retain(true);
        self.send_one_of_many(&inside, message, |client, message| {
            client.publish_message_with(message, &options)
        })
    }

    /// Sends a publication and waits until the server has taken it. Returns its place in the
    /// channel's history, if there is one. For event loops it does not wait, and the place goes into
    /// the inbox.
    fn publish_acknowledged<'py>(
        &self,
        message_id: String,
        app_id: &Bound<'py, PyAny>,
        channel_id: &Bound<'py, PyAny>,
        payload: &Bound<'py, PyAny>,
        retain: bool,
        timeout: f64,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = payload.py();
        let inside = Inside::enter(py);
        let message = message::publication(message_id, app_id, channel_id, payload);
        let message = message.map_err(|error| refused(py, error))?;
        let options = PublishOptions::default().retain(retain).timeout(seconds(timeout));
        self.publish_and_ask(&inside, &message, &options)
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

    #[pyo3(signature = (channel_id, last=None, since=None, conflate=false))]
    fn subscribe(
        &self,
        py: Python<'_>,
        channel_id: &str,
        last: Option<u32>,
        since: Option<(String, u64)>,
        conflate: bool,
    ) -> PyResult<()> {
        let since = since.map(|(epoch, offset)| Position::new(epoch, offset));
        let options = SubscribeOptions::default().last(last).since(since).conflate(conflate);
        self.listen(py, channel_id, options, None)
    }

    /// Subscribes to all channels that match. Their messages go into the inbox with the number.
    fn subscribe_pattern(
        &self,
        py: Python<'_>,
        pattern: &str,
        number: u64,
        last: Option<u32>,
        conflate: bool,
    ) -> PyResult<()> {
        let options = SubscribeOptions::default().pattern(true).last(last).conflate(conflate);
        self.listen(py, pattern, options, Some(number))
    }

    fn unsubscribe(&self, channel_id: &str) {
        if self.subscriptions.remove(channel_id, false)
            && let Ok(client) = self.open()
        {
            client.unsubscribe(channel_id);
        }
    }

    fn unsubscribe_pattern(&self, pattern: &str) {
        if self.subscriptions.remove(pattern, true)
            && let Ok(client) = self.open()
        {
            client.unsubscribe_pattern(pattern);
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
