//! Publications: each connected subscriber receives each once, all in one order, and no other
//! connection does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::call::Call;
use super::{Broadcast, ConnId, Model, Publication, Step, number};
use crate::simulation::scenario::{APPS, CLIENT_IDS, TOPICS};
use crate::simulation::wire::Received;

impl Model {
    /// Notes a publication that a connection is about to send, or that comes from inside.
    pub(in crate::simulation) fn publication(
        &mut self,
        app: usize,
        topic: usize,
        from: Option<ConnId>,
    ) -> usize {
        self.publications.push(Publication {
            app,
            topic,
            from: from.map(|conn| (conn, self.conns[conn].sent.len())),
            posted: self.step,
            first_heard: None,
            heard_by: BTreeSet::new(),
            heard_by_links: BTreeSet::new(),
        });
        self.publications.len() - 1
    }

    /// Returns a topic that somebody certainly subscribes to.
    pub(in crate::simulation) fn heard_topic(&self) -> Option<(usize, usize)> {
        let topics =
            (0..APPS.len()).flat_map(|app| (0..TOPICS.len()).map(move |topic| (app, topic)));
        topics.into_iter().find(|(app, topic)| {
            (0..self.conns.len()).any(|id| {
                self.conns[id].app == *app
                    && self.is_sound(id)
                    && self.is_surely_subscribed(id, *topic, self.step, self.step)
            })
        })
    }

    /// Notes a message from inside to all connections of an application, or to one.
    pub(in crate::simulation) fn broadcast(&mut self, app: usize, to: Option<usize>) -> u64 {
        let nonce = self.fresh_nonce();
        self.broadcasts.insert(nonce, Broadcast { app, to, posted: self.step, received: 0 });
        nonce
    }

    pub(super) fn hear(&mut self, by: ConnId, message: &Received) -> Result<(), String> {
        if let Some(nonce) = message.payload["broadcast"].as_u64() {
            return self.hear_broadcast(by, nonce);
        }
        if !message.payload["elsewhere"].is_null() {
            return self.hear_from_elsewhere(by, message);
        }
        let at = number(&message.payload, "publication")? as usize;
        let (step, has_meta) = (self.step, self.has_meta(by));
        let Some(publication) = self.publications.get_mut(at) else {
            return Err("nobody published this".to_owned());
        };
        let arrived = match publication.from {
            Some((from, at)) => self.conns[from].sent[at].arrived.is_some(),
            None => true,
        };
        if !arrived {
            return Err("it was heard before it was published".to_owned());
        }
        let (app, topic) = (publication.app, publication.topic);
        let meta = publication.from.and_then(|from| self.calls.get(&from)).map(Call::relayed);
        // One that has nothing but attachments is left out with those.
        let is_left_out =
            |meta: &Value| message.blob.is_some() && *meta == Value::Object(Map::new());
        let meta = meta.filter(|meta| !is_left_out(meta));
        if message.meta != meta.filter(|_| has_meta) {
            return Err("its meta is not that of its publisher".to_owned());
        }
        let conn = &mut self.conns[by];
        let is_addressed = message.app == APPS[app] && message.channel == TOPICS[topic];
        if conn.app != app || !is_addressed {
            return Err("it was published elsewhere".to_owned());
        }
        if !publication.heard_by.insert(by) {
            return Err("it was heard already".to_owned());
        }
        publication.first_heard.get_or_insert(step);
        let heard = conn.heard.entry(topic).or_default();
        let last = heard.iter().rev().find_map(|other| {
            let other = self.publications[*other].from?;
            (Some(other.0) == self.publications[at].from.map(|from| from.0)).then_some(other.1)
        });
        heard.push(at);
        match (last, self.publications[at].from) {
            (Some(last), Some((_, own))) if last > own => {
                Err("its publisher sent it before another that came first".to_owned())
            }
            _ => self.check_audible(by, at),
        }
    }

    /// What a link publishes reaches the subscribers of its application.
    fn hear_from_elsewhere(&self, by: ConnId, message: &Received) -> Result<(), String> {
        let app = self.conns[by].app;
        let number = number(&message.payload, "elsewhere")?;
        if message.app != APPS[app] || message.channel != TOPICS[0] {
            return Err("it was published elsewhere in another application".to_owned());
        }
        if !(1..=self.elsewhere[app]).contains(&number) || message.meta.is_some() {
            return Err("nobody published this elsewhere".to_owned());
        }
        Ok(())
    }

    /// Notes that a link has heard a publication.
    pub(in crate::simulation) fn hear_by_link(
        &mut self,
        of: (usize, usize),
        at: usize,
        link: usize,
    ) -> Result<(), &'static str> {
        let publication = self.publications.get_mut(at).ok_or("nobody published this")?;
        if of != (publication.app, publication.topic) {
            return Err("it was published elsewhere");
        }
        if !publication.heard_by_links.insert(link) {
            return Err("it was heard already");
        }
        let Some((from, own)) = publication.from else { return Ok(()) };
        if self.conns[from].sent[own].arrived.is_none() {
            return Err("it was heard before it was published");
        }
        match self.link_heard.insert((link, from), own) {
            Some(last) if last > own => Err("its publisher sent it before another that came first"),
            _ => Ok(()),
        }
    }

    /// Checks, at rest, that the links of a calm run have heard all that clients have published.
    pub(in crate::simulation) fn check_heard_by_link(
        &self,
        app: usize,
        link: usize,
    ) -> Result<(), String> {
        for (at, publication) in self.publications.iter().enumerate() {
            let is_of_client = publication.app == app && publication.from.is_some();
            let is_done = matches!(self.moment(publication), (Some(_), Some(_)));
            let is_live = publication.topic < TOPICS.len();
            if is_of_client && is_done && is_live && !publication.heard_by_links.contains(&link) {
                return Err(format!("link {link} did not hear publication {at}"));
            }
        }
        Ok(())
    }

    fn hear_broadcast(&mut self, by: ConnId, nonce: u64) -> Result<(), String> {
        let conn = &mut self.conns[by];
        let Some(broadcast) = self.broadcasts.get_mut(&nonce) else {
            return Err("nobody sent this".to_owned());
        };
        broadcast.received += 1;
        let is_meant = broadcast.to.is_none_or(|to| to == conn.id && broadcast.received == 1);
        if broadcast.app != conn.app || !is_meant {
            return Err("it is not for this connection".to_owned());
        }
        if !conn.broadcasts.insert(nonce) {
            return Err("it came twice".to_owned());
        }
        Ok(())
    }

    /// Returns the first and the last moment at which a publication may have been processed.
    pub(super) fn moment(&self, publication: &Publication) -> (Option<Step>, Option<Step>) {
        let Some((from, at)) = publication.from else {
            let done = publication.first_heard.or(self.settled_at);
            return (Some(publication.posted), done.filter(|done| *done > publication.posted));
        };
        let sent = &self.conns[from].sent[at];
        if sent.is_refused {
            return (sent.arrived.map(|(step, _)| step), publication.first_heard);
        }
        let done = sent.done_at.into_iter().chain(publication.first_heard).min();
        (sent.arrived.map(|(step, _)| step), done)
    }

    /// Checks that a connection may receive a publication: at some moment at which it may have been
    /// processed, the connection may have been subscribed.
    pub(super) fn check_audible(&self, by: ConnId, at: usize) -> Result<(), String> {
        let publication = &self.publications[at];
        let (_, done) = self.moment(publication);
        let done = done.unwrap_or(self.step);
        let (arrived, _) = self.moment(publication);
        let arrived = arrived.unwrap_or(0);
        let mut may_hear = false;
        for sent in &self.conns[by].sent {
            match sent.kind.subscribes(publication.topic) {
                Some(true) => may_hear |= sent.arrived.is_some_and(|(begin, _)| begin <= done),
                Some(false) if !sent.is_refused => {
                    may_hear &= sent.done_at.is_none_or(|end| end >= arrived);
                }
                _ => {}
            }
        }
        if !may_hear {
            return Err("it did not subscribe to this".to_owned());
        }
        if let Some(newer) = self.surely_taken_over(by)
            && newer < arrived
        {
            return Err("it was taken over before this was published".to_owned());
        }
        Ok(())
    }

    /// Checks, at rest, that every connection has received what it should have.
    pub(super) fn check_heard(&self) -> Result<(), String> {
        for (at, publication) in self.publications.iter().enumerate() {
            let (Some(arrived), Some(done)) = self.moment(publication) else { continue };
            for id in 0..self.conns.len() {
                if self.conns[id].app != publication.app
                    || publication.heard_by.contains(&id)
                    || !self.is_sound(id)
                {
                    continue;
                }
                if self.is_surely_subscribed(id, publication.topic, arrived, done)
                    && !self.may_miss(id, at)
                {
                    return Err(format!("connection {id} did not hear publication {at}"));
                }
            }
        }
        for (nonce, broadcast) in &self.broadcasts {
            for (id, conn) in self.conns.iter().enumerate() {
                let is_meant = broadcast.to.is_none_or(|to| to == conn.id);
                let was_there = conn.connected_at.is_some_and(|step| step < broadcast.posted);
                if conn.app == broadcast.app
                    && is_meant
                    && was_there
                    && self.is_sound(id)
                    && !conn.broadcasts.contains(nonce)
                {
                    return Err(format!(
                        "connection {id}, {}, did not get {nonce}",
                        CLIENT_IDS[conn.id]
                    ));
                }
            }
        }
        self.check_order()
    }

    fn is_surely_subscribed(&self, id: ConnId, topic: usize, from: Step, to: Step) -> bool {
        let mut is_subscribed = false;
        for sent in &self.conns[id].sent {
            match sent.kind.subscribes(topic) {
                Some(true) => {
                    is_subscribed |=
                        !sent.is_refused && sent.done_at.is_some_and(|done| done < from);
                }
                // If the subscription may have ended in between, nothing is certain.
                Some(false) => is_subscribed &= sent.arrived.is_none_or(|(step, _)| step > to),
                None => {}
            }
        }
        is_subscribed
    }

    /// Checks that there is one order of each channel's publications on which all subscribers
    /// agree.
    fn check_order(&self) -> Result<(), String> {
        let mut after: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut before: BTreeMap<usize, usize> = BTreeMap::new();
        for heard in self.conns.iter().flat_map(|conn| conn.heard.values()) {
            for pair in heard.windows(2) {
                before.entry(pair[0]).or_default();
                if after.entry(pair[0]).or_default().insert(pair[1]) {
                    *before.entry(pair[1]).or_default() += 1;
                }
            }
        }
        let mut free: Vec<usize> =
            before.iter().filter(|(_, count)| **count == 0).map(|(at, _)| *at).collect();
        let mut placed = 0;
        while let Some(at) = free.pop() {
            placed += 1;
            for next in after.get(&at).into_iter().flatten() {
                if let Some(count) = before.get_mut(next) {
                    *count -= 1;
                    if *count == 0 {
                        free.push(*next);
                    }
                }
            }
        }
        if placed == before.len() {
            Ok(())
        } else {
            Err("two subscribers heard the same publications in different orders".to_owned())
        }
    }

    pub(super) fn heard_count(&self) -> u64 {
        // Followers hear some of the others again.
        let once = self.publications.iter().filter(|publication| publication.topic < TOPICS.len());
        once.map(|publication| publication.heard_by.len() as u64).sum()
    }

    /// Returns the number of publications that were certainly processed, and of those that may have
    /// been.
    pub(super) fn publication_counts(&self) -> (u64, u64) {
        let mut counts = (0, 0);
        for publication in &self.publications {
            let (arrived, done) = self.moment(publication);
            // A publication from inside to a channel that does not exist is not counted.
            let is_sure = if publication.from.is_some() { done } else { publication.first_heard };
            counts.0 += u64::from(arrived.is_some() && is_sure.is_some());
            counts.1 += u64::from(arrived.is_some());
        }
        counts.1 += self.elsewhere.iter().sum::<u64>();
        counts
    }
}
