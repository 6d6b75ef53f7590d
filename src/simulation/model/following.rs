//! Histories and last values: whoever asks for the past is told truly whether it gets it, gets it without a
//! gap and nothing twice, and then what is new, all in one order.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kept::{Asked, Following};
use super::{ConnId, Kind, Model, Publication, number};
use crate::simulation::scenario::{APPS, HIDDEN, HISTORY_AGE, TOPICS, channel_of, is_hidden_from};
use crate::simulation::wire::Received;

impl Model {
    /// Returns whether a connection asked for the extension `topic`.
    pub(in crate::simulation) fn has_topic(&self, id: ConnId) -> bool {
        self.conns[id].extensions.is_some_and(|extensions| extensions.contains(&"topic"))
    }

    /// Notes what the next subscribe of a connection asks for. Returns its number.
    pub(in crate::simulation) fn asks_for_past(&mut self, asked: Asked) -> usize {
        self.kept.asked.push(asked);
        self.kept.asked.len() - 1
    }

    /// Notes that other histories are on their way to the server.
    pub(in crate::simulation) fn histories_are_changing(&mut self) {
        self.kept.has_changed = true;
    }

    /// Returns whether the last word of a connection about the kept channel was to follow it.
    pub(in crate::simulation) fn says_it_follows(&self, id: ConnId) -> bool {
        let mut sent = self.conns[id].sent.iter().rev().filter(|sent| !sent.is_refused);
        sent.find_map(|sent| match sent.kind {
            Kind::Follow(_) => Some(true),
            Kind::Unfollow => Some(false),
            _ => None,
        }) == Some(true)
    }

    /// Returns whether a connection has ever subscribed to the pattern of the kept channel.
    pub(in crate::simulation) fn has_watched(&self, id: ConnId) -> bool {
        self.conns[id].sent.iter().any(|sent| matches!(sent.kind, Kind::Watch { .. }))
    }

    /// Returns whether a connection has ever asked for the newest publications alone.
    pub(in crate::simulation) fn conflates(&self, id: ConnId) -> bool {
        self.conns[id].sent.iter().any(|sent| sent.kind == Kind::Watch { conflate: true })
    }

    /// Returns whether a connection has ever followed the kept channel by its name.
    fn has_followed(&self, id: ConnId) -> bool {
        self.conns[id].sent.iter().any(|sent| matches!(sent.kind, Kind::Follow(_)))
    }

    /// Returns whether a connection may watch the pattern of the kept channel. Whoever does does not
    /// follow the channel.
    pub(in crate::simulation) fn may_watch(&self, id: ConnId) -> bool {
        self.has_topic(id) && !self.has_followed(id)
    }

    /// Returns the place up to which a connection, or another one of its application before it, has
    /// heard the kept channel.
    pub(in crate::simulation) fn heard_up_to(
        &self,
        id: ConnId,
        back: u64,
    ) -> Option<(String, u64)> {
        let conn = &self.conns[id];
        let own = conn.last_places[0].clone();
        let others = || {
            let app = conn.app;
            self.conns
                .iter()
                .filter(|other| other.app == app)
                .find_map(|c| c.last_places[0].clone())
        };
        let (epoch, offset) = own.or_else(others)?;
        Some((epoch, offset.saturating_sub(back)))
    }

    /// Returns whether a connection may be closed because it was overtaken by the history, or was not
    /// told yet that it is sent what was kept.
    pub(super) fn may_be_overtaken(&self, id: ConnId) -> bool {
        let is_asking = self.conns[id]
            .in_order
            .iter()
            .any(|at| matches!(self.conns[id].sent[*at].kind, Kind::Follow(_)));
        let following = self.conns[id].following.as_ref();
        let is_behind = |following: &Following| {
            following.next <= following.replay_end
                || (following.has_replay && self.may_be_behind(id, following.next))
        };
        is_asking || following.is_some_and(is_behind)
    }

    /// Returns whether so much was published that a follower which has heard what was before `next` may
    /// have been overtaken.
    fn may_be_behind(&self, id: ConnId, next: u64) -> bool {
        let app = self.conns[id].app;
        let has_arrived = |publication: &&Publication| {
            publication.app == app
                && publication.topic == TOPICS.len()
                && self.moment(publication).0.is_some()
        };
        let arrived = self.publications.iter().filter(has_arrived).count() as u64;
        let kept = if self.may_forget() { 0 } else { self.kept_max() };
        arrived >= next + kept
    }

    fn kept_max(&self) -> u64 {
        self.limits.histories.first().map_or(0, |rule| rule.messages) as u64
    }

    /// Returns whether a history may have lost what it should keep by its number of messages.
    fn may_forget(&self) -> bool {
        self.is_tight || self.kept.has_changed || self.now >= HISTORY_AGE
    }

    /// Checks the answer to a subscribe that asked for the past.
    pub(super) fn check_followed(
        &mut self,
        by: ConnId,
        asked: usize,
        payload: &Value,
    ) -> Result<(), String> {
        let Asked { last, since } = self.kept.asked[asked].clone();
        if payload["status"] != "subscribed" {
            return Err("no answer to this".to_owned());
        }
        let has_changed = self.kept.has_changed;
        if has_changed && payload.get("epoch").is_none() {
            let epoch = String::new();
            let following =
                Following { epoch, next: 1, replay_end: 1, has_replay: true, is_loose: true };
            self.conns[by].following = Some(following);
            return Ok(());
        }
        let epoch = payload["epoch"].as_str().ok_or("the channel has no epoch")?.to_owned();
        let (offset, messages) = (number(payload, "offset")?, number(payload, "messages")?);
        let recovered = payload["recovered"].as_bool().ok_or("it does not say if it recovered")?;
        let (kept_max, may_forget) = (self.kept_max(), self.may_forget());
        match &since {
            Some((known, from)) => {
                let missed = offset.checked_sub(*from).filter(|_| *known == epoch);
                let is_gone = missed.is_none_or(|missed| missed > kept_max);
                let is_right =
                    if recovered { missed == Some(messages) } else { is_gone || may_forget };
                if !is_right {
                    return Err(format!("recovered is {recovered}, and {missed:?} were missed"));
                }
            }
            None if !recovered => return Err("there is a history".to_owned()),
            None => {}
        }
        if let (Some(last), true) = (last, since.is_none() || !recovered) {
            let kept_max = if has_changed { u64::MAX } else { kept_max };
            let most = last.min(offset.max(u64::from(may_forget))).min(kept_max);
            if messages > most || (messages < most && !may_forget) {
                return Err(format!("{messages} of the last {most} are there"));
            }
        } else if !recovered && messages > 0 {
            return Err("it gets what it was told is gone".to_owned());
        }
        let next = offset + 1 - messages.min(offset);
        self.conns[by].following = Some(Following {
            epoch,
            next,
            replay_end: offset,
            has_replay: messages > 0,
            is_loose: may_forget,
        });
        Ok(())
    }

    pub(super) fn note_unfollowed(&mut self, by: ConnId) {
        self.conns[by].following = None;
    }

    /// Checks a publication on a kept channel.
    pub(super) fn hear_kept(&mut self, by: ConnId, message: &Received) -> Result<(), String> {
        let at = number(&message.payload, "publication")? as usize;
        let on_channel = Some(message.channel.as_str());
        let known = self.publications.get(at);
        let known = known.filter(|known| channel_of(known.topic) == on_channel);
        let Some(publication) = known else { return Err("nobody published this".to_owned()) };
        let (app, topic) = (publication.app, publication.topic);
        let has_arrived = match publication.from {
            Some((from, at)) => self.conns[from].sent[at].arrived.is_some(),
            None => true,
        };
        if !has_arrived || message.app != APPS[app] || self.conns[by].app != app {
            return Err(
                "it was heard before it was published, or was published elsewhere".to_owned()
            );
        }
        let has_place = message.meta.as_ref().is_some_and(|meta| meta.get("epoch").is_some());
        let step = self.step;
        let publication = &mut self.publications[at];
        publication.first_heard.get_or_insert(step);
        let is_first_time = publication.heard_by.insert(by);
        self.kept.heard += 1;
        let is_watching = self.has_watched(by);
        if is_watching {
            self.check_watched(by, at)?;
            if !is_first_time {
                return Err("it was heard already".to_owned());
            }
        }
        if !has_place && self.kept.has_changed {
            return Ok(());
        }
        let meta = message.meta.as_ref().ok_or("it has no place")?;
        let epoch = meta["epoch"].as_str().ok_or("it has no epoch")?;
        let offset = number(meta, "offset")?;
        let place = (app, topic, epoch.to_owned(), offset);
        if *self.kept.places.entry(place).or_insert(at) != at {
            return Err("another publication has this place".to_owned());
        }
        let has_changed = self.kept.has_changed;
        let conn = &mut self.conns[by];
        let last_place = &mut conn.last_places[topic - TOPICS.len()];
        let before = last_place.replace((epoch.to_owned(), offset));
        if is_watching {
            // Whoever conflates misses some.
            let is_newer = before.is_none_or(|(other, last)| other != epoch || last < offset);
            let is_right = is_newer || has_changed;
            return if is_right { Ok(()) } else { Err("it is not newer than the last".to_owned()) };
        }
        let Some(following) = conn.following.as_mut().filter(|_| topic == TOPICS.len()) else {
            return Err("it did not subscribe to this".to_owned());
        };
        if self.kept.has_changed {
            // Across a change of the histories only the order is promised.
            (following.epoch, following.next) = (epoch.to_owned(), offset + 1);
            return Ok(());
        }
        let is_alone = following.next == following.replay_end && offset < following.next;
        if std::mem::take(&mut following.is_loose) && is_alone && following.epoch == epoch {
            // A last value that is older than the history.
            following.next += 1;
            return Ok(());
        }
        if following.epoch != epoch || following.next != offset {
            return Err(format!("it is not the next one after {following:?}"));
        }
        following.next += 1;
        Ok(())
    }

    /// Checks that a connection may hear a publication through its pattern.
    fn check_watched(&self, by: ConnId, at: usize) -> Result<(), String> {
        if self.is_hidden(by, self.publications[at].topic) {
            return Err("the filter refuses it this channel".to_owned());
        }
        self.check_audible(by, at)
    }

    /// Returns whether the filter refuses a channel to a connection that hears it through a pattern.
    fn is_hidden(&self, id: ConnId, topic: usize) -> bool {
        let is_hidden = channel_of(topic) == Some(HIDDEN) && self.has_filter;
        is_hidden && is_hidden_from(self.conns[id].id)
    }

    /// Returns whether a connection that was surely subscribed need not hear a publication: it is refused
    /// the channel, or conflates and has heard one that may be newer.
    pub(super) fn may_miss(&self, id: ConnId, at: usize) -> bool {
        let Publication { topic, from, .. } = self.publications[at];
        if self.is_tight && from.is_none() && topic >= TOPICS.len() {
            // There may have been no memory for another history.
            return true;
        }
        if self.is_hidden(id, topic) || !self.conflates(id) {
            return self.is_hidden(id, topic);
        }
        // What waited at the end of a subscription is gone.
        self.conns[id].sent.iter().any(|sent| sent.kind == Kind::Unwatch)
            || self.publications.iter().any(|other| {
                other.heard_by.contains(&id)
                    && (other.app, other.topic) == (self.publications[at].app, topic)
                    && !self.is_surely_before(other, &self.publications[at])
            })
    }

    fn is_surely_before(&self, one: &Publication, other: &Publication) -> bool {
        match (one.from, other.from) {
            (Some((by, at)), Some((by_other, at_other))) if by == by_other => at < at_other,
            _ => match (self.moment(one).1, self.moment(other).0) {
                (Some(done), Some(arrived)) => done < arrived,
                _ => false,
            },
        }
    }

    /// Checks, at rest, that all followers have heard everything, and that there is one order.
    pub(in crate::simulation) fn check_kept(
        &self,
        app: usize,
        position: Option<&(String, u64)>,
    ) -> Result<(), String> {
        for id in (0..self.conns.len()).filter(|id| self.is_sound(*id)) {
            let conn = &self.conns[id];
            let Some(following) = conn.following.as_ref().filter(|_| conn.app == app) else {
                continue;
            };
            let found = position.map(|(epoch, offset)| (epoch.as_str(), *offset));
            let is_known = !self.kept.has_changed;
            if is_known && found != Some((following.epoch.as_str(), following.next - 1)) {
                return Err(format!(
                    "connection {id} is at {following:?}, and the server at {found:?}"
                ));
            }
        }
        let mut seen = BTreeMap::new();
        let mut last_of: BTreeMap<(usize, &str, ConnId), usize> = BTreeMap::new();
        for ((of, topic, epoch, offset), at) in
            self.kept.places.iter().filter(|((of, ..), _)| *of == app)
        {
            if let Some(other) = seen.insert(*at, (epoch, offset)) {
                return Err(format!("publication {at} of {of} has two places, {other:?}"));
            }
            let Some((from, index)) = self.publications[*at].from else { continue };
            if last_of.insert((*topic, epoch, from), index).is_some_and(|last| last > index) {
                return Err(format!("publication {at} stands before one that came first"));
            }
        }
        Ok(())
    }
}
