//! Deadlines, cancels, streams and second tries of requests.

use std::time::Duration;

use serde_json::{Value, json};

use super::expected::{Expectations, Expected};
use super::request::{CREDIT_MAX, Request, Told, take_retried, ttl_of};
use super::{Model, Outcome};
use crate::broker::fuzzing::attached::{Extended, Form};
use crate::broker::fuzzing::script::{PEERS, Said};

impl Model {
    /// Returns what a peer asked for.
    pub(in crate::broker::fuzzing) fn extended(&self, at: usize) -> Extended {
        self.peers[at].extended
    }

    /// Returns whether a peer asked for `call`.
    fn is_extended(&self, at: usize) -> bool {
        self.extended(at).call
    }

    /// Checks the form of a request that a worker got: what is left of its deadline, and nothing
    /// that ends at the server.
    pub(super) fn check_form(&self, worker: usize, said: &Said, message: &Value, now: Duration) {
        let mut expected = said.form(self.extended(worker));
        if let (Some(meta), Some(ttl)) = (&mut expected.meta, ttl_of(said))
            && meta.get("ttl").is_some()
        {
            let left = (said.arrived + ttl).saturating_sub(now);
            meta["ttl"] = (left.as_millis() as u64).into();
        }
        assert_eq!(Form::found(message), expected);
    }

    /// Ends all requests of a peer with an id.
    pub(super) fn cancel(&mut self, from: usize, id: &str, expected: &mut Expectations) {
        if !self.is_extended(from) {
            return;
        }
        let is_one = |request: &Request| request.requester == from && request.message_id == id;
        for request in self.requests.extract_if(.., |request| is_one(request)).collect::<Vec<_>>() {
            expected.add(from, Expected::error("cancelled", id));
            self.tell(&request, &["caller"]);
        }
    }

    /// Allows the oldest stream with an id more parts.
    pub(super) fn credit(
        &mut self,
        from: usize,
        id: &str,
        n: u32,
        said: &Said,
        expected: &mut Expectations,
    ) {
        if !self.is_extended(from) {
            return;
        }
        let mut own = self.requests.iter_mut().filter(|request| request.requester == from);
        let request = own.find(|request| request.message_id == id && request.stream.is_some());
        let is_usable = (1..=CREDIT_MAX).contains(&n);
        let stream = request.and_then(|request| request.stream.as_mut());
        match stream {
            Some(stream) if is_usable && stream.unused + n <= CREDIT_MAX => {
                stream.unused += n;
                stream.owed += n;
            }
            None if is_usable => {}
            _ => expected.add(from, Expected::error("bad_message", &said.message_id)),
        }
    }

    /// A response with a `meta` to the request at this place.
    pub(super) fn take_part(
        &mut self,
        at: usize,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &[Vec<Value>; PEERS],
    ) {
        let meta = said.meta.clone().unwrap_or_default();
        let request = &self.requests[at];
        let from = request.worker;
        let (requester, id) = (request.requester, request.message_id.clone());
        let is_end = meta["end"] == true;
        let may_say_it = !said.exceeds(self.peers[from].extended);
        let is_right = may_say_it
            && request.stream.as_ref().is_some_and(|stream| {
                let is_allowed =
                    if is_end { said.payload.is_null() } else { stream.unused > stream.owed };
                meta["seq"] == stream.next_seq && is_allowed
            });
        if !is_right {
            expected.add(requester, Expected::error("handler_failed", &id));
            let request = self.requests.remove(at);
            return self.tell(&request, &["gone"]);
        }
        // The queue may have no room for it, which the model does not know.
        let is_refused = |message: &Value| {
            message["reply_to"] == id.as_str() && message["payload"]["code"] == "limit_exceeded"
        };
        if !is_end && news[requester].iter().any(is_refused) {
            let queued = outcome.queued[requester];
            assert!(queued > 0, "there was room for {said:?}");
            expected.add(requester, Expected::error("limit_exceeded", &id));
            let request = self.requests.remove(at);
            return self.tell(&request, &["limit"]);
        }
        let to = self.peers[requester].extended;
        if said.is_too_large(to) {
            expected.add(requester, Expected::error("unsupported", &id));
            let request = self.requests.remove(at);
            return self.tell(&request, &["limit"]);
        }
        expected.add(requester, Expected::Form { reply_to: json!(id), form: said.form(to) });
        if is_end {
            self.requests.remove(at);
        } else if let Some(stream) = &mut self.requests[at].stream {
            stream.unused -= 1;
            stream.next_seq += 1;
            stream.active_at = outcome.now;
        }
    }

    /// The worker of a request that is over has to be told, unless it speaks the base protocol alone.
    pub(super) fn tell(&mut self, request: &Request, reasons: &'static [&'static str]) {
        let worker = request.worker;
        if self.is_extended(worker) && self.peers[worker].member.is_some() {
            self.owed.push(Told { to: worker, id: request.id.clone(), reasons });
        }
    }

    /// Takes what a worker was told out of what it is owed. Returns whether it was owed that.
    pub(super) fn take_owed(&mut self, at: usize, message: &Value) -> bool {
        let is_notification =
            message["message_type"] == "notification" && message["channel_id"] == "system";
        if !is_notification || message["reply_to"] != Value::Null || !self.is_extended(at) {
            return false;
        }
        let payload = &message["payload"];
        let owed = self.owed.iter().position(|told| told.to == at && told.is(payload));
        if let Some(owed) = owed {
            self.owed.remove(owed);
            return true;
        }
        let mut held = self.requests.iter_mut().filter(|request| request.worker == at);
        let request = held.find(|request| payload["message_id"] == request.id.as_str());
        let stream = request.and_then(|request| request.stream.as_mut());
        let Some(stream) = stream.filter(|stream| stream.owed > 0) else { return false };
        // All that was given meanwhile comes together.
        let owed = std::mem::take(&mut stream.owed);
        payload["action"] == "credit" && payload["n"] == owed
    }

    /// Checks that nobody who reads waits to be told anything.
    pub(in crate::broker::fuzzing) fn check_owed(&self, congested: [bool; PEERS]) {
        for told in &self.owed {
            assert!(congested[told.to], "{told:?} was not said");
        }
        for request in self.requests.iter().filter(|request| self.is_extended(request.worker)) {
            let is_owed = request.stream.as_ref().is_some_and(|stream| stream.owed > 0);
            let is_free = !congested[request.worker] && !congested[request.requester];
            assert!(!is_owed || !is_free, "{} is not told of its credit", request.worker);
        }
    }

    /// The worker of a request was lost: another one may have got it. Returns it, if it is not over.
    pub(super) fn retry(
        &self,
        mut request: Request,
        outcome: &Outcome<'_>,
        news: &mut [Vec<Value>; PEERS],
    ) -> Option<Request> {
        let has_ttl = request.ttl_until;
        let may_be_retried = request.may_be_retried && !request.has_begun();
        let (worker, message) = take_retried(&request.id, news).filter(|_| may_be_retried)?;
        assert_ne!(worker, request.worker, "it was lost");
        let expected = request.said.form(self.extended(worker));
        let found = Form::found(&message);
        assert_eq!((&found.payload, &found.attached), (&expected.payload, &expected.attached));
        let has_ttl = has_ttl.is_some() && self.is_extended(worker);
        assert!(!has_ttl || message["meta"]["ttl"].as_u64() > Some(0));
        request.worker = worker;
        request.may_be_retried = false;
        let is_extended = self.is_extended(worker);
        if let Some(stream) = &mut request.stream {
            stream.owed = if is_extended { stream.unused - stream.initial } else { 0 };
            stream.active_at = outcome.now;
        }
        Some(request)
    }
}
