//! Things that an embedder does between two turns, on the thread that drives the server.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc_framework::{Config, Limits, Server};
use serde_json::Value;

use crate::support::{HANG, Peer, eventually, install_later};

/// A server driven by the test, and a subscriber of `news` that passes on what it receives.
struct Driven {
    server: Server,
    heard: mpsc::Receiver<Value>,
    subscriber: JoinHandle<()>,
    /// The embedder pauses for so long after it has published.
    pause_before_turn: Duration,
}

impl Driven {
    fn new(limits: Limits) -> Self {
        let mut server = Server::bind(Config::default().port(0).limits(limits)).unwrap();
        server.application("app", "The App").channel("news");
        let port = server.addresses()[0].port().unwrap();
        let (told, heard) = mpsc::channel();
        let subscriber = std::thread::spawn(move || {
            let mut peer = Peer::new(([127, 0, 0, 1], port).into());
            peer.connect("app", "subscriber");
            peer.subscribe("news");
            told.send(Value::Null).unwrap();
            while let Ok(message) = peer.try_receive() {
                told.send(message).unwrap();
            }
        });
        let mut driven = Self { server, heard, subscriber, pause_before_turn: Duration::ZERO };
        while driven.heard.try_recv().is_err() {
            driven.turn(Duration::from_millis(1));
        }
        // Run turns until no work is left.
        while driven.server.next_deadline().is_some() {
            driven.turn(Duration::ZERO);
        }
        driven
    }

    fn turn(&mut self, timeout: Duration) {
        assert!(self.server.poll_once(Some(timeout)).unwrap());
    }

    /// Publishes between two turns, and returns the message that the subscriber received.
    fn publish(&mut self, payload: &str) -> Value {
        assert_eq!(self.server.context().publish("app", "news", payload).unwrap(), 1);
        let deadline = self.server.next_deadline().expect("there is something to be sent");
        let begin = Instant::now();
        assert!(deadline <= begin, "at once");
        std::thread::sleep(self.pause_before_turn);
        // No other connection sends anything, so only the publication can keep this turn from
        // sleeping.
        self.turn(HANG * 3);
        assert!(begin.elapsed() < HANG * 2, "it slept over it");
        loop {
            if let Ok(message) = self.heard.recv_timeout(Duration::from_millis(1)) {
                return message;
            }
            assert!(begin.elapsed() < HANG * 2, "it never came");
            self.turn(Duration::ZERO);
        }
    }

    fn stop(mut self) {
        self.server.handle().stop();
        while self.server.poll_once(Some(HANG)).unwrap() {}
        self.subscriber.join().unwrap();
    }
}

#[test]
fn what_is_published_between_two_turns_is_sent_by_the_next() {
    let mut driven = Driven::new(Limits::default());
    for payload in ["one", "two"] {
        assert_eq!(driven.publish(payload)["payload"], payload);
        assert_eq!(driven.server.next_deadline(), None);
    }
    driven.stop();
}

#[test]
fn a_message_between_two_turns_has_the_time_of_its_publication() {
    let mut driven = Driven::new(Limits::default());
    let first = driven.publish("first")["timestamp"].as_f64().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let second = driven.publish("second")["timestamp"].as_f64().unwrap();
    // The wall clock may be read again in between, and deviate a little.
    assert!(second - first > 0.05, "{first} {second}");
    driven.stop();
}

/// The grace period counts from the publication, not from the turn before it. Bytes that the kernel
/// takes at once are no backlog.
#[test]
fn a_publication_after_a_quiet_time_does_not_close_who_reads() {
    let grace = Duration::from_millis(10);
    let limits = Limits::default().slow_consumer_grace(grace).queue_high_water_bytes(1_000);
    let mut driven = Driven::new(limits);
    let text = "x".repeat(20_000);
    for pause_before_turn in [Duration::ZERO, grace * 5] {
        driven.pause_before_turn = pause_before_turn;
        std::thread::sleep(grace * 5);
        assert_eq!(driven.publish(&text)["payload"], *text);
    }
    assert_eq!(driven.server.get_stats().counters.slow_consumers, 0);
    assert_eq!(driven.server.get_stats().total_connections, 1);
    driven.stop();
}

/// A timeout that no clock can express means no timeout.
#[test]
fn the_longest_timeouts_are_none() {
    let limits = Limits::default()
        .handshake_timeout(Duration::MAX)
        .idle_timeout(Duration::MAX)
        .request_timeout(Duration::MAX)
        .slow_consumer_grace(Duration::MAX)
        .drain_timeout(Duration::MAX)
        // Every publication starts a grace period.
        .queue_high_water_bytes(100);
    let mut driven = Driven::new(limits);
    let kept = install_later(&mut driven.server);
    let text = "x".repeat(1_000);
    assert_eq!(driven.publish(&text)["payload"], *text);
    let port = driven.server.addresses()[0].port().unwrap();
    let asks = std::thread::spawn(move || {
        let mut peer = Peer::new(([127, 0, 0, 1], port).into());
        peer.connect("app", "asks");
        assert_eq!(peer.request("later", Value::Null), "answered");
    });
    let responder = eventually("the request", || {
        driven.turn(Duration::from_millis(1));
        kept.try_recv().ok()
    });
    responder.reply(&"answered").unwrap();
    while !asks.is_finished() {
        driven.turn(Duration::from_millis(1));
    }
    asks.join().unwrap();
    driven.stop();
}
