//! How far a subscription has come, so that the next connection goes on there.

use std::collections::HashMap;

use uuid::Uuid;

use super::topic::Topic;
use crate::client::event::Event;
use crate::client::subscribe_options::SubscribeOptions;
use crate::client::subscribed::Subscribed;
use crate::proto::position::Position;
use crate::proto::system::Subscribe;
use crate::proto::{Envelope, Extensions};

/// The channels of which one pattern remembers how far they have come. Those beyond it may be
/// received twice after a reconnect, if the pattern asks for what was before.
const CHANNELS_MAX: usize = 16 << 10;

/// A subscription at the server.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The options of the first that subscribed.
    options: SubscribeOptions,
    /// The subscribe that the server is to answer. What comes before the answer belongs to an earlier
    /// subscription, or to another one.
    request: Option<Uuid>,
    /// The place from which that asks to go on.
    asked: Option<Position>,
    /// Set once a server has subscribed the client.
    is_established: bool,
    /// The progress on the channel.
    seen: Seen,
    /// The progress on each channel that the pattern matches.
    by_channel: HashMap<String, Seen>,
}

/// The last publication that came on a channel.
#[derive(Debug, Default)]
struct Seen {
    position: Option<Position>,
    /// Its id, where it has no position and the server may send it again.
    message_id: Option<Box<str>>,
    /// Set until the first one of a new connection, which may be that same one.
    may_repeat: bool,
}

impl Progress {
    pub(crate) fn new(options: &SubscribeOptions) -> Self {
        Self {
            options: options.clone(),
            request: None,
            asked: None,
            is_established: false,
            seen: Seen::default(),
            by_channel: HashMap::new(),
        }
    }

    /// Returns whether another listener with these options can join.
    pub(crate) fn suits(&self, options: &SubscribeOptions) -> bool {
        !options.ask_for_kept() && (options.conflate == self.options.conflate || !options.conflate)
    }

    /// Returns the payload that subscribes by a connection with these extensions.
    pub(crate) fn payload<'a>(
        &'a mut self,
        connection_id: &'a str,
        extensions: Extensions,
    ) -> Subscribe<'a> {
        if !extensions.contains(Extensions::TOPIC) {
            return Subscribe::new(connection_id, false);
        }
        let known = self.seen.position.as_ref().filter(|_| self.is_established);
        self.asked = known.or(self.options.since.as_ref()).cloned();
        Subscribe::new(connection_id, true)
            .pattern(self.options.pattern)
            .last(self.options.last)
            .since(self.asked.as_ref())
            .conflate(self.options.conflate)
    }

    /// Notes that the subscribe has this id.
    pub(crate) fn sent(&mut self, request: Uuid) {
        self.request = Some(request);
    }

    /// Returns the subscribe that is not answered yet.
    pub(crate) fn request(&self) -> Option<Uuid> {
        self.request
    }

    /// Notes the answer to the subscribe with this id, and returns the event to report. An error counts
    /// as no answer.
    pub(crate) fn answered(
        &mut self,
        topic: Topic<'_>,
        request: Uuid,
        answer: Option<Subscribed>,
    ) -> Option<Event> {
        if self.request != Some(request) {
            return None;
        }
        self.request = None;
        let asked = self.asked.take();
        let Subscribed { position, recovered } = answer?;
        let was_established = std::mem::replace(&mut self.is_established, true);
        for seen in self.by_channel.values_mut().chain([&mut self.seen]) {
            seen.may_repeat = was_established;
        }
        let channel_id = topic.name.to_owned();
        if asked.is_some() && recovered == Some(true) {
            self.seen.position = asked;
            return Some(Event::Resumed { channel_id });
        }
        let is_gap = was_established || asked.is_some();
        let missed = asked.as_ref().zip(position.as_ref()).and_then(missed);
        let event = Event::Gap { channel_id, seen: asked, newest: position.clone(), missed };
        // What is asked for by `last` comes next, from a place that is not known yet.
        let comes_next = self.options.last.is_some();
        self.seen.position = position.filter(|newest| newest.offset == 0 || !comes_next);
        is_gap.then_some(event)
    }

    /// Notes a subscription at a server that does not answer it, and returns the event to report.
    pub(crate) fn unanswered(&mut self, topic: Topic<'_>) -> Option<Event> {
        self.request = None;
        let channel_id = topic.name.to_owned();
        let seen = self.seen.position.take();
        let gap = Event::Gap { channel_id, seen, newest: None, missed: None };
        std::mem::replace(&mut self.is_established, true).then_some(gap)
    }

    /// Returns whether a publication with this position is for this subscription, and notes it. One
    /// that has come before is not.
    pub(crate) fn takes(
        &mut self,
        channel_id: &str,
        publication: &Envelope<'_>,
        position: Option<&Position>,
    ) -> bool {
        if self.request.is_some() {
            return false;
        }
        if position.is_none() && self.options.last.is_none() {
            return true;
        }
        let seen = if !self.options.pattern {
            &mut self.seen
        } else if self.by_channel.contains_key(channel_id) || self.by_channel.len() < CHANNELS_MAX {
            self.by_channel.entry(channel_id.to_owned()).or_default()
        } else {
            return true;
        };
        seen.takes(publication, position)
    }
}

impl Seen {
    fn takes(&mut self, publication: &Envelope<'_>, position: Option<&Position>) -> bool {
        let may_repeat = std::mem::take(&mut self.may_repeat);
        if let Some(position) = position {
            match &mut self.position {
                Some(last) if last.epoch == position.epoch => {
                    if position.offset <= last.offset {
                        return false;
                    }
                    last.offset = position.offset;
                }
                last => *last = Some(position.clone()),
            }
            return true;
        }
        let id = publication.message_id().decode();
        let is_same = self.message_id.as_deref() == Some(&*id);
        self.message_id = Some(id.into());
        !(may_repeat && is_same)
    }
}

/// Returns how many publications came after a place in a history, if that is known.
fn missed((seen, newest): (&Position, &Position)) -> Option<u64> {
    if seen.epoch == newest.epoch { newest.offset.checked_sub(seen.offset) } else { None }
}
