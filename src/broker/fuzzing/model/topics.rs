//! Who hears a publication, what is kept of it, and who is sent that later.
//!
//! Of each channel a peer gets what it should in one order: nothing twice, and nothing is left out but
//! what a newer publication replaces for a peer that conflates.

use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::{Value, json};

use super::expected::{Expectations, Expected};
use super::kept::{AGE_MAX, Awaited, MESSAGES_MAX, Publication, has_history};
use super::{Model, Outcome, Presence};
use crate::broker::fuzzing::script::{App, Channel, PEERS, Said};
use crate::broker::fuzzing::wish::{self, Place, Wish, matches};
use crate::proto::placed::OWN_PLACE_BYTES_MAX;

impl Model {
    /// Returns the place of the newest publication, as far as it was ever told.
    pub(super) fn newest_place(&self, app: App, channel: Channel) -> Option<Place> {
        self.topics.kept.get(&(app, channel))?.newest.clone()
    }

    /// Returns the channels of which anything is kept.
    pub(in crate::broker::fuzzing) fn kept(&self) -> Vec<(App, Channel)> {
        let kept = self.topics.kept.iter().filter(|(_, kept)| !kept.is_empty());
        kept.map(|(channel, _)| *channel).collect()
    }

    /// Returns whether another last value may be kept.
    pub(in crate::broker::fuzzing) fn may_retain(&self, app: App, channel: Channel) -> bool {
        let others = self.topics.kept.iter().filter(|(key, _)| **key != (app, channel));
        others.filter(|(_, kept)| kept.last.is_some()).count() < self.limits.retained_values_max
    }

    /// Forgets what is too old. Returns the channels that last as they are, because anything is kept of
    /// them or somebody subscribes to them.
    pub(super) fn begin_topics(&mut self, outcome: &Outcome<'_>) -> BTreeSet<(App, Channel)> {
        self.topics.published = None;
        for kept in self.topics.kept.values_mut() {
            kept.history.retain(|(_, at)| *at + AGE_MAX > outcome.now);
        }
        let members = self.peers.iter().filter_map(|peer| peer.member.as_ref());
        let held = members
            .flat_map(|member| member.subscriptions.keys().map(|channel| (member.app, *channel)));
        held.chain(self.kept()).collect()
    }

    /// Checks that each publication took the next place, and that no history is another one while it is
    /// of use to anybody.
    pub(super) fn check_places(
        &mut self,
        outcome: &Outcome<'_>,
        lasting: &BTreeSet<(App, Channel)>,
    ) {
        let left: BTreeSet<usize> =
            (0..PEERS).filter(|at| outcome.presence[*at] != Presence::Open).collect();
        let channels: BTreeSet<_> =
            self.topics.kept.keys().chain(outcome.places.keys()).copied().collect();
        for channel in channels {
            let published = u64::from(self.topics.published == Some(channel));
            let kept = self.topics.kept.entry(channel).or_default();
            let after = outcome.places.get(&channel).cloned();
            let before = std::mem::replace(&mut kept.newest, after);
            match (before, &kept.newest) {
                (Some((epoch, offset)), Some((same, now))) if epoch == *same => {
                    assert_eq!(*now, offset + published, "{channel:?}");
                }
                (before, after) => {
                    let was_held = lasting.contains(&channel) && left.is_empty();
                    let is_held = before.is_some() && was_held;
                    assert!(!is_held, "{channel:?} was forgotten: {before:?}, {after:?}");
                    assert!(after.as_ref().is_none_or(|(_, offset)| *offset == published));
                }
            }
        }
    }

    /// A publication of the process itself.
    pub(super) fn publish_own(
        &mut self,
        app: App,
        channel: Channel,
        publication: &Publication,
        outcome: &Outcome<'_>,
    ) {
        self.publish_and_keep(app, channel, publication.clone(), outcome);
    }

    /// A publication of a peer, which may be refused.
    pub(super) fn publish(
        &mut self,
        from: usize,
        channel: Channel,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
    ) {
        let Some((app, _)) = self.own(from) else { return };
        let publication = Publication::of(said);
        let forgets = publication.payload.is_null();
        let is_too_much = publication.retains() && !forgets && !self.may_retain(app, channel);
        let body_bytes = said.frame.len() - 4;
        let is_too_large = has_history(app, channel)
            && body_bytes + OWN_PLACE_BYTES_MAX > self.limits.frame_bytes_max;
        if is_too_much || is_too_large {
            return expected.add(from, Expected::error("limit_exceeded", &said.message_id));
        }
        let wants_answer = said.meta.as_ref().is_some_and(|meta| meta["ack"] == true);
        let place = self.publish_and_keep(app, channel, publication, outcome);
        if wants_answer {
            let mut payload = json!({"status": "published"});
            if let Some((epoch, offset)) = place {
                (payload["epoch"], payload["offset"]) = (json!(epoch), json!(offset));
            }
            expected.add(from, Expected::answer(&said.message_id, payload));
        }
    }

    fn publish_and_keep(
        &mut self,
        app: App,
        channel: Channel,
        mut publication: Publication,
        outcome: &Outcome<'_>,
    ) -> Option<Place> {
        self.topics.published = Some((app, channel));
        let place = has_history(app, channel).then(|| outcome.places[&(app, channel)].clone());
        publication.place.clone_from(&place);
        let publication = Rc::new(publication);
        for to in self.hearers(app, channel) {
            if !publication.is_too_large(self.extended(to)) {
                let awaited = Awaited { publication: publication.clone(), behind: None };
                self.topics.awaited[to].entry(channel).or_default().push_back(awaited);
            }
        }
        let kept = self.topics.kept.entry((app, channel)).or_default();
        if publication.retains() {
            kept.last = Some(publication.clone()).filter(|value| !value.payload.is_null());
        }
        if place.is_some() {
            kept.history.push_back((publication, outcome.now));
            while kept.history.len() > MESSAGES_MAX {
                kept.history.pop_front();
            }
        }
        place
    }

    fn hearers(&self, app: App, channel: Channel) -> Vec<usize> {
        let members = self.members(app).map(|(at, _)| at);
        members.filter(|at| self.hears(*at, channel)).collect()
    }

    /// Returns how many subscribe to a channel by its name, without and with those that are still sent
    /// what was kept.
    pub(super) fn subscribers(
        &self,
        app: App,
        channel: Channel,
        outcome: &Outcome<'_>,
    ) -> [usize; 2] {
        let members = self.members(app).filter(|(_, m)| m.subscriptions.contains_key(&channel));
        let all: Vec<usize> = members.map(|(at, _)| at).collect();
        let is_replayed = |at: &&usize| outcome.waiting[**at].replays.contains(&channel);
        [all.len() - all.iter().filter(is_replayed).count(), all.len()]
    }

    /// Returns whether each subscription by which a peer hears a channel conflates.
    fn manners(&self, at: usize, channel: Channel) -> impl Iterator<Item = bool> {
        let member = self.peers[at].member.as_ref();
        member.into_iter().flat_map(move |member| {
            let of_channel = member.subscriptions.get(&channel);
            let of_patterns = member.patterns.iter();
            let matching =
                of_patterns.filter(move |(pattern, _)| matches(pattern.name(), channel.name()));
            of_channel.into_iter().chain(matching.map(|(_, conflates)| conflates)).copied()
        })
    }

    fn hears(&self, at: usize, channel: Channel) -> bool {
        self.manners(at, channel).next().is_some()
    }

    /// A subscription to a channel.
    pub(super) fn subscribe(
        &mut self,
        from: usize,
        channel: Channel,
        wish: Option<Wish>,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
    ) {
        let has_topic = self.extended(from).topic;
        let is_full = self.is_full(from);
        let Some(member) = &mut self.peers[from].member else { return };
        let (app, id) = (member.app, said.message_id.as_str());
        let is_new = !member.subscriptions.contains_key(&channel);
        let wish = wish.filter(|_| has_topic);
        let (last, since) = (wish.and_then(|wish| wish.last), wish::since(&said.payload));
        let since = since.filter(|_| has_topic);
        let asks_for_past = last.is_some() || since.is_some();
        if is_new && is_full {
            return expected.add(from, Expected::error("limit_exceeded", id));
        }
        if !is_new && asks_for_past {
            return expected.add(from, Expected::error("bad_message", id));
        }
        let conflates = wish.is_some_and(|wish| wish.conflate);
        member.subscriptions.entry(channel).or_insert(conflates);
        let mut payload = json!({"status": "subscribed"});
        let newest = outcome.places.get(&(app, channel));
        if let Some((epoch, offset)) = newest.filter(|_| has_topic) {
            (payload["epoch"], payload["offset"]) = (json!(epoch), json!(offset));
        }
        let mut replay = Vec::new();
        if asks_for_past {
            let kept = self.topics.kept.entry((app, channel)).or_default();
            let missed = since.as_ref().and_then(|since| kept.since(since, newest?));
            let is_kept = newest.is_some() || kept.last.is_some();
            payload["recovered"] = json!(if since.is_some() { missed.is_some() } else { is_kept });
            let newest = || last.map(|last| kept.newest(last)).unwrap_or_default();
            replay = missed.unwrap_or_else(newest);
            // What it waits for as a subscriber of a pattern comes first.
            if self.topics.replays[from].contains(&channel) {
                let awaited = self.topics.awaited[from].get(&channel);
                let next = awaited.and_then(|awaited| awaited.front());
                let next = next.and_then(|next| kept.position(&next.publication));
                let begin = replay.first().and_then(|first| kept.position(first));
                if let Some((next, begin)) = next.zip(begin) {
                    replay = kept.newest((kept.history.len() - next.min(begin)) as u64);
                }
            }
            payload["messages"] = json!(replay.len());
        }
        if said.payload["ack"] == true || asks_for_past {
            expected.add(from, Expected::answer(id, payload));
        }
        self.replay(from, channel, replay, id);
    }

    fn is_full(&self, at: usize) -> bool {
        let member = self.peers[at].member.as_ref();
        let subscriptions =
            member.map_or(0, |member| member.subscriptions.len() + member.patterns.len());
        subscriptions >= self.limits.subscriptions_per_connection_max
    }

    /// A peer is sent what was kept, behind the answer to its subscribe.
    fn replay(&mut self, to: usize, channel: Channel, replay: Vec<Rc<Publication>>, id: &str) {
        if replay.is_empty() {
            return;
        }
        let extended = self.extended(to);
        let deliverable = replay.into_iter().filter(|one| !one.is_too_large(extended));
        let behind = Some(id.to_owned());
        let awaited =
            deliverable.map(|publication| Awaited { publication, behind: behind.clone() });
        self.topics.awaited[to].insert(channel, awaited.collect());
    }

    /// A subscription to a pattern.
    pub(super) fn watch(
        &mut self,
        from: usize,
        pattern: Channel,
        wish: Wish,
        said: &Said,
        expected: &mut Expectations,
    ) {
        let is_full = self.is_full(from);
        let Some(member) = &mut self.peers[from].member else { return };
        let (app, id) = (member.app, said.message_id.as_str());
        let is_new = !member.patterns.contains_key(&pattern);
        let is_bad = wish::since(&said.payload).is_some()
            || pattern.name() == "a.>.b"
            || (!is_new && wish.last.is_some());
        if is_bad {
            return expected.add(from, Expected::error("bad_message", id));
        }
        if is_new && is_full {
            return expected.add(from, Expected::error("limit_exceeded", id));
        }
        let mut payload = json!({"status": "subscribed"});
        if wish.last.is_some() {
            payload["recovered"] = json!(true);
        }
        if wish.ack || wish.last.is_some() {
            expected.add(from, Expected::answer(id, payload));
        }
        let hears = |at: usize, model: &Self| {
            let all = (0..Channel::NAMES.len()).map(Channel);
            all.filter(|channel| model.hears(at, *channel)).collect::<BTreeSet<_>>()
        };
        let before = hears(from, self);
        if let Some(member) = &mut self.peers[from].member {
            member.patterns.entry(pattern).or_insert(wish.conflate);
        }
        let Some(last) = wish.last else { return };
        for channel in &hears(from, self) - &before {
            let kept = self.topics.kept.get(&(app, channel));
            let replay = kept.map(|kept| kept.newest(last)).unwrap_or_default();
            self.replay(from, channel, replay, id);
        }
    }

    /// A peer ends a subscription.
    pub(super) fn leave(
        &mut self,
        from: usize,
        channel: Channel,
        is_pattern: bool,
        said: &Said,
        expected: &mut Expectations,
    ) {
        if is_pattern && channel.name() == "a.>.b" {
            return expected.add(from, Expected::error("bad_message", &said.message_id));
        }
        self.unsubscribe(from, channel, is_pattern);
        if said.payload["ack"] == true {
            let payload = json!({"status": "unsubscribed"});
            expected.add(from, Expected::answer(&said.message_id, payload));
        }
    }

    /// Ends a subscription of a peer. It need not get any more what it no longer hears.
    fn unsubscribe(&mut self, from: usize, channel: Channel, is_pattern: bool) {
        let Some(member) = &mut self.peers[from].member else { return };
        if is_pattern {
            member.patterns.remove(&channel);
        } else {
            member.subscriptions.remove(&channel);
        }
        let mut awaited = std::mem::take(&mut self.topics.awaited[from]);
        awaited.retain(|channel, _| self.hears(from, *channel));
        self.topics.awaited[from] = awaited;
    }

    /// Takes a publication that a peer got out of what it is to get. Returns whether it is the next one.
    pub(super) fn take_awaited(
        &mut self,
        at: usize,
        message: &Value,
        answered: &BTreeSet<String>,
    ) -> bool {
        let channel = Channel::NAMES.iter().position(|name| message["channel_id"] == *name);
        let Some(channel) = channel.map(Channel) else { return false };
        let may_skip = self.peers[at].member.is_none() || self.manners(at, channel).any(|it| it);
        let extended = self.extended(at);
        let Some(awaited) = self.topics.awaited[at].get_mut(&channel) else { return false };
        let found = awaited.iter().position(|one| one.publication.is(message, extended));
        let Some(found) = found.filter(|found| *found == 0 || may_skip) else { return false };
        let behind = &awaited[found].behind;
        assert!(
            behind.as_ref().is_none_or(|id| answered.contains(id)),
            "it came before the answer"
        );
        awaited.drain(..=found);
        true
    }

    /// Checks that nobody is left without a publication but those that are sent it later.
    pub(super) fn check_awaited(&mut self, outcome: &Outcome<'_>) {
        for at in 0..PEERS {
            if self.peers[at].member.is_none() || outcome.presence[at] != Presence::Open {
                self.topics.awaited[at].clear();
            }
            let mut all = std::mem::take(&mut self.topics.awaited[at]);
            all.retain(|_, awaited| !awaited.is_empty());
            for (channel, awaited) in &mut all {
                for one in &mut *awaited {
                    one.behind = None;
                }
                let waiting = &outcome.waiting[at];
                if waiting.replays.contains(channel) {
                    continue;
                }
                let conflates = waiting.conflates && self.manners(at, *channel).any(|it| it);
                assert!(conflates, "{at} never got {awaited:?}");
                // Only the newest waits.
                awaited.drain(..awaited.len() - 1);
            }
            self.topics.awaited[at] = all;
            self.topics.replays[at].clone_from(&outcome.waiting[at].replays);
        }
    }

    /// Checks, once everybody has read everything, that nobody waits for a publication.
    pub(in crate::broker::fuzzing) fn check_all_heard(&self) {
        for (at, awaited) in self.topics.awaited.iter().enumerate() {
            assert!(awaited.is_empty(), "{at} is still to get {awaited:?}");
        }
    }
}
