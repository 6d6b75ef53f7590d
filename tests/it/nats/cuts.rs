//! A network between a server and NATS that is cut, in one direction or both, or slow.

use serde_json::{Value, json};

use ipc_framework::{NatsOptions, Stats};

use super::nats_server::NatsServer;
use super::proxy::{BOTH, Pace, Proxy, Way};
use super::{
    TRIAL, heard_until_end, joined, joined_with, next_heard, until_heard, until_served, until_taken,
};
use crate::support::{TestServer, eventually};

/// Publications of a server's clients that NATS has confirmed or that were counted as lost, and all of them.
fn accounted(stats: &Stats) -> (u64, u64) {
    let nats = stats.nats.as_ref().expect("it joins others");
    (nats.published + nats.lost, stats.counters.publications)
}

/// Waits until each publication since then is confirmed or counted as lost, and none twice. The first trials
/// before may have come before the application was joined.
fn wait_until_accounted(server: &TestServer, since: &Stats) {
    let (before, all_before) = accounted(since);
    let stats = server.wait_until("all publications confirmed or lost", |stats| {
        let (after, all) = accounted(stats);
        after - before >= all - all_before
    });
    let (after, all) = accounted(&stats);
    assert!(after <= all, "{stats:?}");
}

/// Returns how many numbers there are, each of which is above the last one.
fn rising(heard: &[Value]) -> u64 {
    let numbers: Vec<i64> = heard.iter().map(|payload| payload[0].as_i64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    numbers.len() as u64
}

/// The server that is cut off serves its clients, and each request that was under way ends once.
fn cut_off(ways: &[Way]) {
    const MESSAGES: u64 = 200;
    let nats = NatsServer::start();
    let proxy = Proxy::before(&nats);
    let (here, there) = (joined_with(&NatsOptions::new([proxy.url()]), |_| ()), joined(&nats));
    let subscriber = there.connected("app", "subscriber").subscribed("news");
    // It takes the trials, and the subscriber misses nothing by them.
    let tried = there.connected("app", "tried").subscribed("news");
    let mut local = here.connected("app", "local").subscribed("news");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "news", &tried);
    publishes.fence();
    let since = here.stats();
    let mut pairs =
        [(&here, &there, "of there"), (&there, &here, "of here")].map(|(asks, works, channel)| {
            let worker = works.connected("app", "worker").serving(channel);
            let mut asks = asks.connected("app", "asks");
            let id = until_taken(&mut asks, channel, &worker);
            (asks, worker, channel, id)
        });

    proxy.set(ways, Pace::Still);
    let mut worker = here.connected("app", "own worker").serving("own");
    for number in 0..MESSAGES {
        publishes.send("publish", "news", json!([number]));
        assert_eq!(next_heard(&mut local), json!([number]));
        let id = publishes.send("request", "own", json!(number));
        let task = worker.receive();
        worker.answer(&task, "done");
        publishes.expect_answer(&id, "done");
    }
    for (asks, _, channel, id) in &mut pairs {
        asks.expect_error("worker_lost", channel, id.as_str());
        asks.fence();
    }

    proxy.set(ways, Pace::Full);
    until_heard(&mut publishes, "news", &tried);
    let heard = rising(&heard_until_end(&mut publishes, "news", &subscriber));
    wait_until_accounted(&here, &since);
    let lost = |stats: &Stats| {
        let nats = stats.nats.as_ref().unwrap();
        nats.lost + nats.lost_here
    };
    let lost = lost(&here.stats()) - lost(&since) + lost(&there.stats());
    assert!(heard + lost >= MESSAGES, "{heard} heard and {lost} lost");
    for (mut asks, worker, channel, _) in pairs {
        // The worker answers all that it was given, also the request that was given up.
        let answering = std::thread::spawn(move || {
            let (mut worker, mut reader) = (worker.reader(), worker);
            while let Ok(task) = reader.try_receive() {
                if task["message_type"] == "request" {
                    worker.answer(&task, task["payload"].clone());
                }
            }
        });
        // The connection to NATS may have been given up, and end only now.
        eventually("an answer of the other server", || {
            let answer = asks.request(channel, json!("again"));
            let is_late = |code: &Value| code == "no_handler" || code == "worker_lost";
            assert!(answer == "again" || is_late(&answer["code"]), "{answer}");
            (answer == "again").then_some(())
        });
        asks.fence();
        drop(asks);
        let _ = answering;
    }
}

#[test]
fn a_server_whose_words_do_not_reach_nats_serves_its_clients() {
    cut_off(&[Way::ToNats]);
}

#[test]
fn a_server_that_hears_nothing_of_nats_serves_its_clients() {
    cut_off(&[Way::FromNats]);
}

#[test]
fn a_server_that_is_cut_off_from_nats_serves_its_clients() {
    cut_off(BOTH);
}

#[test]
fn a_slow_way_to_nats_slows_no_local_traffic_and_losses_are_counted() {
    const MESSAGES: u64 = 1_000;
    let nats = NatsServer::start();
    let proxy = Proxy::before(&nats);
    let options = NatsOptions::new([proxy.url()]).queue_bytes(1 << 20);
    let (here, there) = (joined_with(&options, |_| ()), joined(&nats));
    let subscriber = there.connected("app", "subscriber").subscribed("news");
    // It takes the trials, and the subscriber misses nothing by them.
    let tried = there.connected("app", "tried").subscribed("news");
    let mut local = here.connected("app", "local").subscribed("news");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "news", &tried);
    publishes.fence();
    let since = here.stats();
    proxy.set(BOTH, Pace::Trickle);
    let text = "x".repeat(20_000);
    for number in 0..MESSAGES {
        publishes.send("publish", "news", json!([number, text]));
        assert_eq!(next_heard(&mut local)[0], number);
    }
    // 20 MB do not fit into 1 MiB, and into what is under way.
    let lost = |stats: &Stats| stats.nats.as_ref().unwrap().lost;
    here.wait_until("losses", |stats| lost(stats) > lost(&since));
    proxy.set(BOTH, Pace::Full);
    until_heard(&mut publishes, "news", &tried);
    let heard = rising(&heard_until_end(&mut publishes, "news", &subscriber));
    wait_until_accounted(&here, &since);
    let lost_here = there.stats().nats.unwrap().lost_here;
    let lost = lost(&here.stats()) - lost(&since) + lost_here;
    assert!(heard + lost >= MESSAGES, "{heard} heard and {lost} lost");
}

/// What goes to the server comes slowly, and its clients do not wait for it.
#[test]
fn a_request_over_a_slow_way_is_answered() {
    let nats = NatsServer::start();
    let proxy = Proxy::before(&nats);
    let (here, there) = (joined_with(&NatsOptions::new([proxy.url()]), |_| ()), joined(&nats));
    let mut asks = here.connected("app", "asks");
    let mut worker = there.connected("app", "worker").serving("work");
    let answering = std::thread::spawn(move || {
        while let Ok(task) = worker.try_receive() {
            let payload = task["payload"].clone();
            worker.answer(&task, payload);
        }
    });
    until_served(&mut asks, "work", &json!(TRIAL));
    proxy.set(BOTH, Pace::Trickle);
    let text = "y".repeat(10_000);
    let id = asks.send("request", "work", json!(text));
    let (mut local, mut own) =
        (here.connected("app", "local"), here.connected("app", "own").serving("own"));
    for number in 0..100 {
        let id = local.send("request", "own", json!(number));
        let task = own.receive();
        own.answer(&task, number);
        local.expect_answer(&id, number);
    }
    asks.expect_answer(&id, text);
    drop(there);
    answering.join().unwrap();
}
