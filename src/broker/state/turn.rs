//! What a turn takes on. A message of few bytes may be much work: a publication to thousands, a
//! list of all channels. Once a turn has done enough of it, the next who asks for more waits for
//! a turn of later, in order of arrival, and meanwhile everybody else is served.

use std::collections::VecDeque;

use super::core::Core;
use super::events::Action;
use super::keys::ConnectionKey;
use crate::broker::limits::{
    CROWD_WORK_MAX, DELIVERED_BYTES_PER_WORK, LIGHT_WORK_MAX, WORK_PER_TURN_MAX,
};

/// Where a connection stands whose next message is more than its turn could take on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    #[default]
    Nowhere,
    Waiting,
    /// The turn that comes has room for it.
    Due,
}

/// The unit is a delivery: a small publication into the queue of one subscriber.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// All that was ever done.
    pub(crate) done: u64,
    /// Light and heavy apart: who asks for little does not stand behind those who ask for much.
    lanes: [Lane; 2],
    /// Whether work was taken on since the last turn's end, or somebody who was due had its turn.
    pub(crate) has_begun: bool,
}

impl Work {
    #[cfg(test)]
    pub(crate) fn is_awaited(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.waiting.is_empty())
    }
}

#[derive(Debug, Default)]
struct Lane {
    /// What this turn has taken on, and those who are due will.
    spent: usize,
    waiting: VecDeque<(ConnectionKey, usize)>,
}

impl Lane {
    /// However much the first one is, it is taken on: some turn has to.
    fn has_room(&self, work: usize) -> bool {
        self.spent == 0 || self.spent + work <= WORK_PER_TURN_MAX
    }
}

/// What it is to put a frame of so many bytes into so many queues.
#[inline]
pub(crate) fn fan_out_work(subscribers: usize, frame_bytes: usize) -> usize {
    subscribers.min(CROWD_WORK_MAX) * (1 + frame_bytes / DELIVERED_BYTES_PER_WORK)
}

impl Core {
    /// Whether a message of this connection may be so much work in this turn. If not, it is looked
    /// at again when its turn has come.
    pub(crate) fn takes_on(&mut self, from: ConnectionKey, work: usize) -> bool {
        let Some(connection) = self.connections.get_mut(from) else { return true };
        if std::mem::take(&mut connection.place) == Place::Due {
            return true;
        }
        let lane = &mut self.work.lanes[usize::from(work > LIGHT_WORK_MAX)];
        if lane.waiting.is_empty() && lane.has_room(work) {
            lane.spent += work;
            self.work.has_begun = true;
            return true;
        }
        lane.waiting.push_back((from, work));
        connection.place = Place::Waiting;
        self.counters.yields += 1;
        false
    }

    /// A turn is over: those at the front go on in the next one, as many as it has room for.
    pub(crate) fn end_turn_of_work(&mut self) {
        if !std::mem::take(&mut self.work.has_begun) {
            return;
        }
        for lane in &mut self.work.lanes {
            lane.spent = 0;
            let first = self.actions.len();
            while let Some(&(key, work)) = lane.waiting.front()
                && lane.has_room(work)
            {
                lane.waiting.pop_front();
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.place = Place::Due;
                    lane.spent += work;
                    self.actions.push_back(Action::Resume(key));
                }
            }
            // Whoever comes first takes what room is left: another one each turn.
            if self.actions.len() > first
                && let Some(last) = self.actions.pop_back()
            {
                self.actions.insert(first, last);
            }
        }
    }

    /// A connection that leaves waits for nothing, and whoever stands behind it moves up.
    pub(crate) fn give_up_place(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match std::mem::take(&mut connection.place) {
            Place::Nowhere => return,
            Place::Waiting => {
                for lane in &mut self.work.lanes {
                    lane.waiting.retain(|(waiting, _)| *waiting != key);
                }
                // Its socket was not read meanwhile, and may have come to its end.
                self.actions.push_back(Action::Resume(key));
            }
            Place::Due => {}
        }
        self.work.has_begun = true;
    }
}
