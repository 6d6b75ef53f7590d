//! The other ends of the links that the server opens to share its applications with other servers.

use serde_json::Value;

use super::peer::Link;
use super::scenario::{APPS, TOPICS};
use super::wire;
use super::world::World;

impl World {
    /// Takes the links that the server has opened in a turn.
    pub(super) fn take_links(&mut self) -> Result<(), String> {
        let attached = std::mem::take(&mut self.kernel.borrow_mut().attached);
        for (application, pipe) in attached {
            let Some(app) = APPS.iter().position(|app| *app == application) else {
                return Err(format!("a link of {application:?}, which has no clients"));
            };
            if self.links.iter().any(|link| link.app == app && !self.is_gone(link)) {
                return Err(format!("a second link of {application:?}"));
            }
            let (inbox, said) = (Vec::new(), 0);
            let link = Link { app, pipe, inbox, is_stalled: false, is_closed: false, said };
            self.links.push(link);
        }
        Ok(())
    }

    fn is_gone(&self, link: &Link) -> bool {
        link.is_closed || !self.kernel.borrow().pipes[link.pipe].is_open()
    }

    /// Lets links read, stall, speak for other servers, and go.
    pub(super) fn act_links(&mut self) -> Result<(), String> {
        for at in 0..self.links.len() {
            if self.links[at].is_closed {
                continue;
            }
            let what = if self.scenario.is_calm { 99 } else { self.below(60) };
            match what {
                0 => self.leave_link(at),
                1 | 2 => self.links[at].is_stalled ^= true,
                3..=9 => self.say_from_elsewhere(at),
                _ if !self.links[at].is_stalled => {
                    let bytes_max = [usize::MAX, 1 + self.below(2_000)][self.below(2)];
                    self.read_link(at, bytes_max)?;
                }
                _ => {}
            }
            self.arrive_at_link(at);
        }
        Ok(())
    }

    /// Has every link read from now on.
    pub(super) fn unstall_links(&mut self) {
        self.links.iter_mut().for_each(|link| link.is_stalled = false);
    }

    /// Lets all that is under way to links and from them arrive. Returns whether there was anything.
    pub(super) fn move_links(&mut self) -> Result<bool, String> {
        let mut has_moved = false;
        for at in 0..self.links.len() {
            has_moved |= self.arrive_at_link(at) | self.read_link(at, usize::MAX)?;
        }
        Ok(has_moved)
    }

    /// Checks, at rest, that those of a calm run have heard everything.
    pub(super) fn check_links(&self) -> Result<(), String> {
        if self.scenario.is_calm {
            for (at, link) in self.links.iter().enumerate() {
                self.model.check_heard_by_link(link.app, at)?;
            }
        }
        Ok(())
    }

    /// Closes all of them.
    pub(super) fn leave_links(&mut self) {
        (0..self.links.len()).for_each(|at| self.leave_link(at));
    }

    fn leave_link(&mut self, at: usize) {
        let link = &mut self.links[at];
        if !std::mem::replace(&mut link.is_closed, true) {
            self.kernel.borrow_mut().pipes[link.pipe].close_by_client();
        }
    }

    fn arrive_at_link(&mut self, at: usize) -> bool {
        let pipe = &mut self.kernel.borrow_mut().pipes[self.links[at].pipe];
        let has_some = pipe.is_under_way();
        if has_some {
            pipe.arrive(usize::MAX);
        }
        has_some
    }

    /// Publishes what a client of another server has published. No link hears it.
    fn say_from_elsewhere(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.said += 1;
        let (id, payload) = (format!("e{}", link.said), format!("{{\"elsewhere\":{}}}", link.said));
        let frame = wire::message(APPS[link.app], TOPICS[0], "publish", &id, &payload, None);
        self.model.elsewhere[link.app] += 1;
        self.kernel.borrow_mut().pipes[link.pipe].send(&frame);
    }

    /// Lets a link read. Returns whether it found anything.
    fn read_link(&mut self, at: usize, bytes_max: usize) -> Result<bool, String> {
        let link = &mut self.links[at];
        if link.is_closed {
            return Ok(false);
        }
        let (bytes, is_at_end, ending) = {
            let pipe = &mut self.kernel.borrow_mut().pipes[link.pipe];
            (pipe.receive(bytes_max), pipe.is_at_end(), pipe.ending())
        };
        link.inbox.extend_from_slice(&bytes);
        while let Some(body) = wire::take_frame(&mut self.links[at].inbox) {
            self.heard_by_link(at, &body)
                .map_err(|what| format!("link {at}: {what}: {}", String::from_utf8_lossy(&body)))?;
        }
        let link = &mut self.links[at];
        if is_at_end {
            link.is_closed = true;
            // One that was too slow is closed with what it has not read.
            if !link.inbox.is_empty() && !ending.is_abrupt && self.scenario.is_calm {
                return Err(format!("link {at} ends within a frame"));
            }
            self.kernel.borrow_mut().pipes[link.pipe].close_by_client();
        }
        Ok(is_at_end || !bytes.is_empty())
    }

    fn heard_by_link(&mut self, at: usize, body: &[u8]) -> Result<(), &'static str> {
        self.model.frames_received += 1;
        let json = wire::json_of(body).ok_or("it is no message")?;
        let message: Value = serde_json::from_slice(json).map_err(|_| "it is no JSON")?;
        if message["message_type"] == "response" || message["message_type"] == "notification" {
            // What it sent itself was refused, or the server ends.
            return if self.scenario.is_calm && !self.model.is_draining() {
                Err("a link that did nothing wrong was refused something")
            } else {
                Ok(())
            };
        }
        let app = self.links[at].app;
        if message["message_type"] != "publish" || message["app_id"] != APPS[app] {
            return Err("it is no publication of this application");
        }
        let meta = &message["meta"];
        if !meta["offset"].is_null() || !meta["epoch"].is_null() || !meta["ack"].is_null() {
            return Err("it has what is between a client and its server");
        }
        let payload = &message["payload"];
        if !payload["elsewhere"].is_null() {
            return Err("a link hears what a link has published");
        }
        // What has a history is numbered otherwise.
        let topic = TOPICS.iter().position(|topic| message["channel_id"] == *topic);
        match (topic, payload["publication"].as_u64()) {
            (Some(topic), Some(number)) => {
                self.model.hear_by_link((app, topic), number as usize, at)
            }
            _ => Ok(()),
        }
    }
}
