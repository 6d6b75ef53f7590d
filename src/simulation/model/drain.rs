//! The end of the server: all connections are told, and everything that had arrived is answered.

use super::{ConnId, Drain, Model};

impl Model {
    /// Returns whether a worker ignores a request, which may delay the end.
    pub(in crate::simulation) fn has_ignored(&self) -> bool {
        !self.ignored.is_empty()
    }

    pub(in crate::simulation) fn begin_drain(&mut self, is_reliable: impl Fn(ConnId) -> bool) {
        let witnesses = (0..self.conns.len())
            .filter(|id| self.is_sound(*id) && self.conns[*id].is_prompt && is_reliable(*id));
        self.drain = Some(Drain { began: self.step, witnesses: witnesses.collect() });
    }

    pub(in crate::simulation) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    pub(in crate::simulation) fn check_drained(&self) -> Result<(), String> {
        let Some(drain) = &self.drain else { return Ok(()) };
        // A connection that came meanwhile may have taken over.
        for id in drain.witnesses.iter().filter(|id| !self.may_be_taken_over(**id)) {
            let conn = &self.conns[*id];
            if conn.is_dismissed {
                // It asked for its end before it could be told.
                continue;
            }
            match conn.told.as_deref() {
                Some("shutting_down") => {}
                None => return Err(format!("connection {id} was not told of the end")),
                // It ended for another reason.
                Some(_) => continue,
            }
            let unanswered = conn.outstanding.iter().find(|(_, at)| {
                // In the first turn of the drain the server reads all connections once more.
                conn.sent[**at].arrived.is_some_and(|(step, _)| step <= drain.began + 1)
            });
            if let Some((message, at)) = unanswered {
                let kind = conn.sent[*at].kind;
                return Err(format!("connection {id} was never told about {message}, {kind:?}"));
            }
        }
        Ok(())
    }
}
