//! The methods that receive: subscriptions, and the handler for all other messages.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::background::inbox::Inbox;
use super::background::routes::{Handler, Sink};
use super::background::state::Link;
use super::client::Client;
use super::error::Error;
use super::subscription::Subscription;
use crate::proto::Message;

impl Client {
    /// Subscribes to the channel, and returns its messages as an iterator and a stream.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::BadId`].
    pub fn subscribe(&self, channel_id: &str) -> Result<Subscription, Error> {
        let inbox = self.inbox();
        let key = self.shared().listen(channel_id, Sink::Inbox(Arc::clone(&inbox)), true)?;
        Ok(Subscription::new(inbox, channel_id, key, Arc::clone(self.shared())))
    }

    /// Subscribes to the channel, and calls `handler` on the client's thread for every message,
    /// until [`unsubscribe`](Self::unsubscribe). The handler must not block. If it needs the client
    /// it should own a [`WeakClient`](super::WeakClient), because a clone would keep the client
    /// alive.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub fn subscribe_with(
        &self,
        channel_id: &str,
        handler: impl FnMut(Message) + Send + 'static,
    ) -> Result<(), Error> {
        let sink = Sink::Handler(Arc::new(Mutex::new(handler)));
        self.shared().listen(channel_id, sink, true).map(|_key| ())
    }

    /// Ends all subscriptions of this client and its clones to the channel.
    pub fn unsubscribe(&self, channel_id: &str) {
        self.shared().unsubscribe(channel_id);
    }

    /// Calls `handler` on the client's thread, as in [`subscribe_with`](Self::subscribe_with), with
    /// every message that nothing else takes: those whose channel is neither subscribed to nor
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
        let key = self.shared().listen(channel_id, Sink::Inbox(Arc::clone(&inbox)), false)?;
        let deadline = Instant::now().checked_add(timeout);
        let mut message = inbox.take(deadline);
        if message.is_none() && !timeout.is_zero() {
            // It may have arrived while the process was stopped or busy.
            self.shared().catch_up();
            message = inbox.take(deadline);
        }
        self.shared().remove_listener(channel_id, key);
        Ok(message)
    }

    fn inbox(&self) -> Arc<Inbox> {
        Inbox::new(self.shared().options.unread_bytes_max)
    }
}
