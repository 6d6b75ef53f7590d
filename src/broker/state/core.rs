//! All tables together. The layers above it change them.

use super::budget::Budget;
use super::buses::Buses;
use super::connection::{Connection, Connections};
use super::counters::Counters;
use super::encoder::Encoder;
use super::events::{Action, Agenda};
use super::interest::Interests;
use super::keys::{ChannelKey, ConnectionKey};
use super::latency::Recorder;
use super::requests::Requests;
use super::router::Router;
use super::stats::{NatsStatsSource, Stats};
use super::timers::{Now, Timers};
use super::topic::retained::LastValues;
use super::turn::Turn;
use crate::broker::access::Access;
use crate::broker::limits::Limits;
use crate::proto::BufferPool;
use crate::trace::{Origin, Who};

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) limits: Limits,
    pub(crate) access: Access,
    pub(crate) server: ServerState,
    pub(crate) turn: Turn,
    pub(crate) agenda: Agenda,
    pub(crate) timers: Timers,
    pub(crate) connections: Connections,
    pub(crate) router: Router,
    pub(crate) last_values: LastValues,
    pub(crate) requests: Requests,
    pub(crate) encoder: Encoder,
    pub(crate) pool: BufferPool,
    pub(crate) budget: Budget,
    pub(crate) counters: Counters,
    pub(crate) latency: Recorder,
    pub(crate) interests: Interests,
    pub(crate) buses: Buses,
}

/// The state of the whole server.
#[derive(Debug)]
pub(crate) struct ServerState {
    started: Now,
    pub(crate) lifecycle: Lifecycle,
    /// Counts the filters that the process has set. 0: there is none.
    pub(crate) filter_generation: u64,
    /// The address on which the server listens, for `get_stats`.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The user that the server's process runs as, if the driver has told.
    pub(crate) uid: Option<u32>,
    /// How it is with NATS, if the server joins others over it.
    pub(crate) nats: Option<NatsStatsSource>,
}

/// The stages of the server's life. It only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    Running,
    /// New requests are refused, and connections are closed once nothing of theirs is in flight.
    Draining,
    /// The drain took too long.
    CutOff,
}

impl Core {
    pub(crate) fn new(limits: Limits, access: Access, seed: [u8; 32], now: Now) -> Self {
        Self {
            server: ServerState {
                started: now,
                lifecycle: Lifecycle::Running,
                filter_generation: 0,
                host: String::new(),
                port: 0,
                uid: None,
                nats: None,
            },
            turn: Turn::new(now, &limits.turn),
            agenda: Agenda::default(),
            timers: Timers::default(),
            connections: Connections::new(&limits),
            router: Router::default(),
            last_values: LastValues::default(),
            requests: Requests::default(),
            encoder: Encoder::new(seed),
            pool: BufferPool::default(),
            budget: Budget::default(),
            counters: Counters::default(),
            latency: Recorder::default(),
            interests: Interests::default(),
            buses: Buses::default(),
            limits,
            access,
        }
    }

    /// Counts publications on a channel that no subscriber took.
    #[cold]
    pub(crate) fn note_unheard(&mut self, channel: ChannelKey, publications: u32) {
        self.counters.publications_unheard += u64::from(publications);
        if let Some(channel) = self.router.channels.get_mut(channel) {
            channel.unheard += u64::from(publications);
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.server.lifecycle != Lifecycle::Running
    }

    /// If the server drains, has the driver check whether a connection has bytes left to read.
    pub(crate) fn look_again(&mut self, key: ConnectionKey) {
        if self.is_draining() {
            self.agenda.actions.push_back(Action::Resume(key));
        }
    }

    /// Describes a connection in the log.
    #[cold]
    pub(crate) fn who(&self, key: ConnectionKey) -> Who<'_> {
        let connection = self.connections.get(key);
        let session = connection.and_then(Connection::session);
        let application = session.and_then(|own| self.router.applications.get(own.application));
        Who {
            connection: key.index(),
            origin: connection.map_or(Origin::Unknown, |connection| connection.peer.origin()),
            application: application.map(|application| &*application.id),
        }
    }

    /// Returns the memory that the server holds for peers.
    #[inline]
    pub(crate) fn memory_bytes(&self) -> usize {
        let buffers = self.pool.gauge().bytes() + self.pool.free_bytes();
        buffers + self.router.bytes + self.router.patterns.bytes + self.budget.tables_bytes
    }

    pub(crate) fn stats(&self) -> Stats {
        let uptime = self.turn.now.monotonic.saturating_sub(self.server.started.monotonic);
        Stats {
            running: !self.is_draining(),
            host: self.server.host.clone(),
            port: self.server.port,
            total_applications: self.router.applications.len(),
            total_connections: self.connections.sessions(),
            max_connections: self.limits.connections_max,
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: uptime.as_secs_f64(),
            total_channels: self.router.channels.len(),
            total_patterns: self.router.patterns.count,
            pending_requests: self.requests.len(),
            kept_requests: self.requests.kept(),
            buffered_bytes: self.pool.gauge().bytes(),
            memory_bytes: self.memory_bytes(),
            max_memory: self.limits.memory_bytes_max,
            memory_pressure: self.budget.pressure,
            nats: self.server.nats.as_ref().map(NatsStatsSource::get),
            counters: self.counters.clone(),
        }
    }
}
