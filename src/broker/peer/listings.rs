//! Questions whose answers are as long as there are applications, channels and connections.

use std::collections::BTreeMap;

use serde::Serialize;

use super::dispatch::Stop;
use crate::broker::limits::{LATENCY_WORK, LISTED_BYTES_PER_WORK};
use crate::broker::state::arena::Arena;
use crate::broker::state::connection::Connection;
use crate::broker::state::core::{Core, Refusal};
use crate::broker::state::encoder::Address;
use crate::broker::state::keys::{ApplicationKey, ConnectionKey, ConnectionKind};
use crate::broker::state::latency::{ChannelLatency, LatencySummary};
use crate::broker::state::router::{Application, Channel, Router};
use crate::broker::state::stats::{ApplicationInfo, ChannelInfo};
use crate::proto::{Envelope, ErrorCode, MessageType};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Listing {
    /// All of them, or one.
    Applications(Option<ApplicationKey>),
    Channels(ApplicationKey),
    Latencies(ApplicationKey),
    Services(ApplicationKey),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Listed<'a> {
    Applications(BTreeMap<&'a str, ListedApplication<'a>>),
    Channels(BTreeMap<&'a str, ChannelInfo>),
    Latencies { channels: BTreeMap<&'a str, ChannelLatency>, workers: Vec<WorkerLatency<'a>> },
    Services { services: Vec<Service<'a>> },
}

#[derive(Serialize)]
pub(crate) struct ListedApplication<'a> {
    name: &'a str,
    channels: Vec<&'a str>,
    connections: usize,
    created_at: f64,
    last_activity: f64,
}

/// One worker's round trips. Its id is its own business.
#[derive(Serialize)]
struct WorkerLatency<'a> {
    channels: Vec<&'a str>,
    round_trip: LatencySummary,
}

/// One channel that workers serve.
#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    /// Whether at least one worker keeps up with reading.
    healthy: bool,
    workers: usize,
}

/// The least that an entry takes beside its name.
const APPLICATION_BYTES_MIN: usize =
    r#""":{"name":"","channels":[],"connections":0,"created_at":0.0,"last_activity":0.0}"#.len();
const CHANNEL_BYTES_MIN: usize =
    r#""":{"subscribers":0,"created_at":0.0,"workers":0,"has_handler":true},"#.len();
const LATENCY_BYTES_MIN: usize = r#""":{"publication":{}},"#.len();
const SERVICE_BYTES_MIN: usize = r#"{"name":"","healthy":true,"workers":1},"#.len();
const NAME_BYTES_MIN: usize = r#""","#.len();

impl Core {
    pub(crate) fn list(
        &mut self,
        from: ConnectionKey,
        envelope: &Envelope<'_>,
        listing: Listing,
    ) -> Result<(), Stop> {
        let (entries, bytes_min) = self.router.extent_of(listing);
        let bytes_max = self.limits.frame_bytes_max;
        if bytes_min > bytes_max {
            return Err(answer_too_large().into());
        }
        let work = entries.max(bytes_min / LISTED_BYTES_PER_WORK);
        if !self.takes_on(from, work) {
            return Err(Stop::Held);
        }
        self.work.done += work as u64;
        let Some(listed) = self.router.list(&self.connections, listing, bytes_max) else {
            return Err(answer_too_large().into());
        };
        let answer = self.encoder.value(
            self.pool.gauge(),
            self.now.unix,
            Address::of(envelope),
            MessageType::Response,
            Some(envelope.message_id().raw()),
            &listed,
        );
        debug_assert!(answer.is_ok(), "what the server says of itself is always JSON");
        if let Ok(answer) = answer {
            self.send_answer(from, envelope, answer);
        }
        Ok(())
    }
}

/// The same answer whether that is known before or found out.
pub(crate) fn answer_too_large() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "the answer makes a larger frame than the server allows; ask for less, or raise its \
         --max-frame-bytes",
    )
}

impl Router {
    /// How much work an answer is, and the least that it takes where that is known before.
    fn extent_of(&self, listing: Listing) -> (usize, usize) {
        let application = |key| self.applications.get(key);
        let of = match listing {
            Listing::Applications(None) => {
                let (applications, channels) = (self.applications.len(), self.channels.len());
                let bytes_min = self.names_bytes
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
            Listing::Services(key) => application(key).map(|own| (own.channels.len(), 0)),
        };
        of.unwrap_or_default()
    }

    /// `None` if it takes more than `bytes_max`, as soon as that is certain.
    fn list(
        &self,
        connections: &Arena<ConnectionKind, Connection>,
        listing: Listing,
        bytes_max: usize,
    ) -> Option<Listed<'_>> {
        let mut room = Room { bytes: bytes_max };
        Some(match listing {
            Listing::Applications(only) => Listed::Applications(self.list_applications(only)),
            Listing::Channels(key) => Listed::Channels(self.list_channels(key)),
            Listing::Latencies(key) => {
                let mut channels = BTreeMap::new();
                for (id, latency) in self.list_latencies(key) {
                    room.take(id.len() + LATENCY_BYTES_MIN)?;
                    channels.insert(id, latency);
                }
                let workers = self.list_workers(connections, key, &mut room)?;
                Listed::Latencies { channels, workers }
            }
            Listing::Services(key) => {
                Listed::Services { services: self.list_services(connections, key, &mut room)? }
            }
        })
    }

    pub(crate) fn list_applications(
        &self,
        only: Option<ApplicationKey>,
    ) -> BTreeMap<&str, ListedApplication<'_>> {
        let one = only.and_then(|key| self.applications.get(key));
        let all = self.applications.iter().take_while(|_| only.is_none());
        let described = one.into_iter().chain(all.map(|(_, application)| application));
        described.map(|application| (&*application.id, application.into())).collect()
    }

    pub(crate) fn list_channels(&self, key: ApplicationKey) -> BTreeMap<&str, ChannelInfo> {
        self.channels_of(key).map(|channel| (&*channel.id, channel.into())).collect()
    }

    /// In no order.
    pub(crate) fn list_latencies(
        &self,
        key: ApplicationKey,
    ) -> impl Iterator<Item = (&str, ChannelLatency)> {
        self.channels_of(key)
            .filter_map(|channel| Some((channel.latencies.report()?, channel)))
            .map(|(latency, channel)| (&*channel.id, latency))
    }

    fn list_workers<'a>(
        &'a self,
        connections: &Arena<ConnectionKind, Connection>,
        key: ApplicationKey,
        room: &mut Room,
    ) -> Option<Vec<WorkerLatency<'a>>> {
        let mut workers = Vec::new();
        let application = self.applications.get(key);
        for member in application.into_iter().flat_map(|found| found.connections.values()) {
            let session = connections.get(*member).and_then(Connection::session);
            let Some(worker) = session.and_then(|session| session.worker.as_ref()) else {
                continue;
            };
            let Some(round_trip) = worker.round_trip.summary() else { continue };
            let mut channels = Vec::with_capacity(worker.channels.len());
            for channel in worker.channels.iter().filter_map(|key| self.channels.get(*key)) {
                room.take(channel.id_json.len() + NAME_BYTES_MIN)?;
                channels.push(&*channel.id);
            }
            workers.push(WorkerLatency { channels, round_trip });
        }
        Some(workers)
    }

    fn list_services<'a>(
        &'a self,
        connections: &Arena<ConnectionKind, Connection>,
        key: ApplicationKey,
        room: &mut Room,
    ) -> Option<Vec<Service<'a>>> {
        let keeps_up = |worker: &ConnectionKey| {
            connections.get(*worker).is_some_and(|worker| worker.congested.is_none())
        };
        let mut services = Vec::new();
        for channel in self.channels_of(key).filter(|channel| !channel.workers.is_empty()) {
            room.take(channel.id_json.len() + SERVICE_BYTES_MIN)?;
            let healthy = channel.workers.iter().any(keeps_up);
            services.push(Service { name: &channel.id, healthy, workers: channel.workers.len() });
        }
        services.sort_unstable_by_key(|service| service.name);
        Some(services)
    }

    fn channels_of(&self, key: ApplicationKey) -> impl Iterator<Item = &Channel> {
        let application = self.applications.get(key);
        let keys = application.into_iter().flat_map(|application| application.channels.values());
        keys.filter_map(|key| self.channels.get(*key))
    }
}

/// What is left of a frame.
struct Room {
    bytes: usize,
}

impl Room {
    fn take(&mut self, bytes: usize) -> Option<()> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(())
    }
}

impl<'a> From<&'a Application> for ListedApplication<'a> {
    fn from(application: &'a Application) -> Self {
        let mut channels: Vec<&str> = application.channels.keys().map(|id| &**id).collect();
        channels.sort_unstable();
        Self {
            name: &application.name,
            channels,
            connections: application.connections.len(),
            created_at: application.created_at.as_secs_f64(),
            last_activity: application.last_activity.as_secs_f64(),
        }
    }
}

impl From<ListedApplication<'_>> for ApplicationInfo {
    fn from(listed: ListedApplication<'_>) -> Self {
        Self {
            name: listed.name.to_owned(),
            channels: listed.channels.into_iter().map(str::to_owned).collect(),
            connections: listed.connections,
            created_at: listed.created_at,
            last_activity: listed.last_activity,
        }
    }
}

impl From<&Channel> for ChannelInfo {
    fn from(channel: &Channel) -> Self {
        Self {
            subscribers: channel.subscribers.len(),
            created_at: channel.created_at.as_secs_f64(),
            workers: channel.workers.len(),
            has_handler: channel.handlers.is_some(),
        }
    }
}
