//! Adding and removing the listeners of channels and patterns.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::outbox::Kind;
use super::progress::Progress;
use super::routes::{Route, Sink};
use super::shared::Shared;
use super::state::{Link, State};
use super::topic::Topic;
use super::waiter::Waiter;
use crate::client::error::Error;
use crate::client::event::Event;
use crate::client::subscribe_options::SubscribeOptions;
use crate::client::subscribed::Subscribed;
use crate::client::wire::encoder::{Encoder, Heading, check_id};
use crate::proto::system::Subscribe;
use crate::proto::{Extensions, Message, MessageType, pattern};

impl Shared {
    /// Adds a listener. With options it subscribes: the first that does makes the client subscribe.
    pub(crate) fn listen(
        self: &Arc<Self>,
        topic: Topic<'_>,
        sink: Sink,
        options: Option<&SubscribeOptions>,
    ) -> Result<u64, Error> {
        check_id("channel_id", topic.name)?;
        let mut encoder = self.encoder()?;
        let mut state = self.lock();
        if matches!(state.link, Link::Closed) {
            return Err(Error::Closed);
        }
        if let Some(options) = options {
            options.check(topic.name, state.extensions)?;
            let known = state.routes.get(topic).and_then(|route| route.subscribed.as_ref());
            if known.is_some_and(|known| !known.suits(options)) {
                return Err(Error::AlreadySubscribed { channel_id: topic.name.to_owned() });
            }
        }
        state.next_key += 1;
        let key = state.next_key;
        let route = state.routes.entry(topic);
        route.listeners.push((key, sink));
        let Some(options) = options.filter(|_| route.subscribed.is_none()) else { return Ok(key) };
        route.subscribed = Some(Box::new(Progress::new(options)));
        let told = self.subscribe(&mut state, &mut encoder, topic);
        if !topic.is_pattern && pattern::looks_like_one(topic.name) {
            state.mistakable.get_or_insert_with(|| Some(topic.name.to_owned()));
            self.wake();
        }
        drop(state);
        if let Err(error) = told {
            self.remove_listener(topic, key);
            return Err(error);
        }
        Ok(key)
    }

    fn subscribe(
        self: &Arc<Self>,
        state: &mut State,
        encoder: &mut Encoder,
        topic: Topic<'_>,
    ) -> Result<(), Error> {
        // Otherwise the next connection subscribes.
        if !matches!(state.link, Link::Up(_)) {
            return Ok(());
        }
        let State { routes, connection_id, extensions, .. } = &mut *state;
        let Some(progress) = routes.get_mut(topic).and_then(|route| route.subscribed.as_mut())
        else {
            return Ok(());
        };
        let payload = progress.payload(connection_id, *extensions);
        let id = encoder.value(Heading::new(MessageType::Subscribe, topic.name), &payload)?;
        if !extensions.contains(Extensions::TOPIC) {
            progress.unanswered(topic);
            return self.dispatch(state, encoder, Kind::Control, None);
        }
        progress.sent(id);
        self.await_subscribed(state, topic, id);
        let sent = self.dispatch(state, encoder, Kind::Control, Some(id));
        if sent.is_err() {
            state.pending.forget(id);
        }
        sent
    }

    /// Makes the driver wait for the answer to a subscribe.
    pub(crate) fn await_subscribed(
        self: &Arc<Self>,
        state: &mut State,
        topic: Topic<'_>,
        id: Uuid,
    ) {
        let (shared, is_pattern) = (Arc::downgrade(self), topic.is_pattern);
        let name: Box<str> = topic.name.into();
        let tell = move |answer: Result<Message, Error>| {
            if let Some(shared) = shared.upgrade() {
                shared.subscribed(Topic { name: &name, is_pattern }, id, answer);
            }
        };
        // A server that does not answer is broken. What it sends is taken all the same in the end.
        let deadline = Instant::now().checked_add(self.options.connection.timeout);
        state.pending.insert(id, Waiter::Restored(Box::new(tell)), deadline);
        self.watch(state, id);
    }

    fn subscribed(&self, topic: Topic<'_>, id: Uuid, answer: Result<Message, Error>) {
        let mut state = self.lock();
        let route = state.routes.get_mut(topic);
        let Some(progress) = route.and_then(|route| route.subscribed.as_mut()) else { return };
        if progress.request() != Some(id) {
            return;
        }
        let (answer, refused) = match answer {
            Ok(answer) => (Some(Subscribed::read(&answer)), None),
            Err(error) => (None, Some(error)),
        };
        let event = progress.answered(topic, id, answer);
        drop(state);
        if let Some(event) = event {
            self.emit(&event);
        }
        if let Some(error) = refused.filter(|error| !error.is_end_of_connection()) {
            let (channel_id, message_id) = (topic.name.to_owned(), Some(id.to_string()));
            self.emit(&Event::Refused { channel_id, message_id, error });
        }
    }

    pub(crate) fn remove_listener(&self, topic: Topic<'_>, key: u64) {
        let mut state = self.lock();
        let Some(route) = state.routes.get_mut(topic) else { return };
        let Some(at) = route.listeners.iter().position(|(of, _)| *of == key) else { return };
        let listener = route.listeners.remove(at);
        let is_last = route.listeners.is_empty();
        drop(state);
        // Dropped without the lock, because what a handler owns may take the lock when it is
        // dropped.
        drop(listener);
        if is_last {
            self.remove_route(topic, |route| route.listeners.is_empty());
        }
    }

    /// Removes all listeners of the channel or pattern.
    pub(crate) fn unsubscribe(&self, topic: Topic<'_>) {
        self.remove_route(topic, |_| true);
    }

    fn remove_route(&self, topic: Topic<'_>, is_meant: impl Fn(&Route) -> bool) {
        // Without an encoder the client cannot unsubscribe. Publications that still come reach
        // nobody.
        let encoder = self.encoder();
        let mut state = self.lock();
        if !state.routes.get(topic).is_some_and(is_meant) {
            return;
        }
        let route = state.routes.remove(topic);
        if let Ok(mut encoder) = encoder
            && route.as_ref().is_some_and(|route| route.subscribed.is_some())
        {
            // Without a connection there is no subscription to end.
            let _ = self.end_subscription(&mut state, &mut encoder, topic);
        }
        drop(state);
        if let Some(route) = route {
            route.close();
        }
    }

    fn end_subscription(
        &self,
        state: &mut State,
        encoder: &mut Encoder,
        topic: Topic<'_>,
    ) -> Result<(), Error> {
        let knows_it = !topic.is_pattern || state.extensions.contains(Extensions::TOPIC);
        if !matches!(state.link, Link::Up(_)) || !knows_it {
            return Ok(());
        }
        let payload = Subscribe::new(&state.connection_id, false).pattern(topic.is_pattern);
        encoder.value(Heading::new(MessageType::Unsubscribe, topic.name), &payload)?;
        self.dispatch(state, encoder, Kind::Control, None)
    }
}
