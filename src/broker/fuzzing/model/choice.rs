//! The choice of a worker.

use super::{Model, Outcome};
use crate::broker::fuzzing::script::Said;
use crate::broker::limits::WORKER_STUCK_AFTER;

impl Model {
    /// Checks that a worker for a message was rightly chosen.
    pub(super) fn check_choice(
        &self,
        workers: &[usize],
        chosen: usize,
        said: &Said,
        outcome: &Outcome<'_>,
    ) {
        let rank = |at: usize| {
            let lacks_binary = !said.attached.is_empty() && !self.extended(at).binary;
            (lacks_binary, self.requests.iter().filter(|request| request.worker == at).count())
        };
        let is_less =
            |other: &usize| !self.has_room(*other, outcome) || rank(chosen) <= rank(*other);
        assert!(workers.iter().all(is_less), "{chosen} has more to do than others");
    }

    fn has_room(&self, worker: usize, outcome: &Outcome<'_>) -> bool {
        let since = self.peers[worker].silent_since;
        let is_stuck = since.is_some_and(|since| since + WORKER_STUCK_AFTER <= outcome.now);
        !outcome.congested[worker] && !is_stuck
    }

    /// Returns whether a message may be too large for the worker that was chosen.
    pub(super) fn may_be_too_large(
        &self,
        workers: &[usize],
        said: &Said,
        outcome: &Outcome<'_>,
    ) -> bool {
        let is_chosen_first = |at: &usize| self.extended(*at).binary && self.has_room(*at, outcome);
        workers.iter().any(|at| said.is_too_large(self.extended(*at)))
            && !workers.iter().any(is_chosen_first)
    }
}
