//! The thread of a bridge. It and the files below it alone know NATS' client and its runtime.

mod links;
mod outgoing;
mod subscriptions;

use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, Event, Message, ServerAddr, ServerError};
use tokio::sync::{Notify, mpsc};

use self::links::{Incoming, Links};
use self::outgoing::{Done, Out, Outgoing};
use self::subscriptions::Subscriptions;
use super::events::{Command, Denied, Level, LocalEvent, NatsEvent};
use super::inbox::Inbox;
use super::machine::Machine;
use super::options::{NatsOptions, address, credentials};
use super::settings::Settings;
use super::stats::{BridgeStats, State};
use crate::broker::{ChannelLoad, Handle, Interest, NatsStats, NatsStatsSource};
use crate::net::LinkOpener;
use crate::{Error, trace};

/// Messages of a subscription that wait to be read. What comes then is lost, and told.
const SUBSCRIPTION_MESSAGES: usize = 65_536;
/// Commands that NATS' client takes before its socket does.
const CLIENT_COMMANDS: usize = 256;
/// A NATS server that answers two of these with nothing is left.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
/// While something waits for NATS, its age is told so often.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// How long the end of the server waits for NATS to take the last words.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// The subscription by which marks come back. The machine never counts as far.
const MARKS: u64 = u64::MAX;

/// The thread that joins a server with others.
#[derive(Debug)]
pub(crate) struct Bridge {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Inbox<UnixStream>,
    /// Something is in the inbox, or one of the flags is set.
    changed: Notify,
    drains: AtomicBool,
    ends: AtomicBool,
    /// The largest body of a frame that the server takes.
    frame_bytes_max: AtomicUsize,
    aborts: AtomicBool,
    stats: NatsStatsSource,
    /// How busy workers are, from the loop.
    loads: Mutex<Option<Vec<ChannelLoad>>>,
}

/// Takes what the hook on interest is told.
#[derive(Clone, Debug)]
pub(crate) struct Listener(Arc<Shared>);

impl Listener {
    /// Takes the other end of a bus link that the server has opened.
    pub(crate) fn open_bus(&self, application: &str, end: UnixStream) {
        if self.0.inbox.open_bus(application, end) {
            self.0.changed.notify_one();
        }
    }

    pub(crate) fn note(&self, interest: &Interest<'_>) {
        if self.0.inbox.note(interest) {
            self.0.changed.notify_one();
        }
    }
}

impl Bridge {
    /// Starts the thread. It connects to NATS when NATS is there.
    ///
    /// # Errors
    /// The first of the options' problems, or that of the system.
    pub(crate) fn start(
        options: &NatsOptions,
        max_frame_bytes: usize,
        opener: LinkOpener,
        handle: Handle,
    ) -> Result<Self, Error> {
        if let Some(problem) = options.problems().into_iter().next() {
            return Err(problem);
        }
        let servers: Result<Vec<ServerAddr>, String> =
            options.servers.iter().map(|server| address(server)).collect();
        let servers = servers.map_err(Error::Config)?;
        let (connect, events) = connect_options(options, &servers)?;
        let settings = settings(options, max_frame_bytes)?;
        let shared = Arc::new(Shared::default());
        shared.frame_bytes_max.store(max_frame_bytes, Ordering::Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(Error::system("an event queue for NATS"))?;
        let running = Arc::clone(&shared);
        let run = move || {
            let drive = async {
                let client = match connect.connect(servers).await {
                    Ok(client) => client,
                    // It tries again in the background, so that this is a fault of the options.
                    Err(error) => return trace::bridge_error(&error.to_string()),
                };
                Driver::new(client, events, settings, (opener, handle), running).run().await;
            };
            // Without a budget, which would cut a batch of messages in two.
            runtime.block_on(tokio::task::unconstrained(drive));
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("nats".to_owned()).spawn(run);
        let thread = thread.map_err(Error::system("a thread for NATS"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn listener(&self) -> Listener {
        Listener(Arc::clone(&self.shared))
    }

    /// Returns where it is told how it goes.
    pub(crate) fn stats(&self) -> NatsStatsSource {
        self.shared.stats.clone()
    }

    /// Tells the others that this server takes no more. What is in flight goes on.
    pub(crate) fn drain(&self) {
        if !self.shared.drains.swap(true, Ordering::Relaxed) {
            self.shared.changed.notify_one();
        }
    }

    /// Tells of the server's limit for a frame, which a reload may change.
    pub(crate) fn limit_frames(&self, body_bytes_max: usize) {
        if self.shared.frame_bytes_max.load(Ordering::Relaxed) != body_bytes_max {
            self.shared.frame_bytes_max.store(body_bytes_max, Ordering::Relaxed);
            self.shared.changed.notify_one();
        }
    }

    /// Waits until NATS has the last words, but not for long.
    pub(crate) fn end(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            trace::bridge_error("the thread of the bridge to NATS has panicked");
        }
    }
}

/// Ends at once; the others notice.
impl Drop for Bridge {
    fn drop(&mut self) {
        self.shared.aborts.store(true, Ordering::Relaxed);
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn settings(options: &NatsOptions, max_frame_bytes: usize) -> Result<Settings, Error> {
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(|error| {
        Error::system("randomness for the id of this server")(std::io::Error::other(error))
    })?;
    let (id, incarnation) = random.split_at(16);
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(Settings {
        id: id.try_into().unwrap_or_default(),
        incarnation: u64::from_le_bytes(incarnation.try_into().unwrap_or_default()),
        name,
        prefix: options.prefix.clone(),
        channels: options.channels.clone(),
        queue_bytes: options.queue_bytes,
        max_frame_bytes,
    })
}

fn connect_options(
    options: &NatsOptions,
    servers: &[ServerAddr],
) -> Result<(ConnectOptions, mpsc::UnboundedReceiver<Event>), Error> {
    let (tell, events) = mpsc::unbounded_channel();
    let mut connect = ConnectOptions::new()
        .name("ipc-framework")
        // Beside the inboxes of the servers, so that permissions need to name no further subject.
        .custom_inbox_prefix(format!("{}-srv", options.prefix))
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(delay)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_MESSAGES)
        .client_capacity(CLIENT_COMMANDS)
        .require_tls(options.asks_for_tls())
        .event_callback(move |event| {
            let _ = tell.send(event);
            std::future::ready(())
        });
    if let Some(path) = &options.credentials {
        connect = connect.credentials(&credentials(path)?).map_err(|error| {
            let path = path.display();
            Error::Config(format!("{path} holds no usable credentials of NATS: {error}"))
        })?;
    }
    // The client itself does not use what stands in addresses.
    let named = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    connect = match named {
        Some((user, Some(password))) => {
            connect.user_and_password(user.to_owned(), password.to_owned())
        }
        Some((token, None)) => connect.token(token.to_owned()),
        None => connect,
    };
    if let Some(ca) = &options.ca {
        connect = connect.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &options.certificate {
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok((connect, events))
}

/// Reads a server's error that a subject is not allowed.
fn denied(text: &str) -> Option<(Denied, &str)> {
    let (_, rest) = text.split_once("Permissions Violation for ")?;
    let (what, rest) = rest.split_once(" to \"")?;
    let (subject, _) = rest.split_once('"')?;
    let what = match what {
        "Publish" => Denied::Publish,
        "Subscription" => Denied::Subscribe,
        _ => return None,
    };
    Some((what, subject))
}

/// Returns the time before the n-th attempt in a row.
fn delay(attempts: usize) -> Duration {
    let doublings = attempts.saturating_sub(1).min(10) as u32;
    let milliseconds = if doublings == 0 { 0 } else { 10 << doublings };
    Duration::from_millis(milliseconds).min(RECONNECT_DELAY_MAX)
}

fn shown(stats: &BridgeStats) -> NatsStats {
    NatsStats {
        connected: stats.state == State::Connected,
        reconnects: stats.reconnects,
        peers: stats.peers,
        published: stats.published,
        received: stats.received,
        lost: stats.lost,
        lost_here: stats.lost_here,
        too_large: stats.too_large,
        refused: stats.refused,
        denied: stats.denied,
        slow: stats.slow,
        broken_tunnels: stats.broken_tunnels,
        queued_bytes: stats.queued_bytes,
        lag_seconds: stats.lag.as_secs_f64(),
        max_payload: stats.max_payload,
    }
}

struct Driver {
    machine: Machine,
    begin: Instant,
    shared: Arc<Shared>,
    handle: Handle,
    client: Client,
    events: mpsc::UnboundedReceiver<Event>,
    out: Out,
    done: mpsc::UnboundedReceiver<Done>,
    subscriptions: Subscriptions,
    /// Those that the machine wants on this connection.
    wanted: std::collections::HashSet<u64>,
    batch: Vec<(u64, Message)>,
    links: Links,
    /// How many connections there have been, and whether the last one is there.
    generation: u64,
    is_connected: bool,
    marks: String,
    /// Why it could not connect last.
    trouble: String,
    /// NATS has not confirmed all publications.
    is_behind: bool,
    drains: bool,
    ends_at: Option<Instant>,
}

/// What ended a wait.
enum Woken {
    Local,
    Link(Incoming),
    Batch,
    Event(Event),
    Done(Done),
    Time,
}

impl Driver {
    fn new(
        client: Client,
        events: mpsc::UnboundedReceiver<Event>,
        settings: Settings,
        (opener, handle): (LinkOpener, Handle),
        shared: Arc<Shared>,
    ) -> Self {
        let (out, done) = Out::start(client.clone());
        Self {
            machine: Machine::new(settings, Duration::ZERO),
            begin: Instant::now(),
            shared,
            handle,
            marks: client.new_inbox(),
            client,
            events,
            out,
            done,
            subscriptions: Subscriptions::default(),
            wanted: std::collections::HashSet::new(),
            batch: Vec::new(),
            links: Links::new(opener),
            generation: 0,
            is_connected: false,
            trouble: String::new(),
            is_behind: false,
            drains: false,
            ends_at: None,
        }
    }

    async fn run(mut self) {
        loop {
            if self.shared.aborts.load(Ordering::Relaxed) {
                return;
            }
            self.note_connection();
            self.machine.tick(self.begin.elapsed());
            self.machine.limit_frames(self.shared.frame_bytes_max.load(Ordering::Relaxed));
            let ends = self.shared.ends.load(Ordering::Relaxed);
            if (ends || self.shared.drains.load(Ordering::Relaxed)) && !self.drains {
                self.drains = true;
                self.machine.drain();
            }
            if ends && self.ends_at.is_none() {
                self.ends_at = Some(Instant::now() + END_TIMEOUT);
            }
            self.carry_out();
            let is_late = self.ends_at.is_some_and(|end| end <= Instant::now());
            // The server has closed its ends, in which its last answers may still be.
            if self.ends_at.is_some()
                && (is_late || self.links.is_empty() && self.machine.is_idle())
            {
                self.machine.finish();
                self.carry_out();
            }
            let stats = self.machine.stats();
            self.is_behind = !stats.lag.is_zero();
            self.shared.stats.set(shown(&stats));
            if self.machine.is_finished() || is_late {
                return self.end().await;
            }
            let woken = self.wait().await;
            self.take(woken);
            // The tasks that read and write have their turns, however much there is to do here.
            tokio::task::yield_now().await;
        }
    }

    async fn wait(&mut self) -> Woken {
        let deadline = self.machine.next_deadline().map(|deadline| self.begin + deadline);
        let lag_at = self.is_behind.then(|| Instant::now() + LAG_EVERY);
        let deadline = deadline.into_iter().chain(self.ends_at).chain(lag_at).min();
        let time = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let (subscriptions, batch) = (&mut self.subscriptions, &mut self.batch);
        let messages = poll_fn(|context| {
            subscriptions.poll_drain(context, |id, message| batch.push((id, message)))
        });
        tokio::select! {
            () = self.shared.changed.notified() => Woken::Local,
            incoming = self.links.next() => Woken::Link(incoming),
            () = messages => Woken::Batch,
            Some(event) = self.events.recv() => Woken::Event(event),
            Some(done) = self.done.recv() => Woken::Done(done),
            () = time => Woken::Time,
        }
    }

    fn take(&mut self, woken: Woken) {
        // The time of all that follows.
        self.machine.tick(self.begin.elapsed());
        match woken {
            Woken::Local => {
                let (interest, buses) = self.shared.inbox.take();
                for interest in interest {
                    self.machine.local(LocalEvent::Interest(interest));
                }
                for (application, end) in buses {
                    self.open_bus(application, end);
                }
                let loads = self.shared.loads.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(loads) = loads {
                    self.machine.local(LocalEvent::Loads(loads));
                }
            }
            Woken::Link(incoming) => {
                self.tell_incoming(&incoming);
                while let Some(incoming) = self.links.try_next() {
                    self.tell_incoming(&incoming);
                }
            }
            Woken::Batch => self.tell_batch(),
            Woken::Event(event) => self.note_event(event),
            Woken::Done(Done::Subscribed(id, subscriber)) => {
                // Otherwise it was given up meanwhile, and dropping it unsubscribes.
                if self.wanted.contains(&id) {
                    self.subscriptions.insert(id, subscriber);
                }
            }
            Woken::Done(Done::Refused(why)) => {
                trace::bridge_warning(&format!("NATS' client has refused a message: {why}"));
            }
            Woken::Time => {}
        }
    }

    fn open_bus(&mut self, application: String, end: UnixStream) {
        let link = self.machine.new_link();
        match self.links.adopt(link, end) {
            Ok(()) => self.machine.local(LocalEvent::BusOpened { link, application }),
            // The server finds it closed, and it is opened later.
            Err(error) => trace::bridge_warning(&format!("a link cannot be used: {error}")),
        }
    }

    fn tell_incoming(&mut self, incoming: &Incoming) {
        self.machine.local(match incoming {
            Incoming::Bytes(link, bytes) => LocalEvent::LinkBytes { link: *link, bytes },
            Incoming::Took(link, bytes) => LocalEvent::LinkTook { link: *link, bytes: *bytes },
            Incoming::Closed(link) => LocalEvent::LinkClosed(*link),
        });
    }

    fn tell_batch(&mut self) {
        for (id, message) in std::mem::take(&mut self.batch) {
            let (subject, payload) = (message.subject.as_str(), &message.payload[..]);
            if id != MARKS {
                self.machine.nats(NatsEvent::Message { subject, payload });
            } else if let Some(mark) = self.own_mark(payload) {
                self.machine.nats(NatsEvent::Confirmed { mark });
            }
        }
        self.machine.nats(NatsEvent::Drained);
    }

    /// Returns the mark that came back, unless it is of an earlier connection or somebody else's.
    fn own_mark(&self, payload: &[u8]) -> Option<u64> {
        let (generation, mark) = payload.split_first_chunk()?;
        (u64::from_be_bytes(*generation) == self.generation)
            .then(|| mark.try_into().ok().map(u64::from_be_bytes))?
    }

    /// Tells the machine of a connection that is lost or made. The client's events may be lost if
    /// there are many; its state never is.
    fn note_connection(&mut self) {
        let generation = self.client.statistics().connects.load(Ordering::Relaxed);
        let is_up = self.client.connection_state() == async_nats::connection::State::Connected;
        if self.is_connected && (generation != self.generation || !is_up) {
            self.is_connected = false;
            self.subscriptions.clear();
            self.wanted.clear();
            self.batch.clear();
            self.machine.nats(NatsEvent::Disconnected);
        }
        if generation != self.generation {
            // Nothing that waits is for this connection.
            self.generation = generation;
            self.out.begin_again(generation);
        }
        if is_up && !self.is_connected {
            self.is_connected = true;
            self.trouble.clear();
            self.subscribe(MARKS, self.marks.clone());
            let max_payload = self.client.max_payload();
            trace::bridge_connected(max_payload);
            self.machine.nats(NatsEvent::Connected { max_payload });
        }
    }

    fn note_event(&mut self, event: Event) {
        match event {
            Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
                self.machine.nats(NatsEvent::SlowConsumer);
            }
            Event::LameDuckMode => {
                trace::bridge_info(
                    "the NATS server is about to end; it will be left when it closes",
                );
            }
            Event::ServerError(ServerError::Other(text)) if denied(&text).is_some() => {
                if let Some((what, subject)) = denied(&text) {
                    self.machine.nats(NatsEvent::Denied { what, subject });
                }
            }
            Event::ServerError(error) => self.note_trouble(error.to_string()),
            Event::ClientError(error) => self.note_trouble(format!(
                "no connection to NATS: {error}; see that NATS listens there, and whether it asks for TLS, a \
                 certificate, or a user, and has a certificate of an authority that is trusted here"
            )),
            // The state tells more reliably.
            Event::Connected | Event::Disconnected | Event::Draining | Event::Closed => {}
        }
    }

    /// Logs what does not work, once until something else does not, or it has worked again.
    fn note_trouble(&mut self, trouble: String) {
        if trouble != self.trouble {
            trace::bridge_warning(&trouble);
            self.trouble = trouble;
        }
    }

    /// Does what the machine wants.
    fn carry_out(&mut self) {
        while let Some(command) = self.machine.next_command() {
            match command {
                Command::OpenLink { link } => {
                    if let Err(error) = self.links.open(link) {
                        trace::bridge_warning(&format!("a link cannot be opened: {error}"));
                        self.machine.local(LocalEvent::LinkClosed(link));
                    }
                }
                Command::WriteLink { link, bytes } => self.links.write(link, bytes),
                Command::ReadLink { link, is_on } => self.links.read(link, is_on),
                Command::CloseLink(link) => self.links.close(link),
                Command::FinishLink(link) => self.links.finish(link),
                Command::Subscribe { id, subject } => self.subscribe(id, subject),
                Command::Unsubscribe(id) => {
                    self.wanted.remove(&id);
                    self.subscriptions.remove(id);
                }
                Command::Publish { subject, payload } => {
                    self.out.send(Outgoing::Publish { subject, payload });
                }
                Command::Mark(mark) => {
                    let payload = [self.generation.to_be_bytes(), mark.to_be_bytes()].concat();
                    let subject = self.marks.clone();
                    self.out.send(Outgoing::Publish { subject, payload });
                }
                Command::AskLoads(names) => {
                    let shared = Arc::clone(&self.shared);
                    // A loop that has ended, or has too much to do, does not answer.
                    let _ = self.handle.post(move |context| {
                        let loads = Some(context.loads(&names));
                        *shared.loads.lock().unwrap_or_else(PoisonError::into_inner) = loads;
                        shared.changed.notify_one();
                    });
                }
                Command::Log { level: Level::Info, text } => trace::bridge_info(&text),
                Command::Log { level: Level::Warn, text } => trace::bridge_warning(&text),
                Command::Log { level: Level::Error, text } => trace::bridge_error(&text),
            }
        }
    }

    fn subscribe(&mut self, id: u64, subject: String) {
        self.wanted.insert(id);
        self.out.send(Outgoing::Subscribe { id, subject });
    }

    /// Unsubscribes, and waits until the socket has taken what was published. Never the client's own
    /// drain, which loses what is queued.
    async fn end(mut self) {
        self.subscriptions.clear();
        if self.is_connected {
            let _ = tokio::time::timeout(END_TIMEOUT, self.client.flush()).await;
        }
    }
}
