//! Adding and removing the listeners of channels.

use super::outbox::Kind;
use super::routes::{Route, Sink};
use super::shared::Shared;
use super::state::{Link, State};
use crate::client::error::Error;
use crate::client::wire::encoder::{Encoder, Heading, check_id};
use crate::proto::MessageType;
use crate::proto::system::Subscribe;

impl Shared {
    /// Adds a listener to a channel. The first that subscribes makes the client subscribe.
    pub(crate) fn listen(
        &self,
        channel_id: &str,
        sink: Sink,
        subscribes: bool,
    ) -> Result<u64, Error> {
        check_id("channel_id", channel_id)?;
        let mut encoder = self.encoder()?;
        let mut state = self.lock();
        if matches!(state.link, Link::Closed) {
            return Err(Error::Closed);
        }
        state.next_key += 1;
        let key = state.next_key;
        let route = state.routes.entry(channel_id.to_owned()).or_default();
        route.listeners.push((key, sink));
        if subscribes && !std::mem::replace(&mut route.is_subscribed, true) {
            let told =
                self.subscription(&mut state, &mut encoder, MessageType::Subscribe, channel_id);
            drop(state);
            if let Err(error) = told {
                self.remove_listener(channel_id, key);
                return Err(error);
            }
        }
        Ok(key)
    }

    pub(crate) fn remove_listener(&self, channel_id: &str, key: u64) {
        let mut state = self.lock();
        let Some(route) = state.routes.get_mut(channel_id) else { return };
        let Some(at) = route.listeners.iter().position(|(of, _)| *of == key) else { return };
        let listener = route.listeners.remove(at);
        let is_last = route.listeners.is_empty();
        drop(state);
        // Dropped without the lock, because what a handler owns may take the lock when it is
        // dropped.
        drop(listener);
        if is_last {
            self.remove_route(channel_id, |route| route.listeners.is_empty());
        }
    }

    /// Removes all listeners of the channel.
    pub(crate) fn unsubscribe(&self, channel_id: &str) {
        self.remove_route(channel_id, |_| true);
    }

    fn remove_route(&self, channel_id: &str, is_meant: impl Fn(&Route) -> bool) {
        // Without an encoder the client cannot unsubscribe. Publications that still come reach
        // nobody.
        let encoder = self.encoder();
        let mut state = self.lock();
        if !state.routes.get(channel_id).is_some_and(is_meant) {
            return;
        }
        let route = state.routes.remove(channel_id);
        if let Ok(mut encoder) = encoder
            && route.as_ref().is_some_and(|route| route.is_subscribed)
        {
            // Without a connection there is no subscription to end.
            let _ =
                self.subscription(&mut state, &mut encoder, MessageType::Unsubscribe, channel_id);
        }
        drop(state);
        if let Some(route) = route {
            route.close();
        }
    }

    fn subscription(
        &self,
        state: &mut State,
        encoder: &mut Encoder,
        message_type: MessageType,
        channel_id: &str,
    ) -> Result<(), Error> {
        if !matches!(state.link, Link::Up(_)) {
            // The next connection restores it.
            return Ok(());
        }
        let heading = Heading::new(message_type, channel_id);
        let payload = Subscribe::new(&state.connection_id, false);
        encoder.value(heading, &payload)?;
        self.dispatch(state, encoder, Kind::Control, None)
    }
}
