//! What the simulation checks from inside, because no client can see it: timers that run for what is
//! over, and connections that wait for nothing.

use super::broker::Broker;
use super::state::budget::MemoryPressure;
use super::state::connection::{Connection, Held, Obstacle};
use super::state::keys::ConnectionKey;
use super::state::router::Channel;
use super::state::service::ServiceWorker;

impl Broker {
    /// The number of timers that run and that nothing of the server would disarm. There is one in a
    /// drain.
    pub(crate) fn unowned_timers(&self) -> usize {
        let core = &self.core;
        let of_connections = core.connections.iter().map(|(_, connection)| {
            usize::from(connection.timer.is_some()) + usize::from(connection.congested.is_some())
        });
        let calls = core.requests.keys().into_iter().filter_map(|key| core.requests.get(key));
        let calls = calls.filter_map(|request| core.requests.call(request));
        let of_requests = calls.map(|call| {
            let stream = call.stream.and_then(|stream| stream.timer);
            usize::from(call.ttl.is_some()) + usize::from(stream.is_some())
        });
        let owned = of_connections.sum::<usize>() + usize::from(core.budget.grace.is_some());
        let ages = |channel: &Channel| channel.topic.as_ref().is_some_and(|it| it.ageing.is_some());
        let of_channels = core.router.channels.iter().filter(|(_, channel)| ages(channel)).count();
        let owned = owned + of_requests.sum::<usize>() + of_channels;
        core.timers.len().abs_diff(owned)
    }

    /// Returns a connection that is held back although nothing is in its way, and that nothing will
    /// resume.
    pub(crate) fn held_for_nothing(&self) -> Option<ConnectionKey> {
        let core = &self.core;
        let is_any = |is_it: &dyn Fn(&Connection) -> bool| {
            core.connections.iter().any(|(_, connection)| is_it(connection))
        };
        let is_held_for_nothing =
            |key: ConnectionKey, connection: &Connection| match connection.held {
                Held::No | Held::NextTurn => false,
                Held::Behind(obstacle) => {
                    !self.is_there(obstacle) && !is_any(&|other| other.woken == Some(obstacle))
                }
                Held::Memory => core.budget.pressure != MemoryPressure::Pausing,
                Held::Search => !connection.is_replaying,
                Held::Sharing => !core.agenda.sharing.iter().any(|asked| asked.key == key),
                Held::Work(_) => !core.turn.has_begun && !is_any(&|other| other.is_due),
            };
        let mut held = core.connections.iter();
        held.find(|(key, connection)| is_held_for_nothing(*key, connection)).map(|(key, _)| key)
    }

    /// Returns whether a publication to the channel, or a request for it, would have to wait.
    fn is_there(&self, obstacle: Obstacle) -> bool {
        let Obstacle::Worker(channel) = obstacle else {
            return self.core.router.is_blocked(obstacle);
        };
        let is_behind = |worker: &ServiceWorker| {
            let worker = self.core.connections.get(worker.key);
            worker.is_some_and(|worker| worker.congested.is_some())
        };
        let channel = self.core.router.channels.get(channel);
        channel.is_some_and(|Channel { service, .. }| {
            !service.workers.is_empty() && service.workers.iter().all(is_behind)
        })
    }

    /// Returns whether a request is kept although one of the workers of its channel has room for it,
    /// and nothing will hand it out.
    pub(crate) fn keeps_for_nothing(&self) -> bool {
        let is_free = |worker: &ServiceWorker| {
            let connection = self.core.connections.get(worker.key);
            let is_free = |connection: &Connection| {
                connection.takes_messages()
                    && connection.congested.is_none()
                    && !connection.takes_kept
            };
            worker.has_room() && connection.is_some_and(is_free)
        };
        self.core.router.channels.iter().any(|(_, Channel { service, .. })| {
            let first = service.kept.first().and_then(|first| self.core.requests.get(first));
            let is_of_link =
                first.is_some_and(|first| self.core.connections.is_link(first.requester));
            let mut free =
                service.workers.iter().filter(|worker| !(is_of_link && worker.is_link()));
            first.is_some() && free.any(is_free)
        })
    }

    /// The connections that were closed with bytes in their queue since the last call. The first
    /// call starts the record.
    pub(crate) fn take_unsent(&mut self) -> Vec<ConnectionKey> {
        self.core.agenda.unsent.replace(Vec::new()).unwrap_or_default()
    }
}
