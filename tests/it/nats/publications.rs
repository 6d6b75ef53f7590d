//! Publications reach the subscribers of other servers, once each and in order.

use ipc_framework::NatsOptions;
use serde_json::json;

use super::nats_server::{NatsServer, Version};
use super::{joined, joined_with, next_heard, until_heard};
use crate::support::Peer;

const MESSAGES: u64 = 200;

fn numbered(publishes: &mut Peer, channel: &str, from: u64) {
    for number in from..from + MESSAGES {
        publishes.send("publish", channel, json!(number));
    }
}

fn expect_numbered(subscriber: &mut Peer, from: u64) {
    for number in from..from + MESSAGES {
        assert_eq!(next_heard(subscriber), json!(number));
    }
}

fn a_subscriber_of_another_server_hears_each_once_and_in_order(version: Version) {
    let nats = NatsServer::start_with(version, "");
    let (here, there) = (joined(&nats), joined(&nats));
    let mut subscriber = there.connected("app", "subscriber").subscribed("news");
    let mut local = here.connected("app", "local").subscribed("news");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "news", &subscriber);
    numbered(&mut publishes, "news", 0);
    expect_numbered(&mut subscriber, 0);
    expect_numbered(&mut local, 0);
    // Neither NATS nor the other server sends it back.
    for (server, peer) in [(&there, &mut subscriber), (&here, &mut local)] {
        let mut end = server.connected("app", "ends");
        end.send("publish", "news", json!("end"));
        assert_eq!(next_heard(peer), "end");
    }
}

#[test]
fn a_subscriber_hears_each_once_and_in_order_over_the_newest_nats() {
    a_subscriber_of_another_server_hears_each_once_and_in_order(Version::Newest);
}

#[test]
fn a_subscriber_hears_each_once_and_in_order_over_debians_nats() {
    a_subscriber_of_another_server_hears_each_once_and_in_order(Version::Debian);
}

/// Whatever the first client of an application says, behind its connect or after the welcome, is shared.
#[test]
fn what_the_first_client_of_an_application_says_first_is_heard_elsewhere() {
    let nats = NatsServer::start();
    let (here, there) = (joined(&nats), joined(&nats));
    let applications: Vec<String> = (0..50).map(|number| format!("fresh {number}")).collect();
    let mut subscribers: Vec<Peer> = applications
        .iter()
        .map(|app| there.connected(app, "subscriber").subscribed("news").subscribed("ready"))
        .collect();
    // The subscriptions of a server reach NATS in order, so that all others are there with this one.
    let mut last = there.connected("last", "subscriber").subscribed("news");
    let mut publishes = here.connected("last", "publishes");
    until_heard(&mut publishes, "news", &last);
    for (number, app) in applications.iter().enumerate() {
        let mut first = here.peer();
        let connect = json!({"action": "connect", "connection_id": "first"});
        let mut connect = first.message("request", "system", &connect);
        let mut publication = first.message("publish", "news", &json!(number));
        for message in [&mut connect, &mut publication] {
            message["app_id"] = json!(app);
        }
        if number % 2 == 0 {
            first.send_all([&connect, &publication]);
        } else {
            first.send_message(&connect);
            assert_eq!(first.receive()["payload"]["status"], "connected");
            first.send_message(&publication);
        }
        assert_eq!(next_heard(&mut subscribers[number]), json!(number), "{app}");
    }
    publishes.send("publish", "news", json!("end"));
    assert_eq!(next_heard(&mut last), "end");
}

/// The exact subscription and the pattern are two subscriptions at NATS that overlap.
#[test]
fn patterns_hear_other_servers_and_who_has_both_hears_once() {
    let nats = NatsServer::start();
    let (here, there) = (joined(&nats), joined(&nats));
    let mut exact = there.connected("app", "exact").subscribed("prices.eur");
    let mut pattern = there.peer().called("app", "pattern").asking_for(&["topic"]);
    let subscribe = json!({"connection_id": "pattern", "ack": true, "pattern": true});
    pattern.send("subscribe", "prices.*", subscribe);
    let subscribed = pattern.receive_extended();
    assert_eq!(subscribed["payload"]["status"], "subscribed", "{subscribed}");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "prices.eur", &exact);
    numbered(&mut publishes, "prices.eur", 0);
    publishes.send("publish", "prices.usd", json!("other"));
    publishes.send("publish", "prices.eur", json!("end"));
    expect_numbered(&mut exact, 0);
    assert_eq!(next_heard(&mut exact), "end");
    let mut heard = Vec::new();
    while heard.last() != Some(&json!("end")) {
        let message = pattern.receive_extended();
        if message["payload"] != super::TRIAL {
            heard.push(message["payload"].clone());
        }
    }
    let mut expected: Vec<_> = (0..MESSAGES).map(|number| json!(number)).collect();
    expected.extend([json!("other"), json!("end")]);
    assert_eq!(heard, expected);
}

#[test]
fn three_servers_hear_one_another() {
    let nats = NatsServer::start();
    let servers = [joined(&nats), joined(&nats), joined(&nats)];
    let mut peers: Vec<Peer> = servers
        .iter()
        .enumerate()
        .map(|(at, server)| server.connected("app", &format!("peer-{at}")).subscribed("news"))
        .collect();
    for (from, server) in servers.iter().enumerate() {
        let mut publishes = server.connected("app", "publishes");
        for to in (0..3).filter(|to| *to != from) {
            until_heard(&mut publishes, "news", &peers[to]);
        }
        numbered(&mut publishes, "news", 1_000 * from as u64);
        for peer in &mut peers {
            expect_numbered(peer, 1_000 * from as u64);
        }
    }
}

/// Applications and channels with names of any kind stay apart.
#[test]
fn no_name_leaks_into_another() {
    let nats = NatsServer::start();
    let (here, there) = (joined(&nats), joined(&nats));
    let long = "ü".repeat(128);
    let names = ["a.b", "a", "*", ">", "a b", "a..b", "é\u{7f}\n", "_", "-", "A", &long];
    for app in names {
        for channel in names {
            let mut subscriber = there.connected(app, "subscriber").subscribed(channel);
            let mut publishes = here.connected(app, "publishes");
            until_heard(&mut publishes, channel, &subscriber);
            for other in names.into_iter().filter(|other| *other != channel) {
                publishes.send("publish", other, json!("of another channel"));
            }
            for other in names.into_iter().filter(|other| *other != app) {
                let mut stranger = here.connected(other, "publishes");
                stranger.send("publish", channel, json!("of another application"));
                stranger.fence();
            }
            publishes.send("publish", channel, json!([app, channel]));
            assert_eq!(next_heard(&mut subscriber), json!([app, channel]));
        }
    }
}

#[test]
fn only_channels_that_are_shared_go_over_nats() {
    let nats = NatsServer::start();
    let options = NatsOptions::new([nats.url()]).channels(["open.>".to_owned()]);
    let (here, there) = (joined_with(&options, |_| ()), joined_with(&options, |_| ()));
    let mut subscriber =
        there.connected("app", "subscriber").subscribed("open.news").subscribed("own");
    let mut local = here.connected("app", "local").subscribed("own");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "open.news", &subscriber);
    publishes.send("publish", "own", json!("at home"));
    publishes.send("publish", "open.news", json!("end"));
    assert_eq!(next_heard(&mut local), "at home");
    assert_eq!(next_heard(&mut subscriber), "end");
    let apart = joined_with(&NatsOptions::new([nats.url()]).prefix("other"), |_| ());
    let mut hears_not = apart.connected("app", "subscriber-not").subscribed("open.news");
    publishes.send("publish", "open.news", json!("for one prefix"));
    assert_eq!(next_heard(&mut subscriber), "for one prefix");
    let mut end = apart.connected("app", "ends");
    end.send("publish", "open.news", json!("end"));
    assert_eq!(next_heard(&mut hears_not), "end");
}
