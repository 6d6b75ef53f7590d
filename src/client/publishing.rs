//! The methods that publish.

use std::time::Instant;

use super::background::outbox::Kind;
use super::client::Client;
use super::error::Error;
use super::payload::Payload;
use super::publish_options::PublishOptions;
use super::subscribed::Subscribed;
use super::wire::encoder::Heading;
use crate::proto::position::Position;
use crate::proto::{Message, MessageType};

impl Client {
    /// Sends a value to all subscribers of the channel.
    ///
    /// # Errors
    /// If the message can neither be sent nor wait for a connection.
    pub fn publish<T: Payload + ?Sized>(&self, channel_id: &str, payload: &T) -> Result<(), Error> {
        let heading = Heading::new(MessageType::Publish, channel_id);
        self.shared().post(heading, payload, Kind::AnyConnection)
    }

    /// Sends a value with options to all subscribers of the channel.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); [`Error::Unsupported`] if the server does not know what the
    /// options ask for, and [`Error::MetaTooLarge`]. If it waits for a connection to another server,
    /// which does not know it, [`Event::Refused`](super::Event::Refused) says so.
    pub fn publish_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &PublishOptions,
    ) -> Result<(), Error> {
        let meta = options.meta(self.shared().lock().extensions, false)?;
        let heading = Heading::publication(channel_id, meta.as_deref());
        self.shared().post(heading, payload, Kind::AnyConnection)
    }

    /// As [`publish_with`](Self::publish_with), with a message that is sent without changing it. An
    /// empty id or application and a time of zero are filled in.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with).
    pub fn publish_message_with(
        &self,
        message: &Message,
        options: &PublishOptions,
    ) -> Result<(), Error> {
        let meta = options.meta(self.shared().lock().extensions, false)?;
        let posted = self.shared().post_message(message, meta.as_deref(), Kind::AnyConnection);
        posted.map(drop)
    }

    /// Sends a value to all subscribers of the channel, and waits until the server has taken it.
    /// Returns its place in the channel's history, if the channel has one.
    ///
    /// This says that it is in its order and in the history, and not that a subscriber has read it.
    ///
    /// ```
    /// # use ipc_framework::client::{ClientOptions, Endpoint};
    /// # use ipc_framework::{Config, Server};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::bind(Config::default().port(0))?;
    /// # let port = server.addresses()[0].port().unwrap();
    /// # let handle = server.handle();
    /// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
    /// # let mut options = ClientOptions::new("shop");
    /// # options.connection.endpoint = Endpoint::tcp("localhost", port);
    /// let client = options.connect()?;
    /// let position = client.publish_acknowledged("orders", &"two teas")?;
    /// assert!(position.is_none(), "this server keeps no history");
    /// # client.close()?;
    /// # handle.stop();
    /// # running.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`publish_acknowledged_with`](Self::publish_acknowledged_with).
    pub fn publish_acknowledged<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<Option<Position>, Error> {
        self.publish_acknowledged_with(channel_id, payload, &PublishOptions::default())
    }

    /// As [`publish_acknowledged`](Self::publish_acknowledged), with options.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with) and [`send_request`](Self::send_request), whose
    /// [`execution`](Error::execution) says whether it may have been published. The server answers
    /// [`Error::Answered`] where it refuses it, as with a `retain` for which there is no room.
    pub fn publish_acknowledged_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &PublishOptions,
    ) -> Result<Option<Position>, Error> {
        let meta = options.meta(self.shared().lock().extensions, true)?;
        let heading = Heading::publication(channel_id, meta.as_deref());
        let timeout = options.timeout.unwrap_or_else(|| self.timeout());
        let answer = self.shared().ask_and_wait(heading, payload, Kind::AnyConnection, timeout)?;
        Ok(Subscribed::read(&answer).position)
    }

    /// As [`publish_message_with`](Self::publish_message_with), and calls `callback` on the client's
    /// thread with the server's answer or the error, see
    /// [`publish_acknowledged_with`](Self::publish_acknowledged_with).
    ///
    /// # Errors
    /// As [`publish_message_with`](Self::publish_message_with); then the callback is not called.
    /// [`Error::BadId`] if the `message_id` is neither empty nor a [`RequestId`](super::RequestId).
    pub fn publish_message_acknowledged(
        &self,
        message: &Message,
        options: &PublishOptions,
        callback: impl FnOnce(Result<Option<Position>, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let meta = options.meta(self.shared().lock().extensions, true)?;
        let timeout = options.timeout.unwrap_or_else(|| self.timeout());
        let deadline = Instant::now().checked_add(timeout);
        let tell = move |answer: Result<Message, Error>| {
            callback(answer.map(|answer| Subscribed::read(&answer).position));
        };
        let asked = self.shared().ask_publication(message, meta.as_deref(), deadline, tell);
        asked.map(drop)
    }
}
