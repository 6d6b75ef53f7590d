//! Back-pressure: who produces for a slow reader waits, and the reader has a grace.

use crate::broker::state::core::Core;
use crate::broker::state::events::Action;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::timers::Due;

/// What a connection is held back for: whoever publishes waits for slow subscribers, whoever
/// asks for slow workers, and neither for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    Subscriber(ChannelKey),
    Worker(ChannelKey),
}

impl Obstacle {
    fn channel(self) -> ChannelKey {
        let (Self::Subscriber(channel) | Self::Worker(channel)) = self;
        channel
    }
}

impl Core {
    /// A queue went over its high-water mark: whoever would add to it is held back from
    /// now on, and the grace begins.
    pub(crate) fn congest(&mut self, key: ConnectionKey) {
        let deadline = self.deadline_in(self.limits.slow_consumer_grace);
        let Some(connection) = self.connections.get_mut(key) else { return };
        debug_assert!(connection.congested.is_none());
        connection.congested = Some(self.timers.arm(deadline, Due::Grace(key)));
        let Some(session) = connection.session() else { return };
        for channel in session.subscriptions.keys() {
            if let Some(channel) = self.router.channels.get_mut(*channel) {
                channel.congested += 1;
            }
        }
    }

    /// The queue drained, or its connection leaves: all who waited for it go on.
    pub(crate) fn uncongest(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(grace) = connection.congested.take() else { return };
        self.timers.disarm(grace);
        self.wake_who_waited_for(key);
        // After them: before them it would fill its queue anew with answers of its own, turn by
        // turn, and they would never find it drained.
        self.actions.push_back(Action::Resume(key));
    }

    fn wake_who_waited_for(&mut self, key: ConnectionKey) {
        let Some(session) = self.connections.get(key).and_then(|c| c.session()) else { return };
        for channel in session.subscriptions.keys() {
            if let Some(channel) = self.router.channels.get_mut(*channel) {
                channel.congested -= 1;
            }
        }
        let subscribed = session.subscriptions.keys().map(|key| Obstacle::Subscriber(*key));
        let served = session.worker.iter().flat_map(|worker| &worker.channels);
        let served = served.map(|key| Obstacle::Worker(*key));
        // Both lists are bounded per connection, and this is no hot path.
        let obstacles: Vec<Obstacle> = subscribed.chain(served).collect();
        for obstacle in obstacles {
            self.wake_parked(obstacle);
        }
    }

    /// Holds a connection's next frame back until the obstacle is gone. Who had its turn
    /// already and finds it there again keeps its place at the front.
    pub(crate) fn park(&mut self, key: ConnectionKey, obstacle: Obstacle) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(channel) = self.router.channels.get_mut(obstacle.channel()) else { return };
        connection.parked = Some(obstacle);
        self.counters.publishers_held += 1;
        if connection.woken == Some(obstacle) {
            connection.woken = None;
            channel.parked(obstacle).push_front(key);
        } else {
            // The channel stays as long as anybody waits for it.
            channel.references += 1;
            channel.parked(obstacle).push_back(key);
        }
    }

    /// Lets the first of those go on who wait here. The next one follows when that one had its
    /// turn: all at once they would each be looked at for one to pass.
    pub(crate) fn wake_parked(&mut self, obstacle: Obstacle) {
        let Some(channel) = self.router.channels.get_mut(obstacle.channel()) else { return };
        if matches!(obstacle, Obstacle::Subscriber(_)) && channel.congested > 0 {
            return;
        }
        let Some(key) = channel.parked(obstacle).pop_front() else { return };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.parked = None;
            connection.woken = Some(obstacle);
            self.actions.push_back(Action::Resume(key));
        }
    }

    /// A connection that was let go on had its turn.
    pub(crate) fn pass_on_wake(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(obstacle) = connection.woken.take() else { return };
        self.wake_parked(obstacle);
        self.router.release(obstacle.channel());
    }

    /// Takes a leaving connection out of the list it waits in.
    pub(crate) fn unpark(&mut self, key: ConnectionKey) {
        self.pass_on_wake(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(obstacle) = connection.parked.take() else { return };
        if let Some(channel) = self.router.channels.get_mut(obstacle.channel()) {
            channel.parked(obstacle).retain(|parked| *parked != key);
        }
        // Its socket was not read meanwhile, and may have come to its end.
        self.actions.push_back(Action::Resume(key));
        self.router.release(obstacle.channel());
    }

    /// The kernel took `bytes` of a connection's queue.
    pub(crate) fn relieve(&mut self, key: ConnectionKey, bytes: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.send.advance(bytes, &mut self.pool);
        let low_water_bytes = connection.high_water_bytes(&self.limits) / 2;
        if connection.congested.is_some() && connection.send.len() <= low_water_bytes {
            self.uncongest(key);
        }
    }
}
