//! Requests, notifications and answers on their way between requesters and workers.

use std::time::Duration;

use serde_json::{Value, json};

use super::expected::{Expectations, Expected};
use super::leaving::has_lost;
use super::request::{self, Request, take_forwarded};
use super::{Model, Outcome};
use crate::broker::fuzzing::attached::Form;
use crate::broker::fuzzing::script::{Channel, PEERS, Said};

impl Model {
    /// Passes a notification on. Returns the error that its sender gets.
    pub(super) fn note(
        &self,
        workers: &[usize],
        said: &Said,
        outcome: &Outcome<'_>,
        news: &mut [Vec<Value>; PEERS],
    ) -> Option<&'static str> {
        if let Some((worker, message)) = take_forwarded(workers, "notification", said, news) {
            self.check_choice(workers, worker, said, outcome);
            assert_eq!(Form::found(&message), said.form(self.extended(worker)));
            return None;
        }
        if self.may_be_too_large(workers, said, outcome) {
            return Some("unsupported");
        }
        assert!(workers.is_empty() || has_lost(workers, outcome), "nobody got {said:?}");
        None
    }

    pub(super) fn ask(
        &mut self,
        from: usize,
        channel: Channel,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &mut [Vec<Value>; PEERS],
    ) {
        let Some((app, _)) = self.own(from) else { return };
        let message_id = said.message_id.as_str();
        let workers = self.workers(app, channel);
        let own = self.requests.iter().filter(|request| request.requester == from).count();
        let is_full = self.requests.len() >= self.limits.pending_max
            || own >= self.limits.pending_per_connection_max;
        let refusal = match () {
            () if outcome.is_draining => Some("shutting_down"),
            () if request::is_late(said, outcome.now) => Some("timeout"),
            () if workers.is_empty() => Some("no_handler"),
            () if is_full => Some("limit_exceeded"),
            () => None,
        };
        if let Some(code) = refusal {
            expected.add(from, Expected::error(code, message_id));
            return;
        }
        let Some((worker, message)) = take_forwarded(&workers, "request", said, news) else {
            if self.may_be_too_large(&workers, said, outcome) {
                return expected.add(from, Expected::error("unsupported", message_id));
            }
            assert!(has_lost(&workers, outcome), "nobody got {said:?}");
            expected.add(from, Expected::error("worker_lost", message_id));
            return;
        };
        self.check_choice(&workers, worker, said, outcome);
        assert_eq!(message["reply_to"], Value::Null);
        self.check_form(worker, said, &message, outcome.now);
        let id = message["message_id"].as_str().unwrap_or_default().to_owned();
        assert!(uuid::Uuid::try_parse(&id).is_ok() && id != message_id, "{message}");
        assert!(self.requests.iter().all(|request| request.id != id), "{id} a second time");
        let timeout = self.limits.request_timeout.expect("a timeout");
        let deadline = outcome.now + timeout;
        let mut request = Request {
            id,
            requester: from,
            message_id: message_id.to_owned(),
            worker,
            said: said.clone(),
            deadline,
            ttl_until: None,
            stream: None,
            may_be_retried: false,
        };
        self.peers[worker].silent_since.get_or_insert(outcome.now);
        request.take_meta(said, outcome.now);
        self.requests.push(request);
    }

    pub(super) fn answer(
        &mut self,
        from: usize,
        id: &str,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &[Vec<Value>; PEERS],
    ) {
        let held = self.requests.iter().position(|r| r.id == id && r.worker == from);
        let Some(at) = held else { return };
        let is_part = said.meta.as_ref().is_some_and(|meta| meta.get("seq").is_some());
        if is_part {
            return self.take_part(at, said, outcome, expected, news);
        }
        let request = self.requests.remove(at);
        let (to, id) = (request.requester, &request.message_id);
        expected.add(
            to,
            match self.extended(to) {
                extended if said.is_too_large(extended) => Expected::error("unsupported", id),
                extended => Expected::Form { reply_to: json!(id), form: said.form(extended) },
            },
        );
    }

    /// It shows that it works, whatever it answers.
    pub(super) fn note_answer(&mut self, from: usize, now: Duration) {
        let has_more = self.requests.iter().any(|request| request.worker == from);
        self.peers[from].silent_since = has_more.then_some(now);
    }
}
