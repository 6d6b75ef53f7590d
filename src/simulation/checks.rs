//! The promises that are checked after each turn of the loop.

use super::embedded::locked;
use super::pipe::Pipe;
use super::scenario::READ_BYTES_MAX;
use super::stream::READ_COST_BYTES_MAX;
use super::world::World;
use crate::MemoryPressure;

/// Turns for which a readable connection may be neither read nor written: whole publications of an
/// earlier read may wait, and each may have to wait for a slow subscriber.
const UNSERVED_TURNS_MAX: u32 = 10;
/// Cost of one connection in a turn at most: four reads, and the bytes that the last of them read
/// beyond its buffer.
const TURN_COST_BYTES_MAX: usize = 4 * READ_BYTES_MAX + READ_COST_BYTES_MAX;
/// Turns for which a connection may be in a backlog: others are before it, and its listener has its
/// turn only every second time if both have connections, and accepts fail.
const BACKLOG_TURNS_MAX: u32 = 30;
/// Turns with a budget that do as much as one without, at most: each of them serves one connection
/// or sends one queue at least.
pub(super) const SMALL_TURNS: u32 = 20;
/// Connections over the limit that may exist to be refused.
const REFUSED_MAX: usize = 64;

impl World {
    /// Notes, before a turn, which connections the server would read. Returns whether there is room
    /// for all that it can accept in the turn, so that it closes none to make room.
    pub(super) fn note_wanted(&mut self) -> bool {
        let broker = &self.server.broker;
        // A reload may have lowered the limit.
        let limits = &self.scenario.first_limits;
        let mut kernel = self.kernel.borrow_mut();
        kernel.pipes.iter_mut().for_each(|pipe| pipe.is_wanted = false);
        let keys = broker.connections();
        self.known.clear();
        for key in &keys {
            let is_it = |pipe: &Pipe| pipe.is_open() && pipe.token == Some(key.index());
            if let Some(id) = kernel.pipes.iter().position(is_it) {
                kernel.pipes[id].is_wanted = broker.wants_read(*key);
                self.known.push((*key, id));
            }
        }
        kernel.note_unread();
        keys.len() + limits.turn.accepts_max <= limits.connections_max
    }

    /// Checks that nobody was closed for its silence whose bytes lay in the socket, and notes whose
    /// queue was lost.
    pub(super) fn check_closed(&mut self, is_roomy: bool) -> Result<(), String> {
        let counters = self.server.stats().counters;
        let before = std::mem::replace(&mut self.counters, counters.clone());
        let mut kernel = self.kernel.borrow_mut();
        for key in self.server.broker.take_unsent() {
            // A queue that is over its bound has no grace.
            if counters.slow_consumers == before.slow_consumers {
                // One that came in this turn, and was closed in it, was owed nothing yet.
                let known = self.known.iter().find(|(known, _)| *known == key);
                if let Some((_, id)) = known {
                    kernel.pipes[*id].is_cut_short = true;
                }
            }
        }
        let limits = &self.scenario.limits;
        let idle_closed = counters.idle_closed - before.idle_closed;
        let idle_timeout = limits.idle_timeout.filter(|_| idle_closed > 0);
        self.closed_read += kernel.take_closed(limits.handshake_timeout, idle_timeout);
        self.closed_silent += idle_closed;
        // Of those closed in one turn it is not known which was silent in which way. A drain lets nobody
        // finish a handshake.
        if is_roomy && idle_closed == 0 && !self.model.is_draining() {
            self.closed_silent += counters.handshake_timeouts - before.handshake_timeouts;
        }
        // A budget may leave the sockets to the next turn.
        if !self.server.broker.has_work() {
            let read = std::mem::take(&mut self.closed_read);
            if std::mem::take(&mut self.closed_silent) > read {
                return Err("a silent connection was closed, and had not been read".to_owned());
            }
        }
        Ok(())
    }

    /// Checks what must be true after each turn, in which a connection had so many shares at most.
    pub(super) fn check_always(&mut self, shares: usize) -> Result<(), String> {
        let limits = &self.scenario.limits;
        // A turn with a budget takes a part of what one without takes.
        let patience = if self.scenario.steps_max.is_some() { SMALL_TURNS } else { 1 };
        let stats = self.server.stats();
        // What is about to be closed is held until it is.
        let is_closing = self.server.broker.has_work();
        if stats.memory_bytes > limits.memory_bytes_max && !is_closing {
            return Err(format!("{} bytes are held, over the limit", stats.memory_bytes));
        }
        let mut kernel = self.kernel.borrow_mut();
        if stats.total_connections > limits.connections_max {
            return Err(format!(
                "{} connections are let in, over the limit",
                stats.total_connections
            ));
        }
        // The spare descriptor is one of them, and the connection that was refused is another.
        let descriptors = self.scenario.first_limits.connections_max + 2;
        self.model.was_full |= kernel.descriptors_peak >= descriptors;
        let accepted = stats.counters.accepted + stats.counters.shed;
        if accepted != kernel.accepted {
            return Err(format!("{} were accepted, and {accepted} are counted", kernel.accepted));
        }
        if stats.counters.bytes_in != kernel.read_bytes {
            return Err(format!("{} bytes_in of {}", stats.counters.bytes_in, kernel.read_bytes));
        }
        if kernel.has_more_events && !self.server.is_due() {
            return Err("events are left in the queue, and the loop would sleep".to_owned());
        }
        if self.server.broker.unowned_timers() > usize::from(self.model.is_draining()) {
            return Err("a timer runs for nothing".to_owned());
        }
        if let Some(key) = self.server.broker.held_for_nothing().filter(|_| !is_closing) {
            return Err(format!("{key:?} is held back, and nothing will resume it"));
        }
        if self.server.broker.keeps_for_nothing() && !is_closing {
            return Err("a request is kept, and a worker has room for it".to_owned());
        }
        let sleeps = !self.server.is_due();
        let broker = &self.server.broker;
        let keys = broker.connections();
        // Nobody waits for a slow reader or for memory, but perhaps for work.
        let is_free = stats.memory_pressure == MemoryPressure::None
            && keys.iter().all(|key| broker.queued_bytes(*key) == 0);
        if keys.len() > limits.connections_max + REFUSED_MAX + self.links.len() && !is_closing {
            return Err(format!(
                "{} connections are there, over the limit of {}",
                keys.len(),
                limits.connections_max
            ));
        }
        for key in keys {
            let token = Some(key.index());
            let at = kernel.pipes.iter().position(|pipe| pipe.is_open() && pipe.token == token);
            let peer = self.peers.iter().find(|peer| Some(peer.pipe) == at);
            // A conflated publication may be over the mark, and holds nobody back.
            let one_more = peer.is_some_and(|peer| self.model.conflates(peer.conn));
            let more_bytes = if one_more { limits.frame_bytes_max } else { 0 };
            let queued = broker.queued_bytes(key);
            if queued > limits.queue_bytes_max() + more_bytes {
                return Err(format!("{queued} bytes wait for one connection, over the limit"));
            }
            let Some(pipe) = at.and_then(|at| kernel.pipes.get_mut(at)) else {
                // It could not be watched, and the next turn closes it.
                if broker.has_work() {
                    continue;
                }
                return Err(format!("the socket of {key:?} is gone, and the connection is not"));
            };
            if sleeps && !pipe.is_ready && !pipe.is_blocked() && queued + pipe.kept_bytes > 0 {
                let kept = pipe.kept_bytes;
                return Err(format!(
                    "{queued} bytes for {key:?} are queued and {kept} are kept, and could be sent"
                ));
            }
            let is_idle = !pipe.was_served() && !pipe.is_blocked();
            let is_held = is_free && is_idle && !broker.wants_read(key);
            pipe.held_turns = if is_held { pipe.held_turns + 1 } else { 0 };
            if pipe.held_turns > UNSERVED_TURNS_MAX * patience {
                return Err(format!("{key:?} is held back, and nothing is in its way"));
            }
            let cost_bytes = std::mem::take(&mut pipe.turn_cost_bytes);
            if cost_bytes > TURN_COST_BYTES_MAX * shares {
                return Err(format!("{key:?} took {cost_bytes} bytes' time of one turn"));
            }
            if pipe.count_unserved(broker.wants_read(key)) > UNSERVED_TURNS_MAX * patience {
                return Err(format!("{key:?} has something to be read, and is not read"));
            }
        }
        let longest = kernel.count_waiting();
        if longest > BACKLOG_TURNS_MAX * patience {
            return Err(format!("somebody stood in a backlog for {longest} turns"));
        }
        drop(kernel);
        self.check_hooks()
    }

    fn check_hooks(&mut self) -> Result<(), String> {
        for (key, came) in std::mem::take(&mut locked(&self.server.inside).events) {
            let known = self.present.iter().position(|present| *present == key);
            match (came, known) {
                (true, None) => self.present.push(key),
                (false, Some(at)) => drop(self.present.swap_remove(at)),
                _ => return Err(format!("{key:?} came or went twice: {came}")),
            }
        }
        Ok(())
    }
}
