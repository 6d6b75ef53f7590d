//! The methods of the published Python package under their names there, for readers of its
//! documentation.

use std::collections::BTreeMap;

use super::Server;
use crate::broker::{
    Application, ApplicationInfo, Channel, ChannelInfo, ConnectionKey, SendError, Stats,
};
use crate::proto::Message;

impl Server {
    /// Creates an application as [`Server::application`] does. The name may be left out.
    pub fn create_application(&mut self, id: &str, name: Option<&str>) -> Application<'_> {
        self.broker_now().create_application(id, name)
    }

    /// Returns the application with this id, if there is one. From now on it exists until the
    /// server ends, as if it had been created here.
    pub fn get_application(&mut self, id: &str) -> Option<Application<'_>> {
        let has_application = self.context().has_application(id);
        has_application.then(|| self.create_application(id, None))
    }

    /// See [`Context::list_applications`](crate::Context::list_applications).
    pub fn list_applications(&mut self) -> BTreeMap<String, ApplicationInfo> {
        self.context().list_applications()
    }

    /// See [`Context::list_channels`](crate::Context::list_channels).
    pub fn list_channels(&mut self, app_id: &str) -> BTreeMap<String, ChannelInfo> {
        self.context().list_channels(app_id)
    }

    /// See [`Context::stats`](crate::Context::stats).
    pub fn get_stats(&mut self) -> Stats {
        self.context().stats()
    }

    /// See [`Context::get_connection`](crate::Context::get_connection).
    pub fn get_connection(&mut self, app_id: &str, connection_id: &str) -> Option<ConnectionKey> {
        self.context().get_connection(app_id, connection_id)
    }

    /// See [`Context::send_to_connection`](crate::Context::send_to_connection).
    ///
    /// # Errors
    /// As there.
    pub fn send_to_connection(
        &mut self,
        connection: ConnectionKey,
        message: &Message,
    ) -> Result<bool, SendError> {
        self.context().send_to_connection(connection, message)
    }

    /// See [`Context::broadcast_to_application`](crate::Context::broadcast_to_application).
    ///
    /// # Errors
    /// As there.
    pub fn broadcast_to_application(
        &mut self,
        app_id: &str,
        message: &Message,
    ) -> Result<usize, SendError> {
        self.context().broadcast_to_application(app_id, message)
    }
}

impl Application<'_> {
    /// Creates a channel as [`Application::channel`] does.
    pub fn create_channel(&mut self, id: &str) -> Channel<'_> {
        self.channel(id)
    }

    /// Returns the channel with this id, if there is one. From now on it exists until the server
    /// ends, as if it had been created here.
    pub fn get_channel(&mut self, id: &str) -> Option<Channel<'_>> {
        let app_id = self.id().to_owned();
        let has_channel = self.context().has_channel(&app_id, id);
        has_channel.then(|| self.channel(id))
    }

    /// Returns the ids of the application's channels, sorted.
    pub fn list_channels(&mut self) -> Vec<String> {
        let app_id = self.id().to_owned();
        self.context().list_channels(&app_id).into_keys().collect()
    }
}
