//! Members that leave, and requests whose time is up.

use serde_json::{Value, json};

use super::expected::{Expectations, Expected};
use super::{Call, Model, Outcome, Presence};
use crate::broker::fuzzing::attached::Extended;
use crate::broker::fuzzing::script::{PEERS, What};

impl Model {
    /// The peers that were members and are none any more, and why that is so.
    pub(super) fn take_leave(
        &mut self,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &mut [Vec<Value>; PEERS],
    ) {
        let left: Vec<usize> = (0..PEERS)
            .filter(|at| {
                self.peers[*at].member.is_some() && outcome.presence[*at] != Presence::Open
            })
            .collect();
        let joined = match outcome.call {
            Call::Received(at, Some(_)) => self.own(at).map(|own| (at, own)),
            _ => None,
        };
        for &at in &left {
            let is_idle = self.limits.idle_timeout.is_some_and(|timeout| {
                matches!(outcome.call, Call::Pass) && self.peers[at].heard + timeout <= outcome.now
            });
            let is_own = match &outcome.call {
                Call::HangUp(from) => *from == at,
                Call::Received(from, said) => {
                    *from == at && said.is_some_and(|said| said.what == What::TooLarge)
                }
                _ => false,
            };
            let is_taken_over =
                joined.is_some_and(|(from, own)| from != at && self.own(at) == Some(own));
            let has_reason =
                outcome.is_draining || outcome.had_to_shed || is_idle || is_own || is_taken_over;
            assert!(has_reason, "{at} was closed for nothing");
            self.peers[at].member = None;
        }
        for request in std::mem::take(&mut self.requests) {
            let (requester, message_id) = (request.requester, request.message_id.clone());
            let may_be_too_large = request.said.is_too_large(Extended::default());
            let is_left = |at| left.contains(&at);
            let request = match request {
                lost if is_left(lost.worker) => self.retry(lost, outcome, news),
                other => Some(other),
            };
            match request {
                None => {
                    let mut codes = vec!["worker_lost"];
                    // The next worker may have been one that gets base64.
                    codes.extend(may_be_too_large.then_some("unsupported"));
                    let reply_to = json!(message_id);
                    expected.add(requester, Expected::Error { codes, reply_to });
                }
                Some(request) if is_left(requester) => self.tell(&request, &["gone"]),
                Some(request) => self.requests.push(request),
            }
        }
    }

    /// Requests whose time is up.
    pub(super) fn expire(&mut self, outcome: &Outcome<'_>, expected: &mut Expectations) {
        if !matches!(outcome.call, Call::Pass) {
            return;
        }
        let is_cut_off =
            self.drain_begin.is_some_and(|at| at + self.limits.drain_timeout <= outcome.now);
        let timeout = self.limits.request_timeout.expect("a timeout");
        for request in std::mem::take(&mut self.requests) {
            let is_late = request.is_over(outcome.now, timeout);
            if !is_late && !is_cut_off {
                self.requests.push(request);
                continue;
            }
            // Its worker may have left in the same moment, a little before.
            let codes = vec!["timeout", "worker_lost"];
            let reply_to = json!(request.message_id);
            expected.add(request.requester, Expected::Error { codes, reply_to });
            self.tell(
                &request,
                match (is_late, is_cut_off) {
                    (true, true) => &["deadline", "drain"],
                    (true, false) => &["deadline"],
                    (false, _) => &["drain"],
                },
            );
        }
    }
}

/// Returns whether one of the workers was closed during the call, together with what it had been
/// sent.
pub(super) fn has_lost(workers: &[usize], outcome: &Outcome<'_>) -> bool {
    workers.iter().any(|at| outcome.presence[*at] == Presence::Gone)
}
