//! The process's control over applications, channels and subscribers while the server runs. A peer
//! controls only its own.

use super::changes::{self, Change};
use super::context::Context;
use crate::branches::{self, Branch};
use crate::broker::flow::topic::{keeping, replays};
use crate::broker::flow::{applications, channels, closing, interest, subscriptions};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};

/// Methods for applications, channels and connections. `Server` has methods of the same names, for
/// the time before it runs.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// server.on_connect(|info, context| {
///     // Every connection hears the news without asking for them.
///     context.create_channel(info.app_id, "news");
///     context.subscribe(info.key, "news");
///     if context.subscribers(info.app_id, "news").len() > 100 {
///         context.close_connection(info.key);
///     }
/// });
/// # Ok(())
/// # }
/// ```
impl Context<'_> {
    /// Creates an application, or finds the one with this id, and sets its name if one is given. The
    /// application exists until the server ends.
    ///
    /// # Panics
    /// If the id is empty or longer than [`ID_BYTES_MAX`](crate::proto::ID_BYTES_MAX).
    pub fn create_application(&mut self, app_id: &str, name: Option<&str>) {
        applications::pin(self.core, app_id, name);
    }

    /// Creates a channel, or finds the one with this id, and its application as well. Both exist until
    /// the server ends, or until [`Context::remove_channel`].
    ///
    /// # Panics
    /// If an id is empty or longer than [`ID_BYTES_MAX`](crate::proto::ID_BYTES_MAX).
    pub fn create_channel(&mut self, app_id: &str, channel_id: &str) {
        let application = applications::pin(self.core, app_id, None);
        branches::note(Branch::ChannelCreated);
        channels::pin_channel(self.core, application, channel_id);
    }

    /// Unsubscribes all subscribers of a channel and drops its handlers. The channel is removed as
    /// soon as no client serves it and the connection that first named it has left. Returns whether
    /// there was such a channel.
    pub fn remove_channel(&mut self, app_id: &str, channel_id: &str) -> bool {
        let Some(key) = self.find_channel(app_id, channel_id) else { return false };
        remove_channel(self.core, key);
        true
    }

    /// Returns the connections that have subscribed to a channel.
    #[doc(alias = "get_subscribers")]
    pub fn subscribers(&self, app_id: &str, channel_id: &str) -> Vec<ConnectionKey> {
        let channel = self.find_channel(app_id, channel_id);
        let channel = channel.and_then(|channel| self.core.router.channels.get(channel));
        channel.map_or_else(Vec::new, |channel| channel.subscribers.clone())
    }

    /// Returns the `connection_id` of a connection that has completed its handshake.
    pub fn connection_id(&self, connection: ConnectionKey) -> Option<&str> {
        Some(&self.core.connections.session(connection)?.id)
    }

    /// Subscribes a connection to a channel of its application, which is created if it does not
    /// exist. The limits on the connection's own subscriptions do not apply. Returns whether the
    /// connection is open.
    #[doc(alias = "add_subscriber")]
    pub fn subscribe(&mut self, connection: ConnectionKey, channel_id: &str) -> bool {
        let Some(application) = application_of(self.core, connection) else { return false };
        // The subscribers at its other end are those of another server.
        if self.core.connections.is_link(connection) {
            return false;
        }
        let channel = channels::find_or_create(self.core, application, channel_id);
        let Some(channel) = channel else { return false };
        branches::note(Branch::HandlerSubscribes);
        subscriptions::add(self.core, connection, channel);
        true
    }

    /// Ends a connection's subscription. Returns whether there was one.
    #[doc(alias = "remove_subscriber")]
    pub fn unsubscribe(&mut self, connection: ConnectionKey, channel_id: &str) -> bool {
        let Some(application) = application_of(self.core, connection) else { return false };
        let channel = self.core.router.channel(application, channel_id);
        branches::note(Branch::HandlerUnsubscribes);
        channel.is_some_and(|channel| subscriptions::drop_one(self.core, connection, channel))
    }

    /// Closes a connection once its queue has been sent, and reads nothing more from it. Returns
    /// whether it was open.
    pub fn close_connection(&mut self, connection: ConnectionKey) -> bool {
        let is_open = application_of(self.core, connection).is_some();
        branches::note(Branch::HandlerCloses);
        closing::begin(self.core, connection);
        is_open
    }
}

fn application_of(core: &Core, connection: ConnectionKey) -> Option<ApplicationKey> {
    Some(core.connections.session(connection)?.application)
}

fn remove_channel(core: &mut Core, key: ChannelKey) {
    // This reference keeps the channel until the end of this function, after its last subscriber.
    core.router.retain(key);
    while let Some(channel) = core.router.channels.get(key)
        && let Some(subscriber) = channel.any_subscriber()
    {
        branches::note(Branch::ChannelRemoved);
        if !subscriptions::drop_one(core, subscriber, key) {
            // One of its patterns had it wait for what was kept.
            replays::forget(core, subscriber, key);
        }
    }
    keeping::forget_all(core, key);
    if let Some(channel) = core.router.channels.get_mut(key) {
        channel.pinned = false;
        channel.answers = false;
        if std::mem::take(&mut channel.has_handler) {
            // One of its handlers may be running.
            changes::ask(core, Change::Removed(key));
        }
    }
    interest::note_workers(core, key);
    core.router.release(key);
}
