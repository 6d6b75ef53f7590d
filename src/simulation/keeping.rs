//! What clients say of the channels that have a history, where any has.

use serde_json::json;

use super::model::{Asked, Kind};
use super::scenario::{CLIENT_IDS, KEPT, KEPT_CHANNELS, TOPICS};
use super::speech::Say;
use super::world::World;

impl World {
    pub(super) fn say_of_kept(&mut self, at: usize, say: Say) {
        let conn = self.peers[at].conn;
        match say {
            Say::Keep => self.keep(at),
            Say::KeepMany => (0..8).for_each(|_| self.keep(at)),
            Say::Follow => self.follow(at),
            Say::Watch if self.model.may_watch(conn) => {
                let conflate = self.below(3) > 0;
                let payload = json!({"pattern": true, "ack": true, "conflate": conflate});
                self.tell(at, Kind::Watch { conflate }, "kept.*", "subscribe", payload);
            }
            Say::Unwatch if self.model.has_watched(conn) => {
                let payload = json!({"pattern": true, "ack": true});
                self.tell(at, Kind::Unwatch, "kept.*", "unsubscribe", payload);
            }
            Say::Unfollow => {
                let own_id = CLIENT_IDS[self.model.conns[conn].id];
                let payload = json!({"connection_id": own_id, "ack": true});
                self.tell(at, Kind::Unfollow, KEPT, "unsubscribe", payload);
            }
            _ => {}
        }
    }

    /// Publishes on one of the channels that have a history.
    fn keep(&mut self, at: usize) {
        let conn = self.peers[at].conn;
        let app = self.model.conns[conn].app;
        let kept = self.below(4) / 3;
        let publication = self.model.publication(app, TOPICS.len() + kept, Some(conn));
        let payload = json!({"publication": publication});
        self.tell(at, Kind::Keep(publication), KEPT_CHANNELS[kept], "publish", payload);
    }

    /// Subscribes to the first one with its past.
    fn follow(&mut self, at: usize) {
        let conn = self.peers[at].conn;
        if !self.model.has_topic(conn)
            || self.model.has_watched(conn)
            || self.model.says_it_follows(conn)
        {
            return;
        }
        let back = [0, 0, 1, 3, 10][self.below(5)];
        let known = self.model.heard_up_to(conn, back).filter(|_| self.below(3) > 0);
        let other = || Some(("another".to_owned(), 3));
        let since = if self.below(8) == 7 { other() } else { known };
        let last = [None, None, Some(1), Some(5), Some(1_000)][self.below(5)];
        let last = if since.is_none() { last.or(Some(2)) } else { last };
        let mut payload = json!({});
        if let Some((epoch, offset)) = &since {
            payload["since"] = json!({"epoch": epoch, "offset": offset});
        }
        if let Some(last) = last {
            payload["last"] = last.into();
        }
        let asked = self.model.asks_for_past(Asked { last, since });
        self.tell(at, Kind::Follow(asked), KEPT, "subscribe", payload);
    }
}
