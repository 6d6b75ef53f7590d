//! Those who take more than their share, or do not take what is theirs.

use std::io::Write;
use std::time::Duration;

use ipc_framework::{Config, Limits};
use serde_json::json;
use socket2::SockRef;

use super::Bystanders;
use crate::support::{Peer, TestServer, frame, install_echo, serve, serve_echo};

fn serve_impatient() -> TestServer {
    let limits = Limits {
        queue_high_water_bytes: 64 << 10,
        // Long beside what a busy machine keeps the healthy from reading.
        slow_consumer_grace: Duration::from_secs(3),
        ..Limits::default()
    };
    serve(Config { limits, ..Config::default() }, install_echo)
}

/// The kernel would otherwise read megabytes in the place of one who does not.
fn read_nothing_early(peer: &Peer) {
    SockRef::from(&peer.stream).set_recv_buffer_size(64 << 10).unwrap();
}

#[test]
fn sixty_thousand_channels_are_too_many_for_one() {
    const CHANNELS: usize = 60_000;
    let server = serve_echo();
    let mut bystanders = Bystanders::of(&server);
    let before = server.stats().total_channels;
    let mut greedy = server.connected("app", "greedy");
    let mut reader = greedy.reader();
    let flood = std::thread::spawn(move || {
        for at in 0..CHANNELS {
            greedy.send("publish", &format!("greedy-{at}"), json!(null));
        }
        greedy
    });
    // Its own share it gets; all behind that is refused, one by one.
    let own = Limits::default().channels_per_connection_max;
    for at in own..CHANNELS {
        // Ids are counted from 1, and the connect had the first.
        let id = format!("greedy-{}", at + 2);
        reader.expect_error("limit_exceeded", &format!("greedy-{at}"), id);
        if at % 5_000 == 0 {
            bystanders.go_on();
        }
    }
    let mut greedy = flood.join().unwrap();
    greedy.fence();
    assert_eq!(server.stats().total_channels, before + own);
    // What it has it may use, and others have their own share.
    greedy.subscribe("greedy-0");
    bystanders.requester.subscribe("another");
    bystanders.publisher.send("publish", "another", json!("well"));
    assert_eq!(bystanders.requester.receive()["payload"], "well");
    drop((greedy, reader));
    server.wait_until("the end of its channels", |stats| stats.total_channels == before + 1);
    bystanders.go_on();
}

#[test]
fn a_slow_subscriber_is_closed_and_nobody_else_loses_anything() {
    const MESSAGES: usize = 5_000;
    let server = serve_impatient();
    let mut bystanders = Bystanders::of(&server);
    let mut slow = server.connected("app", "slow");
    slow.subscribe("news");
    read_nothing_early(&slow);
    let mut healthy: Vec<Peer> =
        (0..2).map(|at| server.connected("app", &format!("healthy-{at}"))).collect();
    for peer in &mut healthy {
        peer.subscribe("news");
    }
    let mut publisher = server.connected("app", "fast");

    let padding = "x".repeat(2_000);
    let readers: Vec<_> = healthy
        .into_iter()
        .map(|mut peer| {
            std::thread::spawn(move || {
                for at in 0..MESSAGES {
                    assert_eq!(peer.receive()["payload"]["at"], at);
                }
                peer.fence();
            })
        })
        .collect();
    let publishing = std::thread::spawn(move || {
        for at in 0..MESSAGES {
            publisher.send("publish", "news", json!({"at": at, "padding": padding}));
        }
        publisher.fence();
        publisher
    });
    let held = server.wait_until("a publisher held", |stats| stats.counters.publishers_held > 0);
    assert_eq!(held.counters.slow_consumers, 0, "the grace comes first");
    bystanders.go_on();
    let publisher = publishing.join().expect("the publisher is held back, not failed");
    for reader in readers {
        reader.join().expect("every message in order");
    }
    let stats = server.stats();
    assert_eq!(stats.counters.slow_consumers, 1);
    assert_eq!(stats.total_connections, 4, "the bystanders and the publisher");
    // It got the beginning, and then its end.
    let mut received = 0;
    while let Ok(message) = slow.try_receive() {
        assert_eq!(message["payload"]["at"], received);
        received += 1;
    }
    assert!(received < MESSAGES, "it got everything");
    bystanders.go_on();
    drop(publisher);
}

#[test]
fn a_subscriber_that_is_slow_for_less_than_its_grace_loses_nothing() {
    const MESSAGES: usize = 1_500;
    let limits = Limits { queue_high_water_bytes: 64 << 10, ..Limits::default() };
    let limits = Limits { slow_consumer_grace: crate::support::HANG, ..limits };
    let server = serve(Config { limits, ..Config::default() }, install_echo);
    let mut bystanders = Bystanders::of(&server);
    let mut slow = server.connected("app", "slow");
    slow.subscribe("news");
    read_nothing_early(&slow);
    let mut publisher = server.connected("app", "fast");
    let padding = "x".repeat(2_000);
    let publishing = std::thread::spawn(move || {
        for at in 0..MESSAGES {
            publisher.send("publish", "news", json!({"at": at, "padding": padding}));
        }
        publisher.fence();
    });
    server.wait_until("a publisher held", |stats| stats.counters.publishers_held > 0);
    // One connection's pressure is not another's: a second publisher on another channel.
    bystanders.go_on();
    for at in 0..MESSAGES {
        assert_eq!(slow.receive()["payload"]["at"], at);
    }
    publishing.join().unwrap();
    slow.fence();
    assert_eq!(server.stats().counters.slow_consumers, 0);
}

#[test]
fn whoever_does_not_read_its_answers_is_bounded() {
    let server = serve_impatient();
    let mut bystanders = Bystanders::of(&server);
    let mut deaf = server.connected("app", "deaf");
    read_nothing_early(&deaf);
    let request = deaf.message("request", "echo", &json!("x".repeat(10_000)));
    let mut stream = deaf.stream.try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        let bytes = frame(request.to_string().as_bytes()).repeat(100);
        while stream.write_all(&bytes).is_ok() {}
    });
    let mut buffered_bytes = 0;
    while !flood.is_finished() {
        buffered_bytes = buffered_bytes.max(server.stats().buffered_bytes);
        bystanders.go_on();
    }
    flood.join().unwrap();
    let stats = server.wait_until("its end", |stats| stats.total_connections == 3);
    assert_eq!((stats.counters.slow_consumers, stats.buffered_bytes), (1, 0));
    // The high-water mark and a frame, and as much again of what was read and not answered.
    assert!(buffered_bytes > 32 << 10, "the mark was never near: {buffered_bytes} bytes");
    assert!(buffered_bytes <= 256 << 10, "{buffered_bytes} bytes");
    bystanders.go_on();
}
