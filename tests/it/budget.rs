//! A turn with a budget: how much one call does, and that what it leaves is done in order.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ipc_framework::{Budget, Config, Counters, Limits, Server};
use serde_json::json;

use crate::support::{HANG, Peer, frame, install_echo};

const NOW: Option<Duration> = Some(Duration::ZERO);

/// A server that runs on the test's own thread, and clients whose requests are on their way.
struct Loaded {
    server: Server,
    peers: Vec<Peer>,
}

impl Loaded {
    fn new(clients: usize, limits: Limits) -> Self {
        let mut server = Server::bind(Config::default().port(0).limits(limits)).unwrap();
        install_echo(&mut server);
        let address: SocketAddr =
            (Ipv4Addr::LOCALHOST, server.addresses()[0].port().unwrap()).into();
        let mut peers: Vec<Peer> = (0..clients).map(|_| Peer::new(address)).collect();
        for (at, peer) in peers.iter_mut().enumerate() {
            "app".clone_into(&mut peer.app_id);
            peer.connection_id = at.to_string();
            let hello = json!({"action": "connect", "connection_id": peer.connection_id});
            peer.send("request", "system", hello);
        }
        let mut loaded = Self { server, peers };
        loaded.turn_until(|server| server.get_stats().total_connections == clients);
        for peer in &mut loaded.peers {
            assert_eq!(peer.receive()["payload"]["status"], "connected");
        }
        loaded
    }

    fn counters(&mut self) -> Counters {
        self.server.get_stats().counters
    }

    /// Runs turns without a budget.
    fn turn_until(&mut self, is_enough: impl Fn(&mut Server) -> bool) {
        let begin = Instant::now();
        while !is_enough(&mut self.server) {
            assert!(begin.elapsed() < HANG);
            self.server.poll_once(Some(Duration::from_millis(10))).unwrap();
        }
    }

    /// Every client sends so many requests, numbered from 0, before anything is read.
    fn ask(&mut self, requests: usize) {
        for peer in &mut self.peers {
            let messages = (0..requests).map(|at| peer.message("request", "echo", &json!(at)));
            let bytes: Vec<u8> =
                messages.flat_map(|message| frame(message.to_string().as_bytes())).collect();
            peer.stream.write_all(&bytes).unwrap();
        }
    }

    /// The payloads of the answers that a client has got so far.
    fn answers_so_far(&mut self, at: usize) -> Vec<u64> {
        let peer = &mut self.peers[at];
        peer.stream.set_nonblocking(true).unwrap();
        let mut bytes = Vec::new();
        // The end of what came is an error, that it would block.
        let _ = peer.stream.read_to_end(&mut bytes);
        peer.stream.set_nonblocking(false).unwrap();
        let mut rest = &bytes[..];
        let mut answers = Vec::new();
        while let Some((header, after)) = rest.split_first_chunk() {
            let (body, after) = after.split_at(u32::from_be_bytes(*header) as usize);
            let answer: serde_json::Value = serde_json::from_slice(body).unwrap();
            answers.push(answer["payload"].as_u64().unwrap());
            rest = after;
        }
        answers
    }
}

/// Without a budget this is one turn of 64,000 messages.
#[test]
fn no_call_takes_more_messages_than_its_budget_has_steps() {
    const CLIENTS: usize = 500;
    const REQUESTS: usize = 128;
    const STEPS: u64 = 2_000;
    crate::descriptors::raise_limit();
    let mut loaded = Loaded::new(CLIENTS, Limits::default());
    loaded.ask(REQUESTS);
    let begin = loaded.counters();
    let (mut before, mut calls, mut most) = (begin.clone(), 0, 0);
    let mut heard = vec![0; CLIENTS];
    while heard.iter().any(|heard| *heard < REQUESTS as u64) {
        assert!(loaded.server.poll_once_within(NOW, Budget::steps(STEPS as usize)).unwrap());
        let counters = loaded.counters();
        most = most.max(counters.frames_in - before.frames_in);
        before = counters;
        calls += 1;
        assert!(calls < 1_000, "it gets on with every call: {heard:?}");
        // Whatever was answered is sent, in the order of the requests.
        for (at, heard) in heard.iter_mut().enumerate() {
            for answer in loaded.answers_so_far(at) {
                assert_eq!(answer, *heard);
                *heard += 1;
            }
        }
    }
    assert_eq!(before.frames_in - begin.frames_in, (CLIENTS * REQUESTS) as u64);
    assert!((1..=STEPS).contains(&most), "{most} messages in one call");
    let calls_min = (CLIENTS * REQUESTS) as u64 / STEPS;
    assert!(calls >= calls_min, "{calls} calls");
    assert_eq!(loaded.server.next_deadline(), None, "nothing is left");
}

/// Each connection has its share in turn, however small the budget is.
#[test]
fn connections_take_turns_over_many_calls() {
    const CLIENTS: usize = 10;
    const SHARE: usize = 4;
    let mut limits = Limits::default();
    limits.turn.frames_per_connection_max = SHARE;
    let mut loaded = Loaded::new(CLIENTS, limits);
    loaded.ask(10 * SHARE);
    let mut heard = [0; CLIENTS];
    let mut calls = 0;
    while heard.iter().any(|heard| *heard < 10 * SHARE) {
        // Half of it is for messages: less than one share.
        assert!(loaded.server.poll_once_within(NOW, Budget::steps(6)).unwrap());
        calls += 1;
        assert!(calls < 2_000, "{heard:?}");
        for (at, heard) in heard.iter_mut().enumerate() {
            *heard += loaded.answers_so_far(at).len();
        }
        let (least, most) = (heard.iter().min().unwrap(), heard.iter().max().unwrap());
        assert!(most - least <= SHARE, "{heard:?}");
        let is_over = heard.iter().all(|heard| *heard == 10 * SHARE);
        let is_due = loaded.server.next_deadline().is_some_and(|due| due <= Instant::now());
        assert!(is_due || is_over, "what is left is work of the next call");
    }
}

/// A publication to many is one message, and as many sends as there are subscribers: these come
/// before any other message.
#[test]
fn sends_that_a_call_leaves_are_the_first_of_the_next() {
    const SUBSCRIBERS: usize = 60;
    let mut loaded = Loaded::new(SUBSCRIBERS + 1, Limits::default());
    for peer in &mut loaded.peers[..SUBSCRIBERS] {
        peer.send("subscribe", "news", json!({"connection_id": peer.connection_id.clone()}));
    }
    loaded.turn_until(|server| {
        server.list_channels("app").get("news").is_some_and(|news| news.subscribers == SUBSCRIBERS)
    });
    let publisher = &mut loaded.peers[SUBSCRIBERS];
    publisher.send("publish", "news", json!(7));
    let before = loaded.counters();
    let budget = Budget::steps(20);
    let heard = |loaded: &mut Loaded| {
        (0..SUBSCRIBERS).filter(|at| loaded.answers_so_far(*at) == [7]).count()
    };
    loaded.server.poll_once_within(NOW, budget).unwrap();
    let first = heard(&mut loaded);
    assert!((1..20).contains(&first), "{first}");
    assert_eq!(loaded.counters().frames_in - before.frames_in, 1);
    // A request that comes now waits until the publication is with everybody.
    loaded.peers[0].send("request", "echo", json!(8));
    loaded.server.poll_once_within(NOW, budget).unwrap();
    assert_eq!(heard(&mut loaded), 20);
    loaded.server.poll_once_within(NOW, budget).unwrap();
    assert_eq!(heard(&mut loaded), 20);
    assert_eq!(loaded.counters().frames_in - before.frames_in, 1);
    loaded.server.poll_once_within(NOW, budget).unwrap();
    assert_eq!(heard(&mut loaded) + first + 40, SUBSCRIBERS);
    assert_eq!(loaded.counters().frames_in - before.frames_in, 2);
}

/// Commands of other threads have a part of every call, whatever connections send.
#[test]
fn other_threads_are_not_starved_by_connections() {
    const COMMANDS: usize = 50;
    let mut loaded = Loaded::new(20, Limits::default());
    loaded.ask(128);
    let handle = loaded.server.handle();
    let (sender, done) = std::sync::mpsc::channel();
    for at in 0..COMMANDS {
        let sender = sender.clone();
        handle.publish("app", "nobody", &at).unwrap();
        let handle = handle.clone();
        std::thread::spawn(move || sender.send(handle.with(|_| ()).is_ok()).unwrap());
    }
    let mut calls = 0;
    let mut finished = 0;
    while finished < COMMANDS {
        loaded.server.poll_once_within(NOW, Budget::steps(32)).unwrap();
        finished += done.try_iter().filter(|is_ok| *is_ok).count();
        calls += 1;
        assert!(calls < 100_000, "{finished}");
    }
    let counters = loaded.counters();
    assert!(counters.frames_in > 20, "connections had their part as well");
}

/// A budget of nothing still gets on: by one step, or by those between two looks at the clock.
#[test]
fn the_smallest_budget_comes_to_an_end() {
    for (budget, messages_max) in [(Budget::time(Duration::ZERO), 32), (Budget::steps(0), 1)] {
        let mut loaded = Loaded::new(3, Limits::default());
        loaded.ask(40);
        let mut heard = [0; 3];
        for call in 0.. {
            assert!(call < 2_000, "{heard:?}");
            let before = loaded.counters().frames_in;
            loaded.server.poll_once_within(NOW, budget).unwrap();
            assert!(loaded.counters().frames_in - before <= messages_max);
            for (at, heard) in heard.iter_mut().enumerate() {
                *heard += loaded.answers_so_far(at).len();
            }
            if heard == [40; 3] {
                break;
            }
        }
        loaded.server.handle().stop();
        let mut calls = 0;
        while loaded.server.poll_once_within(Some(HANG), budget).unwrap() {
            calls += 1;
            assert!(calls < 1_000);
        }
        for peer in &mut loaded.peers {
            peer.expect_error("shutting_down", "system", serde_json::Value::Null);
            peer.expect_end();
        }
    }
}
