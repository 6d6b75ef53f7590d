//! NATS goes away and comes back, and servers die.

use serde_json::json;

use super::nats_server::{NatsServer, Version};
use super::{heard_until_end, joined, next_heard, refused, until_heard, until_served, until_taken};
use crate::cli::{Running, serve};

#[test]
fn a_server_starts_without_nats_and_joins_when_it_comes() {
    let mut nats = NatsServer::stopped(Version::Newest, "");
    let (here, there) = (joined(&nats), joined(&nats));
    let mut local = here.connected("app", "local").subscribed("news");
    let mut publishes = here.connected("app", "publishes");
    publishes.send("publish", "news", json!("at home"));
    assert_eq!(next_heard(&mut local), "at home");
    assert_eq!(refused(&mut publishes, "work"), "no_handler");
    let mut subscriber = there.connected("app", "subscriber").subscribed("news");
    nats.restart();
    until_heard(&mut publishes, "news", &subscriber);
    publishes.send("publish", "news", json!("away"));
    assert_eq!(next_heard(&mut subscriber), "away");
}

#[test]
fn when_nats_is_killed_and_back_servers_find_each_other_again() {
    let mut nats = NatsServer::start();
    let (here, there) = (joined(&nats), joined(&nats));
    let mut subscriber = there.connected("app", "subscriber").subscribed("news");
    let mut local = here.connected("app", "local").subscribed("news");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "news", &subscriber);
    for round in 0..3 {
        nats.kill();
        publishes.send("publish", "news", json!(["at home", round]));
        assert_eq!(next_heard(&mut local), json!(["at home", round]));
        nats.restart();
        for server in [&here, &there] {
            server.wait_until("another connection to NATS", |stats| {
                let nats = stats.nats.as_ref().unwrap();
                nats.connected && nats.reconnects == round + 1
            });
        }
        // What was published meanwhile may be lost, and is not doubled.
        until_heard(&mut publishes, "news", &subscriber);
        publishes.send("publish", "news", json!(["back", round]));
        let mut heard = next_heard(&mut subscriber);
        if heard == json!(["at home", round]) {
            heard = next_heard(&mut subscriber);
        }
        assert_eq!(heard, json!(["back", round]));
        assert_eq!(next_heard(&mut local), json!(["back", round]));
    }
}

#[test]
fn a_request_whose_server_dies_is_told_that_its_worker_is_lost() {
    let nats = NatsServer::start();
    let here = joined(&nats);
    let there = Running::start(serve(&["--port", "0", "--nats", &nats.url()]));
    let worker = there.connected("app", "worker").serving("work");
    let mut asks = here.connected("app", "asks");
    let id = until_taken(&mut asks, "work", &worker);
    there.signal("KILL");
    asks.expect_error("worker_lost", "work", id);
    assert_eq!(refused(&mut asks, "work"), "no_handler");
}

#[test]
fn a_server_that_drains_takes_no_more_and_answers_what_it_has() {
    let nats = NatsServer::start();
    let here = joined(&nats);
    let there = Running::start(serve(&["--demo", "--port", "0", "--nats", &nats.url()]));
    let mut asks = here.connected("bench", "asks");
    assert_eq!(until_served(&mut asks, "echo", &json!(1)), json!(1));
    there.terminate();
    assert_eq!(refused(&mut asks, "echo"), "no_handler");
}

/// Each publication of a client is confirmed by NATS or counted as lost, and nobody hears one twice or out of
/// order.
#[test]
fn what_is_lost_is_counted_and_nothing_is_doubled() {
    let mut nats = NatsServer::start();
    let (here, there) = (joined(&nats), joined(&nats));
    let subscriber = there.connected("app", "subscriber").subscribed("news");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "news", &subscriber);
    publishes.fence();
    let counted = |stats: &ipc_framework::Stats| {
        let nats = stats.nats.as_ref().expect("it joins others");
        assert!(nats.published + nats.lost <= stats.counters.publications, "{stats:?}");
        nats.published + nats.lost
    };
    // The first trials may have come before the application had joined.
    let first = here.stats();
    let mut publishing = here.connected("app", "in the middle of it");
    let many = std::thread::spawn(move || {
        for number in 0..20_000 {
            publishing.send("publish", "news", json!(number));
        }
        publishing.fence();
    });
    for _ in 0..3 {
        nats.kill();
        nats.restart();
        until_heard(&mut publishes, "news", &subscriber);
    }
    many.join().unwrap();
    let heard = heard_until_end(&mut publishes, "news", &subscriber);
    publishes.fence();
    let all = here.stats().counters.publications - first.counters.publications;
    here.wait_until("all publications confirmed or lost", |stats| {
        counted(stats) - counted(&first) >= all
    });
    let numbers: Vec<i64> = heard.iter().map(|number| number.as_i64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}

/// A NATS server that answers nothing is left, and comes back.
#[test]
fn a_nats_server_that_stands_still_harms_no_local_traffic() {
    let nats = NatsServer::start();
    let (here, there) = (joined(&nats), joined(&nats));
    let subscriber = there.connected("app", "subscriber").subscribed("news");
    let mut local = here.connected("app", "local").subscribed("news");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "news", &subscriber);
    nats.signal("STOP");
    let text = "x".repeat(10_000);
    for number in 0..2_000 {
        publishes.send("publish", "news", json!([number, text]));
        assert_eq!(next_heard(&mut local)[0], number);
    }
    nats.signal("CONT");
    until_heard(&mut publishes, "news", &subscriber);
    heard_until_end(&mut publishes, "news", &subscriber);
}
