//! Other limits and tokens for a server that runs.

use super::access::Access;
use super::core::Core;
use super::session::State;
use super::timers::Due;
use super::{ConnectionKey, Limits};

impl Core {
    /// What holds from now on. Nobody is closed for it: timers that run, and what is over a
    /// limit that was lowered, stay until they end by themselves.
    pub(crate) fn reconfigure(&mut self, limits: Limits, access: Access) {
        let idle_before = self.limits.idle_timeout;
        self.limits = limits;
        self.access = access;
        if self.limits.idle_timeout != idle_before {
            for key in self.connections.keys() {
                self.arm_idle(key);
            }
        }
        self.mind_memory();
    }

    fn arm_idle(&mut self, key: ConnectionKey) {
        let idle_timeout = self.limits.idle_timeout;
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !matches!(connection.state, State::Open(_) | State::Superseded) {
            return;
        }
        if let Some(timer) = connection.timer.take() {
            self.timers.disarm(timer);
        }
        connection.timer = idle_timeout.map(|timeout| {
            self.timers.arm(connection.last_activity.saturating_add(timeout), Due::Idle(key))
        });
    }
}
