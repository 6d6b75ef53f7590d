//! The ends of connections, which always have a reason.

use std::time::Duration;

use super::{Conn, ConnId, Kind, Model};
use crate::simulation::pipe::Ending;

/// Time that a client has to read why it is closed.
const LINGER: Duration = Duration::from_secs(1);
/// Every connection has at least this part of the time for its handshake.
const STRANGER_PARTS: u32 = 20;

impl Model {
    /// Returns whether the server may have closed a connection without its client knowing yet.
    pub(super) fn may_be_closed(&self, id: ConnId) -> bool {
        // Except in calm runs there are too many ways to be sure of one.
        !self.is_calm || !self.is_sound(id) || self.conns[id].has_said_its_last()
    }

    /// Returns whether a client must get everything that was put into its queue or written to it: it
    /// reads, and neither the server's patience nor its time has ended.
    fn is_owed_the_rest(&self, id: ConnId, ending: &Ending) -> bool {
        let is_patient = ending.backlog_time < self.limits.slow_consumer_grace;
        let is_over_bound = self.has_bursts || self.has_large_answers(id);
        let is_cut_off = ending.was_failed || self.is_tight || is_over_bound || self.is_draining();
        is_patient && !is_cut_off
    }

    /// Answers of workers are not held back, so that large ones put a queue over its bound, and so does
    /// any answer in the queue of a worker that is sent a large request.
    fn has_large_answers(&self, id: ConnId) -> bool {
        let is_worker = !self.conns[id].concurrencies.is_empty();
        !self.answered_hugely.is_empty() || (self.forwarded_hugely && is_worker)
    }

    /// Handles the end of a connection that the client did not end itself.
    pub(in crate::simulation) fn ended(
        &mut self,
        id: ConnId,
        ending: &Ending,
    ) -> Result<(), String> {
        let conn = &mut self.conns[id];
        conn.has_ended = true;
        let conn = &self.conns[id];
        let is_told = conn.told.is_some() || conn.left || self.is_draining();
        let silent_for = |since: Duration, limit: Duration| self.now.saturating_sub(since) >= limit;
        // If all places are taken, a new connection gets the place of one that has not completed
        // its handshake.
        let parts = if self.is_calm { 1 } else { STRANGER_PARTS };
        let is_late = ending.accepted_at.is_none_or(|since| {
            conn.connected_at.is_none() && silent_for(since, self.limits.handshake_timeout / parts)
        });
        let is_idle = self.limits.idle_timeout.is_some_and(|limit| {
            // A message that came at the same moment as the end came too late.
            silent_for(conn.arrived_at, limit) || conn.silence_max >= limit
        });
        let is_overtaken = !self.is_calm && self.may_be_overtaken(id);
        let is_owed = self.is_owed_the_rest(id, ending) && !is_overtaken;
        if ending.is_cut_short && !is_late && !is_idle && is_owed {
            return Err(format!("connection {id} was cut short"));
        }
        let is_shed =
            ending.was_failed || (ending.was_shed && (self.has_few_descriptors || self.has_crowd));
        // It was told, and read too slowly to notice; or its place was given to a new connection.
        let is_over = self.may_be_taken_over(id)
            || (ending.is_abrupt && ending.backlog_time >= LINGER)
            || conn.has_said_its_last()
            || conn.is_dismissed;
        let is_slow = !self.is_calm
            && (!conn.is_prompt
                || is_overtaken
                || self.has_bursts
                || self.has_large_answers(id)
                || ending.backlog_time >= self.limits.slow_consumer_grace);
        if is_told || is_late || is_idle || is_shed || is_over || self.is_tight {
            return Ok(());
        }
        if is_slow {
            self.silently_closed += u64::from(!ending.was_shut_down);
            return Ok(());
        }
        Err(format!("connection {id} was closed without a word"))
    }
}

impl Conn {
    /// Returns whether it sent a message that always ends the connection.
    fn has_said_its_last(&self) -> bool {
        let mut kinds = self.sent.iter().map(|sent| sent.kind);
        kinds.any(|kind| {
            matches!(kind, Kind::Broken("frame_too_large" | "not_connected") | Kind::Close)
        })
    }
}
