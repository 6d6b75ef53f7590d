//! Answers: each request is answered once, correctly, and only to its requester.

use super::{ConnId, Kind, Model, Step, number};
use crate::simulation::scenario::CLIENT_IDS;
use crate::simulation::wire::Received;

impl Model {
    pub(super) fn answer(&mut self, by: ConnId, message: &Received) -> Result<(), String> {
        if let Some(code) = message.code() {
            *self.codes.entry(code.to_owned()).or_default() += 1;
        }
        let Some(reply_to) = &message.reply_to else { return self.unasked(by, message) };
        if message.code() == Some("limit_exceeded") && self.is_tight {
            return self.refuse(by, reply_to);
        }
        let conn = &self.conns[by];
        let Some(at) = conn.outstanding.get(reply_to).copied() else {
            return Err(format!("{reply_to} is answered already, or was never asked"));
        };
        if conn.sent[at].arrived.is_none() {
            return Err(format!("{reply_to} is answered before it was asked"));
        }
        self.check_answer(by, at, message)?;
        self.take_answer(by, at, message)
    }

    /// Without memory any message may be refused, even one that has no answer otherwise.
    fn refuse(&mut self, by: ConnId, reply_to: &str) -> Result<(), String> {
        let conn = &mut self.conns[by];
        let at = reply_to.strip_prefix('m').and_then(|at| at.parse::<usize>().ok());
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
        conn.outstanding.remove(&format!("m{at}"));
        conn.sent[at].is_answered = true;
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
            && (matches!(code, "not_connected" | "frame_too_large")
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
                self.conns[by].connected_at = Some(self.step);
                self.take_answer(by, next.unwrap_or_default(), message)
            }
            (Some(code), Some(Kind::Broken(expected))) if code == expected => {
                self.take_answer(by, next.unwrap_or_default(), message)
            }
            (Some(code), _) => {
                let legitimate = match code {
                    "taken_over" => self.may_be_taken_over(by),
                    "server_full" => conn.connected_at.is_none(),
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

    fn check_answer(&self, by: ConnId, at: usize, message: &Received) -> Result<(), String> {
        let sent = &self.conns[by].sent[at];
        let payload = &message.payload;
        let status = |expected: &str| payload["status"] == expected;
        let code = message.code();
        if code == Some("shutting_down") && self.is_draining() {
            return match sent.kind {
                Kind::Connect
                | Kind::Echo
                | Kind::Fail
                | Kind::Panic
                | Kind::Serve(_)
                | Kind::Work(_)
                | Kind::Later => Ok(()),
                _ => Err("this is served until the end".to_owned()),
            };
        }
        let is_right = match sent.kind {
            Kind::Ping => status("pong"),
            Kind::Unknown => code == Some("no_handler"),
            Kind::Echo => payload["nonce"] == sent.nonce,
            Kind::Fail | Kind::Panic => code == Some("handler_failed"),
            Kind::Serve(_) => status("serving"),
            Kind::StopServing(_) => status("stopped"),
            Kind::Subscribe { .. } => status("subscribed"),
            Kind::Unsubscribe { .. } => status("unsubscribed"),
            Kind::Forbidden => code == Some("forbidden"),
            Kind::Broken(expected) => code == Some(expected),
            Kind::Later => match code {
                None => payload["nonce"] == sent.nonce && payload["later"] == true,
                Some("timeout") => return self.check_timeout(by, at),
                Some("limit_exceeded") => return self.check_limit(),
                code => code == Some("handler_failed"),
            },
            Kind::Work(job) => return self.check_work(by, at, job, message),
            _ => false,
        };
        if is_right { Ok(()) } else { Err(format!("no answer to {:?}", sent.kind)) }
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
            None => {
                let answered_by = number(&message.payload, "by")?;
                let nonce = number(&message.payload, "nonce")?;
                let is_first = message.payload["genuine"] == true;
                if nonce != sent.nonce || Some(answered_by as usize) != worker || !is_first {
                    return Err(format!("the answer of another, for {worker:?} had it"));
                }
                Ok(())
            }
            Some("timeout") => self.check_timeout(by, at),
            Some("limit_exceeded") => self.check_limit(),
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

    /// Returns a connection that certainly served the job before `step` and still does.
    fn surely_serving(&self, app: usize, job: usize, step: Step) -> Option<ConnId> {
        (0..self.conns.len()).find(|id| {
            let conn = &self.conns[*id];
            let began = conn.sent.iter().any(|sent| {
                sent.kind == Kind::Serve(job) && sent.done_at.is_some_and(|done| done < step)
            });
            let stopped = conn.sent.iter().any(|sent| sent.kind == Kind::StopServing(job));
            conn.app == app && began && !stopped && !self.may_be_closed(*id)
        })
    }

    fn check_timeout(&self, by: ConnId, at: usize) -> Result<(), String> {
        let waited = self.conns[by].sent[at].arrived.map(|(_, time)| self.now.saturating_sub(time));
        // A request that the end of a drain cuts off may have been executed, like one that took too
        // long.
        if self.is_draining() || waited.is_some_and(|waited| waited >= self.limits.request_timeout)
        {
            Ok(())
        } else {
            Err(format!("a timeout after {waited:?}"))
        }
    }

    fn check_limit(&self) -> Result<(), String> {
        if self.is_tight || self.limits.pending_per_connection_max < 1_024 {
            Ok(())
        } else {
            Err("not so many requests are waiting".to_owned())
        }
    }
}
