//! Many connections, slow ones, and fairness between rings and sockets.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipc_framework::Spin;
use serde_json::json;

use super::{SPINS, limits, serve, serve_spinning};
use crate::support::{frames, install_echo};

#[test]
fn many_connections_share_memory_at_once() {
    let many = limits().ring_bytes(4 << 10);
    let server = serve("shm-mass", many);
    let mut peers: Vec<_> = (0..200).map(|at| server.peer(&format!("peer-{at}"))).collect();
    let mut publisher = server.on_socket("publisher");
    for peer in &mut peers {
        peer.subscribe("news");
    }
    for round in 0..10 {
        publisher.send("publish", "news", json!(round));
        for peer in &mut peers {
            assert_eq!(peer.receive()["payload"], round);
        }
    }
}

/// As on a socket: publishers wait for it, and it is closed after its grace.
#[test]
fn a_slow_consumer_over_a_ring_holds_publishers_back_and_is_closed_after_its_grace() {
    let slow =
        limits().queue_high_water_bytes(64 << 10).slow_consumer_grace(Duration::from_millis(300));
    let server = serve("shm-slow", slow);
    let mut reader = server.peer("reader").subscribed("news");
    let mut sleeper = server.peer("sleeper").subscribed("news");
    let mut publisher = server.peer("publisher");
    let text = json!("x".repeat(1_000));
    for _ in 0..500 {
        publisher.send("publish", "news", text.clone());
        assert_eq!(reader.receive()["payload"], text);
    }
    let stats = server.server.wait_until("its end", |stats| stats.counters.slow_consumers == 1);
    assert!(stats.counters.publishers_held > 0);
    // What is in the ring it still gets, and then the end.
    while sleeper.try_receive().is_ok() {}
    publisher.fence();
}

#[test]
fn a_slow_consumer_that_reads_in_time_goes_on_where_it_stopped() {
    for (at, spin) in SPINS.into_iter().enumerate() {
        let small = limits().ring_bytes(4 << 10).queue_high_water_bytes(16 << 10);
        let server = serve_spinning(&format!("shm-later-{at}"), small, spin, install_echo);
        let mut sleeper = server.peer("sleeper").subscribed("news");
        let mut publisher = server.on_socket("publisher");
        // More than its ring holds, and less than its queue may.
        for n in 0..15 {
            publisher.send("publish", "news", json!([n, "x".repeat(1_000)]));
        }
        publisher.fence();
        for n in 0..15 {
            assert_eq!(sleeper.receive()["payload"][0], n);
        }
        sleeper.fence();
    }
}

/// A flood over a ring costs the loop no system call, and still lets sockets have their turn, and
/// the other way round.
#[test]
fn a_flood_over_rings_and_sockets_starves_neither() {
    for (at, spin) in [Spin::Never, Spin::Always].into_iter().enumerate() {
        let server = serve_spinning(&format!("shm-fair-{at}"), limits(), spin, install_echo);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for flooder in 0..3 {
                let (mut ring, mut socket) = (
                    server.peer(&format!("ring-{flooder}")),
                    server.on_socket(&format!("socket-{flooder}")),
                );
                let note = ring.message("notification", "system", &json!({}));
                let notes = frames(std::iter::repeat_n(&note, 100));
                let (is_over, of_socket) = (&is_over, notes.clone());
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        ring.stream.write_all(&notes).unwrap();
                    }
                });
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        socket.stream.write_all(&of_socket).unwrap();
                    }
                });
            }
            // What is between two answers is bounded by the shares of the others, and not by time.
            let frames_in = || server.server.stats().counters.frames_in;
            let mut on_ring = server.peer("on-ring");
            let mut on_socket = server.on_socket("on-socket");
            for _ in 0..20 {
                let before = frames_in();
                on_ring.fence();
                on_socket.fence();
                let between = frames_in() - before;
                // Two answers and two statistics take some turns, each of six shares of 128.
                assert!(between < 200 * 6 * 128, "{between} messages of others");
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
