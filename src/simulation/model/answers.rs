//! Answers: each request is answered once, correctly, and only to its requester.

use serde_json::Value;

use super::{Conn, ConnId, Kind, Model, Step, number};
use crate::simulation::scenario::{CLIENT_IDS, GROWTH_BYTES_MAX, JOBS};
use crate::simulation::wire::Received;

impl Model {
    pub(super) fn answer(&mut self, by: ConnId, message: &Received) -> Result<(), String> {
        // A part is never an error, whatever it looks like.
        if message.meta.as_ref().is_some_and(|meta| meta["seq"].is_u64() && meta["end"] != true) {
            return self.part(by, message);
        }
        if let Some(code) = message.code() {
            *self.codes.entry(code.to_owned()).or_default() += 1;
        }
        let Some(reply_to) = &message.reply_to else { return self.unasked(by, message) };
        let conn = &self.conns[by];
        let known = conn.message(reply_to);
        let kind = known.map(|at| conn.sent[at].kind);
        let is_refused = match message.code() {
            Some("limit_exceeded") => {
                self.is_tight || known.is_some_and(|at| self.may_be_refused(by, at))
            }
            Some("shutting_down") => self.is_draining() && kind == Some(Kind::Close),
            Some("bad_message") => {
                kind == Some(Kind::Credit) && known.is_some_and(|at| self.may_be_too_much(by, at))
            }
            _ => false,
        };
        if is_refused {
            return self.refuse(by, reply_to);
        }
        let Some(at) = conn.outstanding.get(reply_to).copied() else {
            return Err(format!("{reply_to} is answered already, or was never asked"));
        };
        if conn.sent[at].arrived.is_none() {
            return Err(format!("{reply_to} is answered before it was asked"));
        }
        self.check_answer(by, at, message)?;
        if matches!(self.conns[by].sent[at].kind, Kind::Work(_) | Kind::Later) {
            self.note_outcome((by, at), message.code())?;
        }
        match self.conns[by].sent[at].kind {
            Kind::Follow(asked) => self.check_followed(by, asked, &message.payload)?,
            Kind::Unfollow => self.note_unfollowed(by),
            _ => {}
        }
        self.take_answer(by, at, message)
    }

    /// Returns whether a message may be over a limit: of channels, subscriptions, services or bytes.
    fn may_be_refused(&self, by: ConnId, at: usize) -> bool {
        let sent = &self.conns[by].sent[at];
        let is_huge = sent.bytes + GROWTH_BYTES_MAX > self.limits.frame_bytes_max;
        let is_limited = self.limits.channels_per_connection_max < 4_096
            || self.limits.subscriptions_per_connection_max < 4_096;
        match sent.kind {
            Kind::Work(_) | Kind::WorkNote(_) => is_huge || is_limited,
            Kind::Subscribe { .. }
            | Kind::Unsubscribe { .. }
            | Kind::Serve(_)
            | Kind::Publish(_)
            | Kind::Follow(_)
            | Kind::Unfollow
            | Kind::Watch { .. }
            | Kind::Unwatch
            | Kind::LostNote
            | Kind::Forbidden
            | Kind::Name => is_limited,
            Kind::Keep(_) => is_limited || self.limits.retained_values_max == 1,
            // The names of channels alone fill a frame.
            Kind::List(_) => self.conns.iter().map(Conn::names_count).sum::<usize>() > 20,
            _ => false,
        }
    }

    /// A message may be refused for want of room, even one that has no answer otherwise.
    fn refuse(&mut self, by: ConnId, reply_to: &str) -> Result<(), String> {
        let conn = &mut self.conns[by];
        let at = conn.message(reply_to);
        let sent = at.and_then(|at| Some((at, conn.sent.get_mut(at)?)));
        let Some((at, sent)) = sent.filter(|(_, sent)| !sent.is_answered) else {
            return Err(format!("{reply_to} is answered already, or was never asked"));
        };
        sent.is_answered = true;
        sent.is_refused = true;
        conn.outstanding.remove(reply_to);
        conn.in_order.retain(|other| *other != at);
        self.note_done(by, at);
        Ok(())
    }

    fn take_answer(&mut self, by: ConnId, at: usize, message: &Received) -> Result<(), String> {
        let kind = self.conns[by].sent[at].kind;
        let conn = &mut self.conns[by];
        conn.outstanding.remove(&conn.message_id(at));
        conn.sent[at].is_answered = true;
        conn.sent[at].is_refused =
            message.code() == Some("shutting_down") && kind.is_refused_by_drain();
        let mut at_once = kind.is_in_order();
        if at_once {
            let next = conn.in_order.pop_front();
            if next != Some(at) {
                return Err(format!("m{at} is answered before {next:?}"));
            }
        }
        at_once |= matches!(message.code(), Some("no_handler" | "limit_exceeded"));
        if at_once {
            self.note_done(by, at);
        }
        if let Some(code) = message.code()
            && (matches!(code, "not_connected" | "frame_too_large" | "auth_failed")
                || (kind == Kind::Connect && code == "shutting_down"))
        {
            self.conns[by].told = Some(code.to_owned());
        }
        Ok(())
    }

    /// Handles messages that answer nothing: the welcome, and errors of the connection itself.
    fn unasked(&mut self, by: ConnId, message: &Received) -> Result<(), String> {
        let conn = &self.conns[by];
        let next = conn.in_order.front().copied();
        let kind = next.map(|at| conn.sent[at].kind);
        match (message.code(), kind) {
            (None, Some(Kind::Connect)) => {
                let own = CLIENT_IDS[conn.id];
                if message.payload["status"] != "connected"
                    || message.payload["connection_id"] != own
                    || message.channel != "system"
                {
                    return Err("this is no welcome".to_owned());
                }
                self.check_extensions(by, &message.payload)?;
                self.check_access(by, true)?;
                self.conns[by].connected_at = Some(self.step);
                self.take_answer(by, next.unwrap_or_default(), message)
            }
            (Some(code), Some(Kind::Broken(expected))) if code == expected => {
                self.take_answer(by, next.unwrap_or_default(), message)
            }
            (Some(code), _) => {
                let legitimate = match code {
                    "taken_over" => self.may_be_taken_over(by),
                    "server_full" => {
                        conn.connected_at.is_none() && (self.was_full || self.is_tight)
                    }
                    "auth_failed" => !conn.is_admitted,
                    "shutting_down" => self.is_draining(),
                    "limit_exceeded" => self.is_tight,
                    _ => false,
                };
                if !legitimate {
                    return Err(format!("{code} for no reason"));
                }
                self.conns[by].told = Some(code.to_owned());
                Ok(())
            }
            (None, _) => Err("it answers nothing".to_owned()),
        }
    }

    /// Checks that a connection is told of its extensions if it asked for any, and only then.
    fn check_extensions(&self, by: ConnId, payload: &Value) -> Result<(), String> {
        let asked = self.conns[by].extensions;
        let has = |name: &str| payload.get(name).is_some();
        let members = payload.as_object().map_or(0, serde_json::Map::len);
        let is_right = if asked.is_some() {
            let names = [
                ("call", self.has_call(by)),
                ("binary", self.has_binary(by)),
                ("topic", self.has_topic(by)),
            ];
            let expected: Vec<&str> =
                names.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
            let limits = &payload["limits"];
            payload["extensions"] == serde_json::json!(expected)
                && limits["max_frame_bytes"].is_u64()
                && limits["request_timeout_ms"] == 30_000
                && members == 5
        } else {
            members == 3
        };
        if is_right && has("server") {
            Ok(())
        } else {
            Err(format!("it asked for {asked:?} and is told otherwise"))
        }
    }

    fn check_answer(&self, by: ConnId, at: usize, message: &Received) -> Result<(), String> {
        let sent = &self.conns[by].sent[at];
        let payload = &message.payload;
        let status = |expected: &str| payload["status"] == expected;
        let code = message.code();
        if code == Some("shutting_down") && self.is_draining() {
            return if sent.kind.is_refused_by_drain() {
                Ok(())
            } else {
                Err("this is served until the end".to_owned())
            };
        }
        let is_right = match sent.kind {
            Kind::Ping => status("pong"),
            Kind::Unknown => code == Some("no_handler"),
            Kind::Echo => payload["nonce"] == sent.nonce,
            Kind::Fail | Kind::Panic => code == Some("handler_failed"),
            Kind::Serve(_) => status("serving"),
            Kind::StopServing(_) => status("stopped"),
            Kind::Unsubscribe { .. } | Kind::Unfollow | Kind::Unwatch => status("unsubscribed"),
            // The history is checked when the answer is taken.
            Kind::Subscribe { .. } | Kind::Follow(_) | Kind::Watch { .. } => status("subscribed"),
            Kind::Forbidden => code == Some("forbidden"),
            Kind::Broken(expected) => code == Some(expected),
            Kind::Later => match code {
                None => payload["nonce"] == sent.nonce && payload["later"] == true,
                Some("timeout") => return self.check_timeout(by, at),
                Some("limit_exceeded") => return self.check_limit(),
                Some("cancelled") => self.is_cancelled((by, at)),
                code => code == Some("handler_failed"),
            },
            Kind::Work(job) => return self.check_work(by, at, job, message),
            Kind::Connect if code == Some("auth_failed") => return self.check_access(by, false),
            Kind::List(action) => code.is_none() && Self::is_list(action, payload),
            Kind::Name if status("subscribed") => return self.check_name(by),
            _ => false,
        };
        if is_right { Ok(()) } else { Err(format!("no answer to {:?}", sent.kind)) }
    }

    fn is_list(action: &str, payload: &Value) -> bool {
        match action {
            "list_channels" => payload["echo"]["has_handler"] == true,
            "list_applications" => payload.as_object().is_some_and(|all| !all.is_empty()),
            "list_services" => payload["services"].is_array(),
            _ => payload["channels"].is_object() && payload["workers"].is_array(),
        }
    }

    /// Checks that a connection was let in, or not, by the rules.
    fn check_access(&self, by: ConnId, is_let_in: bool) -> Result<(), String> {
        let conn = &self.conns[by];
        if is_let_in && !conn.is_admitted {
            return Err("its user is not admitted".to_owned());
        }
        let is_asked = self.access.is_any() && conn.app == 0;
        let arrived = conn.sent.first().and_then(|sent| sent.arrived);
        let begin = arrived.map_or(self.step, |(step, _)| step);
        let mut tokens = self.access.between(begin, self.step);
        let is_right = match (is_asked, is_let_in) {
            (false, is_let_in) => is_let_in,
            (true, true) => tokens.any(|token| conn.token == Some(token)),
            (true, false) => tokens.any(|token| conn.token != Some(token)),
        };
        let verdict = if is_let_in { "let in" } else { "refused" };
        if is_right { Ok(()) } else { Err(format!("its token is no reason to be {verdict}")) }
    }

    /// Checks that a connection has no more channels than it may.
    fn check_name(&self, by: ConnId) -> Result<(), String> {
        let names = self.conns[by].sent.iter().filter(|sent| sent.kind == Kind::Name);
        let had = names.filter(|sent| sent.is_answered && !sent.is_refused).count();
        if had >= self.limits.channels_per_connection_max {
            return Err("it has made as many channels as it may".to_owned());
        }
        Ok(())
    }

    fn check_work(
        &self,
        by: ConnId,
        at: usize,
        job: usize,
        message: &Received,
    ) -> Result<(), String> {
        let sent = &self.conns[by].sent[at];
        let asked_at = sent.arrived.map_or(Step::MAX, |(step, _)| step);
        let worker = self.forwarded.get(&sent.nonce).copied();
        match message.code() {
            None if message.meta.as_ref().is_some_and(|meta| meta["end"] == true) => {
                self.check_answer_meta((by, at), message)
            }
            None => {
                self.check_answer_meta((by, at), message)?;
                let answered_by = number(&message.payload, "by")?;
                let nonce = number(&message.payload, "nonce")?;
                let call = self.calls.get(&(by, at)).filter(|_| !self.is_calm);
                // A second worker may have answered before it was asked.
                let is_first = message.payload["genuine"] == true
                    || call.is_some_and(|call| call.extras.idempotent);
                if message.channel != JOBS[job] {
                    return Err("the answer names another channel".to_owned());
                }
                self.check_worker((by, at), Some(answered_by as usize))?;
                if nonce != sent.nonce || !is_first {
                    return Err(format!("the answer of another, for {worker:?} had it"));
                }
                Ok(())
            }
            Some("timeout") => self.check_timeout(by, at),
            // Too many bytes may be kept for the channel.
            Some("limit_exceeded") if !self.is_calm && self.has_limited_workers(job) => Ok(()),
            Some("limit_exceeded") if self.may_lack_room((by, at)) => Ok(()),
            Some("limit_exceeded") => self.check_limit(),
            Some("cancelled") if self.is_cancelled((by, at)) => Ok(()),
            Some("handler_failed") if self.may_have_failed((by, at)) => Ok(()),
            Some("handler_failed") if self.answered_hugely.contains(&sent.nonce) => Ok(()),
            Some("unsupported") if self.has_huge_blob(sent.nonce) => Ok(()),
            Some("worker_lost") => {
                let app = self.conns[by].app;
                let may_be_lost = |id: ConnId| {
                    let conn = &self.conns[id];
                    let serves = conn.sent.iter().any(|sent| sent.kind == Kind::Serve(job));
                    serves && conn.app == app && self.may_be_closed(id)
                };
                let mut candidates = match worker {
                    Some(worker) => worker..worker + 1,
                    None => 0..self.conns.len(),
                };
                if candidates.any(may_be_lost) {
                    Ok(())
                } else {
                    Err("no worker was lost".to_owned())
                }
            }
            Some("no_handler") => {
                if worker.is_some() {
                    return Err(format!("it was passed on to {worker:?}"));
                }
                match self.surely_serving(self.conns[by].app, job, asked_at) {
                    Some(server) => Err(format!("connection {server} serves this")),
                    None => Ok(()),
                }
            }
            Some(code) => Err(format!("{code} is no answer to this")),
        }
    }

    /// Returns the connections that serve a job, where everything was handled that they said.
    pub(in crate::simulation) fn workers(&self, app: usize, job: usize) -> Vec<ConnId> {
        let serves = |id: &ConnId| {
            let mut sent = self.conns[*id].sent.iter().rev();
            let last = sent
                .find(|sent| sent.kind == Kind::Serve(job) || sent.kind == Kind::StopServing(job));
            last.is_some_and(|sent| sent.kind == Kind::Serve(job))
        };
        let members = (0..self.conns.len()).filter(|id| self.conns[*id].app == app);
        members.filter(serves).collect()
    }

    /// Returns the worker that got a connection's last request for a worker.
    pub(in crate::simulation) fn last_worker(&self, asked_by: ConnId) -> Option<ConnId> {
        let mut sent = self.conns[asked_by].sent.iter().rev();
        let last = sent.find(|sent| matches!(sent.kind, Kind::Work(_)))?;
        self.forwarded.get(&last.nonce).copied()
    }

    /// Returns the number of answers that a connection has received.
    pub(in crate::simulation) fn answered_count(&self, id: ConnId) -> usize {
        self.conns[id].sent.iter().filter(|sent| sent.is_answered).count()
    }

    /// Returns a connection that certainly served the job before `step` and still does.
    fn surely_serving(&self, app: usize, job: usize, step: Step) -> Option<ConnId> {
        (0..self.conns.len()).find(|id| {
            let conn = &self.conns[*id];
            let began = conn.sent.iter().any(|sent| {
                sent.kind == Kind::Serve(job)
                    && !sent.is_refused
                    && sent.done_at.is_some_and(|done| done < step)
            });
            let stopped = conn.sent.iter().any(|sent| sent.kind == Kind::StopServing(job));
            conn.app == app && began && !stopped && !self.may_be_closed(*id)
        })
    }

    fn check_timeout(&self, by: ConnId, at: usize) -> Result<(), String> {
        // A request that the end of a drain cuts off may have been executed, like one that took too
        // long.
        if self.is_draining() || self.is_time_up((by, at)) {
            return Ok(());
        }
        let waited = self.conns[by].sent[at].arrived.map(|(_, time)| self.now.saturating_sub(time));
        Err(format!("a timeout after {waited:?}"))
    }

    fn check_limit(&self) -> Result<(), String> {
        if self.is_tight || self.limits.pending_per_connection_max < 1_024 {
            Ok(())
        } else {
            Err("not so many requests are waiting".to_owned())
        }
    }
}
