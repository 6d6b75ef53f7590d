//! The server under test: the real loop and broker on the simulated kernel, with handlers of every
//! kind, set up as by an embedder.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::kernel::{Kernel, SharedKernel};
use super::scenario::{APPS, CLIENT_IDS, HIDDEN, Scenario, TOPICS, is_hidden_from};
use super::system::{SimulatedListener, SimulatedSystem};
use crate::broker::{
    Broker, ConnectionKey, Context, Delivery, Request, RequestResult, Responder, Verdict,
    reconfigure,
};
use crate::net::{Budget, EventLoop};
use crate::{Access, Handle, HandlerError, LatencySummary, Limits, MessageType, Spin, Stats};

/// State that the handlers leave for the simulated program around the server.
#[derive(Default)]
pub(super) struct Inside {
    /// Requests to be answered later, with their nonces.
    pub(super) deferred: Vec<(u64, Responder)>,
    pub(super) noted: Vec<u64>,
    /// Connections, and whether each was opened or closed.
    pub(super) events: Vec<(ConnectionKey, bool)>,
    /// Reloads that are done.
    pub(super) reloads: usize,
    /// Commands to close a connection that are carried out.
    pub(super) dismissals: usize,
}

pub(super) struct Embedded {
    pub(super) broker: Broker,
    net: EventLoop<SimulatedSystem>,
    pub(super) handle: Handle,
    pub(super) inside: Arc<Mutex<Inside>>,
}

/// Channels that every application has, and that the process itself serves.
pub(super) const PINNED_CHANNELS: [&str; 6] = ["echo", "fail", "panic", "later", "note", "manage"];

impl Embedded {
    pub(super) fn new(kernel: &SharedKernel, scenario: &Scenario) -> std::io::Result<Self> {
        let limits = scenario.limits.clone();
        let listeners = 0..kernel.borrow().backlogs.len();
        let listeners = listeners.map(|at| SimulatedListener::new(at, kernel.clone())).collect();
        let system = SimulatedSystem::new(kernel.clone());
        let waker = system.waker();
        let net = EventLoop::new(system, listeners, &limits.turn, Spin::Never)?;
        let mut broker = Broker::new(limits, scenario.access(0), [7; 32], net.now());
        // The agreement of what it is told with what is there is checked.
        broker.on_interest(|_| ());
        broker.set_waker(waker);
        broker.set_stopwatch(kernel.borrow().stopwatch());
        let inside = Arc::new(Mutex::new(Inside::default()));
        for app in APPS {
            set_up(&mut broker, app, &inside);
        }
        if scenario.has_filter {
            broker.filter(hide);
        }
        let (came, went) = (inside.clone(), inside.clone());
        broker.on_connect(move |info, _| locked(&came).events.push((info.key, true)));
        broker.on_disconnect(move |info, _| locked(&went).events.push((info.key, false)));
        let handle = broker.handle();
        Ok(Self { broker, net, handle, inside })
    }

    /// Runs one turn without sleeping, because the simulation moves the time.
    pub(super) fn turn(&mut self, budget: Option<Budget>) -> Result<(), String> {
        self.net.turn(&mut self.broker, None, budget).map_err(|error| error.to_string())
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.net.next_deadline(&self.broker)
    }

    /// Returns whether the next turn would not wait.
    pub(super) fn is_due(&self) -> bool {
        self.next_deadline() == Some(Duration::ZERO)
    }

    /// Shares all channels with other servers, which are not there.
    pub(super) fn join(&mut self) {
        self.context().join([">".to_owned()], |_| ());
    }

    fn context(&mut self) -> Context<'_> {
        self.broker.set_time(self.net.now());
        self.broker.context()
    }

    /// Gives the server other limits and tokens in its next turns, as [`Handle::reload`] does, and
    /// then counts it among [`Inside::reloads`].
    pub(super) fn reload(&self, limits: Limits, access: Access) {
        let inside = self.inside.clone();
        // This cannot fail, because the loop runs and the mailbox holds more.
        let _ = self.handle.post(move |context| {
            reconfigure(context.core, limits, access);
            locked(&inside).reloads += 1;
        });
    }

    /// Lets go of all memory that is kept for speed, as a reload does. Returns the rest.
    pub(super) fn trimmed_memory_bytes(&mut self) -> usize {
        let limits = self.broker.limits().clone();
        reconfigure(self.context().into_core(), limits, Access::default());
        self.stats().memory_bytes
    }

    pub(super) fn stats(&mut self) -> Stats {
        self.context().stats()
    }

    /// Returns the subscribers and workers of each channel that is not pinned.
    pub(super) fn channels(&mut self, app: &str) -> Vec<(String, usize, usize)> {
        let channels = self.context().list_channels(app).into_iter();
        channels
            .filter(|(_, info)| !info.has_handler)
            .map(|(id, info)| (id, info.subscribers, info.workers))
            .collect()
    }

    /// Returns the newest place in the history of a channel.
    pub(super) fn position(&mut self, app: &str, channel: &str) -> Option<(String, u64)> {
        self.context().position(app, channel)
    }

    /// Returns how many requests and publications each channel has latencies of.
    pub(super) fn latencies(&mut self, app: &str) -> Vec<(String, u64, u64)> {
        let count = |summary: Option<LatencySummary>| summary.map_or(0, |summary| summary.count);
        let latencies = self.context().list_latencies(app).into_iter();
        latencies.map(|(id, of)| (id, count(of.request), count(of.publication))).collect()
    }

    pub(super) fn connection(&mut self, app: &str, id: &str) -> Option<ConnectionKey> {
        self.context().get_connection(app, id)
    }

    /// Returns the application and id of each connection, in order.
    pub(super) fn sessions(&mut self) -> Vec<(String, String)> {
        let context = self.context();
        let sessions = context.list_connections().into_iter();
        let mut sessions: Vec<_> =
            sessions.map(|info| (info.app_id.to_owned(), info.connection_id.to_owned())).collect();
        sessions.sort_unstable();
        sessions
    }
}

fn set_up(broker: &mut Broker, app: &str, inside: &Arc<Mutex<Inside>>) {
    let mut app = broker.application(app, app);
    let [echo, fail, panic, later, note, manage] = PINNED_CHANNELS;
    app.channel(echo).on_request(|request| {
        let json = request.json();
        request.reply_json(&json)
    });
    app.channel(fail).on_request(|_| Err("it always fails".into()));
    // Raised without the hook that would write about it.
    app.channel(panic).on_request(|_| std::panic::resume_unwind(Box::new("always")));
    let kept = inside.clone();
    app.channel(later).on_request(move |request| {
        let nonce = nonce(&request.payload()?);
        let (reply, responder) = request.defer()?;
        locked(&kept).deferred.push((nonce, responder));
        Ok(reply)
    });
    app.channel(manage).on_request(manage_requester);
    let kept = inside.clone();
    app.channel(note).on_notification(move |note| {
        locked(&kept).noted.push(nonce(&note.payload()?));
        Ok(())
    });
}

/// Refuses a channel to some clients.
fn hide(delivery: &mut Delivery<'_>) -> Result<Verdict, HandlerError> {
    let message = delivery.message();
    let is_subscribe = message.message_type() == MessageType::Subscribe;
    if is_subscribe && message.channel_id().decode() == HIDDEN {
        let asked: serde_json::Value = delivery.payload()?;
        let id = CLIENT_IDS.iter().position(|id| asked["connection_id"] == *id);
        if id.is_none_or(is_hidden_from) {
            return Err("this is not for you".into());
        }
    }
    Ok(Verdict::CarryOut)
}

/// Does for its requester what that could do itself, or closes it.
fn manage_requester(mut request: Request<'_>) -> RequestResult<'_> {
    let asked: serde_json::Value = request.payload()?;
    let topic = asked["topic"].as_u64().and_then(|topic| TOPICS.get(topic as usize));
    let (from, topic) = (request.from(), topic.copied().unwrap_or_default());
    let context = request.context();
    let status = match asked["act"].as_str() {
        Some("subscribe") => {
            context.subscribe(from, topic);
            "subscribed"
        }
        Some("unsubscribe") => {
            context.unsubscribe(from, topic);
            "unsubscribed"
        }
        _ => {
            context.close_connection(from);
            "closed"
        }
    };
    request.reply(&serde_json::json!({"status": status}))
}

fn nonce(payload: &serde_json::Value) -> u64 {
    payload["nonce"].as_u64().unwrap_or_default()
}

/// A panic while the lock was held has been reported already.
pub(super) fn locked(inside: &Mutex<Inside>) -> std::sync::MutexGuard<'_, Inside> {
    inside.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(super) fn shared(kernel: Kernel) -> SharedKernel {
    Rc::new(RefCell::new(kernel))
}
