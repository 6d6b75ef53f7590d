//! Machines with real brokers behind their links, joined by a simulated NATS.
//!
//! The simulated NATS keeps the order of each publisher's messages and no other, delays what it likes, and
//! loses what a connection had taken when that is cut. A seed decides everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::events::{Command, Denied, LinkId, LocalEvent, LocalInterest, LocalSubject, NatsEvent};
use super::machine::Machine;
use super::settings::Settings;
use crate::broker::{
    Access, Action, Broker, ConnectionKey, HangUp, Interest, InterestIn, Limits, Now, Peer, Written,
};
use crate::proto::pattern;

mod hostile;
mod limits;
mod loads;
mod publications;
mod refused;
mod requests;

const MAX_PAYLOAD: usize = 1 << 20;

/// What a connection to NATS has taken and NATS has not seen.
enum Up {
    Subscribe(u64, String),
    Unsubscribe(u64),
    Publish(String, Vec<u8>),
    Mark(u64),
}

/// One server: its broker, its bridge, and its connection to NATS.
struct Server {
    broker: Broker,
    machine: Machine,
    interest: Receiver<LocalInterest>,
    links: BTreeMap<LinkId, ConnectionKey>,
    keys: BTreeMap<ConnectionKey, LinkId>,
    /// Written to links and not taken by the broker.
    to_broker: BTreeMap<LinkId, VecDeque<u8>>,
    /// Links that are not read.
    unread: BTreeSet<LinkId>,
    resumed: Vec<ConnectionKey>,
    received: BTreeMap<ConnectionKey, Vec<u8>>,
    is_connected: bool,
    subscriptions: BTreeMap<u64, String>,
    up: VecDeque<Up>,
    log: Vec<String>,
    /// How often the machine has opened a link.
    opened: usize,
}

/// A message by a subscription, with its subject.
type Routed = (u64, String, Vec<u8>);

/// Servers and their NATS.
struct World {
    servers: Vec<Server>,
    /// What NATS has for a server, by where it comes from: messages with the subscription each.
    routes: BTreeMap<(usize, usize), VecDeque<Routed>>,
    now: Duration,
    random: u64,
}

fn owned(interest: &Interest<'_>) -> LocalInterest {
    LocalInterest {
        application: interest.application.to_owned(),
        subject: match interest.subject {
            InterestIn::Application => LocalSubject::Application,
            InterestIn::Channel(channel) => LocalSubject::Channel(channel.to_owned()),
            InterestIn::Pattern(pattern) => LocalSubject::Pattern(pattern.to_owned()),
            InterestIn::Workers(channel) => LocalSubject::Workers(channel.to_owned()),
        },
        is_wanted: interest.is_wanted,
    }
}

fn settings(at: usize) -> Settings {
    Settings {
        id: [at as u8 + 1; 16],
        incarnation: at as u64 + 100,
        name: format!("server-{at}"),
        prefix: "ipc".to_owned(),
        channels: vec![">".to_owned()],
        queue_bytes: 1 << 20,
        max_frame_bytes: 16 << 20,
    }
}

fn message(kind: &str, channel: &str, id: &str, payload: &Value) -> Value {
    json!({
        "message_id": id, "app_id": "app", "channel_id": channel, "message_type": kind,
        "payload": payload, "timestamp": 0, "reply_to": null,
    })
}

fn framed(message: &Value) -> Vec<u8> {
    let body = message.to_string();
    [&(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat()
}

impl Server {
    fn new(settings: Settings, now: Duration) -> Self {
        let seed = [settings.id[0]; 32];
        let time = Now { monotonic: now, unix: now };
        let mut broker = Broker::new(Limits::default(), Access::default(), seed, time);
        let (sender, interest) = channel();
        let hook = move |interest: &Interest<'_>| sender.send(owned(interest)).unwrap();
        broker.context().join(settings.channels.clone(), hook);
        Self {
            broker,
            machine: Machine::new(settings, now),
            interest,
            links: BTreeMap::new(),
            keys: BTreeMap::new(),
            to_broker: BTreeMap::new(),
            unread: BTreeSet::new(),
            resumed: Vec::new(),
            received: BTreeMap::new(),
            is_connected: false,
            subscriptions: BTreeMap::new(),
            up: VecDeque::new(),
            log: Vec::new(),
            opened: 0,
        }
    }

    fn begin(&mut self, now: Duration) {
        self.broker.begin_turn(Now { monotonic: now, unix: now });
        self.broker.advance();
        self.machine.tick(now);
    }

    /// Carries out everything that the broker and the machine want.
    fn settle(&mut self, now: Duration) {
        loop {
            let mut is_quiet = true;
            while let Some(action) = self.broker.next_action() {
                is_quiet = false;
                self.act(action);
            }
            for key in std::mem::take(&mut self.resumed) {
                is_quiet = false;
                self.broker.begin_turn(Now { monotonic: now, unix: now });
                self.broker.receive(key, &[]);
                if let Some(link) = self.keys.get(&key).copied() {
                    self.offer(link);
                }
                self.broker.exhausted(key);
            }
            while let Ok(interest) = self.interest.try_recv() {
                is_quiet = false;
                self.machine.local(LocalEvent::Interest(interest));
            }
            while let Some(command) = self.machine.next_command() {
                is_quiet = false;
                self.command(command);
            }
            if is_quiet {
                self.broker.end_turn(|| now);
                return;
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Flush(key) => self.flush(key),
            Action::Resume(key) => self.resumed.push(key),
            Action::FinishWrite(key) => {
                // Its other end finds the end of the stream, and goes.
                if let Some(link) = self.keys.remove(&key) {
                    self.links.remove(&link);
                    self.to_broker.remove(&link);
                    self.machine.local(LocalEvent::LinkClosed(link));
                    self.broker.hang_up(key, HangUp::Reset);
                }
            }
            Action::Attach(key) => {
                let application = self.broker.application_of(key).unwrap().to_string();
                let link = self.machine.new_link();
                self.links.insert(link, key);
                self.keys.insert(key, link);
                // It is told as soon as what it is for has been.
                while let Ok(interest) = self.interest.try_recv() {
                    self.machine.local(LocalEvent::Interest(interest));
                }
                self.machine.local(LocalEvent::BusOpened { link, application });
                self.flush(key);
            }
            Action::Share(_) => {}
            Action::Close(key) => {
                if let Some(link) = self.keys.remove(&key) {
                    self.links.remove(&link);
                    self.to_broker.remove(&link);
                    self.machine.local(LocalEvent::LinkClosed(link));
                }
            }
        }
    }

    fn flush(&mut self, key: ConnectionKey) {
        let link = self.keys.get(&key).copied();
        if link.is_some_and(|link| self.unread.contains(&link)) {
            return;
        }
        let mut bytes = Vec::new();
        let Ok(_) = self.broker.flush(key, |queue| {
            queue.slices().for_each(|slice| bytes.extend_from_slice(slice));
            Ok::<_, Infallible>(Written { bytes: queue.len(), holds: false })
        });
        match link {
            // In pieces, as from a socket.
            Some(link) => {
                for bytes in bytes.chunks(50_021) {
                    self.machine.local(LocalEvent::LinkBytes { link, bytes });
                }
            }
            None => self.received.entry(key).or_default().extend(bytes),
        }
    }

    /// Gives the broker what was written to a link, as far as it takes it.
    fn offer(&mut self, link: LinkId) {
        let Some(key) = self.links.get(&link).copied() else { return };
        while self.broker.wants_read(key) {
            let Some(waiting) = self.to_broker.get_mut(&link).filter(|w| !w.is_empty()) else {
                return;
            };
            let bytes: Vec<u8> = waiting.drain(..waiting.len().min(64 << 10)).collect();
            self.broker.receive(key, &bytes);
            self.machine.local(LocalEvent::LinkTook { link, bytes: bytes.len() });
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::OpenLink { link } => {
                self.opened += 1;
                let key = self.broker.accept_from(Peer::Link).unwrap();
                self.links.insert(link, key);
                self.keys.insert(key, link);
            }
            Command::WriteLink { link, bytes } => {
                self.to_broker.entry(link).or_default().extend(bytes);
                self.offer(link);
            }
            Command::ReadLink { link, is_on: false } => {
                self.unread.insert(link);
            }
            Command::ReadLink { link, is_on: true } => {
                self.unread.remove(&link);
                if let Some(key) = self.links.get(&link).copied() {
                    self.flush(key);
                }
            }
            Command::CloseLink(link) => self.close_link(link, HangUp::Reset),
            Command::FinishLink(link) => {
                self.offer(link);
                self.close_link(link, HangUp::EndOfStream);
            }
            Command::Subscribe { id, subject } => self.up(Up::Subscribe(id, subject)),
            Command::Unsubscribe(id) => self.up(Up::Unsubscribe(id)),
            Command::Publish { subject, payload } => {
                assert!(payload.len() <= MAX_PAYLOAD, "{} bytes", payload.len());
                assert!(subject.split('.').all(|token| !token.is_empty()));
                self.up(Up::Publish(subject, payload));
            }
            Command::Mark(mark) => self.up(Up::Mark(mark)),
            Command::AskLoads(names) => {
                let loads = self.broker.context().loads(&names);
                self.machine.local(LocalEvent::Loads(loads));
            }
            Command::Log { text, .. } => self.log.push(text),
        }
    }

    fn close_link(&mut self, link: LinkId, how: HangUp) {
        self.to_broker.remove(&link);
        self.unread.remove(&link);
        if let Some(key) = self.links.remove(&link) {
            self.keys.remove(&key);
            self.broker.hang_up(key, how);
        }
    }

    fn up(&mut self, up: Up) {
        assert!(self.is_connected, "there is no connection");
        self.up.push_back(up);
    }
}

impl World {
    fn new(servers: usize, seed: u64) -> Self {
        let now = Duration::from_secs(10);
        let servers = (0..servers).map(|at| Server::new(settings(at), now)).collect();
        Self { servers, routes: BTreeMap::new(), now, random: seed }
    }

    /// Connected servers that know one another.
    fn joined(servers: usize, seed: u64) -> Self {
        let mut world = Self::new(servers, seed);
        for at in 0..servers {
            world.connect(at);
        }
        world.rest();
        world
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99_991);
        (self.random >> 33) as usize % below.max(1)
    }

    /// Calls one of the machine's methods, and carries out what follows.
    fn with(&mut self, at: usize, act: impl FnOnce(&mut Server)) {
        let server = &mut self.servers[at];
        server.begin(self.now);
        act(server);
        server.settle(self.now);
        // What is due by now is done by now; otherwise the driver would not sleep.
        server.machine.tick(self.now);
        server.settle(self.now);
        let deadline = server.machine.next_deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "{deadline:?} at {:?}", self.now);
    }

    fn connect(&mut self, at: usize) {
        self.with(at, |server| {
            server.is_connected = true;
            server.machine.nats(NatsEvent::Connected { max_payload: MAX_PAYLOAD });
        });
    }

    /// Cuts a server's connection: what its socket had taken, and what NATS had for it, is lost.
    fn cut(&mut self, at: usize) {
        self.routes.retain(|(_, to), _| *to != at);
        self.with(at, |server| {
            server.is_connected = false;
            server.up.clear();
            server.subscriptions.clear();
            server.machine.nats(NatsEvent::Disconnected);
        });
    }

    /// NATS processes the next thing of a server's connection.
    fn take_up(&mut self, at: usize) {
        match self.servers[at].up.pop_front() {
            Some(Up::Subscribe(id, subject)) => {
                self.servers[at].subscriptions.insert(id, subject);
            }
            Some(Up::Unsubscribe(id)) => {
                self.servers[at].subscriptions.remove(&id);
            }
            Some(Up::Publish(subject, payload)) => self.route(at, &subject, &payload),
            Some(Up::Mark(mark)) => {
                self.with(at, |server| server.machine.nats(NatsEvent::Confirmed { mark }));
            }
            None => {}
        }
    }

    fn route(&mut self, from: usize, subject: &str, payload: &[u8]) {
        for (to, server) in self.servers.iter().enumerate() {
            for (id, wanted) in &server.subscriptions {
                if pattern::matches(wanted, subject) {
                    let route = self.routes.entry((from, to)).or_default();
                    route.push_back((*id, subject.to_owned(), payload.to_vec()));
                }
            }
        }
    }

    /// Delivers a batch to a server, from several publishers, by its subscriptions in any order.
    fn deliver(&mut self, to: usize) {
        let mut batch: BTreeMap<u64, Vec<(String, Vec<u8>)>> = BTreeMap::new();
        for from in 0..self.servers.len() {
            let count = self.random(20);
            let Some(route) = self.routes.get_mut(&(from, to)) else { continue };
            for (id, subject, payload) in route.drain(..count.min(route.len())) {
                batch.entry(id).or_default().push((subject, payload));
            }
        }
        if batch.is_empty() {
            return;
        }
        let mut order: Vec<_> = batch.into_values().collect();
        for at in 1..order.len() {
            let other = self.random(at + 1);
            order.swap(at, other);
        }
        self.with(to, |server| {
            for (subject, payload) in order.iter().flatten() {
                server.machine.nats(NatsEvent::Message { subject, payload });
            }
            server.machine.nats(NatsEvent::Drained);
        });
    }

    /// Something happens at NATS.
    fn step(&mut self) {
        let at = self.random(self.servers.len());
        match self.random(3) {
            0 => self.deliver(at),
            _ => self.take_up(at),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for at in 0..self.servers.len() {
            self.with(at, |_| ());
        }
    }

    /// Goes on until nothing is under way, and longer than any delay in a machine but those of beats.
    fn rest(&mut self) {
        for _ in 0..60 {
            self.pass(Duration::from_millis(50));
            while self.is_under_way() {
                self.step();
            }
        }
    }

    fn is_under_way(&self) -> bool {
        self.servers.iter().any(|server| !server.up.is_empty())
            || self.routes.values().any(|route| !route.is_empty())
    }

    /// Connects a client of the application `app` to a server.
    fn client(&mut self, at: usize, id: &str) -> Client {
        let key = self.servers[at].broker.accept().unwrap();
        let client = Client { at, key };
        let extensions = json!(["call", "topic"]);
        let connect = json!({"action": "connect", "connection_id": id, "extensions": extensions});
        self.send(client, &message("request", "system", "c", &connect));
        assert_eq!(self.take(client)[0]["payload"]["status"], "connected");
        client
    }

    fn send(&mut self, client: Client, message: &Value) {
        let bytes = framed(message);
        self.with(client.at, |server| {
            server.broker.receive(client.key, &bytes);
        });
    }

    fn hang_up(&mut self, client: Client) {
        self.with(client.at, |server| server.broker.hang_up(client.key, HangUp::Reset));
    }

    /// What a client got since the last time.
    fn take(&mut self, client: Client) -> Vec<Value> {
        let bytes = self.servers[client.at].received.remove(&client.key).unwrap_or_default();
        let (mut rest, mut messages) = (&bytes[..], Vec::new());
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (body, next) = behind.split_at(u32::from_be_bytes(*length) as usize);
            messages.push(serde_json::from_slice(body).unwrap());
            rest = next;
        }
        messages
    }

    fn payloads(&mut self, client: Client) -> Vec<Value> {
        self.take(client).into_iter().map(|message| message["payload"].clone()).collect()
    }
}

/// A client of one of the servers.
#[derive(Clone, Copy)]
struct Client {
    at: usize,
    key: ConnectionKey,
}
