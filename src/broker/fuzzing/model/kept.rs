//! What the model knows of patterns, last values and histories.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::fuzzing::attached::{Attached, Extended, Form};
use crate::broker::fuzzing::script::{App, Channel, PEERS, Said};
use crate::broker::fuzzing::wish::{Place, matches};
use crate::broker::history_rule::HistoryRule;

/// The messages of a history, and how long they are kept.
pub(super) const MESSAGES_MAX: usize = 3;
pub(super) const AGE_MAX: Duration = Duration::from_secs(40);

/// What the operator wants to be kept.
pub(in crate::broker::fuzzing) fn histories() -> Vec<HistoryRule> {
    vec![HistoryRule::new("app", "log.*").messages(MESSAGES_MAX).age(AGE_MAX)]
}

pub(super) fn has_history(app: App, channel: Channel) -> bool {
    app.name() == "app" && matches("log.*", channel.name())
}

/// Places of the newest publications, as the server has them.
pub(in crate::broker::fuzzing) type Places = BTreeMap<(App, Channel), Place>;

/// What a peer is about to be sent, as its queue shows.
#[derive(Clone, Debug, Default)]
pub(in crate::broker::fuzzing) struct Waiting {
    /// Channels of which it is still sent what was kept.
    pub(in crate::broker::fuzzing) replays: BTreeSet<Channel>,
    /// The newest publication of some channel waits for room in its queue.
    pub(in crate::broker::fuzzing) conflates: bool,
}

/// A publication as it was said.
#[derive(Clone, Debug)]
pub(in crate::broker::fuzzing) struct Publication {
    /// As its publisher wrote it; that of the process has an id that nobody knows.
    pub(super) message: Option<Value>,
    pub(super) payload: Value,
    pub(super) meta: Option<Value>,
    pub(super) attached: Vec<Attached>,
    pub(super) place: Option<Place>,
}

impl Publication {
    pub(super) fn of(said: &Said) -> Self {
        let Said { payload, meta, attached, .. } = said.clone();
        Self { message: Some(said.message()), payload, meta, attached, place: None }
    }

    /// One of the process itself.
    pub(in crate::broker::fuzzing) fn own(payload: Value, retains: bool) -> Self {
        let meta = retains.then(|| json!({"retain": true}));
        Self { message: None, payload, meta, attached: Vec::new(), place: None }
    }

    pub(super) fn retains(&self) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta["retain"] == true)
    }

    pub(super) fn is_too_large(&self, to: Extended) -> bool {
        !to.binary && self.attached.iter().any(Attached::is_huge)
    }

    fn form(&self, to: Extended) -> Form {
        let mut meta = self.meta.clone();
        if let Some((epoch, offset)) = &self.place {
            let meta = meta.get_or_insert_with(|| json!({}));
            (meta["epoch"], meta["offset"]) = (json!(epoch), json!(offset));
        }
        Form::of(&self.payload, meta.as_ref(), &self.attached, to)
    }

    pub(super) fn is(&self, message: &Value, to: Extended) -> bool {
        let keys = ["message_id", "app_id", "channel_id", "timestamp", "reply_to"];
        let is_said = |said: &Value| keys.iter().all(|key| message[key] == said[key]);
        self.message.as_ref().is_none_or(is_said) && Form::found(message) == self.form(to)
    }
}

/// What is kept of one channel.
#[derive(Default)]
pub(super) struct Kept {
    /// The place of the newest publication after the last call.
    pub(super) newest: Option<Place>,
    /// With the time of each.
    pub(super) history: VecDeque<(Rc<Publication>, Duration)>,
    pub(super) last: Option<Rc<Publication>>,
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.history.is_empty() && self.last.is_none()
    }

    /// Returns the newest publications, or else the last value.
    pub(super) fn newest(&self, last: u64) -> Vec<Rc<Publication>> {
        if self.history.is_empty() {
            return self.last.iter().cloned().collect();
        }
        let skipped = self.history.len().saturating_sub(last as usize);
        self.history.iter().skip(skipped).map(|(publication, _)| publication.clone()).collect()
    }

    pub(super) fn position(&self, publication: &Rc<Publication>) -> Option<usize> {
        self.history.iter().position(|(kept, _)| Rc::ptr_eq(kept, publication))
    }

    /// Returns all publications behind a place, if none of them is gone.
    pub(super) fn since(&self, since: &Place, newest: &Place) -> Option<Vec<Rc<Publication>>> {
        let (next, behind_newest) = (since.1.checked_add(1)?, newest.1 + 1);
        let first = behind_newest - self.history.len() as u64;
        let is_there = since.0 == newest.0 && (first..=behind_newest).contains(&next);
        let missed = || match behind_newest - next {
            0 => Vec::new(),
            missed => self.newest(missed),
        };
        is_there.then(missed)
    }
}

/// A publication that a peer is to get.
#[derive(Clone, Debug)]
pub(super) struct Awaited {
    pub(super) publication: Rc<Publication>,
    /// The id of the subscribe whose answer comes first.
    pub(super) behind: Option<String>,
}

#[derive(Default)]
pub(super) struct Topics {
    pub(super) kept: BTreeMap<(App, Channel), Kept>,
    /// What each peer is to get of each channel, in order.
    pub(super) awaited: [BTreeMap<Channel, VecDeque<Awaited>>; PEERS],
    /// Channels of which each peer was still sent what was kept before the present call.
    pub(super) replays: [BTreeSet<Channel>; PEERS],
    /// Where the present call has published.
    pub(super) published: Option<(App, Channel)>,
}
