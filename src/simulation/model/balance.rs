//! The facts that must be true when everything has come to rest.

use std::collections::BTreeMap;

use super::{ConnId, Kind, Model, Publication, name};
use crate::Stats;
use crate::simulation::scenario::{APPS, JOBS, KEPT_CHANNELS, TOPICS};

impl Model {
    /// Checks that everything that arrived has been handled, and all requests except those that a
    /// worker ignores, or that are kept because all workers have as many as they take.
    pub(in crate::simulation) fn check_answered_at_once(&self) -> Result<(), String> {
        for id in (0..self.conns.len()).filter(|id| self.is_sound(*id)) {
            let conn = &self.conns[id];
            for (message, at) in &conn.outstanding {
                let sent = &conn.sent[*at];
                let is_due = match sent.kind {
                    Kind::Later => false,
                    _ if self.is_over_by_itself((id, *at)) => true,
                    Kind::Work(job) => {
                        !self.ignored.contains(&sent.nonce)
                            && !self.may_be_kept(conn.app, job, sent.nonce)
                    }
                    _ => true,
                };
                if is_due && sent.arrived.is_some() {
                    let kind = sent.kind;
                    return Err(format!("connection {id} has no answer to {message}, {kind:?}"));
                }
            }
        }
        self.check_credit()
    }

    /// Checks, after all deadlines, that nothing is left unanswered.
    pub(in crate::simulation) fn check_answered(&self) -> Result<(), String> {
        for id in (0..self.conns.len()).filter(|id| self.is_sound(*id)) {
            let conn = &self.conns[id];
            if let Some((message, at)) = conn.outstanding.first_key_value() {
                let kind = conn.sent[*at].kind;
                return Err(format!("connection {id} never got an answer to {message}, {kind:?}"));
            }
        }
        Ok(())
    }

    /// Notes that all messages of the remaining connections have been processed.
    pub(in crate::simulation) fn settle(&mut self) {
        self.settled_at = Some(self.step);
        for id in (0..self.conns.len()).filter(|id| self.is_sound(*id)).collect::<Vec<_>>() {
            if let Some(last) = self.conns[id].arrived_count.checked_sub(1) {
                self.note_done(id, last);
            }
        }
    }

    pub(in crate::simulation) fn check_rest(
        &self,
        stats: &Stats,
        sessions: &[(String, String)],
    ) -> Result<(), String> {
        self.check_heard()?;
        self.check_told()?;
        for id in (0..self.conns.len()).filter(|id| self.is_sound(*id)) {
            if !sessions.contains(&name(&self.conns[id])) {
                return Err(format!("the server has forgotten connection {id}"));
            }
        }
        if let Some([twice, ..]) = sessions.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{twice:?} is there twice"));
        }
        self.check_counters(stats)
    }

    /// Checks that the subscribers and workers of each channel are those of the ledger.
    pub(in crate::simulation) fn check_channels(
        &self,
        app: usize,
        channels: &[(String, usize, usize)],
    ) -> Result<(), String> {
        if self.is_tight {
            // Some subscriptions were refused, and clients that asked for no answer do not know.
            return Ok(());
        }
        let known: BTreeMap<&str, (usize, usize)> = channels
            .iter()
            .map(|(channel, subscribers, workers)| (channel.as_str(), (*subscribers, *workers)))
            .collect();
        // A connection that may or may not exist leaves nothing to compare.
        let members: Vec<ConnId> = (0..self.conns.len())
            .filter(|id| self.conns[*id].app == app && !self.is_surely_gone(*id))
            .collect();
        if members.iter().any(|id| !self.is_sound(*id)) {
            return Ok(());
        }
        let count = |holds: &dyn Fn(Kind) -> Option<bool>| {
            let is_in = |id: &&ConnId| {
                let mut sent = self.conns[**id].sent.iter().rev().filter(|sent| !sent.is_refused);
                sent.find_map(|sent| holds(sent.kind)) == Some(true)
            };
            members.iter().filter(is_in).count()
        };
        for (at, topic) in TOPICS.iter().enumerate() {
            let expected = count(&|kind| match kind {
                Kind::Subscribe { topic, .. } if topic == at => Some(true),
                Kind::Unsubscribe { topic, .. } if topic == at => Some(false),
                _ => None,
            });
            let (found, _) = known.get(topic).copied().unwrap_or_default();
            if found != expected {
                let app = APPS[app];
                return Err(format!(
                    "{app}/{topic} has {found} subscribers, and should have {expected}"
                ));
            }
        }
        for (at, job) in JOBS.iter().enumerate() {
            let expected = count(&|kind| match kind {
                Kind::Serve(job) if job == at => Some(true),
                Kind::StopServing(job) if job == at => Some(false),
                _ => None,
            });
            let (_, found) = known.get(job).copied().unwrap_or_default();
            if found != expected {
                let app = APPS[app];
                return Err(format!("{app}/{job} has {found} workers, and should have {expected}"));
            }
        }
        Ok(())
    }

    /// Checks that each channel has the latencies of its own messages.
    pub(in crate::simulation) fn check_latencies(
        &self,
        app: usize,
        channels: &[(String, u64, u64)],
    ) -> Result<(), String> {
        let members = || self.conns.iter().filter(|conn| conn.app == app);
        let requests = |is_one: &dyn Fn(Kind) -> bool| {
            let sent = members().flat_map(|conn| &conn.sent);
            sent.filter(|sent| sent.arrived.is_some() && is_one(sent.kind)).count() as u64
        };
        for (channel, measured, publications) in channels {
            let job = JOBS.iter().position(|job| job == channel);
            let topic = TOPICS.iter().chain(&KEPT_CHANNELS).position(|topic| topic == channel);
            let asked = match (channel.as_str(), job) {
                (_, Some(job)) => requests(&|kind| kind == Kind::Work(job)),
                ("echo", _) => requests(&|kind| kind == Kind::Echo),
                ("fail", _) => requests(&|kind| kind == Kind::Fail),
                ("panic", _) => requests(&|kind| kind == Kind::Panic),
                ("later", _) => requests(&|kind| kind == Kind::Later),
                ("manage", _) => requests(&|kind| kind.is_managed()),
                _ => 0,
            };
            // Nothing is refused in a calm run, but that somebody serves a job.
            let is_exact = self.is_calm && job.is_none();
            if *measured > asked || (is_exact && *measured < asked) {
                let what = format!("{measured} requests of {asked} to {channel}");
                return Err(format!("the latencies of {what} are there"));
            }
            let heard = |publication: &&Publication| {
                publication.app == app && Some(publication.topic) == topic
            };
            let mut possible = self.publications.iter().filter(heard).count() as u64;
            possible += if topic == Some(0) { self.elsewhere[app] } else { 0 };
            if *publications > possible {
                let what = format!("{publications} publications of {possible} to {channel}");
                return Err(format!("the latencies of {what} are there"));
            }
        }
        Ok(())
    }

    /// Checks, at rest, that connections which left or found their end are gone.
    fn is_surely_gone(&self, id: ConnId) -> bool {
        let conn = &self.conns[id];
        conn.left || conn.has_ended
    }

    fn check_counters(&self, stats: &Stats) -> Result<(), String> {
        let counters = &stats.counters;
        let at_least = |what: &str, counted: u64, least: u64| {
            if counted < least || (self.is_calm && counted != least) {
                Err(format!("{what}: {counted} are counted, {least} were seen"))
            } else {
                Ok(())
            }
        };
        let (sure, possible) = self.publication_counts();
        if !(sure..=possible).contains(&counters.publications) {
            let counted = counters.publications;
            return Err(format!("{counted} publications, and not {sure} to {possible}"));
        }
        let reached = counters.deliveries + counters.replayed;
        at_least("deliveries", reached, self.heard_count() + self.kept.heard)?;
        at_least("frames_out", counters.frames_out, self.frames_received)?;
        at_least(
            "forwarded",
            counters.forwarded,
            self.forwarded.len() as u64 + self.notes_received.len() as u64 + self.retries,
        )?;
        at_least("stream_parts", counters.stream_parts, self.parts_received)?;
        at_least("retried", counters.retried, self.retries)?;
        for (code, seen) in &self.codes {
            let counted = counters.errors.get(code.as_str()).copied().unwrap_or_default();
            at_least(code, counted, *seen)?;
        }
        if !self.is_tight && counters.slow_consumers < self.silently_closed {
            return Err(format!(
                "{} slow consumers are counted, {} were closed",
                counters.slow_consumers, self.silently_closed
            ));
        }
        if self.is_calm {
            let arrived: usize = self.conns.iter().map(|conn| conn.arrived_count).sum();
            at_least("frames_in", counters.frames_in, arrived as u64)?;
        }
        Ok(())
    }
}
