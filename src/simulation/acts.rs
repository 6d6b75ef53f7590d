//! The acts of the process around the server that change what it is: other limits and tokens,
//! channels, connections that it closes; and a crowd of clients that never say a word.

use super::embedded::locked;
use super::scenario::{APPS, CLIENT_IDS, FLEETING, KEPT_CHANNELS, LOWER_FRAME_BYTES_MAX};
use super::world::World;
use crate::Context;

/// More connections than are refused in words at one time.
const CROWD: usize = 75;
/// More publications than one write has slices, each too large to be copied.
const WIDE_BURST: usize = 40;
const WIDE_BYTES: usize = 4_200;
/// Such bursts of one run: a queue holds so many.
const WIDE_BURSTS_MAX: usize = 3;

impl World {
    /// Lets the process change something about the server.
    pub(super) fn act_outside(&mut self) {
        let app = self.below(APPS.len());
        let id = self.below(CLIENT_IDS.len());
        match self.below(6) {
            0 if self.scenario.has_reloads => self.reload(),
            _ if self.scenario.has_reloads && self.scenario.is_tight => self.reload(),
            1 => self.post(move |context| {
                context.create_channel(APPS[app], FLEETING);
                if let Some(key) = context.get_connection(APPS[app], CLIENT_IDS[id]) {
                    context.subscribe(key, FLEETING);
                }
            }),
            2 => self.post(move |context| {
                context.remove_channel(APPS[app], FLEETING);
            }),
            3 | 4 => self.rush_and_dismiss(),
            _ if self.scenario.is_pressing => self.serve_more(),
            _ if self.scenario.has_wide_pipes => self.publish_widely(),
            _ if self.scenario.has_crowd => self.bring_crowd(),
            _ => {}
        }
    }

    /// Lets all clients ask for more work at once than a turn has room for, where that is little. Then
    /// the process may close one of them.
    fn rush_and_dismiss(&mut self) {
        if self.scenario.limits.turn.work_max < 1_000 {
            match self.below(4) {
                0 | 1 => self.publish_much(),
                _ => self.ask_much(),
            }
        }
        if self.scenario.is_calm || self.peers.is_empty() || self.below(2) == 0 {
            return;
        }
        let at = self.below(self.peers.len());
        let conn = &self.model.conns[self.peers[at].conn];
        let dismissed = (conn.app, conn.id);
        if self.below(2) == 0 {
            self.dismiss(dismissed);
        } else {
            // After the next turn, when what waits for work is due.
            self.dismissed_later = Some((self.turns + 2 + self.below(2) as u64, dismissed));
        }
    }

    /// Closes the connection for which it is time, if there is one.
    pub(super) fn dismiss_in_time(&mut self) {
        if let Some((_, dismissed)) = self.dismissed_later.take_if(|(turn, _)| *turn <= self.turns)
        {
            self.dismiss(dismissed);
        }
    }

    fn dismiss(&mut self, (app, id): (usize, usize)) {
        self.model.dismiss(app, id);
        self.dismissals += 1;
        let inside = self.server.inside.clone();
        self.post(move |context| {
            locked(&inside).dismissals += 1;
            if let Some(key) = context.get_connection(APPS[app], CLIENT_IDS[id]) {
                context.close_connection(key);
            }
        });
    }

    fn post(&self, act: impl FnOnce(&mut Context<'_>) + Send + 'static) {
        // This cannot fail, because the loop runs and the mailbox holds more.
        let _ = self.server.handle.post(act);
    }

    /// Removes the channels that the process has made, for the end.
    pub(super) fn remove_fleeting(&self) {
        for app in APPS {
            self.post(move |context| {
                context.remove_channel(app, FLEETING);
            });
        }
    }

    /// Removes the channels of which something is kept, for the end.
    pub(super) fn forget_kept(&self) {
        if self.scenario.is_keeping {
            for app in APPS {
                self.post(move |context| {
                    for channel in KEPT_CHANNELS {
                        context.remove_channel(app, channel);
                    }
                });
            }
        }
    }

    fn reload(&mut self) {
        let what = if self.scenario.is_tight { self.below(5) / 3 * 3 } else { self.below(5) };
        let how = self.below(3);
        let first = self.scenario.first_limits.clone();
        let mut limits = self.limits.clone();
        if self.scenario.is_keeping && self.below(2) == 1 {
            limits.histories.clone_from(&first.histories);
            match self.below(3) {
                0 => limits.histories.clear(),
                how => limits.histories.iter_mut().for_each(|rule| rule.messages = 2 + 9 * how),
            }
            self.model.histories_are_changing();
        }
        match what {
            0 if self.scenario.is_tight => {
                limits.memory_bytes_max = first.memory_bytes_max / 4 * (4 - how);
            }
            0 => limits.connections_max = first.connections_max + how,
            1 => limits.queue_high_water_bytes = first.queue_high_water_bytes * (1 + how),
            2 => {
                let frames = [first.frame_bytes_max, LOWER_FRAME_BYTES_MAX, LOWER_FRAME_BYTES_MAX];
                limits.frame_bytes_max = frames[how];
            }
            _ => limits.turn.frames_per_connection_max = 3 + how,
        }
        let token = self.model.change_token();
        self.model.limits_are_changing(&limits);
        let known = &mut self.scenario.limits;
        known.connections_max = known.connections_max.max(limits.connections_max);
        known.queue_high_water_bytes =
            known.queue_high_water_bytes.max(limits.queue_high_water_bytes);
        self.server.reload(limits.clone(), self.scenario.access(token));
        self.limits = limits;
        self.reloads += 1;
    }

    /// Notes which commands of the process have been carried out.
    pub(super) fn note_acts(&mut self) {
        let inside = locked(&self.server.inside);
        let (reloads, dismissals) = (inside.reloads, inside.dismissals);
        drop(inside);
        if reloads == self.reloads {
            self.model.has_reloaded();
        }
        if dismissals == self.dismissals {
            self.model.has_dismissed();
        }
    }

    fn publish_widely(&mut self) {
        if self.wide_bursts >= WIDE_BURSTS_MAX {
            return;
        }
        let Some((app, topic)) = self.model.heard_topic() else { return };
        self.wide_bursts += 1;
        for _ in 0..WIDE_BURST {
            self.publish_inside(app, topic, WIDE_BYTES);
        }
    }

    /// Connects clients that say nothing, and leave when the server closes them.
    fn bring_crowd(&mut self) {
        if std::mem::replace(&mut self.has_crowd_come, true) {
            return;
        }
        for _ in 0..CROWD {
            self.kernel.borrow_mut().connect(0, 1_000);
        }
    }
}
