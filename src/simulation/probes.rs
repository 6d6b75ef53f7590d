//! Experiments on a server at rest: clients ask for the same at once or one after another, and none
//! may be preferred.

use super::checks::SMALL_TURNS;
use super::model::ConnId;
use super::scenario::{APPS, JOBS};
use super::world::World;

/// Requests that each client sends at once: more than one turn does, where it does little.
const REQUESTS: usize = 16;
/// Turns in which a client that waits for work is the first to get some, for each client. The answer
/// may take several turns to arrive.
const TURNS_PER_CLIENT: u32 = 5;

impl World {
    /// Checks that nobody is preferred, where all clients are there and read.
    pub(super) fn probe_fairness(&mut self) -> Result<(), String> {
        if !self.scenario.is_calm {
            return Ok(());
        }
        for app in 0..APPS.len() {
            for job in 0..JOBS.len() {
                self.probe_workers(app, job)?;
            }
        }
        // This takes as long as all the rest of a run, and where a turn does much, all have their turn.
        let is_narrow = self.scenario.limits.turn.work_max < 1_000;
        if is_narrow && self.turns.is_multiple_of(4) { self.probe_lanes() } else { Ok(()) }
    }

    /// Checks that workers which have nothing to do take turns.
    fn probe_workers(&mut self, app: usize, job: usize) -> Result<(), String> {
        // One that sends attachments comes last: with them, workers that know them are preferred.
        let is_one = |at: &usize| {
            let conn = self.peers[*at].conn;
            self.model.conns[conn].app == app && self.model.is_sound(conn)
        };
        let sends_attachments = |at: &usize| self.model.has_binary(self.peers[*at].conn);
        let asks = (0..self.peers.len()).filter(is_one).min_by_key(sends_attachments);
        let Some(asks) = asks else { return Ok(()) };
        let workers = self.model.workers(app, job);
        let knowing = workers.iter().filter(|worker| self.model.has_binary(**worker)).count();
        if sends_attachments(&asks) && knowing > 0 && knowing < workers.len() {
            return Ok(());
        }
        let mut chosen: Vec<ConnId> = Vec::new();
        for _ in 0..workers.len() {
            self.ask_to_work(asks, job);
            self.rest()?;
            chosen.extend(self.model.last_worker(self.peers[asks].conn));
        }
        let count = |worker: &ConnId| chosen.iter().filter(|chosen| *chosen == worker).count();
        if workers.iter().any(|worker| count(worker) != 1) {
            return Err(format!("workers {workers:?} do not take turns: {chosen:?}"));
        }
        Ok(())
    }

    /// Checks that each client is answered soon, where all ask for more than a turn does.
    fn probe_lanes(&mut self) -> Result<(), String> {
        let before: Vec<usize> =
            self.peers.iter().map(|peer| self.model.answered_count(peer.conn)).collect();
        (0..REQUESTS).for_each(|_| self.ask_much());
        let patience = if self.scenario.steps_max.is_some() { SMALL_TURNS } else { 1 };
        let turns = TURNS_PER_CLIENT * self.peers.len() as u32 * patience;
        for _ in 0..turns {
            self.move_everything()?;
        }
        let mut late = self.peers.iter().zip(before).filter(|(peer, before)| {
            !peer.is_done && self.model.answered_count(peer.conn) == *before
        });
        if let Some((peer, _)) = late.next() {
            return Err(format!("connection {} has no answer after {turns} turns", peer.conn));
        }
        drop(late);
        self.rest()
    }
}
