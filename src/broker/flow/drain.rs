//! The end: what is in flight is answered, everybody is told, and all is flushed.

use crate::broker::peer::dispatch::shutting_down;
use crate::broker::state::connection::Connection;
use crate::broker::state::core::{Core, Lifecycle, Refusal};
use crate::broker::state::events::Action;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::timers::Due;
use crate::proto::{Envelope, ErrorCode};

impl Core {
    /// From here on new requests are refused, and everybody is told. What has arrived is
    /// still read and answered: each connection is closed when it is at the end of that and
    /// nothing of its is in flight, see [`Core::close_if_idle`].
    pub(crate) fn begin_drain(&mut self) {
        if self.is_draining() {
            return;
        }
        self.lifecycle = Lifecycle::Draining;
        let deadline = self.deadline_in(self.limits.drain_timeout);
        self.timers.arm(deadline, Due::DrainDeadline);
        crate::trace::draining(self.connections.len(), self.requests.len());
        for key in self.connections.keys() {
            if self.connections.get(key).is_some_and(Connection::is_live) {
                self.report(key, &shutting_down());
            }
            self.consider_closing(key);
        }
    }

    /// Has the driver look whether a connection has anything left to be read.
    pub(crate) fn consider_closing(&mut self, key: ConnectionKey) {
        if self.is_draining() {
            self.actions.push_back(Action::Resume(key));
        }
    }

    /// Nothing more of this connection can be read: closes it if the server drains and it
    /// neither waits nor is waited for.
    pub(crate) fn close_if_idle(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get(key) else { return };
        if !self.is_draining() || !connection.may_proceed() || connection.yielded {
            return;
        }
        let busy = connection.session().is_some_and(|session| {
            !session.requests.is_empty() || session.requests_in_flight() > 0
        });
        if !busy {
            self.begin_close(key);
        }
    }

    /// The drain took too long: whoever still waits is told, and all that does not fit
    /// into the kernel at once is lost.
    pub(crate) fn cut_off(&mut self) {
        let pending: Vec<_> = self.requests.iter().map(|(key, _)| key).collect();
        crate::trace::drained(pending.len());
        // Not `shutting_down`, which says that nothing was done.
        let unanswered = Refusal::new(
            ErrorCode::Timeout,
            "the server ends before this request was answered; it may or may not have been done, so \
             send it again if it may be done twice",
        );
        for request in pending {
            self.fail_request(request, &unanswered);
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
        why: &Refusal,
    ) {
        self.refuse(key, envelope, why);
        self.begin_close(key);
    }
}
