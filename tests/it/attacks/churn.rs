//! Connections that open and close again, and connections that take over each other's ids.

use std::io::Write;

use serde_json::json;

use super::{
    Held, connected, count, read_to_end, reset_on_close, wait_for_descriptors, wait_until,
};
use crate::bad_input::Bystanders;
use crate::descriptors::ServerProcess;
use crate::support::Peer;

/// The server's memory may grow by so much: a page or two for each kind of table. A byte lost in
/// every cycle would be half of it.
const SLACK_BYTES: usize = 256 << 10;

/// Opens one connection, and closes it in one of several states.
fn cycle(server: &ServerProcess, at: usize) {
    let mut peer = Peer::new(server.address);
    reset_on_close(&peer.stream);
    match at % 8 {
        0 => {}
        1 => peer.stream.write_all(&[0, 0, 1, 0, b'{']).unwrap(),
        2 => {
            peer.connect("app", &format!("cycle-{at}"));
            peer.send("subscribe", &format!("channel-{at}"), json!({}));
            peer.send("request", "nobody", json!({}));
        }
        3 => {
            peer.connect(&format!("app-{at}"), "alone");
            let serve = json!({"action": "serve", "channel": "work"});
            assert_eq!(peer.request("system", serve)["status"], "serving");
            peer.send("request", "work", json!("to itself"));
        }
        _ => peer.connect("app", &format!("cycle-{at}")),
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn a_hundred_thousand_who_come_and_go_leave_nothing() {
    const CYCLES: usize = 100_000;
    const WARM_UP: usize = 5_000;
    let server = ServerProcess::start(None);
    let mut bystander = connected(&server, "bystander");
    let unused = count(&bystander.stats(), "total_channels");
    let idle = Held::by(&server);
    let settled = |bystander: &mut Peer| {
        wait_until(bystander, "their end", |stats| {
            count(stats, "total_connections") == 1 && count(stats, "buffered_bytes") == 0
        });
        let stats = bystander.stats();
        assert_eq!(count(&stats, "total_channels"), unused, "channels are left");
        assert_eq!(count(&stats, "total_applications"), 1, "applications are left");
        assert_eq!(count(&stats, "pending_requests"), 0, "requests are left");
        wait_for_descriptors(&server, idle.descriptors);
        Held::by(&server)
    };
    (0..WARM_UP).for_each(|at| cycle(&server, at));
    let before = settled(&mut bystander);
    std::thread::scope(|scope| {
        for half in 0..2 {
            let server = &server;
            scope.spawn(move || {
                (0..CYCLES).skip(half).step_by(2).for_each(|at| cycle(server, at));
            });
        }
    });
    let after = settled(&mut bystander);
    println!("{CYCLES} cycles: {before:?} -> {after:?}");
    assert!(count(&bystander.stats(), "accepted") > CYCLES);
    assert!(after.resident_bytes <= before.resident_bytes + SLACK_BYTES, "{before:?} {after:?}");
    assert_eq!(bystander.request("echo", json!("well")), "well");
    server.stop();
}

/// Each newcomer takes over the id of the one before, which is told and closed.
#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn an_id_that_is_taken_over_again_and_again_belongs_to_the_last() {
    const ROUNDS: usize = 10_000;
    let server = ServerProcess::start(None);
    let mut bystander = connected(&server, "bystander");
    let mut holder = connected(&server, "wanted");
    let mut warm = None;
    for round in 0..ROUNDS {
        let mut next = Peer::new(server.address);
        reset_on_close(&next.stream);
        next.connect("app", "wanted");
        holder.expect_error("taken_over", "system", serde_json::Value::Null);
        read_to_end(&mut holder);
        holder = next;
        if round == ROUNDS / 10 {
            warm = Some(Held::by(&server));
        }
    }
    let (before, mut count_of) = (warm.unwrap(), |name: &str| count(&bystander.stats(), name));
    assert_eq!(count_of("total_connections"), 2);
    assert_eq!(count_of("buffered_bytes"), 0);
    assert_eq!(stats_errors(&mut holder, "taken_over"), ROUNDS);
    let after = Held::by(&server);
    println!("{ROUNDS} take-overs: {before:?} -> {after:?}");
    // The last few linger so that their clients can read the reason.
    assert!(after.descriptors <= before.descriptors + 64, "{before:?} {after:?}");
    assert!(after.resident_bytes <= before.resident_bytes + SLACK_BYTES, "{before:?} {after:?}");
    // Messages for this id still reach the last one.
    holder.subscribe("news");
    bystander.send("publish", "news", json!("for the last"));
    assert_eq!(holder.receive()["payload"], "for the last");
    server.stop();
}

fn stats_errors(peer: &mut Peer, code: &str) -> usize {
    usize::try_from(peer.stats()["counters"]["errors"][code].as_u64().unwrap()).unwrap()
}

/// Two clients that take one id from each other at full speed do not lock others out, and one of
/// them has it in the end.
#[test]
fn two_that_fight_for_an_id_harm_nobody_else() {
    const ROUNDS: usize = 500;
    let (server, mut bystanders) = Bystanders::of_echo();
    let fights: Vec<_> = (0..2)
        .map(|_| {
            let address = server.address;
            std::thread::spawn(move || {
                let mut last = None;
                for _ in 0..ROUNDS {
                    let mut peer = Peer::new(address).called("app", "wanted");
                    reset_on_close(&peer.stream);
                    // The other client may take over the id before this one has read its own
                    // answer.
                    let answer = peer.introduce(None).unwrap();
                    assert_eq!(answer["payload"]["status"], "connected");
                    last = Some(peer);
                }
                last
            })
        })
        .collect();
    while !fights.iter().all(std::thread::JoinHandle::is_finished) {
        bystanders.go_on();
    }
    let last: Vec<_> = fights.into_iter().map(|fight| fight.join().unwrap()).collect();
    let stats = server.wait_until("one winner", |stats| stats.total_connections == 4);
    assert_eq!(stats.buffered_bytes, 0);
    drop(last);
    bystanders.go_on();
}
