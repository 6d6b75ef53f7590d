//! Back-pressure: who produces for a slow reader waits, and the reader has a grace.

use super::core::Core;
use super::timers::Due;
use super::{Action, ChannelKey, ConnectionKey};

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
        self.actions.push_back(Action::Resume(key));
        let Some(session) = connection.session() else { return };
        for channel in session.subscriptions.keys() {
            if let Some(channel) = self.router.channels.get_mut(*channel) {
                channel.congested -= 1;
            }
        }
        let waited_for = session.subscriptions.keys().copied();
        let served = session.worker.iter().flat_map(|worker| worker.channels.iter().copied());
        // Both lists are bounded per connection, and this is no hot path.
        let channels: Vec<ChannelKey> = waited_for.chain(served).collect();
        for channel in channels {
            self.wake_parked(channel);
        }
    }

    /// Holds a connection's next frame back until `channel` moves again. Who had its turn
    /// already and finds the channel full again keeps its place at the front.
    pub(crate) fn park(&mut self, key: ConnectionKey, channel: ChannelKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(waited_for) = self.router.channels.get_mut(channel) else { return };
        connection.parked = Some(channel);
        self.counters.publishers_held += 1;
        if connection.woken == Some(channel) {
            connection.woken = None;
            waited_for.parked.push_front(key);
        } else {
            // The channel stays as long as anybody waits for it.
            waited_for.references += 1;
            waited_for.parked.push_back(key);
        }
    }

    /// Lets the first of those go on who wait for the channel. The next one follows when
    /// that one had its turn: all at once they would each be looked at for one to pass.
    pub(crate) fn wake_parked(&mut self, channel: ChannelKey) {
        let Some(waited_for) = self.router.channels.get_mut(channel) else { return };
        let Some(key) = waited_for.parked.pop_front() else { return };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.parked = None;
            connection.woken = Some(channel);
            self.actions.push_back(Action::Resume(key));
        }
    }

    /// A connection that was let go on had its turn.
    pub(crate) fn pass_on_wake(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(channel) = connection.woken.take() else { return };
        if self.router.channels.get(channel).is_some_and(|channel| channel.congested == 0) {
            self.wake_parked(channel);
        }
        self.router.release(channel);
    }

    /// Takes a leaving connection out of the list it waits in.
    pub(crate) fn unpark(&mut self, key: ConnectionKey) {
        self.pass_on_wake(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(channel) = connection.parked.take() else { return };
        if let Some(channel) = self.router.channels.get_mut(channel) {
            channel.parked.retain(|parked| *parked != key);
        }
        self.router.release(channel);
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
