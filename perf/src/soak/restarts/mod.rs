//! Ends and starts a separate server again and again, while the crate's own clients reconnect to it.
//! Every request ends with an answer, or with an error that says whether it may have been executed.
//! Subscriptions have gaps only where the client reported one, and none where only their line was cut: then
//! they get what the server kept meanwhile.

mod cutter;
mod publications;
mod requests;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use ipc_framework::client::{self, Client, ClientOptions, Event, Reconnect};

use self::cutter::Cutter;
use self::publications::{CHANNEL, Subscriber, publish};
use self::requests::{LOST_IN_A_DRAIN, Requester, serve};
use super::RESTARTS;
use super::account::Account;
use super::alarm::Alarm;
use super::context::Random;
use super::lock;
use super::server::{Orders, Server};
use crate::endpoint::Endpoint;

const APPLICATION: &str = "bench";
const REQUESTERS: usize = 4;
const PUBLISHERS: usize = 2;
const SUBSCRIBERS: usize = 2;
const CUT: &str = "the line of a subscriber cut";
/// Messages that the channel keeps: more than are published while a client reconnects.
const KEPT: u32 = 20_000;
const AWAY: &str = "a subscriber away until the next server had published more than the last one";
const DRAINED: &str = "the server drained and started again";
/// Ports below those that systems choose by themselves.
const PORTS: std::ops::Range<u16> = 12_000..28_000;
/// Requests that may be lost in drains, however few drains there were.
const LOST_MIN: u64 = 3;
/// Every so many restarts, one is a crash.
const CRASH_EVERY: usize = 4;
/// Every so many restarts, a subscriber misses all of it.
const AWAY_EVERY: usize = 3;
const CALM_MILLISECONDS: std::ops::Range<usize> = 800..2_000;
/// The longest time until all clients are served again after a restart, even on a slow machine.
const BACK_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The state that all threads of this part share.
#[derive(Debug, Default)]
struct Shared {
    alarm: Arc<Alarm>,
    account: Mutex<Account>,
    /// Odd while a restart is under way: only then may a request fail.
    epoch: AtomicU64,
    /// The last restart was a crash.
    is_crash: AtomicBool,
    is_ending: AtomicBool,
}

impl Shared {
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Begins a new epoch: a restart, or the calm after it.
    fn turn(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed) || self.alarm.is_raised()
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        lock(&self.account)
    }

    fn raise(&self, what: &str) {
        self.alarm.raise(format!("{RESTARTS}: {what}"));
    }
}

/// Connects a client that reconnects quickly. If it gives up by itself, a promise is broken.
fn connect(target: &Endpoint, shared: &Arc<Shared>) -> Result<Client, String> {
    let mut options = ClientOptions::new(APPLICATION);
    options.connection.endpoint = match target {
        Endpoint::Tcp(address) => client::Endpoint::tcp(address.ip().to_string(), address.port()),
        Endpoint::Unix(path) => client::Endpoint::unix(path),
    };
    options.connection.timeout = BACK_MAX;
    options.heartbeat = Some(Duration::from_secs(30));
    options.reconnect = Some(Reconnect::new(Duration::from_millis(50), Duration::from_millis(500)));
    let client = options.connect().map_err(|error| format!("a client: {error}"))?;
    let shared = Arc::clone(shared);
    client.on_event(move |event| match event {
        Event::Closed { error: Some(error), .. } if !shared.is_ending() => {
            shared.raise(&format!("a client gave up: {error}"));
        }
        Event::Disconnected { .. } => shared.account().fault("a client's connection lost"),
        _ => {}
    });
    Ok(client)
}

/// All clients of the server.
struct Clients {
    requesters: Vec<Requester>,
    worker: Client,
    publishers: Vec<Client>,
    subscribers: Vec<Subscriber>,
    /// The line of the last subscriber.
    cutter: Cutter,
}

impl Clients {
    fn connect(server: &Server, shared: &Arc<Shared>) -> Result<Self, String> {
        let mut targets = server.targets.iter().cycle();
        let mut client = || {
            let target = targets.next().unwrap_or_else(|| unreachable!("two at least"));
            connect(target, shared)
        };
        let Some(Endpoint::Tcp(tcp)) =
            server.targets.iter().find(|target| matches!(target, Endpoint::Tcp(_)))
        else {
            return Err("the server listens on no TCP port".into());
        };
        let cutter = Cutter::start(*tcp)?;
        let worker = client()?;
        let executed = serve(&worker, shared, REQUESTERS)?;
        let mut clients = Self {
            requesters: Vec::new(),
            worker,
            publishers: Vec::new(),
            subscribers: Vec::new(),
            cutter,
        };
        for index in 0..REQUESTERS {
            let executed = Arc::clone(&executed);
            clients.requesters.push(Requester::new(index, client()?, executed, shared));
        }
        for _ in 0..PUBLISHERS {
            clients.publishers.push(client()?);
        }
        for _ in 0..SUBSCRIBERS {
            clients.subscribers.push(Subscriber::listen(client()?, PUBLISHERS, shared)?);
        }
        let client = connect(&Endpoint::Tcp(clients.cutter.address), shared)?;
        clients.subscribers.push(Subscriber::listen(client, PUBLISHERS, shared)?);
        Ok(clients)
    }

    fn clients(&self) -> impl Iterator<Item = &Client> {
        let others = self.requesters.iter().map(|requester| &requester.client);
        let subscribers = self.subscribers.iter().map(|subscriber| &subscriber.client);
        std::iter::once(&self.worker).chain(others).chain(&self.publishers).chain(subscribers)
    }

    /// Returns counters of each client that increase only while it is served.
    fn progress(&self) -> Vec<u64> {
        let asked = self.requesters.iter().flat_map(Requester::progress);
        asked.chain(self.subscribers.iter().flat_map(Subscriber::progress)).collect()
    }

    /// Returns how many publications the first subscriber has had.
    fn heard(&self) -> u64 {
        self.subscribers.first().map_or(0, |subscriber| subscriber.progress().iter().sum())
    }

    /// Returns how many publications all publishers have sent.
    fn sent(&self) -> u64 {
        self.subscribers.first().map_or(0, Subscriber::sent)
    }

    /// Waits until all clients are served again: work that began after the restart has succeeded.
    fn until_back(&self, shared: &Shared) -> Result<(), String> {
        let begin = Instant::now();
        let before = self.progress();
        // The first success after `before` may be of work that began earlier; the second is not.
        let is_back = || self.progress().iter().zip(&before).all(|(now, before)| *now > before + 1);
        while !is_back() {
            if shared.is_ending() {
                return Ok(());
            }
            if begin.elapsed() > BACK_MAX {
                let (after, now) = (BACK_MAX.as_secs(), self.progress());
                return Err(format!("not all are back after {after} s: {before:?}, {now:?}"));
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }
}

/// Finds a free port outside the range of ephemeral ones. If the server's port were ephemeral, an
/// outgoing connection could take it while the server is away, which could not listen again then.
fn free_port() -> Result<u16, String> {
    let first = std::process::id() as usize % PORTS.len();
    let mut ports = (0..PORTS.len()).map(|at| PORTS.start + ((first + at) % PORTS.len()) as u16);
    let free = ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.ok_or_else(|| format!("no port of {PORTS:?} is free"))
}

/// Restarts the server until the time is over. Returns the outcomes of all messages.
pub(super) fn run(
    mut orders: Orders,
    settings_path: &Path,
    mut random: Random,
    alarm: &Arc<Alarm>,
) -> Result<Account, String> {
    orders.port = free_port()?;
    let settings = format!(
        "[[history]]\napp = \"{APPLICATION}\"\nchannel = \"{CHANNEL}\"\nmessages = {KEPT}\n"
    );
    std::fs::write(settings_path, settings).map_err(|error| format!("settings: {error}"))?;
    orders.settings = Some(settings_path.to_owned());
    let server = Server::start(&orders)?;
    let shared = Arc::new(Shared { alarm: Arc::clone(alarm), ..Shared::default() });
    let clients = Clients::connect(&server, &shared)?;
    let ended = thread::scope(|scope| {
        for requester in &clients.requesters {
            scope.spawn(|| requester.ask());
        }
        for (index, client) in clients.publishers.iter().enumerate() {
            let (shared, subscribers) = (&shared, &clients.subscribers);
            scope.spawn(move || publish(index, client, subscribers, shared));
        }
        let ended = restart_again_and_again(server, &orders, &clients, &shared, &mut random);
        if let Err(what) = &ended {
            shared.raise(what);
        }
        shared.is_ending.store(true, Ordering::Relaxed);
        if shared.alarm.is_raised() {
            // No thread may wait for answers that no longer come.
            clients.clients().for_each(Client::abort);
        }
        ended
    });
    let server = ended?;
    if alarm.is_raised() {
        return Ok(Account::default());
    }
    for subscriber in &clients.subscribers {
        subscriber.settle()?;
    }
    for client in clients.clients() {
        client.close().map_err(|error| format!("close: {error}"))?;
    }
    server.end()?;
    let account = std::mem::take(&mut *shared.account());
    check_drains(&account)?;
    Ok(account)
}

/// Checks that drains lose few requests. Few are in the network when a connection ends, whereas a
/// server that does not answer what it has received loses one of each requester with every drain.
fn check_drains(account: &Account) -> Result<(), String> {
    let drains = account.faults.get(DRAINED).copied().unwrap_or(0);
    let lost = account.outcomes.values().filter_map(|outcomes| outcomes.lost.get(LOST_IN_A_DRAIN));
    let lost: u64 = lost.sum();
    if lost <= drains.max(LOST_MIN) {
        return Ok(());
    }
    Err(format!("{lost} requests were lost in {drains} drains"))
}

/// Waits until the subscriber whose line was cut goes on. The server was there all the time, and has kept
/// what was published.
fn cut(clients: &Clients, shared: &Shared) -> Result<(), String> {
    shared.account().fault(CUT);
    let Some(subscriber) = clients.subscribers.last() else { return Ok(()) };
    let (begin, before) = (Instant::now(), subscriber.resumed());
    while subscriber.resumed() == before {
        if shared.is_ending() {
            return Ok(());
        }
        if begin.elapsed() > BACK_MAX {
            return Err("a subscriber whose line was cut did not go on without a gap".into());
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

/// Waits until the first subscriber has had so many publications.
fn until_heard(clients: &Clients, shared: &Shared, publications: u64) -> Result<(), String> {
    let begin = Instant::now();
    while clients.heard() < publications && !shared.is_ending() {
        if begin.elapsed() > BACK_MAX {
            return Err("the publications of the new server do not come".into());
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

fn restart_again_and_again(
    mut server: Server,
    orders: &Orders,
    clients: &Clients,
    shared: &Shared,
    random: &mut Random,
) -> Result<Server, String> {
    clients.until_back(shared)?;
    let mut restarts = 0;
    let mut sent_before = 0;
    loop {
        let calm = CALM_MILLISECONDS.start + random.below(CALM_MILLISECONDS.len());
        let begin = Instant::now();
        let mut cuts_at = Some(Duration::from_millis(random.below(calm) as u64));
        while begin.elapsed() < Duration::from_millis(calm as u64) && !shared.alarm.is_over() {
            thread::sleep(LOOK_INTERVAL);
            if cuts_at.take_if(|at| *at < begin.elapsed()).is_some() && clients.cutter.cut() > 0 {
                cut(clients, shared)?;
            }
        }
        server.sample(Duration::ZERO)?;
        if shared.alarm.is_over() {
            return Ok(server);
        }
        restarts += 1;
        let is_crash = restarts % CRASH_EVERY == 0;
        shared.is_crash.store(is_crash, Ordering::SeqCst);
        shared.turn();
        let is_away = restarts % AWAY_EVERY == 0;
        if is_away {
            clients.cutter.hold();
        }
        let (heard, sent) = (clients.heard(), clients.sent());
        // A bound of what this server has published.
        let life = sent - sent_before;
        sent_before = sent;
        if is_crash {
            server.kill();
            shared.account().fault("the server killed and started again");
        } else {
            server.end()?;
            shared.account().fault(DRAINED);
        }
        server = Server::start(orders)?;
        if is_away {
            // By its offset alone, the place that it asks for could be one of the new history.
            until_heard(clients, shared, heard + life + 1)?;
            clients.cutter.release();
            shared.account().fault(AWAY);
        }
        clients.until_back(shared)?;
        shared.turn();
    }
}
