//! Workers, which may take a number of requests at a time, and the requests that are kept meanwhile.

use super::{ConnId, Kind, Model, Reaction, Task, number};
use crate::simulation::scenario::JOBS;
use crate::simulation::wire::Received;

impl Model {
    /// Notes that a client's next message makes it a worker that takes so many requests at a time.
    pub(in crate::simulation) fn serves(
        &mut self,
        by: ConnId,
        job: usize,
        concurrency: Option<usize>,
    ) {
        self.conns[by].concurrencies.push((job, concurrency));
    }

    /// Notes that a worker's next message answers a request.
    pub(in crate::simulation) fn works(&mut self, by: ConnId, nonce: u64) {
        self.conns[by].tasks.retain(|task| task.nonce != nonce);
        self.note_answered(by, nonce);
    }

    /// Checks a message for a worker.
    pub(super) fn work(
        &mut self,
        by: ConnId,
        message: &Received,
    ) -> Result<Option<Reaction>, String> {
        let nonce = number(&message.payload, "nonce")?;
        let (from, at) = self.find(nonce)?;
        let sent = &self.conns[from].sent[at];
        let (Kind::Work(job) | Kind::WorkNote(job)) = sent.kind else {
            return Err("it was not meant for a worker".to_owned());
        };
        let worker = &self.conns[by];
        if worker.app != self.conns[from].app {
            return Err("it is of another application".to_owned());
        }
        let serves = worker.sent.iter().any(|sent| sent.kind == Kind::Serve(job));
        if !serves || message.channel != JOBS[job] {
            return Err("the worker does not serve this".to_owned());
        }
        if sent.arrived.is_none() {
            return Err("it was passed on before it was there".to_owned());
        }
        if number(&message.payload, "asked_by")? != from as u64 {
            return Err("its payload was changed".to_owned());
        }
        let place = (from, at);
        if message.kind == "notification" {
            self.take_holding(by, place, message)?;
            if !self.notes_received.insert(nonce) {
                return Err("the notification came twice".to_owned());
            }
            return Ok(None);
        }
        if message.id.len() != 36 {
            return Err("the worker is shown the requester's own message_id".to_owned());
        }
        let first = self.forwarded.insert(nonce, by);
        if let Some(first) = first {
            self.check_retry(place, first, by)?;
            self.retries += 1;
        }
        let credit = self.take_holding(by, place, message)?;
        self.take_task(by, job, from, at)?;
        Ok(Some(Reaction::Work { id: message.id.clone(), job, nonce, credit }))
    }

    /// Checks that a request comes behind the earlier ones of its requester, and that its worker has
    /// no more than it takes.
    pub(super) fn take_task(
        &mut self,
        by: ConnId,
        job: usize,
        from: ConnId,
        at: usize,
    ) -> Result<(), String> {
        let nonce = self.conns[from].sent[at].nonce;
        let worker = &mut self.conns[by];
        let last = worker.last_tasks.insert((job, from), at);
        // One whose first worker was lost comes late.
        let call = self.calls.get(&(from, at)).filter(|_| !self.is_calm);
        let is_first = call.is_none_or(|call| !call.extras.idempotent);
        if is_first && last.is_some_and(|last| last > at) {
            return Err(format!(
                "it was passed on behind m{}, which came later",
                last.unwrap_or(0)
            ));
        }
        worker.tasks.push(Task { job, nonce, from, at });
        let worker = &self.conns[by];
        let is_open = |task: &&Task| task.job == job && !self.may_be_over(by, task);
        let open = worker.tasks.iter().filter(is_open).count();
        let given = worker.concurrencies.iter().filter(|(other, _)| *other == job);
        // It may have given several, and any of them may have been in force.
        let most = given.map(|(_, most)| most.unwrap_or(usize::MAX)).max();
        match most {
            Some(most) if open > most => Err(format!("a worker that takes {most} got {open}")),
            _ => Ok(()),
        }
    }

    /// Returns whether the server may have ended a request, so that it does not count any more.
    fn may_be_over(&self, by: ConnId, task: &Task) -> bool {
        let place = (task.from, task.at);
        self.conns[task.from].sent[task.at].is_answered
            || self.may_be_closed(task.from)
            || self.is_time_up(place)
            || self.is_cancelled(place)
            || self.may_be_cut(place, by)
    }

    /// Returns whether, at rest, a request for this job may be kept: a worker has all that it takes,
    /// and no worker has certainly room.
    pub(super) fn may_be_kept(&self, app: usize, job: usize, nonce: u64) -> bool {
        if self.forwarded.contains_key(&nonce) {
            return false;
        }
        let has_room = |id: ConnId| {
            // A refused request to serve leaves all as it was.
            let mut sent = self.conns[id].sent.iter().rev().filter(|sent| !sent.is_refused);
            let last = sent.find_map(|sent| match sent.kind {
                Kind::Serve(other) if other == job => Some(true),
                Kind::StopServing(other) if other == job => Some(false),
                _ => None,
            });
            last == Some(true) && self.is_sound(id) && !self.is_full(id, job)
        };
        let of_app = || (0..self.conns.len()).filter(|id| self.conns[*id].app == app);
        of_app().any(|id| self.is_full(id, job)) && !of_app().any(has_room)
    }

    /// Returns whether a worker has ever limited what it takes of this job.
    pub(super) fn has_limited_workers(&self, job: usize) -> bool {
        let limits = |(other, most): &(usize, Option<usize>)| *other == job && most.is_some();
        self.conns.iter().any(|conn| conn.concurrencies.iter().any(limits))
    }

    fn is_full(&self, id: ConnId, job: usize) -> bool {
        let worker = &self.conns[id];
        let mut given = worker.concurrencies.iter().rev();
        let last = given.find_map(|(other, most)| (*other == job).then_some(*most));
        let open = worker.tasks.iter().filter(|task| task.job == job).count();
        last.flatten().is_some_and(|most| open >= most)
    }
}
