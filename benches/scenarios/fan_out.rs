//! One publication to many queues.

use super::memory::Memory;
use super::messages::{framed, small, text};
use super::sockets::Sockets;
use super::{Scenario, Work};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("fan_out/192B_to_1", 1, small("publish", "news")),
        scenario("fan_out/192B_to_10", 10, small("publish", "news")),
        scenario("fan_out/192B_to_100", 100, small("publish", "news")),
        scenario("fan_out/192B_to_1000", 1_000, small("publish", "news")),
        // Larger than the frames that are copied into each queue.
        scenario("fan_out/16KiB_to_100", 100, text("publish", "news", 16 << 10)),
        pipelined("fan_out/32_of_192B_to_100", 100, 32),
        Scenario::new("fan_out/192B_to_10_of_10000_patterns", Work::Frames(10), to_patterns),
        Scenario::new("fan_out/192B_to_10_that_conflate", Work::Frames(10), to_conflating),
        over_unix_sockets("fan_out/192B_to_100_over_unix_sockets", 100),
        Scenario::new("fan_out/from_a_handle_to_1", Work::Frames(1), from_a_handle),
    ]
}

fn scenario(name: &'static str, subscribers: usize, body: String) -> Scenario {
    Scenario::new(name, Work::Frames(subscribers), move || published(subscribers, framed(&body)))
}

const SUBSCRIBERS: usize = 10;

/// Ten subscribers, each with a pattern that matches, among ten thousand patterns.
fn to_patterns() -> impl FnMut() {
    const PATTERNS: usize = 10_000;
    let mut memory = Memory::new();
    let matching =
        [">", "a.>", "a.b.>", "a.b.*", "a.*.c", "*.b.c", "*.*.c", "*.b.*", "a.*.*", "*.*.*"];
    for (at, pattern) in matching.iter().enumerate() {
        let key = memory.with_extension(&format!("subscriber-{at}"), "topic");
        memory.subscribe(key, pattern, r#"{"ack":true,"pattern":true}"#);
        for other in 0..PATTERNS / SUBSCRIBERS - 1 {
            memory.subscribe(key, &format!("a.{at}.{other}.*"), r#"{"ack":true,"pattern":true}"#);
        }
    }
    publishes(memory, "a.b.c")
}

fn to_conflating() -> impl FnMut() {
    let mut memory = Memory::new();
    for at in 0..SUBSCRIBERS {
        let key = memory.with_extension(&format!("subscriber-{at}"), "topic");
        memory.subscribe(key, "news", r#"{"ack":true,"conflate":true}"#);
    }
    publishes(memory, "news")
}

fn publishes(mut memory: Memory, channel: &str) -> impl FnMut() + use<> {
    let publisher = memory.connected("publisher");
    let read = framed(&small("publish", channel));
    move || assert_eq!(memory.turn(publisher, &read), SUBSCRIBERS * read.len())
}

/// Many publications in one read, so that those for a subscriber are sent as one piece.
fn pipelined(name: &'static str, subscribers: usize, publications: usize) -> Scenario {
    Scenario::new(name, Work::Frames(subscribers * publications), move || {
        published(subscribers, framed(&small("publish", "news")).repeat(publications))
    })
}

fn published(subscribers: usize, read: Vec<u8>) -> impl FnMut() {
    let mut memory = Memory::new();
    for at in 0..subscribers {
        memory.subscriber(&format!("subscriber-{at}"), "news");
    }
    let publisher = memory.connected("publisher");
    move || assert_eq!(memory.turn(publisher, &read), subscribers * read.len())
}

const ROUNDS_A_READ: usize = 20;

/// The whole server, with a write for each subscriber.
fn over_unix_sockets(name: &'static str, subscribers: usize) -> Scenario {
    Scenario::new(name, Work::Frames(subscribers), move || {
        let mut sockets = Sockets::new(|_server| {});
        let mut peers: Vec<_> =
            (0..subscribers).map(|at| sockets.subscriber(&at.to_string(), "news")).collect();
        let mut publisher = sockets.connected("publisher");
        let publication = framed(&small("publish", "news"));
        let mut buffer = vec![0; 4 << 10];
        let mut round = 0;
        move || {
            publisher.send(&publication);
            sockets.turn();
            // Each subscriber reads only now and then, so that nearly all that is counted is the
            // server's part.
            for peer in peers.iter_mut().skip(round).step_by(ROUNDS_A_READ) {
                let received = peer.receive(&mut buffer);
                assert!(received >= publication.len() && received % publication.len() == 0);
            }
            round = (round + 1) % ROUNDS_A_READ;
        }
    })
}

/// A publication by another thread of the process, through the mailbox of the loop.
fn from_a_handle() -> impl FnMut() {
    let mut sockets = Sockets::new(|_server| {});
    let mut peer = sockets.subscriber("subscriber", "news");
    let handle = sockets.server.handle();
    let mut buffer = vec![0; 4 << 10];
    move || {
        handle.publish("app", "news", &"a short text").expect("the server runs");
        sockets.turn();
        assert_ne!(peer.receive(&mut buffer), 0);
    }
}
