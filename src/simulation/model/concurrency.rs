//! Workers that take a number of requests at a time, and the requests that are kept meanwhile.

use super::{ConnId, Kind, Model, Task};

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
        if last.is_some_and(|last| last > at) {
            return Err(format!(
                "it was passed on behind m{}, which came later",
                last.unwrap_or(0)
            ));
        }
        worker.tasks.push(Task { job, nonce, from, at });
        let worker = &self.conns[by];
        let is_open = |task: &&Task| task.job == job && !self.may_be_over(task);
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
    fn may_be_over(&self, task: &Task) -> bool {
        let sent = &self.conns[task.from].sent[task.at];
        let waited = sent.arrived.map(|(_, time)| self.now.saturating_sub(time));
        sent.is_answered
            || self.may_be_closed(task.from)
            || waited.is_some_and(|waited| Some(waited) >= self.limits.request_timeout)
    }

    /// Returns whether, at rest, a request for this job may be kept: a worker has all that it takes,
    /// and no worker has certainly room.
    pub(super) fn may_be_kept(&self, app: usize, job: usize, nonce: u64) -> bool {
        if self.forwarded.contains_key(&nonce) {
            return false;
        }
        let has_room = |id: ConnId| {
            let mut sent = self.conns[id].sent.iter().rev();
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
