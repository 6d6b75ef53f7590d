//! The listeners of channels and patterns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::inbox::Inbox;
use super::progress::Progress;
use super::topic::Topic;
use crate::proto::Message;
use crate::proto::pattern;
use crate::proto::position::Position;
use crate::proto::{Envelope, MessageType};

pub(crate) type Handler = Arc<Mutex<dyn FnMut(Message) + Send>>;

#[derive(Clone)]
pub(crate) enum Sink {
    Handler(Handler),
    Inbox(Arc<Inbox>),
}

#[derive(Default)]
pub(crate) struct Route {
    pub(crate) listeners: Vec<(u64, Sink)>,
    /// Set if the server is to send the publications.
    pub(crate) subscribed: Option<Box<Progress>>,
}

impl Route {
    fn add_to(&self, sinks: &mut Vec<Sink>) {
        sinks.extend(self.listeners.iter().map(|(_, sink)| sink.clone()));
    }

    /// Ends the messages of its readers. Must not be called with the state locked, because a
    /// reader's waker and what a handler owns may do anything.
    pub(crate) fn close(self) {
        for (_, sink) in self.listeners {
            if let Sink::Inbox(inbox) = sink {
                inbox.close();
            }
        }
    }
}

/// The channels whose patterns are remembered.
const REMEMBERED_MAX: usize = 4 << 10;

/// The routes of a client.
///
/// Invariant: `remembered` has, by the names of channels, the places in `patterns` of those that match.
#[derive(Default)]
pub(crate) struct Routes {
    channels: HashMap<String, Route>,
    patterns: Vec<(String, Route)>,
    remembered: HashMap<String, Vec<usize>>,
}

impl Routes {
    pub(crate) fn get(&self, topic: Topic<'_>) -> Option<&Route> {
        if !topic.is_pattern {
            return self.channels.get(topic.name);
        }
        self.place(topic.name).map(|at| &self.patterns[at].1)
    }

    pub(crate) fn get_mut(&mut self, topic: Topic<'_>) -> Option<&mut Route> {
        if !topic.is_pattern {
            return self.channels.get_mut(topic.name);
        }
        self.place(topic.name).map(|at| &mut self.patterns[at].1)
    }

    pub(crate) fn entry(&mut self, topic: Topic<'_>) -> &mut Route {
        if !topic.is_pattern {
            return self.channels.entry(topic.name.to_owned()).or_default();
        }
        let at = self.place(topic.name).unwrap_or_else(|| {
            self.remembered.clear();
            self.patterns.push((topic.name.to_owned(), Route::default()));
            self.patterns.len() - 1
        });
        &mut self.patterns[at].1
    }

    pub(crate) fn remove(&mut self, topic: Topic<'_>) -> Option<Route> {
        if !topic.is_pattern {
            return self.channels.remove(topic.name);
        }
        let at = self.place(topic.name)?;
        self.remembered.clear();
        Some(self.patterns.swap_remove(at).1)
    }

    fn place(&self, pattern: &str) -> Option<usize> {
        self.patterns.iter().position(|(its, _)| its == pattern)
    }

    /// Returns all of them with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Topic<'_>, &Route)> {
        let channels = self.channels.iter();
        let channels = channels.map(|(name, route)| (Topic { name, is_pattern: false }, route));
        let patterns = self.patterns.iter();
        channels.chain(patterns.map(|(name, route)| (Topic { name, is_pattern: true }, route)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Topic<'_>, &mut Route)> {
        let channels = self.channels.iter_mut();
        let channels = channels.map(|(name, route)| (Topic { name, is_pattern: false }, route));
        let patterns = self.patterns.iter_mut();
        channels.chain(patterns.map(|(name, route)| (Topic { name, is_pattern: true }, route)))
    }

    pub(crate) fn into_values(self) -> impl Iterator<Item = Route> {
        self.channels.into_values().chain(self.patterns.into_iter().map(|(_, route)| route))
    }

    /// Returns the listeners to whom a message goes, or `None` if there are none for its channel. A
    /// publication is noted, and does not go to those to whom it went before.
    pub(crate) fn sinks(
        &mut self,
        channel_id: &str,
        message: &Envelope<'_>,
        position: Option<&Position>,
    ) -> Option<Vec<Sink>> {
        let mut sinks = Vec::new();
        let mut has_any = false;
        let is_publication = message.message_type() == MessageType::Publish;
        if let Some(route) = self.channels.get_mut(channel_id)
            && !route.listeners.is_empty()
        {
            has_any = true;
            let subscribed = route.subscribed.as_mut().filter(|_| is_publication);
            if subscribed.is_none_or(|subscribed| subscribed.takes(channel_id, message, position)) {
                route.add_to(&mut sinks);
            }
        }
        if is_publication && !self.patterns.is_empty() {
            self.remember(channel_id);
            for at in self.remembered.get(channel_id).into_iter().flatten() {
                let Some((_, route)) = self.patterns.get_mut(*at) else { continue };
                has_any = true;
                let subscribed = route.subscribed.as_mut();
                if subscribed
                    .is_none_or(|subscribed| subscribed.takes(channel_id, message, position))
                {
                    route.add_to(&mut sinks);
                }
            }
        }
        has_any.then_some(sinks)
    }

    /// Finds the patterns that match the channel, if that is not known yet.
    fn remember(&mut self, channel_id: &str) {
        if self.remembered.contains_key(channel_id) {
            return;
        }
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.clear();
        }
        let patterns = self.patterns.iter().enumerate();
        let matching = patterns.filter(|(_, (its, _))| pattern::matches(its, channel_id));
        let matching = matching.map(|(at, _)| at).collect();
        self.remembered.insert(channel_id.to_owned(), matching);
    }
}
