//! Publications and subscriptions of a blocking connection.

use super::Connection;
use crate::client::error::Error;
use crate::client::payload::Payload;
use crate::client::publish_options::PublishOptions;
use crate::client::subscribe_options::SubscribeOptions;
use crate::client::subscribed::Subscribed;
use crate::client::wire::encoder::Heading;
use crate::proto::position::Position;
use crate::proto::system::Subscribe;
use crate::proto::{Message, MessageType};

impl Connection {
    /// Sends a value to all subscribers of the channel.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is gone, [`Error::Deadline`] if the server does not
    /// take it in time; [`Error::NotJson`], [`Error::TooLarge`] and [`Error::BadId`] for what
    /// cannot be sent.
    pub fn publish<T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
    ) -> Result<(), Error> {
        self.encoder.value(Heading::new(MessageType::Publish, channel_id), payload)?;
        self.send()
    }

    /// Sends a value with options to all subscribers of the channel.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); [`Error::Unsupported`] if the server does not know what the
    /// options ask for, and [`Error::MetaTooLarge`].
    pub fn publish_with<T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
        options: &PublishOptions,
    ) -> Result<(), Error> {
        let meta = options.meta(self.welcome.extensions, false)?;
        let heading = Heading::publication(channel_id, meta.as_deref());
        self.encoder.value(heading, payload)?;
        self.send()
    }

    /// As [`publish_with`](Self::publish_with), with a message that is sent without changing it. An
    /// empty id or application and a time of zero are filled in.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with).
    pub fn publish_message_with(
        &mut self,
        message: &Message,
        options: &PublishOptions,
    ) -> Result<(), Error> {
        let meta = options.meta(self.welcome.extensions, false)?;
        self.encoder.message(message, meta.as_deref())?;
        self.send()
    }

    /// Sends a value to all subscribers of the channel, and waits until the server has taken it.
    /// Returns its place in the channel's history, if the channel has one.
    ///
    /// # Errors
    /// As [`publish_acknowledged_with`](Self::publish_acknowledged_with).
    pub fn publish_acknowledged<T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
    ) -> Result<Option<Position>, Error> {
        self.publish_acknowledged_with(channel_id, payload, &PublishOptions::default())
    }

    /// As [`publish_acknowledged`](Self::publish_acknowledged), with options.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with) and [`request`](Self::request).
    pub fn publish_acknowledged_with<T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
        options: &PublishOptions,
    ) -> Result<Option<Position>, Error> {
        let meta = options.meta(self.welcome.extensions, true)?;
        let heading = Heading::publication(channel_id, meta.as_deref());
        let id = self.encoder.value(heading, payload)?;
        self.send()?;
        // When its time is up there is nothing to cancel.
        let answer = self.answer_within(id, options.timeout.unwrap_or(self.timeout), true)?;
        Ok(Subscribed::read(&answer).position)
    }

    /// Subscribes to the channel without waiting for a confirmation. This works with every server,
    /// but the first publications of other connections may be missed.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn subscribe(&mut self, channel_id: &str) -> Result<(), Error> {
        let payload = Subscribe::new(&self.id, false);
        self.encoder.value(Heading::new(MessageType::Subscribe, channel_id), &payload)?;
        self.send()
    }

    /// Subscribes to the channel, and returns once every later publication will be received. The
    /// published server does not confirm subscriptions: there this returns [`Error::Deadline`].
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn subscribe_confirmed(&mut self, channel_id: &str) -> Result<(), Error> {
        let payload = Subscribe::new(&self.id, true);
        let heading = Heading::new(MessageType::Subscribe, channel_id);
        let id = self.encoder.value(heading, &payload)?;
        self.send()?;
        self.answer(id).map(|_subscribed| ())
    }

    /// Unsubscribes from the channel. Publications that are on their way still come.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn unsubscribe(&mut self, channel_id: &str) -> Result<(), Error> {
        self.end_subscription(channel_id, false)
    }

    /// Subscribes to all channels that the pattern matches, see [`SubscribeOptions::pattern`], and
    /// returns once every later publication will be received.
    ///
    /// # Errors
    /// As [`subscribe_with`](Self::subscribe_with).
    pub fn subscribe_pattern(&mut self, pattern: &str) -> Result<(), Error> {
        self.subscribe_with(pattern, &SubscribeOptions::of_pattern()).map(drop)
    }

    /// Subscribes with options, and returns the server's answer. What the server kept is received
    /// next, and then every later publication.
    ///
    /// A connection does not reconnect by itself. A program that does goes on at the
    /// [`position`](crate::Message::position) of the last message that it received.
    ///
    /// # Errors
    /// As [`request`](Self::request); [`Error::BadPattern`], and [`Error::Unsupported`] if the server
    /// does not know the extension `topic` and the options are not the default ones.
    pub fn subscribe_with(
        &mut self,
        channel_id: &str,
        options: &SubscribeOptions,
    ) -> Result<Subscribed, Error> {
        options.check(channel_id, self.welcome.extensions)?;
        let payload = Subscribe::new(&self.id, true)
            .pattern(options.pattern)
            .last(options.last)
            .since(options.since.as_ref())
            .conflate(options.conflate);
        let heading = Heading::new(MessageType::Subscribe, channel_id);
        let id = self.encoder.value(heading, &payload)?;
        self.send()?;
        self.answer(id).map(|answer| Subscribed::read(&answer))
    }

    /// Unsubscribes from the pattern. Publications that are on their way still come.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn unsubscribe_pattern(&mut self, pattern: &str) -> Result<(), Error> {
        self.end_subscription(pattern, true)
    }

    fn end_subscription(&mut self, name: &str, is_pattern: bool) -> Result<(), Error> {
        let payload = Subscribe::new(&self.id, false).pattern(is_pattern);
        self.encoder.value(Heading::new(MessageType::Unsubscribe, name), &payload)?;
        self.send()
    }
}
