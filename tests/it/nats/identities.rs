//! Servers that others take for one another, or do not understand; and the longest names.

use serde_json::json;

use super::nats_server::{NatsServer, Version};
use super::stranger::Stranger;
use super::{joined, next_heard, until_heard, until_served, within_a_moment};
use crate::cli::{Running, serve};
use crate::support::{Peer, until};

const MESSAGES: u64 = 100;

/// Two servers that know each other, what the first one says to all, and somebody who heard that.
struct Heard {
    servers: [Running; 2],
    stranger: Stranger,
    hello: Vec<u8>,
    _nats: NatsServer,
}

impl Heard {
    fn new() -> Self {
        let nats = NatsServer::start();
        let mut stranger = Stranger::new(&nats);
        let start = || Running::start(serve(&["--demo", "--port", "0", "--nats", &nats.url()]));
        let first = start();
        let hello = loop {
            let (subject, payload) = stranger.next().expect("no fence is under way");
            if subject == "ipc-all" {
                break payload;
            }
        };
        let servers = [first, start()];
        for server in &servers {
            let mut asks = server.connected("bench", "looks");
            until("the other server", || asks.stats(), |stats| stats["nats"]["peers"] == 1);
        }
        Self { servers, stranger, hello, _nats: nats }
    }

    /// Publishes this as often as would fill a log, and waits until both have refused it.
    fn refused_by_both(&mut self, subject: &str, payload: &[u8]) {
        for _ in 0..MESSAGES {
            self.stranger.publish(subject, payload);
        }
        self.stranger.fence();
        for server in &self.servers {
            let mut asks = server.connected("bench", "looks");
            let refused = || asks.stats()["nats"]["refused"].as_u64().unwrap();
            until("the refusals", refused, |refused| *refused >= MESSAGES);
        }
    }

    /// The two still work together. Returns what each has logged.
    fn end(self) -> [String; 2] {
        for (here, there) in [(0, 1), (1, 0)] {
            let mut subscriber = self.servers[there].connected("bench", "s").subscribed("news");
            let mut publishes = self.servers[here].connected("bench", "p");
            until_heard(&mut publishes, "news", &subscriber);
            publishes.send("publish", "news", json!("still there"));
            assert_eq!(next_heard(&mut subscriber), "still there");
        }
        self.servers.map(Running::terminate)
    }
}

#[test]
fn a_server_of_another_version_is_refused_and_told() {
    let mut heard = Heard::new();
    let mut newer = heard.hello.clone();
    newer[2] = 2;
    newer[4..20].fill(0xab);
    heard.refused_by_both("ipc-all", &newer);
    for log in heard.end() {
        let words = format!("the server {} speaks version 2", "ab".repeat(16));
        let told = log.lines().filter(|line| line.contains(&words)).count() as u64;
        assert!((1..MESSAGES / 2).contains(&told), "{log}");
        assert!(log.contains("until both have the same release"), "{log}");
    }
}

#[test]
fn two_servers_with_the_same_id_are_told_and_the_first_one_stays() {
    let mut heard = Heard::new();
    let mut double = heard.hello.clone();
    // Another process.
    double[20] ^= 1;
    heard.refused_by_both("ipc-all", &double);
    let logs = heard.end();
    for (log, words) in logs.iter().zip(["another server has this one's id", "have the same id"]) {
        let told = log.lines().filter(|line| line.contains(words)).count() as u64;
        assert!((1..MESSAGES / 2).contains(&told), "{log}");
    }
}

/// Names that are three times as long as tokens, or many tokens.
fn the_longest_names_work(version: Version) {
    let nats = NatsServer::start_with(version, "");
    let (here, there) = (joined(&nats), joined(&nats));
    let names = ["ü".repeat(128), "*".repeat(256), ".".repeat(256), "_".repeat(256)];
    for app in &names {
        for channel in &names {
            assert_eq!(channel.len(), 256);
            let mut worker = there.connected(app, "worker").serving(channel);
            let mut subscriber = there.connected(app, "subscriber").subscribed(channel);
            let answering = std::thread::spawn(move || {
                let task = loop {
                    let task = worker.receive();
                    if task["message_type"] == "request" {
                        break task;
                    }
                };
                worker.answer(&task, "done");
                worker
            });
            let mut asks = here.connected(app, "asks");
            assert_eq!(until_served(&mut asks, channel, &json!(1)), "done");
            let mut worker: Peer = answering.join().unwrap();
            asks.send("notification", channel, json!("noted"));
            assert_eq!(worker.receive()["payload"], "noted");
            until_heard(&mut asks, channel, &subscriber);
            asks.send("publish", channel, json!("news"));
            assert_eq!(next_heard(&mut subscriber), "news");
            assert!(within_a_moment(&worker).is_none());
        }
    }
}

#[test]
fn the_longest_names_work_with_the_newest_nats() {
    the_longest_names_work(Version::Newest);
}

#[test]
fn the_longest_names_work_with_debians_nats() {
    the_longest_names_work(Version::Debian);
}
