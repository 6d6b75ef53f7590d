//! The turn: its time, and its budget of work.
//!
//! A message of few bytes may cause much work: a publication to thousands, or a list of all channels.
//! Once a turn has done enough of it, connections with further such messages wait for a later turn,
//! in order of arrival, and meanwhile all others are served.

use std::collections::VecDeque;
use std::time::Duration;

use super::connection::{Connection, Connections, Held, Lane};
use super::counters::Counters;
use super::events::{Action, Agenda};
use super::keys::{ConnectionKey, RequestKey};
use super::line::Line;
use super::timers::{Moment, Now};
use crate::branches::{self, Branch};
use crate::broker::turn_limits::{
    CROWD_WORK_PARTS, DELIVERED_BYTES_PER_WORK, LIGHT_WORK_PARTS, REPLAYS_PER_TURN, TurnLimits,
};

/// The unit of work is a delivery: a small publication into the queue of one subscriber.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) now: Now,
    /// Only what was due by then is done in this turn.
    pub(crate) judged: Duration,
    /// The time at which the last byte of the current message arrived.
    pub(crate) arrived: Moment,
    /// See [`TurnLimits::work_max`].
    work_max: usize,
    /// See [`TurnLimits::frames_per_connection_max`].
    frames_max: usize,
    /// The frames of a share: as many as a connection may have, and no more than `steps_max`.
    share_frames_max: usize,
    /// See [`Turn::limit_steps`].
    pub(crate) steps_max: usize,
    share: Share,
    /// All work since the start.
    work_done: u64,
    light: Queue,
    heavy: Queue,
    pub(crate) lost: Lost,
    /// Connections that are to be sent more of what was kept.
    replays: VecDeque<ConnectionKey>,
    /// Connections that may begin in this turn to be sent what was kept.
    replays_left: usize,
    /// Connections began that in this turn, or wait to be sent more.
    has_replays: bool,
    /// Work was begun since the last turn's end, or a due connection had its turn.
    pub(crate) has_begun: bool,
}

/// The share of a turn that one connection has, or all other threads together.
#[derive(Debug, Default)]
struct Share {
    frames_left: usize,
    /// The value of [`Turn::work_done`] at which it is used up.
    work_end: u64,
}

impl Share {
    fn is_spent(&self, work_done: u64) -> bool {
        self.frames_left == 0 || work_done >= self.work_end
    }
}

/// Requests whose workers were lost and that may go to other ones. Each of them has a search among
/// all workers of its channel, and a worker may have had thousands, so that later turns do what is over
/// the share of this one.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    waiting: VecDeque<RequestKey>,
    /// This turn's share of them, once it was begun.
    share: Option<Share>,
}

impl Lost {
    pub(crate) fn push(&mut self, request: RequestKey) {
        self.waiting.push_back(request);
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// A lane: the work that this turn has begun, and the connections that wait for another turn.
#[derive(Debug, Default)]
struct Queue {
    /// Work that was charged in this turn, or reserved for connections that are due.
    spent: usize,
    waiting: Line<usize>,
}

impl Queue {
    /// Returns whether there is room. The first message always has room, because some turn has to do
    /// its work.
    fn has_room(&self, work: usize, work_max: usize) -> bool {
        self.spent == 0 || self.spent + work <= work_max
    }
}

impl Turn {
    pub(crate) fn new(now: Now, limits: &TurnLimits) -> Self {
        Self {
            now,
            judged: now.monotonic,
            arrived: now.monotonic.into(),
            work_max: limits.work_max,
            frames_max: limits.frames_per_connection_max,
            share_frames_max: limits.frames_per_connection_max,
            steps_max: usize::MAX,
            share: Share::default(),
            work_done: 0,
            light: Queue::default(),
            heavy: Queue::default(),
            lost: Lost::default(),
            replays: VecDeque::new(),
            replays_left: REPLAYS_PER_TURN,
            has_replays: false,
            has_begun: false,
        }
    }

    pub(crate) fn change_limits(&mut self, limits: &TurnLimits) {
        (self.work_max, self.frames_max) = (limits.work_max, limits.frames_per_connection_max);
    }

    pub(crate) fn begin(&mut self, now: Now) {
        self.now = now;
        self.judged = now.monotonic;
        self.lost.share = None;
        self.has_begun |= self.has_replays;
        self.limit_steps(usize::MAX);
    }

    /// Sets the steps that are left of those for the whole turn.
    pub(crate) fn limit_steps(&mut self, steps_max: usize) {
        (self.steps_max, self.share_frames_max) = (steps_max, self.frames_max.min(steps_max));
    }

    pub(crate) fn deadline_in(&self, timeout: Duration) -> Duration {
        self.now.monotonic.saturating_add(timeout)
    }

    /// Begins the share of a connection, or of the threads that post to the broker.
    pub(crate) fn begin_share(&mut self) {
        self.share = self.new_share();
    }

    fn new_share(&self) -> Share {
        let work_end = self.work_done + self.work_max as u64;
        Share { frames_left: self.share_frames_max, work_end }
    }

    pub(crate) fn is_share_spent(&self) -> bool {
        self.share.is_spent(self.work_done)
    }

    /// Counts a frame of the share.
    pub(crate) fn note_frame(&mut self) {
        self.share.frames_left -= 1;
    }

    /// Returns the work of putting a frame into the queues of its subscribers.
    #[inline]
    pub(crate) fn fan_out_work(&self, subscribers: usize, frame_bytes: usize) -> usize {
        let crowd = subscribers.min(self.work_max / CROWD_WORK_PARTS);
        crowd * (1 + frame_bytes / DELIVERED_BYTES_PER_WORK)
    }

    /// Takes the next request whose worker was lost, unless this turn's share of them is used up.
    pub(crate) fn next_lost(&mut self) -> Option<RequestKey> {
        let new = self.new_share();
        let Lost { waiting, share } = &mut self.lost;
        let share = share.get_or_insert(new);
        if share.is_spent(self.work_done) {
            return None;
        }
        let request = waiting.pop_front();
        if request.is_some() {
            share.frames_left -= 1;
        } else {
            // It may have been long.
            *waiting = VecDeque::new();
        }
        request
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

    /// Has replays wait for the next turn.
    #[cfg(test)]
    pub(crate) fn queue_replay_of_nobody(&mut self) {
        self.replays.push_back(ConnectionKey::NOWHERE);
        self.note_replay();
    }

    #[cfg(test)]
    pub(crate) fn is_awaited(&self) -> bool {
        !self.light.waiting.is_empty() || !self.heavy.waiting.is_empty()
    }

    /// Charges this turn with the work of a connection's next message and returns whether it has
    /// room for it. If not, the connection waits in a lane, and is resumed when it is due.
    #[expect(
        clippy::inline_always,
        reason = "each publication passes here, and a call costs 19 instructions"
    )]
    #[inline(always)]
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
        self.wait(lane, key, connection, work);
        counters.yields += 1;
        false
    }

    #[cold]
    #[inline(never)]
    fn wait(&mut self, lane: Lane, key: ConnectionKey, connection: &mut Connection, work: usize) {
        branches::note(match lane {
            Lane::Light => Branch::WaitsForLightWork,
            Lane::Heavy => Branch::WaitsForHeavyWork,
        });
        self.queue(lane).waiting.push_back(key, work);
        connection.held = Held::Work(lane);
    }

    /// Records that a due connection begins its share. Another one may follow it in the next turn.
    pub(crate) fn note_due(&mut self) {
        self.has_begun = true;
    }

    /// Returns whether a connection may be sent what was kept at once, because none waits for that and
    /// few were in this turn.
    pub(crate) fn may_replay(&mut self) -> bool {
        let may = self.replays.is_empty() && self.replays_left > 0;
        self.replays_left -= usize::from(may);
        self.note_replay();
        may
    }

    /// Lets a connection be sent more of what was kept in a later turn.
    pub(crate) fn queue_replay(&mut self, key: ConnectionKey, connections: &mut Connections) {
        let Some(connection) = connections.get_mut(key) else { return };
        if connection.is_replaying && !std::mem::replace(&mut connection.replay_queued, true) {
            self.replays.push_back(key);
            self.note_replay();
        }
    }

    /// The end of this turn looks after replays.
    fn note_replay(&mut self) {
        (self.has_replays, self.has_begun) = (true, true);
    }

    #[cold]
    #[inline(never)]
    fn resume_replays(&mut self, connections: &mut Connections, agenda: &mut Agenda) {
        let mut resumed = 0;
        while resumed < REPLAYS_PER_TURN
            && let Some(key) = self.replays.pop_front()
        {
            // The key of one that left finds nothing.
            if let Some(connection) = connections.get_mut(key) {
                connection.replay_queued = false;
                resumed += 1;
                if !std::mem::replace(&mut connection.takes_kept, true) {
                    agenda.actions.push_back(Action::Resume(key));
                }
            }
        }
        if self.replays.is_empty() {
            // It may have been long.
            self.replays = VecDeque::new();
        }
        self.replays_left = REPLAYS_PER_TURN;
        self.has_replays = !self.replays.is_empty();
    }

    /// Ends the turn. The connections at the front go on in the next turn, as far as it has room.
    #[inline]
    pub(crate) fn end(&mut self, connections: &mut Connections, agenda: &mut Agenda) {
        if std::mem::take(&mut self.has_begun) {
            self.resume_waiting(connections, agenda);
        }
    }

    fn resume_waiting(&mut self, connections: &mut Connections, agenda: &mut Agenda) {
        if self.has_replays {
            self.resume_replays(connections, agenda);
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
            // The first connection takes the room that is left, so another one is first each turn.
            if agenda.actions.len() > first_action
                && let Some(last) = agenda.actions.pop_back()
            {
                agenda.actions.insert(first_action, last);
            }
        }
    }

    /// Removes a connection that leaves from its lane. The next one in the lane moves up.
    pub(crate) fn forget(
        &mut self,
        key: ConnectionKey,
        connections: &mut Connections,
        agenda: &mut Agenda,
    ) {
        let Some(connection) = connections.get_mut(key) else { return };
        if let Held::Work(lane) = connection.held {
            branches::note(Branch::LeftWhileWaitingForWork);
            connection.held = Held::No;
            self.queue(lane).waiting.leave(|key| waits(connections, key, lane));
            // Its socket was not read meanwhile, so an end of the stream may not have been noticed.
            agenda.actions.push_back(Action::Resume(key));
        } else if !std::mem::take(&mut connection.is_due) {
            return;
        } else {
            branches::note(Branch::DueAndLeft);
        }
        self.has_begun = true;
    }

    /// Returns whether a connection stands in a lane.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn has_in_lane(&self, lane: Lane, key: ConnectionKey) -> bool {
        let queue = match lane {
            Lane::Light => &self.light,
            Lane::Heavy => &self.heavy,
        };
        queue.waiting.contains(key)
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
