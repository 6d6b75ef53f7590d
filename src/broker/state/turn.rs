//! The turn: its time, and the budget of work in it.
//!
//! A message of few bytes may be much work: a publication to thousands, a list of all channels.
//! Once a turn has done enough of it, the next connection that asks for more waits for a later
//! turn, in order of arrival, and meanwhile all others are served.

use std::time::Duration;

use super::connection::{Connection, Connections, Held, Lane};
use super::counters::Counters;
use super::events::{Action, Agenda};
use super::keys::ConnectionKey;
use super::line::Line;
use super::timers::Now;
use crate::broker::turn_limits::{
    CROWD_WORK_PARTS, DELIVERED_BYTES_PER_WORK, LIGHT_WORK_PARTS, TurnLimits,
};

/// The unit of work is a delivery: a small publication into the queue of one subscriber.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) now: Now,
    /// When the last byte came of the message that is being processed.
    pub(crate) arrived: Duration,
    /// See [`TurnLimits::work_max`].
    work_max: usize,
    /// See [`TurnLimits::frames_per_connection_max`].
    frames_max: usize,
    /// The frames that a share may have: as many as a connection may, and no more than
    /// `steps_max`.
    share_frames_max: usize,
    /// See [`Turn::limit_steps`].
    pub(crate) steps_max: usize,
    share: Share,
    /// All work since the start.
    work_done: u64,
    light: Queue,
    heavy: Queue,
    /// Work was taken on since the last turn's end, or a due connection had its turn.
    has_begun: bool,
}

/// The part of a turn that one connection may have, or all other threads together.
#[derive(Debug, Default)]
struct Share {
    frames_left: usize,
    /// The value of [`Turn::work_done`] at which it is used up.
    work_end: u64,
}

/// A lane: the work that this turn has taken on, and the connections that wait for another one.
#[derive(Debug, Default)]
struct Queue {
    /// Work that was charged in this turn, or set aside for connections that are due.
    spent: usize,
    waiting: Line<usize>,
}

impl Queue {
    /// However much the first one is, it is taken on: some turn has to.
    fn has_room(&self, work: usize, work_max: usize) -> bool {
        self.spent == 0 || self.spent + work <= work_max
    }
}

impl Turn {
    pub(crate) fn new(now: Now, limits: &TurnLimits) -> Self {
        Self {
            now,
            arrived: now.monotonic,
            work_max: limits.work_max,
            frames_max: limits.frames_per_connection_max,
            share_frames_max: limits.frames_per_connection_max,
            steps_max: usize::MAX,
            share: Share::default(),
            work_done: 0,
            light: Queue::default(),
            heavy: Queue::default(),
            has_begun: false,
        }
    }

    pub(crate) fn change_limits(&mut self, limits: &TurnLimits) {
        (self.work_max, self.frames_max) = (limits.work_max, limits.frames_per_connection_max);
    }

    pub(crate) fn begin(&mut self, now: Now) {
        self.now = now;
        self.limit_steps(usize::MAX);
    }

    /// So many steps are left of those that the whole turn may take.
    pub(crate) fn limit_steps(&mut self, steps_max: usize) {
        (self.steps_max, self.share_frames_max) = (steps_max, self.frames_max.min(steps_max));
    }

    pub(crate) fn deadline_in(&self, timeout: Duration) -> Duration {
        self.now.monotonic.saturating_add(timeout)
    }

    /// A connection begins its share of the turn, or the threads that post to the broker do.
    pub(crate) fn begin_share(&mut self) {
        self.share = Share {
            frames_left: self.share_frames_max,
            work_end: self.work_done + self.work_max as u64,
        };
    }

    pub(crate) fn is_share_spent(&self) -> bool {
        self.share.frames_left == 0 || self.work_done >= self.share.work_end
    }

    /// Counts a frame of the share.
    pub(crate) fn note_frame(&mut self) {
        self.share.frames_left -= 1;
    }

    /// Returns the work of putting a frame of so many bytes into so many queues.
    #[inline]
    pub(crate) fn fan_out_work(&self, subscribers: usize, frame_bytes: usize) -> usize {
        let crowd = subscribers.min(self.work_max / CROWD_WORK_PARTS);
        crowd * (1 + frame_bytes / DELIVERED_BYTES_PER_WORK)
    }

    /// Counts work that is done.
    pub(crate) fn note_work(&mut self, work: usize) {
        self.work_done += work as u64;
    }

    /// All work since the start.
    #[cfg(test)]
    pub(crate) fn work_done(&self) -> u64 {
        self.work_done
    }

    #[cfg(test)]
    pub(crate) fn is_awaited(&self) -> bool {
        !self.light.waiting.is_empty() || !self.heavy.waiting.is_empty()
    }

    /// Charges this turn with the work of a connection's next message and returns whether it has
    /// room for it. If not, the connection waits in a lane, and is resumed when it is due.
    pub(crate) fn charge_or_wait(
        &mut self,
        key: ConnectionKey,
        connection: &mut Connection,
        work: usize,
        counters: &mut Counters,
    ) -> bool {
        if std::mem::take(&mut connection.is_due) {
            return true;
        }
        let is_heavy = work > self.work_max / LIGHT_WORK_PARTS;
        let lane = if is_heavy { Lane::Heavy } else { Lane::Light };
        let work_max = self.work_max;
        let queue = self.queue(lane);
        if queue.waiting.is_empty() && queue.has_room(work, work_max) {
            queue.spent += work;
            self.has_begun = true;
            return true;
        }
        queue.waiting.push_back(key, work);
        connection.held = Held::Work(lane);
        counters.yields += 1;
        false
    }

    /// A connection that is due begins its share, and another one may follow it in the next turn.
    pub(crate) fn note_due(&mut self) {
        self.has_begun = true;
    }

    /// Ends the turn: the connections at the front go on in the next one, as many as it has room
    /// for.
    pub(crate) fn end(&mut self, connections: &mut Connections, agenda: &mut Agenda) {
        if !std::mem::take(&mut self.has_begun) {
            return;
        }
        let work_max = self.work_max;
        for lane in [Lane::Light, Lane::Heavy] {
            let queue = self.queue(lane);
            queue.spent = 0;
            let first_action = agenda.actions.len();
            while let Some((key, work)) = queue.waiting.first(|key| waits(connections, key, lane))
                && queue.has_room(work, work_max)
            {
                queue.waiting.pop_first();
                if let Some(connection) = connections.get_mut(key) {
                    connection.held = Held::No;
                    connection.is_due = true;
                    queue.spent += work;
                    agenda.actions.push_back(Action::Resume(key));
                }
            }
            // The connection that comes first takes what room is left: another one each turn.
            if agenda.actions.len() > first_action
                && let Some(last) = agenda.actions.pop_back()
            {
                agenda.actions.insert(first_action, last);
            }
        }
    }

    /// A connection leaves. It waits for no work any more, and the next in its lane moves up.
    pub(crate) fn forget(
        &mut self,
        key: ConnectionKey,
        connections: &mut Connections,
        agenda: &mut Agenda,
    ) {
        let Some(connection) = connections.get_mut(key) else { return };
        if let Held::Work(lane) = connection.held {
            connection.held = Held::No;
            self.queue(lane).waiting.leave(|key| waits(connections, key, lane));
            // Its socket was not read meanwhile, and may have come to its end.
            agenda.actions.push_back(Action::Resume(key));
        } else if !std::mem::take(&mut connection.is_due) {
            return;
        }
        self.has_begun = true;
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Light => &mut self.light,
            Lane::Heavy => &mut self.heavy,
        }
    }
}

fn waits(connections: &Connections, key: ConnectionKey, lane: Lane) -> bool {
    connections.get(key).is_some_and(|connection| connection.held == Held::Work(lane))
}
