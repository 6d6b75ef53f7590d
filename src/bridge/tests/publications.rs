//! Publications between servers.

use super::super::publications::FULL_RETRY;
use super::super::state::RETRY;
use super::*;
use crate::broker::{BUS_IDLE_MAX, BUSES_MAX};

fn subscribe(world: &mut World, client: Client, channel: &str, is_pattern: bool) {
    world.send(client, &message("subscribe", channel, "s", &json!({"pattern": is_pattern})));
}

fn publish(world: &mut World, client: Client, channel: &str, payload: &Value) {
    world.send(client, &message("publish", channel, "p", payload));
}

#[test]
fn a_publication_reaches_the_subscribers_of_all_servers_once() {
    let mut world = World::joined(3, 1);
    let clients = [0, 1, 2].map(|at| world.client(at, "c"));
    for client in clients {
        subscribe(&mut world, client, "news.tea", false);
        subscribe(&mut world, client, "news.*", true);
        subscribe(&mut world, client, ">", true);
    }
    world.rest();
    publish(&mut world, clients[0], "news.tea", &json!("hot"));
    publish(&mut world, clients[1], "other", &json!(2));
    world.rest();
    for client in clients {
        let mut payloads = world.payloads(client);
        payloads.sort_by_key(Value::to_string);
        assert_eq!(payloads, [json!("hot"), json!(2)], "{}", client.at);
    }
    for server in &world.servers {
        let stats = server.machine.stats();
        assert_eq!((stats.peers, stats.refused, stats.lost, stats.lost_here), (2, 0, 0, 0));
    }
    assert_eq!(world.servers[0].machine.stats().published, 1);
    assert_eq!(world.servers[2].machine.stats().received, 2);
    assert!(world.servers[2].machine.stats().doubled > 0);
}

#[test]
fn what_is_not_wanted_or_not_shared_stays() {
    let mut world = World::joined(2, 2);
    let (here, there) = (world.client(0, "a"), world.client(1, "b"));
    subscribe(&mut world, there, "$own", false);
    subscribe(&mut world, there, "news", false);
    world.rest();
    publish(&mut world, here, "$own", &json!(1));
    publish(&mut world, here, "other", &json!(2));
    world.rest();
    assert_eq!(world.payloads(there), [] as [Value; 0]);
    assert_eq!(world.servers[1].machine.stats().received, 0);
    world.send(there, &message("unsubscribe", "news", "u", &json!({})));
    world.rest();
    assert_eq!(world.servers[1].subscriptions.len(), 2);
    publish(&mut world, here, "news", &json!(3));
    world.rest();
    assert_eq!(world.servers[1].machine.stats().received, 0);
}

#[test]
fn names_of_any_text_cross_and_retained_values_are_kept_there() {
    let mut world = World::joined(2, 3);
    let (here, there) = (world.client(0, "a"), world.client(1, "b"));
    let names = ["a..b", " ", "*.x", "ü_\u{1f600}", "x.>", "\u{1}".repeat(256).leak()];
    for name in names {
        subscribe(&mut world, there, name, false);
    }
    world.rest();
    for name in names {
        let mut retained = message("publish", name, "p", &json!(name));
        retained["meta"] = json!({"retain": true, "ack": true, "headers": {"a": "b"}});
        world.send(here, &retained);
    }
    world.rest();
    assert_eq!(world.payloads(there), names.map(|name| json!(name)));
    let late = world.client(1, "late");
    world.send(late, &message("subscribe", " ", "s", &json!({"last": 1})));
    let last = world.take(late).pop().unwrap();
    assert_eq!(last["payload"], " ");
    assert_eq!(last["meta"], json!({"retain": true, "headers": {"a": "b"}}));
}

#[test]
fn what_is_over_the_smallest_max_payload_is_counted_and_not_sent() {
    let mut world = World::joined(2, 4);
    let (here, there) = (world.client(0, "a"), world.client(1, "b"));
    subscribe(&mut world, there, "news", false);
    world.rest();
    publish(&mut world, here, "news", &json!("x".repeat(MAX_PAYLOAD)));
    publish(&mut world, here, "news", &json!(1));
    world.rest();
    assert_eq!(world.payloads(there), [json!(1)]);
    let stats = world.servers[0].machine.stats();
    assert_eq!((stats.too_large, stats.published), (1, 1));
    assert!(world.servers[0].log.iter().any(|line| line.contains("1048576")));
}

#[test]
fn without_nats_publications_wait_within_the_bound_and_the_rest_is_counted() {
    let mut world = World::joined(2, 5);
    let (here, there) = (world.client(0, "a"), world.client(1, "b"));
    subscribe(&mut world, there, "news", false);
    world.rest();
    world.cut(0);
    for number in 0..30 {
        publish(&mut world, here, "news", &json!([number, "x".repeat(50_000)]));
    }
    let stats = world.servers[0].machine.stats();
    assert!(stats.lost > 0 && stats.lost < 30, "{stats:?}");
    assert!(stats.queued_bytes <= 1 << 20, "{stats:?}");
    world.connect(0);
    world.rest();
    let got = world.payloads(there);
    assert_eq!(got.len() as u64 + stats.lost, 30);
    assert!(got.iter().enumerate().all(|(at, payload)| payload[0] == at));
    assert_eq!(world.servers[0].machine.stats().reconnects, 1);
}

/// In each run, publishers at three servers publish numbers while connections are cut.
#[test]
fn each_subscriber_gets_each_publication_once_in_order_or_it_is_counted() {
    for seed in 0..40 {
        let mut world = World::joined(3, seed);
        let clients = [0, 1, 2].map(|at| world.client(at, "c"));
        for client in clients {
            subscribe(&mut world, client, "n.*", true);
            subscribe(&mut world, client, "n.0", false);
            subscribe(&mut world, client, "n.1", false);
        }
        world.rest();
        let is_cut = seed % 2 == 1;
        let (mut sent, mut cuts) = ([0_u64; 3], [false; 3]);
        for _ in 0..400 {
            let at = world.random(3);
            match world.random(12) {
                0 if is_cut && cuts[at] => {
                    world.connect(at);
                    cuts[at] = false;
                }
                1 if is_cut && !cuts[at] && world.random(4) == 0 => {
                    world.cut(at);
                    cuts[at] = true;
                }
                2..=6 => {
                    let channel = format!("n.{}", world.random(3));
                    publish(&mut world, clients[at], &channel, &json!([at, sent[at]]));
                    sent[at] += 1;
                }
                7 => world.pass(Duration::from_millis(7)),
                _ => world.step(),
            }
        }
        for at in (0..3).filter(|at| cuts[*at]) {
            world.connect(at);
        }
        world.rest();
        for client in clients {
            let mut last = [None; 3];
            let mut counts = [0_u64; 3];
            for payload in world.payloads(client) {
                let from = payload[0].as_u64().unwrap() as usize;
                let number = payload[1].as_u64().unwrap();
                assert!(last[from] < Some(number), "seed {seed}: {number} behind {:?}", last[from]);
                last[from] = Some(number);
                counts[from] += 1;
            }
            for from in 0..3 {
                if from == client.at || !is_cut {
                    assert_eq!(counts[from], sent[from], "seed {seed}: {from} to {}", client.at);
                }
            }
        }
        for (server, sent) in world.servers.iter().zip(sent) {
            let stats = server.machine.stats();
            assert_eq!(stats.published + stats.lost, sent, "seed {seed}: {stats:?}");
            assert_eq!((stats.refused, stats.queued_bytes), (0, 0), "seed {seed}");
        }
    }
}

#[test]
fn a_bus_link_outlives_the_last_client_of_its_application_for_a_while() {
    let mut world = World::joined(1, 9);
    let client = world.client(0, "c");
    world.rest();
    assert_eq!(world.servers[0].links.len(), 1);
    world.hang_up(client);
    world.pass(BUS_IDLE_MAX / 2);
    let client = world.client(0, "c");
    world.pass(BUS_IDLE_MAX);
    assert_eq!(world.servers[0].links.len(), 1, "a new client has come");
    world.hang_up(client);
    world.pass(BUS_IDLE_MAX);
    assert_eq!(world.servers[0].links.len(), 0);
}

#[test]
fn the_first_thing_that_the_first_client_of_an_application_says_is_shared() {
    let mut world = World::joined(2, 11);
    let there = world.client(1, "there");
    subscribe(&mut world, there, "news", false);
    world.rest();
    for number in 0..5 {
        let first = world.servers[0].broker.accept().unwrap();
        let connect = json!({"action": "connect", "connection_id": "first"});
        let said = [
            framed(&message("request", "system", "c", &connect)),
            framed(&message("publish", "news", "p", &json!(number))),
        ];
        let client = Client { at: 0, key: first };
        world.with(0, |server| {
            server.broker.receive(first, &said.concat());
        });
        world.rest();
        assert_eq!(world.payloads(there), [json!(number)]);
        // The next one is the first again.
        world.hang_up(client);
        world.pass(BUS_IDLE_MAX);
        world.rest();
        assert_eq!(world.servers[0].links.len(), 0);
    }
}

#[test]
fn a_bus_link_that_was_closed_is_opened_anew() {
    let mut world = World::joined(2, 12);
    let (here, there) = (world.client(0, "a"), world.client(1, "b"));
    subscribe(&mut world, there, "news", false);
    world.rest();
    let bus = *world.servers[0].links.values().next().unwrap();
    world.with(0, |server| server.broker.hang_up(bus, HangUp::Reset));
    world.pass(RETRY);
    publish(&mut world, here, "news", &json!(1));
    world.rest();
    assert_eq!(world.payloads(there), [json!(1)]);
    // The server has closed the link, which another client's coming does not make it open twice.
    world.client(0, "c");
    world.rest();
    assert_eq!(world.servers[0].links.len(), 1);
}

/// Whoever makes up applications takes no more than that.
#[test]
fn so_many_applications_are_shared_and_the_others_wait_until_one_goes() {
    let mut world = World::joined(1, 10);
    let tell = |world: &mut World, number: usize, is_wanted| {
        world.with(0, |server| {
            let (application, subject) = (format!("app {number}"), LocalSubject::Application);
            let interest = LocalInterest { application, subject, is_wanted };
            server.machine.local(LocalEvent::Interest(interest));
        });
    };
    for number in 0..=BUSES_MAX {
        tell(&mut world, number, true);
    }
    world.pass(RETRY);
    let links = |world: &World| world.servers[0].links.len();
    assert_eq!(links(&world), BUSES_MAX);
    let is_told = |line: &String| line.contains("applications are shared at a time");
    assert!(world.servers[0].log.iter().any(is_told), "{:?}", world.servers[0].log);
    tell(&mut world, 7, false);
    let one = *world.servers[0].links.values().nth(7).unwrap();
    world.with(0, |server| server.broker.hang_up(one, HangUp::Reset));
    assert_eq!(links(&world), BUSES_MAX - 1);
    world.pass(FULL_RETRY);
    assert_eq!(links(&world), BUSES_MAX, "another one has its place");
}

/// NATS says so on the same connection, before or after the mark behind it.
#[test]
fn what_nats_forbids_is_counted_as_lost_and_told_once() {
    for is_late in [false, true] {
        let mut world = World::joined(1, 11);
        let client = world.client(0, "c");
        world.rest();
        let deny = |world: &mut World| {
            world.with(0, |server| {
                for (what, subject) in [
                    (Denied::Publish, "ipc-pub.app.secret"),
                    (Denied::Publish, "ipc-pub.app.secret"),
                    (Denied::Publish, "ipc-all"),
                    (Denied::Subscribe, "ipc-pub.app.secret"),
                ] {
                    server.machine.nats(NatsEvent::Denied { what, subject });
                }
            });
        };
        for channel in ["secret", "news", "secret"] {
            world.send(client, &message("publish", channel, "p", &json!(1)));
        }
        if is_late {
            world.rest();
        }
        deny(&mut world);
        world.send(client, &message("publish", "news", "p", &json!(2)));
        world.send(client, &message("publish", "news", "p", &json!(3)));
        world.rest();
        let stats = world.servers[0].machine.stats();
        assert_eq!((stats.denied, stats.lost, stats.published), (4, 2, 3));
        let told = world.servers[0].log.iter().filter(|line| line.contains("does not allow"));
        assert_eq!(told.count(), 3, "{:?}", world.servers[0].log);
        // What ends with the connection is not counted twice.
        world.send(client, &message("publish", "secret", "p", &json!(4)));
        deny(&mut world);
        world.cut(0);
        assert_eq!(world.servers[0].machine.stats().lost, 4);
    }
}
