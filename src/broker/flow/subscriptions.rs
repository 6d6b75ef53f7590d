//! Who hears what is published on a channel.

use std::collections::btree_map::Entry;

use super::memory::{SUBSCRIPTION_BYTES, short_of_memory};
use super::queues::Obstacle;
use crate::broker::state::core::{Core, Refusal};
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::proto::{Envelope, ErrorCode, Member, members};

impl Core {
    pub(crate) fn subscribe(
        &mut self,
        from: ConnectionKey,
        channel: ChannelKey,
        envelope: &Envelope<'_>,
    ) -> Result<(), Refusal> {
        let wants_answer = self.own_payload(from, envelope)?;
        let subscriptions_max = self.limits.subscriptions_per_connection_max;
        let session = self.connections.get(from).and_then(|c| c.session());
        let Some(session) = session else { return Ok(()) };
        if !session.subscriptions.contains_key(&channel) {
            if session.subscriptions.len() >= subscriptions_max {
                return Err(Refusal::new(
                    ErrorCode::LimitExceeded,
                    "too many subscriptions on this connection; unsubscribe from some, or open \
                     another connection",
                ));
            }
            if self.refuses_for_memory() {
                return Err(short_of_memory(ErrorCode::LimitExceeded));
            }
        }
        self.add_subscriber(from, channel);
        if wants_answer {
            self.acknowledge(from, envelope, "subscribed");
        }
        Ok(())
    }

    pub(crate) fn unsubscribe(
        &mut self,
        from: ConnectionKey,
        channel: ChannelKey,
        envelope: &Envelope<'_>,
    ) -> Result<(), Refusal> {
        let wants_answer = self.own_payload(from, envelope)?;
        self.drop_subscription(from, channel);
        if wants_answer {
            self.acknowledge(from, envelope, "unsubscribed");
        }
        Ok(())
    }

    /// Puts a connection into a channel's list; a second time changes nothing.
    pub(crate) fn add_subscriber(&mut self, key: ConnectionKey, channel: ChannelKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let congested = u32::from(connection.congested.is_some());
        let Some(session) = connection.session_mut() else { return };
        let Some(target) = self.router.channels.get_mut(channel) else { return };
        if let Entry::Vacant(place) = session.subscriptions.entry(channel) {
            place.insert(target.subscribers.len() as u32);
            target.subscribers.push(key);
            target.congested += congested;
            self.budget.tables_bytes += SUBSCRIPTION_BYTES;
            self.router.retain(channel);
        }
    }

    /// Ends a connection's subscription. Returns whether it had one.
    pub(crate) fn drop_subscription(&mut self, key: ConnectionKey, channel: ChannelKey) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let congested = connection.congested.is_some();
        let session = connection.session_mut();
        let position = session.and_then(|session| session.subscriptions.remove(&channel));
        let Some(position) = position else { return false };
        if congested && let Some(target) = self.router.channels.get_mut(channel) {
            target.congested -= 1;
            self.wake_parked(Obstacle::Subscriber(channel));
        }
        self.remove_subscriber(channel, position);
        self.disown_unused(key, channel);
        true
    }

    /// Takes one entry out of a channel's list; the last one moves into its place.
    pub(crate) fn remove_subscriber(&mut self, channel: ChannelKey, position: u32) {
        let Some(target) = self.router.channels.get_mut(channel) else { return };
        target.subscribers.swap_remove(position as usize);
        self.budget.tables_bytes -= SUBSCRIPTION_BYTES;
        if let Some(moved) = target.subscribers.get(position as usize)
            && let Some(session) = self.connections.get_mut(*moved).and_then(|c| c.session_mut())
        {
            session.subscriptions.insert(channel, position);
        }
        self.router.release(channel);
    }

    /// The connection has no more use for the channel. If it was the first to name it, and
    /// nobody else uses it, it is forgotten, so that names can come and go.
    pub(crate) fn disown_unused(&mut self, from: ConnectionKey, channel: ChannelKey) {
        if self.router.channels.get(channel).is_none_or(|channel| channel.references > 1) {
            return;
        }
        let session = self.connections.get_mut(from).and_then(|c| c.session_mut());
        let Some(session) = session else { return };
        if let Some(at) = session.created.as_slice().iter().position(|created| *created == channel)
        {
            session.created.swap_remove(at);
            self.router.release(channel);
        }
    }

    fn acknowledge(&mut self, to: ConnectionKey, envelope: &Envelope<'_>, status: &'static str) {
        #[derive(serde::Serialize)]
        struct Payload {
            status: &'static str,
        }
        // One string always serializes.
        let _ = self.respond(to, envelope, &Payload { status });
    }

    /// Reads the payload of a subscribe or unsubscribe, which may only name its own connection.
    /// Returns whether it asks for an answer.
    fn own_payload(&self, from: ConnectionKey, envelope: &Envelope<'_>) -> Result<bool, Refusal> {
        let own = self.connections.get(from).and_then(|c| c.session()).map(|s| &*s.id);
        match members(envelope.payload_str(), ["connection_id", "ack"]) {
            // Leaving it out can mean no one else.
            Some([Member::Absent, ack]) => Ok(ack == Member::True),
            Some([Member::String(id), ack]) if own.is_some_and(|own| id.matches(own)) => {
                Ok(ack == Member::True)
            }
            Some([Member::String(_), _]) => Err(Refusal::new(
                ErrorCode::Forbidden,
                "a connection can only subscribe and unsubscribe itself; send its own \
                 connection_id",
            )),
            _ => Err(Refusal::new(
                ErrorCode::BadMessage,
                "the payload of a subscribe or unsubscribe is an object such as \
                 {\"connection_id\": \"<your own>\"}",
            )),
        }
    }
}
