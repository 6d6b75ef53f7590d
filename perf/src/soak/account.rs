//! The outcomes of all messages that were sent. Every message must have exactly one.

use std::collections::BTreeMap;

use serde::Serialize;

use super::expected::Expected;

/// The kinds of messages, by their names in the record.
pub(super) mod kind {
    pub(in super::super) const SYSTEM: &str = "requests to the server itself";
    pub(in super::super) const HANDLER: &str = "requests to a handler";
    pub(in super::super) const FAILING: &str = "requests to a handler that fails";
    pub(in super::super) const WORKER: &str = "requests to a worker";
    pub(in super::super) const UNSERVED: &str = "requests nobody can serve";
    pub(in super::super) const PUBLICATION: &str = "publications";
    pub(in super::super) const DELIVERY: &str = "deliveries due";
    pub(in super::super) const NOTIFICATION: &str = "notifications";
    pub(in super::super) const SUBSCRIPTION: &str = "subscriptions with an answer";
    pub(in super::super) const BROKEN: &str = "broken messages";
    pub(in super::super) const CLIENT_HANDLER: &str = "through restarts: requests to a handler";
    pub(in super::super) const CLIENT_WORKER: &str = "through restarts: requests to a worker";
    pub(in super::super) const CLIENT_PUBLICATION: &str = "through restarts: publications";
}

/// The outcomes of one kind of messages. The number sent has to be the sum of all others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Outcomes {
    pub(super) sent: u64,
    /// Messages that were answered, or that arrived if their kind has no answer.
    pub(super) done: u64,
    /// Refused messages, by the code of the error.
    pub(super) refused: BTreeMap<String, u64>,
    /// Lost messages, by the reason, which the harness caused or was told.
    pub(super) lost: BTreeMap<String, u64>,
}

impl Outcomes {
    fn ended(&self) -> u64 {
        self.done + self.refused.values().sum::<u64>() + self.lost.values().sum::<u64>()
    }
}

#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) outcomes: BTreeMap<&'static str, Outcomes>,
    /// Faults that were injected, by kind.
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) expected: Expected,
}

impl Account {
    pub(super) fn sent(&mut self, kind: &'static str, count: u64) {
        self.outcomes.entry(kind).or_default().sent += count;
    }

    pub(super) fn done(&mut self, kind: &'static str, count: u64) {
        self.outcomes.entry(kind).or_default().done += count;
    }

    pub(super) fn refused(&mut self, kind: &'static str, code: &str) {
        let refused = &mut self.outcomes.entry(kind).or_default().refused;
        *refused.entry(code.to_owned()).or_default() += 1;
    }

    pub(super) fn lost(&mut self, kind: &'static str, reason: &str, count: u64) {
        if count > 0 {
            let lost = &mut self.outcomes.entry(kind).or_default().lost;
            *lost.entry(reason.to_owned()).or_default() += count;
        }
    }

    pub(super) fn fault(&mut self, what: &'static str) {
        *self.faults.entry(what).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (kind, other) in other.outcomes {
            let outcomes = self.outcomes.entry(kind).or_default();
            outcomes.sent += other.sent;
            outcomes.done += other.done;
            for (code, count) in other.refused {
                *outcomes.refused.entry(code).or_default() += count;
            }
            for (reason, count) in other.lost {
                *outcomes.lost.entry(reason).or_default() += count;
            }
        }
        for (what, count) in other.faults {
            *self.faults.entry(what).or_default() += count;
        }
        self.expected.merge(other.expected);
    }

    /// Checks that every message that was sent has one outcome.
    pub(super) fn check(&self) -> Result<(), String> {
        let open = self.outcomes.iter().find(|(_, outcomes)| outcomes.sent != outcomes.ended());
        open.map_or(Ok(()), |(kind, outcomes)| {
            Err(format!(
                "{kind}: {} were sent, and {} ended: {outcomes:?}",
                outcomes.sent,
                outcomes.ended()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_and_what_has_two_are_seen() {
        let mut account = Account::default();
        account.sent(kind::WORKER, 3);
        account.done(kind::WORKER, 1);
        account.refused(kind::WORKER, "worker_lost");
        assert!(account.check().is_err());
        account.lost(kind::WORKER, "the requester hung up", 1);
        assert_eq!(account.check(), Ok(()));
        account.done(kind::WORKER, 1);
        assert!(account.check().is_err());
    }
}
