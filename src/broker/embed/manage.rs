//! What the process arranges while the server runs: applications, channels, and who is part of
//! them. A peer may only do so for itself.

use super::context::Context;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};
use crate::proto::ID_BYTES_MAX;

/// Applications, channels and connections, see also [`Server`](crate::Server)'s methods of the
/// same names for before it runs.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// server.on_connect(|info, context| {
///     // Whoever comes hears the news without asking for them.
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
    /// Creates an application, or finds the one with this id, and gives it the name if there
    /// is one. It stays for the life of the server.
    ///
    /// # Panics
    /// If the id is empty or longer than [`ID_BYTES_MAX`].
    pub fn create_application(&mut self, app_id: &str, name: Option<&str>) {
        self.core.pin_application(app_id, name);
    }

    /// Creates a channel, or finds the one with this id, and its application if need be.
    /// Both stay for the life of the server, or until [`Context::remove_channel`].
    ///
    /// # Panics
    /// If an id is empty or longer than [`ID_BYTES_MAX`].
    pub fn create_channel(&mut self, app_id: &str, channel_id: &str) {
        let application = self.core.pin_application(app_id, None);
        self.core.pin_channel(application, channel_id);
    }

    /// Takes the channel from its subscribers, drops its handlers, and forgets it as soon as
    /// no client serves it and who first named it has left. Returns whether there was one.
    pub fn remove_channel(&mut self, app_id: &str, channel_id: &str) -> bool {
        let Some(key) = self.channel(app_id, channel_id) else { return false };
        self.core.remove_channel(key);
        true
    }

    /// The connections that subscribed to a channel.
    #[doc(alias = "get_subscribers")]
    pub fn subscribers(&self, app_id: &str, channel_id: &str) -> Vec<ConnectionKey> {
        let channel = self.channel(app_id, channel_id);
        let channel = channel.and_then(|channel| self.core.router.channels.get(channel));
        channel.map_or_else(Vec::new, |channel| channel.subscribers.clone())
    }

    /// The `connection_id` of a connection that has introduced itself.
    pub fn connection_id(&self, connection: ConnectionKey) -> Option<&str> {
        Some(&self.core.connections.get(connection)?.session()?.id)
    }

    /// Subscribes a connection to a channel of its application, which is created if it does
    /// not exist. The limits that hold for the connection's own subscriptions do not count.
    /// Returns whether the connection is there.
    #[doc(alias = "add_subscriber")]
    pub fn subscribe(&mut self, connection: ConnectionKey, channel_id: &str) -> bool {
        assert_usable(channel_id);
        let Some(application) = self.core.application_of(connection) else { return false };
        let known = self.core.router.channel(application, channel_id);
        let unix = self.core.now.unix;
        let created = || self.core.router.create_channel(application, channel_id, unix);
        let Some(channel) = known.or_else(created) else { return false };
        self.core.add_subscriber(connection, channel);
        true
    }

    /// Takes such a subscription back. Returns whether there was one.
    #[doc(alias = "remove_subscriber")]
    pub fn unsubscribe(&mut self, connection: ConnectionKey, channel_id: &str) -> bool {
        let Some(application) = self.core.application_of(connection) else { return false };
        let channel = self.core.router.channel(application, channel_id);
        channel.is_some_and(|channel| self.core.drop_subscription(connection, channel))
    }

    /// Closes a connection once what is queued for it has been sent. Nothing more of it is
    /// read. Returns whether it was there.
    pub fn close_connection(&mut self, connection: ConnectionKey) -> bool {
        let is_open = self.core.application_of(connection).is_some();
        self.core.begin_close(connection);
        is_open
    }
}

/// # Panics
/// If the id could not stand in a message.
pub(crate) fn assert_usable(id: &str) {
    assert!(
        !id.is_empty() && id.len() <= ID_BYTES_MAX,
        "an id has 1 to {ID_BYTES_MAX} bytes, this one has {}",
        id.len()
    );
}

impl Core {
    fn application_of(&self, connection: ConnectionKey) -> Option<ApplicationKey> {
        Some(self.connections.get(connection)?.session()?.application)
    }

    pub(crate) fn pin_application(&mut self, id: &str, name: Option<&str>) -> ApplicationKey {
        assert_usable(id);
        let key = self.router.find_or_create_application(id, self.now.unix);
        if let Some(application) = self.router.applications.get_mut(key) {
            application.pinned = true;
            if let Some(name) = name {
                application.name = name.into();
            }
        }
        key
    }

    pub(crate) fn pin_channel(
        &mut self,
        application: ApplicationKey,
        id: &str,
    ) -> Option<ChannelKey> {
        assert_usable(id);
        let key = match self.router.channel(application, id) {
            Some(key) => key,
            None => self.router.create_channel(application, id, self.now.unix)?,
        };
        self.router.channels.get_mut(key)?.pinned = true;
        Some(key)
    }

    fn remove_channel(&mut self, key: ChannelKey) {
        // One reference of our own, so that it outlives its last subscriber until the end.
        self.router.retain(key);
        while let Some(channel) = self.router.channels.get(key)
            && let Some(&subscriber) = channel.subscribers.last()
        {
            self.drop_subscription(subscriber, key);
        }
        if let Some(channel) = self.router.channels.get_mut(key) {
            channel.pinned = false;
            // One of them may be running.
            self.orphans.extend(channel.handlers.take());
        }
        self.router.release(key);
    }
}
