//! A run: events happen one after another, and after each turn the promises are checked.

use std::collections::VecDeque;
use std::time::Duration;

use super::embedded::{Embedded, locked, shared};
use super::kernel::{Kernel, PipeId, SharedKernel, Stop};
use super::model::{Model, Newcomer, Reaction};
use super::peer::{Link, Peer, Stream, Task};
use super::pipe::{FLIGHT_BYTES, Pipe};
use super::scenario::{
    ADMITTED_USER, APPS, CLIENT_IDS, KEPT_CHANNELS, Scenario, TOPICS, channel_of,
};
use super::wire;
use crate::broker::{self, User};
use crate::net::Budget;
use crate::proto::{Json, MessageType};
use crate::{ConnectionKey, Counters, Limits, Message};

/// The extensions that a client asks for when it connects.
const EXTENSIONS: [Option<&[&str]>; 7] = [
    None,
    None,
    Some(&[]),
    Some(CALL),
    Some(BOTH),
    Some(&["binary"]),
    Some(&["of a newer version", "call"]),
];
/// The same where a channel has a history.
const TOPICAL: [Option<&[&str]>; 4] =
    [None, Some(&["call", "binary", "topic"]), Some(&["topic"]), Some(&["call", "topic"])];
const BOTH: &[&str] = &["call", "binary"];
const CALL: &[&str] = &["call"];
/// The end of ids that are longer than the server's own.
const LONG_TAIL: &str = "-------- -------- -------- -------- -------- -------- -------- --------";

pub(super) struct World {
    pub(super) kernel: SharedKernel,
    pub(super) server: Embedded,
    pub(super) model: Model,
    pub(super) scenario: Scenario,
    pub(super) peers: Vec<Peer>,
    pub(super) links: Vec<Link>,
    pub(super) turns: u64,
    /// The limits that were last given to the server, and how many times it was given any.
    pub(super) limits: Limits,
    pub(super) reloads: usize,
    /// Commands to close a connection that were given to the server.
    pub(super) dismissals: usize,
    pub(super) wide_bursts: usize,
    pub(super) has_crowd_come: bool,
    /// The connection that the process closes in a later turn, by application and id.
    pub(super) dismissed_later: Option<(u64, (usize, usize))>,
    /// The memory that the server holds without connections.
    pub(super) least_memory_bytes: usize,
    pub(super) present: Vec<ConnectionKey>,
    /// As they were after the last turn.
    pub(super) counters: Counters,
    /// The connections at the begin of the turn.
    pub(super) known: Vec<(ConnectionKey, PipeId)>,
    /// Connections closed since all actions were last carried out: those that had been read before,
    /// and those that were closed for their silence.
    pub(super) closed_read: u64,
    pub(super) closed_silent: u64,
}

/// The events of a run.
#[derive(Clone, Copy)]
enum Happening {
    Turn,
    Connect,
    Say,
    Arrive,
    Receive,
    Stall,
    Leave,
    Inside,
    LittleTime,
    MuchTime,
    Stop,
    Descriptors,
}

const CALM: [(usize, Happening); 7] = [
    (40, Happening::Turn),
    (6, Happening::Connect),
    (40, Happening::Say),
    (40, Happening::Arrive),
    (25, Happening::Receive),
    (8, Happening::Inside),
    (6, Happening::LittleTime),
];
const ROUGH: [(usize, Happening); 12] = [
    (40, Happening::Turn),
    (8, Happening::Connect),
    (40, Happening::Say),
    (40, Happening::Arrive),
    (25, Happening::Receive),
    (4, Happening::Stall),
    (5, Happening::Leave),
    (8, Happening::Inside),
    (5, Happening::LittleTime),
    (3, Happening::MuchTime),
    (2, Happening::Stop),
    (2, Happening::Descriptors),
];
/// Much is said, and little of the answers is read.
const PRESSING: [(usize, Happening); 10] = [
    (40, Happening::Turn),
    (8, Happening::Connect),
    (50, Happening::Say),
    (50, Happening::Arrive),
    (9, Happening::Receive),
    (2, Happening::Stall),
    (3, Happening::Leave),
    (10, Happening::Inside),
    (4, Happening::LittleTime),
    (1, Happening::MuchTime),
];
/// Whatever is said arrives soon, so that conversations become long.
const CALLING: [(usize, Happening); 11] = [
    (60, Happening::Turn),
    (6, Happening::Connect),
    (40, Happening::Say),
    (70, Happening::Arrive),
    (60, Happening::Receive),
    (2, Happening::Stall),
    (2, Happening::Leave),
    (3, Happening::Inside),
    (6, Happening::LittleTime),
    (2, Happening::MuchTime),
    (1, Happening::Stop),
];

impl World {
    pub(super) fn new(mut kernel: Kernel) -> Result<Self, String> {
        let scenario = Scenario::choose(&mut kernel.decisions);
        kernel.faults = scenario.faults;
        kernel.backlogs[1].has_handshakes = scenario.has_handshakes;
        let kernel = shared(kernel);
        let mut server = Embedded::new(&kernel, &scenario).map_err(|error| error.to_string())?;
        let least_memory_bytes = server.stats().memory_bytes;
        if scenario.has_links {
            server.join();
        }
        let model = Model::new(&scenario);
        Ok(Self {
            kernel,
            server,
            model,
            peers: Vec::new(),
            links: Vec::new(),
            turns: 0,
            limits: scenario.limits.clone(),
            reloads: 0,
            dismissals: 0,
            wide_bursts: 0,
            has_crowd_come: false,
            dismissed_later: None,
            least_memory_bytes,
            scenario,
            present: Vec::new(),
            counters: Counters::default(),
            known: Vec::new(),
            closed_read: 0,
            closed_silent: 0,
        })
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.scenario.steps {
            if self.kernel.borrow().decisions.is_exhausted() {
                break;
            }
            self.happen()?;
        }
        self.end()
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.kernel.borrow_mut().decisions.below(bound)
    }

    fn happen(&mut self) -> Result<(), String> {
        let happening = {
            let decisions = &mut self.kernel.borrow_mut().decisions;
            decisions.weighted(match &self.scenario {
                Scenario { is_calm: true, .. } => &CALM[..],
                Scenario { is_pressing: true, .. } => &PRESSING[..],
                Scenario { is_calling: true, .. } => &CALLING[..],
                _ => &ROUGH[..],
            })
        };
        self.model.step += 1;
        let peer = (!self.peers.is_empty()).then(|| self.below(self.peers.len()));
        match (happening, peer) {
            (Happening::Turn, _) => self.turn()?,
            (Happening::Connect, _) => self.connect(),
            (Happening::Say, Some(at)) => {
                for _ in 0..=self.below(3) {
                    if !self.peers[at].is_done {
                        self.say_something(at);
                    }
                }
            }
            (Happening::Arrive, Some(at)) => {
                let has_something = |peer: &Peer, pipe: &Pipe| {
                    pipe.is_under_way() || (!peer.is_closed && !peer.unsent.is_empty())
                };
                if let Some(at) = self.next_peer(at, has_something) {
                    self.arrive(at);
                }
            }
            (Happening::Receive, Some(at)) => {
                let has_something = |peer: &Peer, pipe: &Pipe| {
                    !peer.is_stalled
                        && !peer.is_closed
                        && (!pipe.outbound.is_empty() || pipe.is_at_end())
                };
                if let Some(at) = self.next_peer(at, has_something) {
                    self.receive(at)?;
                }
            }
            (Happening::Stall, Some(at)) => {
                let peer = &mut self.peers[at];
                peer.is_stalled = !peer.is_prompt && !peer.is_stalled;
            }
            (Happening::Leave, Some(at)) => self.leave(at),
            (Happening::Inside, _) => self.act_inside(),
            (Happening::LittleTime, _) => {
                let millis = self.below(50) as u64;
                self.pass(Duration::from_millis(millis));
            }
            (Happening::MuchTime, _) => {
                let millis = [300, 1_000, 5_000, 31_000][self.below(4)];
                self.pass(Duration::from_millis(millis));
                // The wall clock is set forward or back.
                let offset = Duration::from_secs(self.below(100) as u64);
                self.kernel.borrow_mut().set_wall_clock(offset);
            }
            (Happening::Stop, _) => {
                let time = Duration::from_millis([300, 6_000, 31_000, 70_000][self.below(4)]);
                let keeps_events = self.below(2) == 0;
                self.kernel.borrow_mut().stop = Some(Stop { time, keeps_events });
            }
            (Happening::Descriptors, _) => {
                if self.scenario.has_few_descriptors {
                    let more = self.below(3);
                    let mut kernel = self.kernel.borrow_mut();
                    kernel.descriptors_max = kernel.descriptors + more;
                }
            }
            (_, None) => {}
        }
        Ok(())
    }

    /// Returns the first client from this one on for which something is true.
    fn next_peer(&self, from: usize, is_it: impl Fn(&Peer, &Pipe) -> bool) -> Option<usize> {
        let kernel = self.kernel.borrow();
        let mut all = (from..self.peers.len()).chain(0..from);
        all.find(|at| is_it(&self.peers[*at], &kernel.pipes[self.peers[*at].pipe]))
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.kernel.borrow_mut().pass(time);
        self.model.now += time;
    }

    pub(super) fn connect(&mut self) {
        let open = self.peers.iter().filter(|peer| !peer.is_closed).count();
        if open >= self.scenario.clients_max {
            return;
        }
        let is_calm = self.scenario.is_calm;
        let is_prompt = self.below(if self.scenario.is_pressing { 8 } else { 2 }) == 0;
        let send_bytes_max = match self.below(3) {
            _ if self.scenario.has_wide_pipes => 1 << 20,
            2 if is_prompt => 2_000,
            _ if is_prompt => 64 << 10,
            0 => 3_000,
            1 => 900,
            _ if is_calm => 9_000,
            _ => 300,
        };
        let listener = self.below(2);
        let (app, id) = if is_calm {
            // No client takes over from another.
            (self.peers.len() % 2, self.peers.len() / 2 % CLIENT_IDS.len())
        } else if self.scenario.is_calling && self.below(6) > 0 {
            (0, self.peers.len() % CLIENT_IDS.len())
        } else {
            (self.below(5) / 4, self.below(CLIENT_IDS.len()))
        };
        let splits_writes = self.below(4) == 3;
        let id_tail = ["", "", "", " \"\u{e9}\" ", LONG_TAIL][self.below(5)];
        let extensions = if self.scenario.is_keeping {
            TOPICAL[self.below(TOPICAL.len())]
        } else {
            EXTENSIONS[self.below(EXTENSIONS.len())]
        };
        let extensions = extensions.or(Some(CALL).filter(|_| self.scenario.is_calling));
        let users = [Some(ADMITTED_USER), Some(ADMITTED_USER), None, Some(ADMITTED_USER + 1)];
        let (client, is_admitted) = if self.scenario.has_users && listener == 0 {
            let uid = users[self.below(users.len())];
            let user = uid.map(|uid| User { uid, gid: 0 });
            (broker::Peer::Unix { user, pid: None }, uid == Some(ADMITTED_USER))
        } else {
            (broker::Peer::Unknown, true)
        };
        let Some(pipe) = self.kernel.borrow_mut().connect(listener, send_bytes_max) else {
            return;
        };
        self.kernel.borrow_mut().pipes[pipe].client = client;
        let newcomer = Newcomer { app, id, is_prompt, id_tail, is_admitted, extensions };
        let conn = self.model.begin(&newcomer);
        let flights = self.kernel.borrow().pipes[pipe].flights;
        self.peers.push(Peer {
            conn,
            pipe,
            inbox: Vec::new(),
            unsent: VecDeque::new(),
            answers_due: flights.saturating_sub(1),
            answer_bytes: 0,
            is_prompt,
            splits_writes,
            is_stalled: false,
            is_stuck: false,
            is_done: false,
            is_closed: false,
            tasks: Vec::new(),
        });
        if flights > 0 {
            self.kernel.borrow_mut().pipes[pipe].send(&[b'f'; FLIGHT_BYTES]);
        }
        let at = self.peers.len() - 1;
        self.say_hello(at);
        if self.scenario.is_calling && !self.peers[at].is_done && self.below(2) == 0 {
            self.offer_work(at);
        }
    }

    /// Lets some of a client's bytes arrive.
    fn arrive(&mut self, at: usize) {
        if !self.peers[at].is_closed {
            for _ in 0..=self.below(3) {
                self.hand_over(at);
            }
        }
        let in_flight = self.kernel.borrow().pipes[self.peers[at].pipe].in_flight.len();
        let bytes = match self.below(3) {
            0 => in_flight,
            _ => self.below(in_flight + 1),
        };
        self.arrive_bytes(at, bytes);
    }

    /// Makes the next write of a client. A client that writes headers and bodies apart waits in
    /// between. Returns whether there was a write.
    pub(super) fn hand_over(&mut self, at: usize) -> bool {
        let mut kernel = self.kernel.borrow_mut();
        let peer = &mut self.peers[at];
        let pipe = &mut kernel.pipes[peer.pipe];
        let may_write = pipe.in_flight.is_empty() || !peer.splits_writes;
        let bytes = (may_write && peer.answers_due == 0).then(|| peer.unsent.pop_front()).flatten();
        bytes.inspect(|bytes| pipe.send(bytes)).is_some()
    }

    pub(super) fn arrive_bytes(&mut self, at: usize, bytes: usize) {
        let peer = &self.peers[at];
        let arrived = {
            let mut kernel = self.kernel.borrow_mut();
            let pipe = &mut kernel.pipes[peer.pipe];
            pipe.arrive(bytes);
            pipe.arrived_bytes.saturating_sub((pipe.flights * FLIGHT_BYTES) as u64)
        };
        self.model.arrived(peer.conn, arrived);
    }

    fn receive(&mut self, at: usize) -> Result<(), String> {
        let bytes_max = if self.peers[at].is_prompt { usize::MAX } else { 1 + self.below(2_000) };
        self.receive_bytes(at, bytes_max).map(|_| ())
    }

    /// Lets a client read. Returns whether it found anything.
    pub(super) fn receive_bytes(&mut self, at: usize, bytes_max: usize) -> Result<bool, String> {
        let peer = &mut self.peers[at];
        if peer.is_closed {
            return Ok(false);
        }
        let mut has_found = false;
        let (bytes, is_at_end, ending) = {
            let mut kernel = self.kernel.borrow_mut();
            let pipe = &mut kernel.pipes[peer.pipe];
            let mut bytes = pipe.receive(bytes_max);
            has_found |= !bytes.is_empty();
            peer.shake_hands(&mut bytes, pipe);
            (bytes, pipe.is_at_end(), pipe.ending())
        };
        peer.inbox.extend_from_slice(&bytes);
        while let Some(body) = wire::take_frame(&mut self.peers[at].inbox) {
            if let Some(reaction) = self.model.received(self.peers[at].conn, &body)? {
                self.react(at, reaction);
            }
        }
        let peer = &mut self.peers[at];
        if is_at_end {
            peer.is_closed = true;
            peer.is_done = true;
            if !peer.inbox.is_empty() && !ending.is_abrupt {
                return Err(format!("connection {} ends within a frame", peer.conn));
            }
            self.model.ended(peer.conn, &ending)?;
            // A client that finds the end closes its side too.
            self.kernel.borrow_mut().pipes[peer.pipe].close_by_client();
        }
        Ok(is_at_end || has_found)
    }

    fn react(&mut self, at: usize, reaction: Reaction) {
        // A worker may go on with what it was told to give up.
        let gives_up = matches!(reaction, Reaction::Over { .. }) && self.below(4) > 0;
        let peer = &mut self.peers[at];
        match reaction {
            Reaction::Work { nonce, .. } if peer.is_stuck => self.model.ignored(nonce),
            Reaction::Work { id, job, nonce, credit } => {
                let stream = credit.map(|credit| Stream { seq: 0, credit });
                peer.tasks.push(Task { id, job, nonce, stream });
            }
            Reaction::Over { id } => peer.tasks.retain(|task| !gives_up || task.id != id),
            Reaction::Credit { id, n } => {
                let mut streams = peer.tasks.iter_mut().filter(|task| task.id == id);
                let stream = streams.next().and_then(|task| task.stream.as_mut());
                if let Some(stream) = stream {
                    stream.credit += n;
                }
            }
        }
    }

    /// Lets a client leave: in good order, by closing, or by a reset.
    pub(super) fn leave(&mut self, at: usize) {
        let how = self.below(3);
        let keeps_arrived = self.below(2) == 0;
        let peer = &self.peers[at];
        if peer.is_closed || (peer.is_done && !peer.is_stuck) {
            return;
        }
        let peer = &mut self.peers[at];
        let mut kernel = self.kernel.borrow_mut();
        kernel.trace.note(format_args!("connection {} leaves: {how}", peer.conn));
        let pipe = &mut kernel.pipes[peer.pipe];
        peer.is_done = true;
        self.model.conns[peer.conn].left = true;
        match how {
            0 => {
                // It goes on reading until the server closes.
                if peer.answers_due == 0 {
                    peer.unsent.drain(..).for_each(|bytes| pipe.send(&bytes));
                }
                pipe.client_finished = true;
            }
            1 => {
                pipe.close_by_client();
                peer.is_closed = true;
            }
            _ => {
                pipe.reset_by_client(keeps_arrived);
                peer.is_closed = true;
            }
        }
    }

    /// Lets the program around the server do something, as from another thread.
    fn act_inside(&mut self) {
        let app = self.below(APPS.len());
        let topics = TOPICS.len() + if self.scenario.is_keeping { KEPT_CHANNELS.len() } else { 0 };
        let topic = self.below(topics);
        match self.below(7) {
            0 | 1 => self.answer_deferred(),
            2 => {
                let (times, pad_bytes) =
                    if self.scenario.has_bursts { (1 + self.below(8), 15_000) } else { (1, 0) };
                (0..times).for_each(|_| self.publish_inside(app, topic, pad_bytes));
            }
            5 | 6 => self.act_outside(),
            what => {
                let id = self.below(CLIENT_IDS.len());
                let key = (what == 3).then(|| self.server.connection(APPS[app], CLIENT_IDS[id]));
                if key == Some(None) {
                    return;
                }
                let nonce = self.model.broadcast(app, key.map(|_| id));
                let payload = serde_json::json!({"broadcast": nonce});
                let Ok(payload) = Json::from_serialize(&payload) else { return };
                let message = Message::new(MessageType::Publish, APPS[app], "inside", payload);
                let _ = match key.flatten() {
                    Some(key) => self.server.handle.send_to_connection(key, message),
                    None => self.server.handle.broadcast_to_application(message),
                };
            }
        }
    }

    /// Publishes from inside the process.
    pub(super) fn publish_inside(&mut self, app: usize, topic: usize, pad_bytes: usize) {
        let publication = self.model.publication(app, topic, None);
        let payload = serde_json::json!({"publication": publication, "pad": "x".repeat(pad_bytes)});
        let channel = channel_of(topic).unwrap_or_default();
        // This cannot fail, because the loop runs and the mailbox holds more.
        let _ = self.server.handle.publish(APPS[app], channel, &payload);
    }

    pub(super) fn answer_deferred(&mut self) {
        let waiting = locked(&self.server.inside).deferred.len();
        if waiting == 0 {
            return;
        }
        let at = self.below(waiting);
        let how = self.below(6);
        let (nonce, responder) = locked(&self.server.inside).deferred.swap_remove(at);
        match how {
            0 => responder.fail("it had enough"),
            1 => drop(responder),
            _ => {
                let payload = serde_json::json!({"nonce": nonce, "later": true});
                // This cannot fail, because the payload is JSON.
                let _ = responder.reply(&payload);
            }
        }
    }

    /// Runs the loop once, and checks what must always be true.
    pub(super) fn turn(&mut self) -> Result<(), String> {
        self.turns += 1;
        self.dismiss_in_time();
        self.act_links()?;
        if let Some(listener) = self.scenario.rushed_listener {
            self.kernel.borrow_mut().rush(listener);
        }
        let is_roomy = self.note_wanted();
        let deadline = self.server.broker.next_deadline();
        self.server.turn(self.scenario.steps_max.map(Budget::steps))?;
        self.take_links()?;
        // The process may have been stopped.
        self.model.now = self.kernel.borrow().now();
        for at in 0..self.peers.len() {
            self.arrive_bytes(at, 0);
        }
        self.note_acts();
        self.check_closed(is_roomy)?;
        // It takes longer than the turn itself, so the runs of a release build do without it.
        if cfg!(debug_assertions) && self.turns.is_multiple_of(4) {
            self.server.broker.check_agreement()?;
        }
        // Before anybody is judged by time, all sockets are read once more.
        let was_due = deadline.is_some_and(|deadline| deadline <= self.model.now);
        self.check_always(if was_due { 2 } else { 1 })
    }

    pub(super) fn present_count(&self) -> usize {
        self.present.len()
    }
}
