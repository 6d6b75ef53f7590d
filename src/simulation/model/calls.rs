//! Requests beyond the base protocol: deadlines, cancels, streams and second tries, and what workers
//! are told of them.

use std::time::Duration;

use serde_json::{Value, json};

use super::call::{Call, Extras, Holding, Outcome, Place, check_pair, has_call};
use super::{ConnId, Kind, Model, number};
use crate::simulation::wire::Received;

/// The most parts that a requester may allow at a time.
const CREDIT_MAX: u64 = 65_536;

impl Model {
    /// Returns whether a connection asked for the extension `call`.
    pub(in crate::simulation) fn has_call(&self, id: ConnId) -> bool {
        self.conns[id].extensions.is_some_and(has_call)
    }

    /// Notes what the `meta` of a client's next message asks for.
    pub(in crate::simulation) fn asks(&mut self, from: ConnId, extras: Extras) {
        let place = (from, self.conns[from].sent.len());
        self.calls.entry(place).or_default().extras = extras;
    }

    /// Returns the requests of a connection that are not answered, and that somebody else than the
    /// server answers.
    pub(in crate::simulation) fn open_calls(&self, from: ConnId) -> Vec<usize> {
        let conn = &self.conns[from];
        let is_call = |at: &&usize| matches!(conn.sent[**at].kind, Kind::Work(_) | Kind::Later);
        conn.outstanding.values().filter(is_call).copied().collect()
    }

    /// Returns those of them that are streams, each with its credit.
    pub(in crate::simulation) fn open_streams(&self, from: ConnId) -> Vec<(usize, u64)> {
        let open = self.open_calls(from).into_iter();
        open.filter_map(|at| Some((at, self.calls.get(&(from, at))?.extras.stream?))).collect()
    }

    /// Returns the number of messages that a client has sent.
    pub(in crate::simulation) fn sent_count(&self, conn: ConnId) -> usize {
        self.conns[conn].sent.len()
    }

    /// Returns the id of a message.
    pub(in crate::simulation) fn id_of(&self, conn: ConnId, at: usize) -> String {
        self.conns[conn].message_id(at)
    }

    /// Notes that a client's next message cancels a request.
    pub(in crate::simulation) fn cancels(&mut self, from: ConnId, at: usize) {
        let own = self.conns[from].sent.len();
        self.calls.entry((from, at)).or_default().cancels.push(own);
    }

    /// Notes that a client's next message allows a request more parts.
    pub(in crate::simulation) fn credits(&mut self, from: ConnId, at: usize, n: u64) {
        let own = self.conns[from].sent.len();
        self.calls.entry((from, at)).or_default().credits.push((own, n));
    }

    /// Notes that a worker's next message is the next part, or the end, of its answer.
    pub(in crate::simulation) fn sends_part(&mut self, by: ConnId, nonce: u64, is_end: bool) {
        let own = (by, self.conns[by].sent.len());
        let Some(call) = self.find(nonce).ok().and_then(|place| self.calls.get_mut(&place)) else {
            return;
        };
        if is_end {
            call.has_sent_end = true;
        } else {
            call.sent_parts.push(own);
        }
    }

    /// Notes that a worker's next message breaks the rules, or may do so.
    pub(in crate::simulation) fn violates(&mut self, by: ConnId, nonce: u64, is_certain: bool) {
        let own = (by, self.conns[by].sent.len());
        if is_certain {
            self.works(by, nonce);
        }
        if let Ok(place) = self.find(nonce) {
            self.calls.entry(place).or_default().faults.push((own, is_certain));
        }
    }

    /// Notes that a worker's next message ends a request.
    pub(super) fn note_answered(&mut self, by: ConnId, nonce: u64) {
        let Ok(place) = self.find(nonce) else { return };
        let of_it = |holding: &&mut Holding| (holding.worker, holding.place) == (by, place);
        self.holdings.iter_mut().filter(of_it).for_each(|holding| holding.is_answered = true);
    }

    /// Checks the `meta` of a message for a worker, and notes that this has it.
    pub(super) fn take_holding(
        &mut self,
        by: ConnId,
        place: Place,
        message: &Received,
    ) -> Result<Option<u64>, String> {
        let (has_call, has_meta) = (self.has_call(by), self.has_meta(by));
        let extras = &self.calls.entry(place).or_default().extras;
        let stream = extras.stream.filter(|_| has_call);
        let mut expected = extras.relayed.clone();
        expected.extend(stream.map(|credit| ("stream".to_owned(), credit.into())));
        if let Some(ttl) = extras.ttl_millis.filter(|_| has_call) {
            let left = message.meta.as_ref().and_then(|meta| meta["ttl"].as_u64()).unwrap_or(0);
            let arrived = self.conns[place.0].sent[place.1].arrived;
            let waited = arrived.map_or(Duration::ZERO, |(_, time)| self.now.saturating_sub(time));
            let is_right = (1..=ttl).contains(&left)
                && waited + Duration::from_millis(left) >= Duration::from_millis(ttl);
            if !is_right {
                return Err(format!("{left} ms are left of {ttl} after {waited:?}"));
            }
            expected.insert("ttl".to_owned(), left.into());
        }
        let expected = (has_meta && !expected.is_empty()).then_some(expected);
        if message.meta != expected.map(Value::Object) {
            return Err(format!("its meta is {:?}", message.meta));
        }
        if message.kind == "notification" {
            return Ok(None);
        }
        let call = self.calls.entry(place).or_default();
        call.tries += 1;
        let (id, is_answered) = (message.id.clone(), false);
        let known = self.holdings.iter().any(|known| (known.worker, &known.id) == (by, &id));
        if known {
            return Err("it has another request with this id".to_owned());
        }
        self.holdings.push(Holding { worker: by, id, place, credit: 0, is_answered, told: None });
        Ok(stream)
    }

    /// Checks that a request may have been passed on once more: one of its workers was lost, and
    /// nothing of an answer had come. It is not known which of them was the first.
    pub(super) fn check_retry(
        &self,
        place: Place,
        first: ConnId,
        by: ConnId,
    ) -> Result<(), String> {
        let Some(call) = self.calls.get(&place) else { return Err("it has no meta".to_owned()) };
        let is_one_lost = self.may_be_closed(first) || self.may_be_closed(by);
        if !call.extras.idempotent || call.tries != 1 || first == by || !is_one_lost {
            return Err(format!("it was passed on already, to {first}"));
        }
        if (call.parts > 0 || call.outcome == Some(Outcome(None))) && !self.may_be_closed(by) {
            return Err(format!("it was passed on to {first}, which began to answer"));
        }
        Ok(())
    }

    /// Checks that an answer, or a part of one, is of the worker that had the request last.
    pub(super) fn check_worker(&self, place: Place, by: Option<ConnId>) -> Result<(), String> {
        let mut holders = self.holdings.iter().filter(|held| held.place == place);
        let is_holder = holders.clone().any(|held| Some(held.worker) == by);
        // Another one that was not lost had it later. One that was lost may read it later.
        let later =
            holders.find(|held| Some(held.worker) != by && !self.may_be_closed(held.worker));
        match later {
            Some(later) => Err(format!("it is of {by:?}, and {} has it", later.worker)),
            None if is_holder => Ok(()),
            None => Err(format!("it is of {by:?}, which never had it")),
        }
    }

    /// Checks what a worker is told about one of its requests.
    pub(super) fn told(
        &mut self,
        by: ConnId,
        message: &Received,
    ) -> Result<super::Reaction, String> {
        if !self.has_call(by) || self.conns[by].connected_at.is_none() {
            return Err("it did not negotiate this".to_owned());
        }
        let payload = message.payload.as_object().ok_or("its payload is no object")?;
        let id = payload.get("message_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_it = |holding: &&mut Holding| (holding.worker, &*holding.id) == (by, &*id);
        let Some(holding) = self.holdings.iter_mut().find(is_it) else {
            return Err("it never had this request".to_owned());
        };
        if let Some(reason) = &holding.told {
            return Err(format!("it was told already that this is over: {reason}"));
        }
        let place = holding.place;
        match payload.get("action").and_then(Value::as_str) {
            Some("credit") if payload.len() == 3 => {
                let n = number(&message.payload, "n")?;
                holding.credit += n;
                let credit = holding.credit;
                if n == 0 || credit > self.credit_given(place) {
                    return Err(format!("its credit is {credit} by now"));
                }
                Ok(super::Reaction::Credit { id, n })
            }
            Some("cancel") if payload.len() == 3 => {
                let reason = payload["reason"].as_str().unwrap_or_default().to_owned();
                holding.told = Some(reason.clone());
                let nonce = self.conns[place.0].sent[place.1].nonce;
                self.works(by, nonce);
                self.check_reason(by, place, &reason)?;
                Ok(super::Reaction::Over { id })
            }
            _ => Err("no server sends such a notification".to_owned()),
        }
    }

    /// Returns the credit that has arrived and was not refused.
    fn credit_given(&self, (from, at): Place) -> u64 {
        let Some(call) = self.calls.get(&(from, at)) else { return 0 };
        let sent = &self.conns[from].sent;
        let given = call.credits.iter().filter(|(at, _)| {
            sent.get(*at).is_some_and(|sent| sent.arrived.is_some() && !sent.is_refused)
        });
        given.map(|(_, n)| n).sum()
    }

    /// Returns whether a message that gives credit may be too much.
    pub(super) fn may_be_too_much(&self, from: ConnId, at: usize) -> bool {
        self.calls.iter().any(|((owner, _), call)| {
            let Some(own) = call.credits.iter().position(|(own, _)| *own == at) else {
                return false;
            };
            let sum: u64 = call.credits[..=own].iter().map(|(_, n)| n).sum();
            *owner == from && call.extras.stream.unwrap_or(0) + sum > CREDIT_MAX
        })
    }

    /// Checks why a worker is told that a request is over.
    fn check_reason(&self, by: ConnId, place: Place, reason: &str) -> Result<(), String> {
        let Some(call) = self.calls.get(&place) else { return Err("it is unknown".to_owned()) };
        let may_be = match reason {
            "caller" => self.is_cancelled(place),
            "deadline" => self.is_time_up(place),
            "gone" => self.may_be_closed(place.0) || self.has_fault(call, by, false),
            "limit" => {
                let is_large = self.answered_hugely.contains(&self.nonce_of(place));
                !call.sent_parts.is_empty() && (!self.is_calm || is_large)
            }
            "drain" => self.is_draining(),
            _ => false,
        };
        if !may_be {
            return Err("there is no such reason".to_owned());
        }
        match &call.outcome {
            Some(Outcome(code)) => check_pair(code.as_deref(), Some(reason)),
            None => Ok(()),
        }
    }

    fn holders(&self, place: Place) -> impl Iterator<Item = ConnId> {
        self.holdings.iter().filter(move |held| held.place == place).map(|held| held.worker)
    }

    fn nonce_of(&self, (from, at): Place) -> u64 {
        self.conns[from].sent[at].nonce
    }

    /// Returns whether a cancel of a request has arrived.
    pub(super) fn is_cancelled(&self, place: Place) -> bool {
        let sent = &self.conns[place.0].sent;
        self.calls.get(&place).is_some_and(|call| {
            let mut cancels = call.cancels.iter();
            cancels.any(|at| sent.get(*at).is_some_and(|sent| sent.arrived.is_some()))
        })
    }

    /// Returns whether a request may have taken as long as it may.
    pub(super) fn is_time_up(&self, place: Place) -> bool {
        let arrived = self.conns[place.0].sent[place.1].arrived;
        let Some((_, arrived)) = arrived else { return false };
        let call = self.calls.get(&place);
        let waited = |since| self.now.saturating_sub(since);
        let ttl = call.and_then(|call| call.extras.ttl_millis).map(Duration::from_millis);
        // A stream has its time anew with each part.
        let last = call.and_then(|call| call.sent_parts.get(call.parts.checked_sub(1)?));
        let last = last.and_then(|(by, at)| self.conns[*by].sent.get(*at)?.arrived);
        let since = last.map_or(arrived, |(_, time)| time.max(arrived));
        ttl.is_some_and(|ttl| waited(arrived) >= ttl)
            || self.limits.request_timeout.is_some_and(|timeout| waited(since) >= timeout)
    }

    /// Returns whether a worker may have broken the rules with what has arrived of it, or has certainly.
    fn has_fault(&self, call: &Call, by: ConnId, is_certain: bool) -> bool {
        call.faults.iter().any(|((worker, at), certain)| {
            let sent = self.conns[*worker].sent.get(*at);
            *worker == by
                && (*certain || !is_certain)
                && sent.is_some_and(|sent| sent.arrived.is_some())
        })
    }

    /// Returns whether the server may have ended a request for its stream.
    pub(super) fn may_be_cut(&self, place: Place, by: ConnId) -> bool {
        let call = self.calls.get(&place);
        call.is_some_and(|call| !call.sent_parts.is_empty() || self.has_fault(call, by, false))
    }

    /// Checks a part of an answer.
    pub(super) fn part(&mut self, by: ConnId, message: &Received) -> Result<(), String> {
        let reply_to = message.reply_to.as_deref().unwrap_or_default();
        let Some(at) = self.conns[by].outstanding.get(reply_to).copied() else {
            return Err(format!("{reply_to} is answered already, or was never asked"));
        };
        let (place, nonce) = ((by, at), self.nonce_of((by, at)));
        let given = self.credit_given(place);
        let seq = number(message.meta.as_ref().unwrap_or(&Value::Null), "seq")? as usize;
        let Some(call) = self.calls.get(&place) else { return Err("no such call".to_owned()) };
        let sent_by = message.payload["by"].as_u64().map(|by| by as ConnId);
        let mut sent = call.sent_parts.iter().filter(|(worker, _)| Some(*worker) == sent_by);
        let is_sent = sent.nth(seq).is_some();
        self.check_worker(place, sent_by)?;
        let Some(call) = self.calls.get_mut(&place) else { return Err("no such call".to_owned()) };
        let Some(initial) = call.extras.stream else {
            return Err("it did not ask for a stream".to_owned());
        };
        if seq != call.parts {
            return Err(format!("part {} is the next one", call.parts));
        }
        call.parts += 1;
        if call.parts as u64 > initial + given {
            return Err("there was no credit for it".to_owned());
        }
        let payload = &message.payload;
        let is_right = is_sent && payload["part"] == seq && payload["nonce"] == nonce;
        if !is_right {
            return Err("it is no such part".to_owned());
        }
        self.parts_received += 1;
        Ok(())
    }

    /// Checks an answer that has a `meta`, or is the end of a stream.
    pub(super) fn check_answer_meta(&self, place: Place, message: &Received) -> Result<(), String> {
        let call = self.calls.get(&place).ok_or("no such call")?;
        let Some(meta) = &message.meta else { return Ok(()) };
        let expected = if meta["end"] == true {
            if !call.has_sent_end || !message.payload.is_null() {
                return Err("no worker ended it so".to_owned());
            }
            json!({"seq": call.parts, "end": true})
        } else {
            json!({"headers": {"a": "b"}})
        };
        if *meta == expected { Ok(()) } else { Err(format!("its meta is not {expected}")) }
    }

    /// Notes how a request ended, and compares it with what its worker was told.
    pub(super) fn note_outcome(&mut self, place: Place, code: Option<&str>) -> Result<(), String> {
        let call = self.calls.entry(place).or_default();
        call.outcome = Some(Outcome(code.map(str::to_owned)));
        let holdings = self.holdings.iter().filter(|held| held.place == place);
        let mut told = holdings.filter_map(|holding| holding.told.as_deref());
        told.try_for_each(|reason| check_pair(code, Some(reason)))
    }

    /// Returns whether a failed handler is an outcome that a request may have.
    pub(super) fn may_have_failed(&self, place: Place) -> bool {
        let Some(call) = self.calls.get(&place) else { return false };
        self.holders(place).any(|worker| self.has_fault(call, worker, false))
    }

    /// Returns whether a requester may have read too slowly for a stream.
    pub(super) fn may_lack_room(&self, place: Place) -> bool {
        let call = self.calls.get(&place);
        !self.is_calm && call.is_some_and(|call| !call.sent_parts.is_empty())
    }

    /// Returns whether a request must have an answer once all that has arrived was handled.
    pub(super) fn is_over_by_itself(&self, place: Place) -> bool {
        let has_fault = |worker: ConnId| {
            let call = self.calls.get(&place);
            call.is_some_and(|call| self.has_fault(call, worker, true)) && self.is_sound(worker)
        };
        self.is_cancelled(place) || self.holders(place).any(has_fault)
    }

    /// Checks, whenever all has come to rest, that no request lasts longer than its `ttl`.
    pub(in crate::simulation) fn check_ttls(&mut self) -> Result<(), String> {
        let sound: Vec<bool> = (0..self.conns.len()).map(|id| self.is_sound(id)).collect();
        for (place, call) in &mut self.calls {
            let Some(sent) = self.conns[place.0].sent.get(place.1) else { continue };
            let Some(ttl) = call.extras.ttl_millis else { continue };
            if sent.is_answered || !self.forwarded.contains_key(&sent.nonce) {
                continue;
            }
            // It has been read by now, at the latest.
            let due_by = *call.due_by.get_or_insert(self.now + Duration::from_millis(ttl));
            // The requests of one that was taken over end with it, and it may not have been told.
            if self.now > due_by && sound[place.0] {
                return Err(format!("m{} of connection {} outlives its ttl", place.1, place.0));
            }
        }
        Ok(())
    }

    /// Checks, at rest, that the credit which was given adds up to that which was passed on.
    pub(super) fn check_credit(&self) -> Result<(), String> {
        for holding in &self.holdings {
            let (worker, place) = (holding.worker, holding.place);
            let Some(call) = self.calls.get(&place) else { continue };
            let is_open = call.outcome.is_none() && !holding.is_answered && holding.told.is_none();
            let are_there =
                self.is_sound(worker) && self.is_sound(place.0) && self.has_call(worker);
            if !is_open || !are_there || !call.faults.is_empty() {
                continue;
            }
            let given = self.credit_given(place);
            if holding.credit != given {
                let told = holding.credit;
                return Err(format!("a worker was told of {told} parts, and not of {given}"));
            }
            let unused = call.extras.stream.unwrap_or(0) + given - call.sent_parts.len() as u64;
            if unused > CREDIT_MAX {
                return Err(format!("{unused} parts of a stream are allowed"));
            }
        }
        Ok(())
    }

    /// Checks, after all deadlines, that each worker was told of the requests that ended without its
    /// answer.
    pub(super) fn check_told(&self) -> Result<(), String> {
        for holding in self.holdings.iter().filter(|holding| self.is_sound(holding.worker)) {
            let (worker, id, place) = (holding.worker, &holding.id, holding.place);
            let told = holding.told.as_deref();
            let outcome = self.calls.get(&place).and_then(|call| call.outcome.as_ref());
            let is_due = self.has_call(worker) && !holding.is_answered;
            let result = match outcome {
                Some(Outcome(code)) if self.has_call(worker) => check_pair(code.as_deref(), told),
                _ if is_due && told.is_none() => Err("nobody told it that it is over".to_owned()),
                _ => Ok(()),
            };
            result.map_err(|what| format!("connection {worker} had {id} of {place:?}: {what}"))?;
        }
        Ok(())
    }
}
