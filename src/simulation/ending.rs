//! The end of a run: everything comes to rest, the deadlines pass, all clients leave or the server
//! drains, and nothing is left.

use std::time::Duration;

use super::embedded::PINNED_CHANNELS;
use super::kernel::LastPoll;
use super::scenario::{APPS, Faults, KEPT};
use super::world::World;
use crate::MemoryPressure;

/// Turns within which everything under way must be handled.
const TURNS_MAX: usize = 3_000;
/// Deadlines that may pass one after another at the end of a run.
const DEADLINES_MAX: usize = 500;

impl World {
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.kernel.borrow_mut().trace.note(format_args!("the end begins"));
        self.scenario.rushed_listener = None;
        self.kernel.borrow_mut().stop = None;
        self.remove_fleeting();
        self.unstall_links();
        if self.scenario.ends_in_drain && self.below(2) == 1 {
            return self.drain();
        }
        self.kernel.borrow_mut().faults = Faults::default();
        self.kernel.borrow_mut().descriptors_max = usize::MAX;
        let all_read = self.scenario.is_calm || self.below(3) > 0;
        if all_read {
            self.peers.iter_mut().for_each(|peer| peer.is_stalled = false);
        }
        self.rest()?;
        for at in 0..self.peers.len() {
            if !self.peers[at].is_done {
                self.ping(at);
            }
        }
        self.rest()?;
        // Without memory, the rest of unfinished messages waits until the grace is over.
        let is_pausing = self.server.stats().memory_pressure == MemoryPressure::Pausing;
        if all_read && !is_pausing {
            self.model.settle();
            self.model.check_answered_at_once()?;
        }
        self.answer_deferred();
        self.let_deadlines_pass()?;
        self.peers.iter_mut().for_each(|peer| peer.is_stalled = false);
        self.let_deadlines_pass()?;
        self.model.settle();
        self.model.check_answered()?;
        if self.scenario.limits.idle_timeout.is_some() && self.server.stats().total_connections > 0
        {
            return Err("a connection is idle, and is not closed".to_owned());
        }
        self.check_links()?;
        let (stats, sessions) = (self.server.stats(), self.server.sessions());
        self.model.check_rest(&stats, &sessions)?;
        for (at, app) in APPS.iter().enumerate() {
            self.model.check_channels(at, &self.server.channels(app))?;
            self.model.check_kept(at, self.server.position(app, KEPT).as_ref())?;
            if self.scenario.is_calm || self.turns.is_multiple_of(4) {
                self.model.check_latencies(at, &self.server.latencies(app))?;
            }
        }
        self.probe_fairness()?;
        if self.scenario.ends_in_drain { self.drain() } else { self.all_leave() }
    }

    /// Goes on until nothing is under way and the loop would sleep. No time passes, except for the
    /// delay after a failed accept.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        for _ in 0..TURNS_MAX {
            if !self.move_everything()? {
                let last_poll = self.kernel.borrow().last_poll;
                match last_poll {
                    LastPoll::Found | LastPoll::InVain => {}
                    LastPoll::Slept if self.kernel.borrow().has_waiting() => {
                        self.pass(Duration::from_millis(50));
                    }
                    // Who does not read does not know either.
                    LastPoll::Slept if self.peers.iter().any(|peer| peer.is_stalled) => {
                        return Ok(());
                    }
                    LastPoll::Slept => return self.model.check_ttls(),
                }
            }
        }
        Err("it does not come to rest".to_owned())
    }

    /// Lets everything under way arrive, and runs the loop once. Returns whether anything was under
    /// way.
    pub(super) fn move_everything(&mut self) -> Result<bool, String> {
        self.model.step += 1;
        let mut has_moved = false;
        for at in 0..self.peers.len() {
            while !self.peers[at].is_done && !self.peers[at].tasks.is_empty() {
                self.answer_task(at);
            }
            if !self.peers[at].is_closed {
                has_moved |= self.hand_over(at);
            }
            let under_way = self.kernel.borrow().pipes[self.peers[at].pipe].is_under_way();
            has_moved |= under_way;
            self.arrive_bytes(at, usize::MAX);
            if !self.peers[at].is_stalled {
                has_moved |= self.receive_bytes(at, usize::MAX)?;
            }
        }
        has_moved |= self.move_links()?;
        self.turn()?;
        let kernel = self.kernel.borrow();
        let has_more = self.peers.iter().any(|peer| {
            let pipe = &kernel.pipes[peer.pipe];
            let has_come = !pipe.outbound.is_empty() || pipe.is_at_end();
            pipe.is_pressed || (has_come && !peer.is_stalled && !peer.is_closed)
        });
        Ok(has_moved || has_more)
    }

    fn let_deadlines_pass(&mut self) -> Result<(), String> {
        for _ in 0..DEADLINES_MAX {
            self.rest()?;
            let Some(deadline) = self.server.next_deadline() else { return Ok(()) };
            let now = self.model.now;
            if deadline <= now {
                return Err(format!("a deadline at {deadline:?} is left over at {now:?}"));
            }
            self.pass(deadline.saturating_sub(now));
        }
        Err("there is no end to its deadlines".to_owned())
    }

    fn all_leave(&mut self) -> Result<(), String> {
        for at in 0..self.peers.len() {
            self.leave(at);
        }
        self.leave_links();
        self.forget_kept();
        self.let_deadlines_pass()?;
        self.check_nothing_is_left()
    }

    fn check_nothing_is_left(&mut self) -> Result<(), String> {
        let stats = self.server.stats();
        let left = [
            ("connections", self.server.broker.connections().len(), 0),
            ("sessions", stats.total_connections, 0),
            ("announced connections", self.present_count(), 0),
            ("pending requests", stats.pending_requests, 0),
            ("buffered bytes", stats.buffered_bytes, 0),
            ("applications", stats.total_applications, APPS.len()),
            ("channels", stats.total_channels, APPS.len() * PINNED_CHANNELS.len()),
            // The spare descriptor.
            ("descriptors", self.kernel.borrow().descriptors, 1),
            ("bytes of memory", self.server.trimmed_memory_bytes(), self.least_memory_bytes),
        ];
        match left.iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => {
                Err(format!("{found} {what} are left, and not {expected}"))
            }
            None => Ok(()),
        }
    }

    /// Stops the server, which must end within its time.
    fn drain(&mut self) -> Result<(), String> {
        let all_read = self.below(2) == 0;
        self.peers.iter_mut().for_each(|peer| peer.is_stalled &= !all_read);
        {
            let grace = self.scenario.limits.slow_consumer_grace;
            let mut kernel = self.kernel.borrow_mut();
            kernel.faults.watch = 0;
            let is_reliable = |conn: usize| {
                let peer = self.peers.iter().find(|peer| peer.conn == conn);
                peer.is_some_and(|peer| {
                    let pipe = &kernel.pipes[peer.pipe];
                    // A client that has read too slowly may be closed for that first.
                    !pipe.was_failed && !pipe.server_closed && pipe.backlog_time < grace
                })
            };
            self.model.begin_drain(is_reliable);
        }
        self.server.handle.stop();
        match self.below(6) {
            0 | 1 => self.say_much(),
            2 => self.forget_tasks(),
            _ => {}
        }
        let began = self.model.now;
        for _ in 0..TURNS_MAX {
            if self.server.broker.is_drained() {
                return self.check_drained(began, all_read);
            }
            self.answer_deferred();
            let has_moved = self.move_everything()?;
            let last_poll = self.kernel.borrow().last_poll;
            if !has_moved && last_poll == LastPoll::Slept {
                let now = self.model.now;
                let deadline = self.server.next_deadline().unwrap_or(now);
                self.pass(deadline.saturating_sub(now).max(Duration::from_millis(1)));
            }
            if self.model.now > began + self.scenario.limits.drain_timeout * 2 {
                break;
            }
        }
        Err("the drain does not end".to_owned())
    }

    fn check_drained(&mut self, began: Duration, all_read: bool) -> Result<(), String> {
        for at in 0..self.peers.len() {
            if !self.peers[at].is_stalled {
                self.receive_bytes(at, usize::MAX)?;
            }
        }
        let limits = &self.scenario.limits;
        let is_cut_off = self.model.now >= began + limits.drain_timeout;
        if is_cut_off && all_read && !self.model.has_ignored() {
            return Err("the drain was cut off, and nobody held it up".to_owned());
        }
        let is_unreliable = self.scenario.is_tight || self.scenario.has_bursts;
        if is_cut_off || is_unreliable || limits.idle_timeout.is_some() {
            return Ok(());
        }
        self.model.check_drained()
    }
}
