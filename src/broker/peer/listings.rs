//! Requests whose answers list all applications, channels or connections.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Serialize;

use crate::branches::{self, Branch};
use crate::broker::flow::answers;
use crate::broker::state::connection::Connections;
use crate::broker::state::core::Core;
use crate::broker::state::encoder::Address;
use crate::broker::state::keys::{ApplicationKey, ConnectionKey};
use crate::broker::state::latency::{ChannelLatency, LatencySummary};
use crate::broker::state::peer::Peer;
use crate::broker::state::refusal::{self, Stop};
use crate::broker::state::router::Router;
use crate::broker::state::service::ServiceWorker;
use crate::broker::state::stats::{self, ChannelInfo, ListedApplication};
use crate::broker::turn_limits::{LATENCY_WORK, LISTED_BYTES_PER_WORK};
use crate::proto::{Envelope, MessageType};

/// A request for a list.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Listing {
    /// All applications, or a single one.
    Applications(Option<ApplicationKey>),
    Channels(ApplicationKey),
    Latencies(ApplicationKey),
    Services(ApplicationKey),
    Connections,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Listed<'a> {
    Applications(BTreeMap<&'a str, ListedApplication<'a>>),
    Channels(BTreeMap<&'a str, ChannelInfo>),
    Latencies { channels: BTreeMap<&'a str, ChannelLatency>, workers: Vec<WorkerLatency<'a>> },
    Services { services: Vec<Service<'a>> },
    Connections { connections: Vec<ListedConnection<'a>> },
}

/// One worker's round trips. Its id is not shown to others.
#[derive(Serialize)]
struct WorkerLatency<'a> {
    channels: Vec<&'a str>,
    round_trip: LatencySummary,
}

/// One channel that workers serve.
#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    /// At least one worker is not a slow reader.
    healthy: bool,
    workers: usize,
    /// The concurrency of each worker that has given one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    concurrency: Vec<u32>,
    /// Requests that wait until a worker has room.
    kept_requests: usize,
}

/// One connection, for the operator. Not even he is shown its id.
#[derive(Serialize)]
struct ListedConnection<'a> {
    address: String,
    /// The user of its process, on a Unix socket.
    user: Option<u32>,
    app: &'a str,
    connected_at: f64,
    queued_bytes: usize,
    subscriptions: usize,
    patterns: usize,
    serves: Vec<&'a str>,
}

/// The smallest size of an entry without its name.
const APPLICATION_BYTES_MIN: usize =
    r#""":{"name":"","channels":[],"connections":0,"created_at":0.0,"last_activity":0.0}"#.len();
const CHANNEL_BYTES_MIN: usize =
    r#""":{"subscribers":0,"created_at":0.0,"workers":0,"has_handler":true,"kept_requests":0},"#
        .len();
const LATENCY_BYTES_MIN: usize = r#""":{"publication":{}},"#.len();
const SERVICE_BYTES_MIN: usize =
    r#"{"name":"","healthy":true,"workers":1,"kept_requests":0},"#.len();
const CONNECTION_BYTES_MIN: usize =
    r#"{"address":"","user":null,"app":"","connected_at":0.0,"queued_bytes":0,"#.len()
        + r#""subscriptions":0,"patterns":0,"serves":[]},"#.len();
const CONCURRENCY_BYTES_MIN: usize = "1,".len();
const NAME_BYTES_MIN: usize = r#""","#.len();

/// Answers a request, or lets it wait if the answer is more work than the turn has room for.
pub(crate) fn answer(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
    listing: Listing,
) -> Result<(), Stop> {
    let (entries, bytes_min) = match listing {
        Listing::Connections => {
            let (sessions, all) = (core.connections.sessions(), core.connections.len());
            (all, sessions * CONNECTION_BYTES_MIN)
        }
        listing => extent_of(&core.router, listing),
    };
    let bytes_max = core.limits.frame_bytes_max;
    if bytes_min > bytes_max {
        branches::note(Branch::ListingTooLarge);
        return Err(refusal::listing_too_large().into());
    }
    let work = entries.max(bytes_min / LISTED_BYTES_PER_WORK);
    let Some(connection) = core.connections.get_mut(from) else { return Ok(()) };
    if !core.turn.charge_or_wait(from, connection, work, &mut core.counters) {
        return Err(Stop::Held);
    }
    core.turn.note_work(work);
    branches::note(Branch::ListingAnswered);
    let unix = core.turn.now.unix;
    let Some(listed) = collect(&core.router, &core.connections, listing, unix, bytes_max) else {
        return Err(refusal::listing_too_large().into());
    };
    let answer = core.encoder.own_value(
        core.pool.gauge(),
        core.turn.now.unix,
        Address::of(envelope),
        MessageType::Response,
        Some(envelope.message_id().raw().as_bytes()),
        &listed,
    );
    debug_assert!(answer.is_ok(), "a value of the server's own is always JSON");
    if let Ok(answer) = answer {
        answers::send_own(core, from, envelope, answer);
    }
    Ok(())
}

/// Returns the number of entries of an answer, and its smallest size if that is known in advance.
fn extent_of(router: &Router, listing: Listing) -> (usize, usize) {
    let application = |key| router.applications.get(key);
    let of = match listing {
        Listing::Applications(None) => {
            let (applications, channels) = (router.applications.len(), router.channels.len());
            let bytes_min = router.names_bytes
                + applications * APPLICATION_BYTES_MIN
                + channels * NAME_BYTES_MIN;
            return (applications + channels, bytes_min);
        }
        Listing::Applications(Some(key)) => application(key).map(|own| {
            let bytes_min = own.names_bytes + own.channels.len() * NAME_BYTES_MIN;
            (1 + own.channels.len(), bytes_min)
        }),
        Listing::Channels(key) => application(key).map(|own| {
            (own.channels.len(), own.names_bytes + own.channels.len() * CHANNEL_BYTES_MIN)
        }),
        Listing::Latencies(key) => application(key)
            .map(|own| ((own.channels.len() + own.connections.len()) * LATENCY_WORK, 0)),
        Listing::Services(key) => application(key).map(|own| (own.channels.len() + own.workers, 0)),
        Listing::Connections => None,
    };
    of.unwrap_or_default()
}

/// Collects a list. Returns `None` as soon as it certainly takes more than `bytes_max`.
fn collect<'a>(
    router: &'a Router,
    connections: &Connections,
    listing: Listing,
    unix: Duration,
    bytes_max: usize,
) -> Option<Listed<'a>> {
    let mut room = Room { bytes: bytes_max };
    Some(match listing {
        Listing::Applications(only) => Listed::Applications(stats::list_applications(router, only)),
        Listing::Channels(key) => Listed::Channels(stats::list_channels(router, key, unix)),
        Listing::Latencies(key) => {
            let mut channels = BTreeMap::new();
            for (id, latency) in stats::list_latencies(router, key) {
                room.take(id.len() + LATENCY_BYTES_MIN)?;
                channels.insert(id, latency);
            }
            let workers = list_workers(router, connections, key, &mut room)?;
            Listed::Latencies { channels, workers }
        }
        Listing::Services(key) => {
            Listed::Services { services: list_services(router, connections, key, &mut room)? }
        }
        Listing::Connections => {
            Listed::Connections { connections: list_connections(router, connections, &mut room)? }
        }
    })
}

fn list_workers<'a>(
    router: &'a Router,
    connections: &Connections,
    key: ApplicationKey,
    room: &mut Room,
) -> Option<Vec<WorkerLatency<'a>>> {
    let mut workers = Vec::new();
    let application = router.applications.get(key);
    for member in application.into_iter().flat_map(|found| found.connections.values()) {
        let session = connections.session(*member);
        let Some(worker) = session.and_then(|session| session.worker.as_ref()) else {
            continue;
        };
        let Some(round_trip) = worker.round_trip.summary() else { continue };
        let mut channels = Vec::with_capacity(worker.channels.len());
        for channel in worker.channels.iter().filter_map(|key| router.channels.get(*key)) {
            room.take(channel.id_json.len() + NAME_BYTES_MIN)?;
            channels.push(&*channel.id);
        }
        workers.push(WorkerLatency { channels, round_trip });
    }
    Some(workers)
}

fn list_connections<'a>(
    router: &'a Router,
    connections: &Connections,
    room: &mut Room,
) -> Option<Vec<ListedConnection<'a>>> {
    let mut listed = Vec::new();
    for (_, connection) in connections.iter() {
        let Some(session) = connection.session() else { continue };
        let Some(application) = router.applications.get(session.application) else { continue };
        room.take(application.id.len() + CONNECTION_BYTES_MIN)?;
        let (address, user) = match connection.peer.into() {
            Peer::Tcp(address) => (address.to_string(), None),
            Peer::Unix { user, .. } => ("unix".to_owned(), user.map(|user| user.uid)),
            Peer::Link => ("link".to_owned(), None),
            Peer::Unknown => (String::new(), None),
        };
        let channels = session.worker.iter().flat_map(|worker| &worker.channels);
        let mut serves = Vec::new();
        for channel in channels.filter_map(|key| router.channels.get(*key)) {
            room.take(channel.id_json.len() + NAME_BYTES_MIN)?;
            serves.push(&*channel.id);
        }
        listed.push(ListedConnection {
            address,
            user,
            app: &application.id,
            connected_at: session.connected_at.as_secs_f64(),
            queued_bytes: connection.send.len(),
            subscriptions: session.subscriptions.len(),
            patterns: session.topic.as_ref().map_or(0, |topic| topic.patterns.len()),
            serves,
        });
    }
    Some(listed)
}

fn list_services<'a>(
    router: &'a Router,
    connections: &Connections,
    key: ApplicationKey,
    room: &mut Room,
) -> Option<Vec<Service<'a>>> {
    let keeps_up = |worker: &ServiceWorker| {
        connections.get(worker.key).is_some_and(|worker| worker.congested.is_none())
    };
    let mut services = Vec::new();
    for channel in router.channels_of(key) {
        let service = &channel.service;
        if service.workers.is_empty() {
            continue;
        }
        let concurrency = service.workers.iter().filter_map(|worker| worker.concurrency);
        let concurrency: Vec<u32> = concurrency.map(NonZeroU32::get).collect();
        let bytes_min = SERVICE_BYTES_MIN + CONCURRENCY_BYTES_MIN * concurrency.len();
        room.take(channel.id_json.len() + bytes_min)?;
        services.push(Service {
            name: &channel.id,
            healthy: service.workers.iter().any(keeps_up),
            workers: service.workers.len(),
            concurrency,
            kept_requests: service.kept.len(),
        });
    }
    services.sort_unstable_by_key(|service| service.name);
    Some(services)
}

/// The room that is left in a frame.
struct Room {
    bytes: usize,
}

impl Room {
    fn take(&mut self, bytes: usize) -> Option<()> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(())
    }
}
