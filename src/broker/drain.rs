//! The end: what is in flight is answered, everybody is told, and all is flushed.

use super::ConnectionKey;
use super::core::{Core, Lifecycle};
use super::dispatch::shutting_down;
use super::session::Connection;
use super::timers::Due;
use crate::proto::Envelope;

impl Core {
    /// From here on new requests are refused. What has arrived is still to be read: the
    /// caller does that, then calls [`Core::close_when_idle`].
    pub(crate) fn begin_drain(&mut self) {
        if self.is_draining() {
            return;
        }
        self.lifecycle = Lifecycle::Draining;
        let deadline = self.deadline_in(self.limits.drain_timeout);
        self.timers.arm(deadline, Due::DrainDeadline);
        crate::trace::draining(self.connections.len(), self.requests.len());
    }

    /// Tells everybody, and closes each connection as soon as nothing of its is in flight.
    pub(crate) fn close_when_idle(&mut self) {
        if self.lifecycle != Lifecycle::Draining {
            return;
        }
        self.lifecycle = Lifecycle::Closing;
        for key in self.connections.keys() {
            if self.connections.get(key).is_some_and(Connection::is_live) {
                self.report(key, &shutting_down());
            }
            self.consider_closing(key);
        }
    }

    /// Closes a connection if the server drains and it neither waits nor is waited for.
    pub(crate) fn consider_closing(&mut self, key: ConnectionKey) {
        if self.lifecycle != Lifecycle::Closing {
            return;
        }
        let Some(connection) = self.connections.get(key).filter(|c| c.is_live()) else { return };
        let busy = connection
            .session()
            .is_some_and(|session| session.pending > 0 || session.requests_in_flight() > 0);
        if !busy {
            self.idle.push(key);
        }
    }

    /// The drain took too long: whoever still waits is told, and all that does not fit
    /// into the kernel at once is lost.
    pub(crate) fn cut_off(&mut self) {
        let pending: Vec<_> = self.requests.iter().map(|(key, _)| key).collect();
        crate::trace::drained(pending.len());
        for request in pending {
            self.fail_request(request, &shutting_down());
        }
        for key in self.connections.keys() {
            self.begin_close(key);
        }
        self.is_cut_off = true;
    }

    /// Refuses a connect of a connection that cannot be served any more.
    pub(crate) fn begin_close_after(
        &mut self,
        key: ConnectionKey,
        envelope: &Envelope<'_>,
        why: &super::core::Refusal,
    ) {
        self.refuse(key, envelope, why);
        self.begin_close(key);
    }
}
