//! The methods that receive: subscriptions, and the handler for all other messages.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::background::inbox::Inbox;
use super::background::routes::{Handler, Sink};
use super::background::state::Link;
use super::background::topic::Topic;
use super::client::Client;
use super::error::Error;
use super::subscribe_options::SubscribeOptions;
use super::subscription::Subscription;
use crate::proto::Message;

impl Client {
    /// Subscribes to the channel, and returns its messages as an iterator and a stream.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::BadId`].
    pub fn subscribe(&self, channel_id: &str) -> Result<Subscription, Error> {
        self.subscribe_with(channel_id, &SubscribeOptions::default())
    }

    /// Subscribes to all channels that the pattern matches, see [`SubscribeOptions::pattern`]. A
    /// publication reaches each subscription of the client once.
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
    /// let mut prices = client.subscribe_pattern("prices.>")?;
    /// client.publish("prices.tea", &3)?;
    /// let price = prices.next().expect("waits until there is one");
    /// assert_eq!(price.channel_id, "prices.tea");
    /// # client.close()?;
    /// # handle.stop();
    /// # running.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`subscribe_with`](Self::subscribe_with).
    pub fn subscribe_pattern(&self, pattern: &str) -> Result<Subscription, Error> {
        self.subscribe_with(pattern, &SubscribeOptions::of_pattern())
    }

    /// Subscribes with options, and returns the messages as an iterator and a stream.
    ///
    /// Subscriptions of one client to the same channel share what the server sends. So all but the
    /// first get nothing of what the server kept, and are refused if they ask for it.
    ///
    /// ```
    /// # use ipc_framework::client::{ClientOptions, Endpoint, PublishOptions, SubscribeOptions};
    /// # use ipc_framework::{Config, Server};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::bind(Config::default().port(0))?;
    /// # let port = server.addresses()[0].port().unwrap();
    /// # let handle = server.handle();
    /// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
    /// # let mut options = ClientOptions::new("shop");
    /// # options.connection.endpoint = Endpoint::tcp("localhost", port);
    /// let client = options.connect()?;
    /// client.publish_with("prices.tea", &3, &PublishOptions::default().retain(true))?;
    /// // Who comes later gets the last value at once.
    /// let mut price = client.subscribe_with("prices.tea", &SubscribeOptions::default().last(1))?;
    /// assert_eq!(price.next().expect("the last value").payload.decode::<u32>()?, 3);
    /// # client.close()?;
    /// # handle.stop();
    /// # running.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::BadId`], [`Error::BadPattern`]; [`Error::Unsupported`] if the
    /// server does not know the extension `topic`, and [`Error::AlreadySubscribed`] if this client
    /// already subscribes with other options.
    pub fn subscribe_with(
        &self,
        channel_id: &str,
        options: &SubscribeOptions,
    ) -> Result<Subscription, Error> {
        let topic = Topic { name: channel_id, is_pattern: options.pattern };
        let inbox = if options.conflate {
            Inbox::conflating(self.shared().options.unread_bytes_max)
        } else {
            self.inbox()
        };
        let sink = Sink::Inbox(Arc::clone(&inbox));
        let key = self.shared().listen(topic, sink, Some(options))?;
        Ok(Subscription::new(inbox, topic, key, Arc::clone(self.shared())))
    }

    /// Subscribes to the channel, and calls `handler` on the client's thread for every message,
    /// until [`unsubscribe`](Self::unsubscribe). The handler must not block. If it needs the client
    /// it should own a [`WeakClient`](super::WeakClient), because a clone would keep the client
    /// alive.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub fn on_publication(
        &self,
        channel_id: &str,
        handler: impl FnMut(Message) + Send + 'static,
    ) -> Result<(), Error> {
        self.on_publication_with(channel_id, &SubscribeOptions::default(), handler)
    }

    /// As [`on_publication`](Self::on_publication), with options. A pattern is ended by
    /// [`unsubscribe_pattern`](Self::unsubscribe_pattern).
    ///
    /// # Errors
    /// As [`subscribe_with`](Self::subscribe_with).
    pub fn on_publication_with(
        &self,
        channel_id: &str,
        options: &SubscribeOptions,
        handler: impl FnMut(Message) + Send + 'static,
    ) -> Result<(), Error> {
        let topic = Topic { name: channel_id, is_pattern: options.pattern };
        let sink = Sink::Handler(Arc::new(Mutex::new(handler)));
        self.shared().listen(topic, sink, Some(options)).map(|_key| ())
    }

    /// Ends all subscriptions of this client and its clones to the channel.
    pub fn unsubscribe(&self, channel_id: &str) {
        self.shared().unsubscribe(Topic { name: channel_id, is_pattern: false });
    }

    /// Ends all subscriptions of this client and its clones to the pattern.
    pub fn unsubscribe_pattern(&self, pattern: &str) {
        self.shared().unsubscribe(Topic { name: pattern, is_pattern: true });
    }

    /// Calls `handler` on the client's thread, as in [`on_publication`](Self::on_publication),
    /// with every message that nothing else takes: those whose channel is neither subscribed to nor
    /// served, and answers for which nobody waits (late ones, and those to
    /// [`send_message`](Self::send_message)). Requests among them are the handler's to answer;
    /// without a handler they are answered with `no_handler`. A new handler replaces the one
    /// before.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn on_message(&self, handler: impl FnMut(Message) + Send + 'static) -> Result<(), Error> {
        let handler: Handler = Arc::new(Mutex::new(handler));
        let mut state = self.shared().lock();
        if matches!(state.link, Link::Closed) {
            return Err(Error::Closed);
        }
        let older = state.rest.replace(handler);
        drop(state);
        drop(older);
        Ok(())
    }

    /// Returns the next message on the channel that is not an answer, or `None` if none comes in
    /// time. This does not subscribe.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::BadId`], [`Error::OnClientThread`].
    pub fn wait_for_message(
        &self,
        channel_id: &str,
        timeout: Duration,
    ) -> Result<Option<Message>, Error> {
        if self.shared().is_driver() {
            return Err(Error::OnClientThread);
        }
        let inbox = self.inbox();
        let topic = Topic { name: channel_id, is_pattern: false };
        let key = self.shared().listen(topic, Sink::Inbox(Arc::clone(&inbox)), None)?;
        let deadline = Instant::now().checked_add(timeout);
        let mut message = inbox.take(deadline);
        if message.is_none() && !timeout.is_zero() {
            // It may have arrived while the process was stopped or busy.
            self.shared().catch_up();
            message = inbox.take(deadline);
        }
        self.shared().remove_listener(topic, key);
        Ok(message)
    }

    fn inbox(&self) -> Arc<Inbox> {
        Inbox::new(self.shared().options.unread_bytes_max)
    }
}
