//! Other limits and tokens for a server that runs.

#![cfg_attr(
    not(feature = "net"),
    allow(dead_code, reason = "they come through `Handle`, which is part of `net`")
)]

use crate::broker::access::Access;
use crate::broker::limits::Limits;
use crate::broker::state::connection::State;
use crate::broker::state::core::Core;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::timers::Due;

/// The limit that still holds for what had begun when it was lowered.
#[derive(Debug)]
pub(crate) struct Former {
    /// Frames that begin within so many of the bytes that are processed next had begun.
    received_bytes: usize,
    frame_bytes_max: usize,
}

impl Core {
    /// What holds from now on. Nobody is closed for it: timers that run, and what is over a
    /// limit that was lowered, stay until they end by themselves.
    pub(crate) fn reconfigure(&mut self, limits: Limits, access: Access) {
        let before = std::mem::replace(&mut self.limits, limits);
        self.access = access;
        // Only ever raised: who is over the lower one was allowed that, and has a grace.
        self.queue_bytes_max = self.queue_bytes_max.max(self.limits.queue_bytes_max());
        for key in self.connections.keys() {
            self.keep_former(key, before.frame_bytes_max);
            if self.limits.idle_timeout != before.idle_timeout {
                self.arm_idle(key);
            }
        }
        self.begin_memory_max(before.memory_bytes_max);
        self.mind_memory();
    }

    /// Silence counts from now on: who was silent before did not know.
    fn arm_idle(&mut self, key: ConnectionKey) {
        let deadline = self.limits.idle_timeout.map(|timeout| self.deadline_in(timeout));
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !matches!(connection.state, State::Open(_) | State::Superseded) {
            return;
        }
        if let Some(timer) = connection.timer.take() {
            self.timers.disarm(timer);
        }
        connection.timer = deadline.map(|deadline| self.timers.arm(deadline, Due::Idle(key)));
    }

    fn keep_former(&mut self, key: ConnectionKey, before_bytes_max: usize) {
        // Lowered again before that has ended: what began first began under the first.
        let former_bytes_max = self.former.remove(&key).map(|former| former.frame_bytes_max);
        let frame_bytes_max = before_bytes_max.max(former_bytes_max.unwrap_or_default());
        let received_bytes = self.connections.get(key).map_or(0, |c| c.recv.len());
        if received_bytes > 0 && frame_bytes_max > self.limits.frame_bytes_max {
            self.former.insert(key, Former { received_bytes, frame_bytes_max });
        }
    }

    /// What the body of a connection's next frame may have.
    pub(crate) fn frame_bytes_max(&self, key: ConnectionKey) -> usize {
        // There is hardly ever any.
        if self.former.is_empty() {
            return self.limits.frame_bytes_max;
        }
        let former = self.former.get(&key);
        former.map_or(self.limits.frame_bytes_max, |former| former.frame_bytes_max)
    }

    /// A frame of so many bytes is processed.
    pub(crate) fn consume_former(&mut self, key: ConnectionKey, frame_bytes: usize) {
        if self.former.is_empty() {
            return;
        }
        let Some(former) = self.former.get_mut(&key) else { return };
        former.received_bytes = former.received_bytes.saturating_sub(frame_bytes);
        if former.received_bytes == 0 {
            self.former.remove(&key);
        }
    }
}
