//! A fuzzer's operations, carried out on the broker and held against a naive model of the
//! protocol. At most one frame of a peer is with the broker at a time, so the model knows with
//! every call which one may be done, and what may come of it.

mod attached;
mod model;
mod script;
mod wish;

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use serde_json::Value;

use self::attached::Extended;
use self::model::{Call, Model, Places, Presence, Publication, Waiting};
use self::script::{App, Channel, FRAME_BYTES_MAX, Id, PEERS, Said, Script, Slot, Speech, Step};
use super::access::Access;
use super::broker::Broker;
use super::embed::context::SendError;
use super::flow::topic::keeping;
use super::limits::Limits;
use super::state::connection::{Connection, Held, Obstacle, State};
use super::state::events::{Action, HangUp, Written};
use super::state::keys::ConnectionKey;
use super::state::timers::Now;

fn limits() -> Limits {
    Limits {
        connections_max: PEERS - 1,
        frame_bytes_max: FRAME_BYTES_MAX,
        idle_timeout: Some(Duration::from_secs(300)),
        queue_high_water_bytes: 3_000,
        memory_bytes_max: 256 << 10,
        subscriptions_per_connection_max: 3,
        services_per_connection_max: 2,
        pending_per_connection_max: 2,
        pending_max: 3,
        retained_values_max: 2,
        histories: model::histories(),
        ..Limits::default()
    }
}

/// The extensions of peers that connect before they say something else.
const EXTENSIONS: [u8; PEERS] = [0, 3, 4, 7, 2, 6];

/// Frames that a peer has ready and the server has not read.
const INBOX_MAX: usize = 8;

/// The broker: whatever peers, their kernels and the clock do, it does what the protocol says,
/// and holds no more than it may.
pub(crate) fn broker(input: &[u8]) {
    let Ok(script) = Script::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let mut world = World::new();
    for step in script.steps {
        if world.broker.is_drained() {
            break;
        }
        world.step(step);
    }
    world.end();
}

struct World {
    broker: Broker,
    now: Now,
    model: Model,
    peers: [Option<Peer>; PEERS],
    serial: u32,
}

struct Peer {
    key: ConnectionKey,
    /// Frames that it wrote and the server has not read.
    inbox: VecDeque<Said>,
    /// A frame that the server has read and not done.
    unprocessed: Option<Said>,
    /// Its kernel takes nothing.
    is_stalled: bool,
    /// Bytes that were put into its queue, and that left it.
    queued: usize,
    sent: usize,
}

impl World {
    fn new() -> Self {
        let now = Now::default();
        Self {
            broker: Broker::new(limits(), Access::default(), [7; 32], now),
            now,
            model: Model::new(limits()),
            peers: Default::default(),
            serial: 0,
        }
    }

    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::Accept(slot) => self.accept(slot),
            Step::Say(slot, speech, held_back) => self.say(slot, speech, held_back.into()),
            Step::Stall(Slot(at)) => {
                if let Some(peer) = &mut self.peers[at] {
                    peer.is_stalled = true;
                }
            }
            Step::Read(Slot(at), 0) => self.read_all(at),
            Step::Read(Slot(at), bytes) => self.transmit(at, bytes.into()),
            Step::HangUp(Slot(at), how) => self.hang_up(at, how),
            Step::Pass(centiseconds) => self.pass(Duration::from_millis(10) * centiseconds.into()),
            Step::Publish(app, channel, bytes) => self.publish(app, channel, bytes),
            Step::Drain => {
                self.call(Call::Drain, Broker::begin_drain);
            }
        }
        self.settle();
    }

    /// A publication of the process itself.
    fn publish(&mut self, app: App, channel: Channel, bytes: u8) {
        self.serial += 1;
        let retains = bytes % 8 > 5;
        let forgets = retains && bytes % 16 == 7;
        // With its place in a history it is still within the limit.
        let payload = if forgets { Value::Null } else { script::payload(self.serial, bytes % 200) };
        if retains && !forgets && !self.model.may_retain(app, channel) {
            let context = &mut self.broker.context();
            let refused = context.publish_retained(app.name(), channel.name(), &payload);
            assert!(matches!(refused, Err(SendError::NoRoom(_))), "{refused:?}");
            return;
        }
        let publication = Publication::own(payload.clone(), retains);
        self.call(Call::Published(app, channel, publication), |broker| {
            let context = &mut broker.context();
            let (app, channel) = (app.name(), channel.name());
            let published = if retains {
                context.publish_retained(app, channel, &payload)
            } else {
                context.publish(app, channel, &payload)
            };
            published.expect("it is small");
            broker.advance();
        });
    }

    fn accept(&mut self, Slot(at): Slot) {
        if self.peers[at].is_some() || self.broker.is_draining() {
            return;
        }
        let accepted = self.broker.accept();
        let key = accepted.expect("so few can all be told");
        self.peers[at] = Some(Peer {
            key,
            inbox: VecDeque::new(),
            unprocessed: None,
            is_stalled: false,
            queued: 0,
            sent: 0,
        });
        self.model.arrive(at, self.now.monotonic);
        self.call(Call::Accept, |_| {});
        let full = self.broker.core.connections.len() - self.broker.core.connections.refused();
        let is_refused = self.broker.core.connections.get(key).is_some_and(Connection::is_refused);
        assert!(!is_refused || full == limits().connections_max, "refused with a place free");
    }

    /// A peer says something. If it is not there, it connects first.
    fn say(&mut self, Slot(at): Slot, speech: Speech<'_>, held_back: usize) {
        if self.peers[at].is_none() {
            self.accept(Slot(at));
            if !speech.introduces() {
                // Three have ids of their own, the next comes with the first one's.
                self.enqueue(
                    at,
                    Speech::Connect(App(at / 4), Id(at % 3), Extended::by(EXTENSIONS[at])),
                    held_back,
                );
                self.settle();
            }
        }
        self.enqueue(at, speech, held_back);
    }

    fn enqueue(&mut self, at: usize, speech: Speech<'_>, held_back: usize) {
        let Some(peer) = &mut self.peers[at] else { return };
        if peer.inbox.len() < INBOX_MAX {
            self.serial += 1;
            let own = self.model.own(at);
            let said = Said::new(speech, self.serial, own, self.model.known(at, speech));
            peer.inbox.extend(said.map(|said| Said { held_back, ..said }));
        }
    }

    fn hang_up(&mut self, at: usize, how: bool) {
        let Some(peer) = &self.peers[at] else { return };
        let (key, how) = (peer.key, if how { HangUp::Reset } else { HangUp::EndOfStream });
        self.call(Call::HangUp(at), |broker| broker.hang_up(key, how));
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.unix += time;
        self.broker.begin_turn(self.now);
        self.call(Call::Pass, |broker| {
            let _ = broker.advance();
        });
    }

    fn transmit(&mut self, at: usize, bytes: usize) {
        let Some(peer) = &mut self.peers[at] else { return };
        let queued = self.broker.core.connections.get(peer.key).map_or(0, |c| c.send.len());
        let bytes = bytes.min(queued);
        peer.sent += bytes;
        let key = peer.key;
        self.call(Call::Transmitted, |broker| {
            let written = Written { bytes, holds: false };
            let flushed = broker.flush(key, |_| Ok::<_, Infallible>(written));
            assert_eq!(flushed.map(|flushed| flushed.unsent_bytes), Ok(queued - bytes));
        });
    }

    fn read_all(&mut self, at: usize) {
        if let Some(peer) = &mut self.peers[at] {
            peer.is_stalled = false;
            self.transmit(at, usize::MAX);
        }
    }

    /// Does what the broker asks for and hands it what it wants to read, until neither is left.
    fn settle(&mut self) {
        let mut is_held_back = [false; PEERS];
        loop {
            let mut is_busy = false;
            while let Some(action) = self.broker.next_action() {
                is_busy = true;
                self.act(action);
            }
            for (at, is_held_back) in is_held_back.iter_mut().enumerate() {
                is_busy |= self.feed(at, is_held_back);
            }
            if !is_busy {
                break;
            }
        }
        let now = self.now.monotonic;
        self.broker.end_turn(|| now);
        self.check();
    }

    fn act(&mut self, action: Action) {
        let (Action::Flush(key)
        | Action::Resume(key)
        | Action::FinishWrite(key)
        | Action::Attach(key)
        | Action::Share(key)
        | Action::Close(key)) = action;
        let at = self.peers.iter().position(|peer| peer.as_ref().is_some_and(|p| p.key == key));
        let Some(at) = at else { return };
        match action {
            Action::Flush(_) => {
                if self.peers[at].as_ref().is_some_and(|peer| !peer.is_stalled) {
                    self.transmit(at, usize::MAX);
                }
            }
            Action::Resume(_) => {
                self.receive(at, &[]);
                let is_empty = self.peers[at].as_ref().is_some_and(|peer| peer.inbox.is_empty());
                if self.broker.is_draining() && is_empty {
                    self.call(Call::Exhausted, |broker| broker.exhausted(key));
                }
            }
            Action::FinishWrite(_) | Action::Attach(_) => {}
            Action::Share(_) => {
                self.broker.share(key, |_| Err("there is none".to_owned()));
            }
            Action::Close(_) => {
                self.peers[at] = None;
                self.model.gone(at);
            }
        }
    }

    /// Hands the broker the next bytes of a peer. Returns whether it took any.
    fn feed(&mut self, at: usize, is_held_back: &mut bool) -> bool {
        let Some(peer) = &mut self.peers[at] else { return false };
        if *is_held_back || peer.unprocessed.is_some() || !self.broker.wants_read(peer.key) {
            return false;
        }
        let Some(said) = peer.inbox.front_mut() else { return false };
        let frame = said.frame.clone();
        let rest = frame.len() - said.given;
        let bytes =
            if said.given == 0 && said.held_back > 0 { said.held_back.min(rest) } else { rest };
        let chunk = &frame[said.given..][..bytes];
        said.given += bytes;
        said.arrived = self.now.monotonic;
        *is_held_back = said.given < frame.len();
        if !*is_held_back {
            peer.unprocessed = peer.inbox.pop_front();
        }
        self.receive(at, chunk);
        true
    }

    fn receive(&mut self, at: usize, chunk: &[u8]) {
        let Some(peer) = &mut self.peers[at] else { return };
        let key = peer.key;
        let said = peer.unprocessed.take();
        if !chunk.is_empty() {
            self.model.heard(at, self.now.monotonic);
        }
        let is_done = self.call(Call::Received(at, said.as_ref()), |broker| {
            let received = broker.receive(key, chunk);
            assert_eq!(received.reads_on, broker.wants_read(key));
        });
        if let Some(peer) = &mut self.peers[at].as_mut().filter(|_| !is_done) {
            peer.unprocessed = said;
        }
    }

    /// One call, and what came of it. Returns whether a frame was done.
    fn call(&mut self, call: Call<'_>, make: impl FnOnce(&mut Broker)) -> bool {
        let frames = self.broker.core.counters.frames_in;
        let slow = self.broker.core.counters.slow_consumers;
        let congested = self.congested();
        let queued = self.queued_bytes();
        make(&mut self.broker);
        let frames = self.broker.core.counters.frames_in - frames;
        assert!(frames <= 1, "one frame was there, {frames} were done");
        let news = self.news();
        let presence = self.presence();
        let had_to_shed = self.broker.core.counters.slow_consumers > slow;
        self.model.check(
            &model::Outcome {
                call,
                is_done: frames == 1,
                now: self.now.monotonic,
                is_draining: self.broker.is_draining(),
                congested,
                queued,
                had_to_shed,
                presence,
                places: self.places(),
                waiting: self.waiting(),
            },
            news,
        );
        frames == 1
    }

    /// Returns whose queue is over its mark.
    fn congested(&self) -> [bool; PEERS] {
        self.peers.each_ref().map(|peer| {
            let peer = peer.as_ref().and_then(|peer| self.broker.core.connections.get(peer.key));
            peer.is_some_and(|connection| connection.congested.is_some())
        })
    }

    fn queued_bytes(&self) -> [usize; PEERS] {
        self.peers.each_ref().map(|peer| {
            let peer = peer.as_ref().and_then(|peer| self.broker.core.connections.get(peer.key));
            peer.map_or(0, |connection| connection.send.len())
        })
    }

    /// Returns the newest places in histories.
    fn places(&self) -> Places {
        let apps = (0..App::NAMES.len()).map(App);
        let all = apps.flat_map(|app| (0..Channel::NAMES.len()).map(move |at| (app, Channel(at))));
        let core = &self.broker.core;
        let placed = all.filter_map(|(app, channel)| {
            let key = core.router.channel(core.router.application(app.name())?, channel.name())?;
            let (epoch, offset) = keeping::newest_place(core, key)?;
            Some(((app, channel), (epoch.as_str().to_owned(), offset)))
        });
        placed.collect()
    }

    /// Returns what waits for each peer beside its queue.
    fn waiting(&self) -> [Waiting; PEERS] {
        let core = &self.broker.core;
        self.peers.each_ref().map(|peer| {
            let session = peer.as_ref().and_then(|peer| core.connections.session(peer.key));
            let Some(topic) = session.and_then(|session| session.topic.as_ref()) else {
                return Waiting::default();
            };
            let names = topic.replays.iter().filter_map(|replay| {
                let id = &core.router.channels.get(replay.channel)?.id;
                Channel::NAMES.iter().position(|name| **name == **id).map(Channel)
            });
            Waiting {
                replays: names.collect::<BTreeSet<_>>(),
                conflates: !topic.pending.is_empty(),
            }
        })
    }

    fn presence(&self) -> [Presence; PEERS] {
        self.peers.each_ref().map(|peer| {
            let peer = peer.as_ref().and_then(|peer| self.broker.core.connections.get(peer.key));
            peer.map_or(Presence::Gone, |connection| match connection.state() {
                State::Handshake => Presence::Handshake,
                State::Open(_) => Presence::Open,
                State::Superseded => Presence::Superseded,
                State::Closing | State::Lingering => Presence::Closing,
                State::Closed => Presence::Gone,
            })
        })
    }

    /// The frames that were queued since the last time, for each peer.
    fn news(&mut self) -> [Vec<Value>; PEERS] {
        let mut news: [Vec<Value>; PEERS] = Default::default();
        for (at, (peer, news)) in self.peers.iter_mut().zip(&mut news).enumerate() {
            let Some(peer) = peer else { continue };
            let Some(connection) = self.broker.core.connections.get(peer.key) else { continue };
            if matches!(connection.state(), State::Closed) {
                continue;
            }
            let queued = peer.sent + connection.send.len();
            if queued == peer.queued {
                continue;
            }
            let all: Vec<u8> = connection.send.slices().flatten().copied().collect();
            assert_eq!(all.len(), connection.send.len());
            let mut rest = &all[all.len() - (queued - peer.queued)..];
            peer.queued = queued;
            while let Some((header, behind)) = rest.split_first_chunk::<4>() {
                let (body, next) = behind.split_at(u32::from_be_bytes(*header) as usize);
                assert!(body.len() <= FRAME_BYTES_MAX, "a frame of {} bytes", body.len());
                let message = attached::read(body);
                let extended = self.model.extended(at);
                let fields = message.as_object().map_or(0, serde_json::Map::len);
                let has_meta = !extended.is_none() && message.get("meta").is_some();
                let is_attached = extended.binary && body[0] == 0;
                let most = 7 + usize::from(has_meta) + usize::from(is_attached);
                assert_eq!(fields, most, "a published peer does not survive {message}");
                news.push(message);
                rest = next;
            }
            assert!(rest.is_empty(), "whole frames only");
        }
        news
    }

    /// Checks the invariants after every step.
    fn check(&self) {
        let core = &self.broker.core;
        let limits = &core.limits;
        assert!(core.memory_bytes() <= limits.memory_bytes_max);
        assert_eq!(core.requests.len(), self.model.pending());
        assert!(core.connections.len() - core.connections.refused() <= limits.connections_max);
        self.model.check_owed(self.congested());
        for peer in self.peers.iter().flatten() {
            let connection = core.connections.get(peer.key).expect("it is not closed");
            assert!(connection.send.len() <= limits.queue_bytes_max());
            assert!(
                connection.woken.is_none() && connection.held != Held::NextTurn,
                "it is let go on"
            );
            let Some(said) = peer.unprocessed.as_ref().filter(|_| connection.is_live()) else {
                continue;
            };
            let obstacle = match connection.held {
                Held::Behind(obstacle) => Some(obstacle),
                _ => None,
            };
            let is_held = connection.congested.is_some() || obstacle.is_some();
            assert!(is_held, "nothing keeps {said:?} from being done");
            let Some(obstacle) = obstacle else { continue };
            let is_congested = |key: &ConnectionKey| {
                core.connections.get(*key).is_some_and(|c| c.congested.is_some())
            };
            let channel = |key| core.router.channels.get(key).expect("it is waited for");
            let is_there = match obstacle {
                Obstacle::Subscriber(key) => channel(key).subscribers.iter().any(is_congested),
                Obstacle::Worker(key) => {
                    channel(key).service.workers.iter().all(|worker| is_congested(&worker.key))
                }
                Obstacle::Pattern(key) => {
                    let node = core.router.patterns.nodes.get(key).expect("it is waited for");
                    node.live.iter().any(is_congested)
                }
            };
            assert!(is_there, "{said:?} waits for nobody");
        }
    }

    /// Everybody reads and nothing more is said: nobody is left waiting. Everybody leaves: nothing
    /// of them is left.
    fn end(mut self) {
        for _ in 0..PEERS * (INBOX_MAX + 2) {
            for at in 0..PEERS {
                self.read_all(at);
            }
            self.settle();
        }
        for peer in self.peers.iter().flatten() {
            let is_live =
                self.broker.core.connections.get(peer.key).is_some_and(Connection::is_live);
            let is_waiting = peer.unprocessed.is_some() || !peer.inbox.is_empty();
            assert!(!(is_live && is_waiting), "somebody was forgotten");
        }
        self.model.check_all_heard();
        self.pass(limits().request_timeout.expect("a timeout"));
        self.settle();
        assert_eq!(self.model.pending(), 0, "somebody has no answer");
        for at in 0..PEERS {
            self.hang_up(at, true);
            self.settle();
        }
        self.forget_kept();
        let core = &self.broker.core;
        assert_eq!(core.connections.len(), 0);
        assert_eq!((core.router.channels.len(), core.router.applications.len()), (0, 0));
        assert_eq!((core.router.bytes, core.router.patterns.bytes), (0, 0));
        assert_eq!((core.router.holding, core.last_values.len()), (0, 0));
        assert_eq!(core.budget.tables_bytes, 0);
        assert_eq!(
            (core.requests.len(), core.connections.refused(), core.connections.superseded()),
            (0, 0, 0)
        );
        assert_eq!(core.pool.gauge().bytes(), 0);
        assert!(core.timers.next_deadline().is_none() || core.is_draining());
        assert!(!self.broker.has_work());
    }
    /// What is kept outlives everybody, until it is forgotten.
    fn forget_kept(&mut self) {
        let router = &self.broker.core.router;
        let kept = self.model.kept();
        for (app, channel) in &kept {
            let application = router.application(app.name()).expect("its channel is kept");
            assert!(router.channel(application, channel.name()).is_some(), "{channel:?} is kept");
        }
        assert_eq!(router.channels.len(), kept.len(), "what is not kept is gone");
        for (app, channel) in kept {
            let context = &mut self.broker.context();
            let forgotten = context.publish_retained(app.name(), channel.name(), &Value::Null);
            assert_eq!(forgotten.expect("it takes no room"), 0);
        }
        self.pass(Duration::from_secs(3_600));
        self.settle();
    }
}
