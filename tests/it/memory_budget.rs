//! What the server counts of its memory, held against what the system says it holds, and what
//! it does when that runs short.

use std::io::{ErrorKind, Write};
use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::{Running, serve};
use crate::descriptors::ServerProcess;
use crate::memory::resident_bytes;
use crate::support::{HANG, Peer, code};

/// What a process takes at once for reasons of its own: tables that double, pages, pools.
const SLACK_BYTES: usize = 3 << 20;

struct Measured {
    server: ServerProcess,
    asks: Peer,
    counted_bytes: usize,
    resident_bytes: usize,
}

impl Measured {
    fn begin() -> Self {
        let server = ServerProcess::start(None);
        let mut asks = Peer::new(server.address);
        asks.connect("app", "asks");
        let counted_bytes = stat(&mut asks, "memory_bytes");
        let resident_bytes = resident_bytes(server.id());
        Self { server, asks, counted_bytes, resident_bytes }
    }

    fn peer(&self, id: &str) -> Peer {
        let mut peer = Peer::new(self.server.address);
        peer.connect("app", id);
        peer
    }

    /// What was counted since the begin covers what is resident more than then.
    fn end(mut self, what: &str, expected_bytes: usize) {
        let counted = stat(&mut self.asks, "memory_bytes") - self.counted_bytes;
        let resident = resident_bytes(self.server.id()).saturating_sub(self.resident_bytes);
        println!("{what}: {counted} bytes counted, {resident} resident");
        assert!(counted >= expected_bytes, "{what}: {counted} bytes counted");
        assert!(
            resident <= counted + SLACK_BYTES,
            "{what}: {counted} bytes counted, {resident} resident"
        );
    }
}

fn stat(peer: &mut Peer, name: &str) -> usize {
    let stats = peer.request("system", json!({"action": "get_stats"}));
    stats[name].as_u64().unwrap_or_else(|| panic!("{name} in {stats}")) as usize
}

fn counter(peer: &mut Peer, name: &str) -> u64 {
    let stats = peer.request("system", json!({"action": "get_stats"}));
    stats["counters"][name].as_u64().unwrap_or_else(|| panic!("{name} in {stats}"))
}

#[test]
fn channels_and_their_names_are_counted() {
    let measured = Measured::begin();
    let long = "n".repeat(200);
    let peers: Vec<Peer> = (0..4)
        .map(|at| {
            let mut peer = measured.peer(&format!("{at}"));
            for channel in 0..4_096 {
                peer.send("subscribe", &format!("{long}-{at}-{channel}"), json!({}));
            }
            peer.fence();
            peer
        })
        .collect();
    measured.end("16,384 channels with long names", 16_384 * 1_000);
    drop(peers);
}

#[test]
fn subscriptions_are_counted() {
    let measured = Measured::begin();
    let peers: Vec<Peer> = (0..100)
        .map(|at| {
            let mut peer = measured.peer(&format!("{at}"));
            for channel in 0..2_000 {
                peer.send("subscribe", &format!("{channel}"), json!({}));
            }
            peer.fence();
            peer
        })
        .collect();
    measured.end("200,000 subscriptions", 200_000 * 60);
    drop(peers);
}

#[test]
fn unanswered_requests_are_counted() {
    let measured = Measured::begin();
    let mut worker = measured.peer("worker");
    worker.serve("work");
    let mut reader = worker.reader();
    let drain = std::thread::spawn(move || while reader.try_receive_body().is_ok() {});
    let long = "i".repeat(200);
    let peers: Vec<Peer> = (0..30)
        .map(|at| {
            let mut peer = measured.peer(&format!("{long}{at}"));
            for _ in 0..1_000 {
                peer.send("request", "work", json!(1));
            }
            peer.fence();
            peer
        })
        .collect();
    measured.end("30,000 unanswered requests", 30_000 * 500);
    let _ = worker.stream.shutdown(std::net::Shutdown::Both);
    drop(peers);
    drain.join().unwrap();
}

/// All stages one after the other, by clients that are as bad as they can be.
#[test]
fn a_server_with_a_budget_keeps_it_and_keeps_serving() {
    const BUDGET_BYTES: usize = 64 << 20;
    const ATTACKERS: usize = 40;
    let arguments = ["--port", "0", "--demo", "--max-memory", "64MiB", "--max-frame-bytes", "4MiB"];
    let running = Running::start(serve(&arguments));
    let mut bystander = running.peer();
    bystander.connect("bench", "bystander");
    let before = resident_bytes(running.id());
    // Each begins a message of 4 MB, as many bytes of it as the server takes.
    let mut attackers: Vec<Option<Peer>> = (0..ATTACKERS)
        .map(|at| {
            let mut peer = running.peer();
            peer.connect("bench", &format!("{at}"));
            peer.stream.write_all(&(4_u32 << 20).to_be_bytes()).unwrap();
            peer.stream.set_nonblocking(true).unwrap();
            Some(peer)
        })
        .collect();
    let mut sent = [0; ATTACKERS];
    let mut seen = Seen::default();
    let piece = vec![b' '; 128 << 10];
    let deadline = Instant::now() + HANG;
    while counter(&mut bystander, "memory_sheds") < 5 {
        assert!(Instant::now() < deadline, "nobody is closed: {seen:?}");
        for (attacker, sent) in attackers.iter_mut().zip(&mut sent) {
            let Some(peer) = attacker else { continue };
            // Never the last byte.
            let left = (4 << 20) - 1 - *sent;
            match peer.stream.write(&piece[..piece.len().min(left)]) {
                Ok(bytes) => *sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => *attacker = None,
            }
            seen.look(&mut bystander, BUDGET_BYTES);
        }
        let resident = resident_bytes(running.id()).saturating_sub(before);
        seen.resident_bytes_max = seen.resident_bytes_max.max(resident);
        if stat_text(&mut bystander, "memory_pressure") != "none" {
            let refused = running.peer().receive();
            assert_eq!(code(&refused), "server_full");
        }
        assert_eq!(bystander.request("echo", json!("on")), "on");
    }
    println!("{seen:?}");
    assert!(seen.refusing && seen.pausing, "{seen:?}");
    assert!(counter(&mut bystander, "memory_refusals") > 0);
    assert!(counter(&mut bystander, "memory_pauses") > 0);
    assert!(seen.counted_bytes_max <= BUDGET_BYTES, "{seen:?}");
    assert!(seen.resident_bytes_max <= BUDGET_BYTES + BUDGET_BYTES / 4 + SLACK_BYTES, "{seen:?}");
    drop(attackers);
    // All of it comes back.
    let deadline = Instant::now() + HANG;
    while stat(&mut bystander, "memory_bytes") > BUDGET_BYTES / 2 {
        let stats = bystander.request("system", json!({"action": "get_stats"}));
        assert!(Instant::now() < deadline, "{stats}");
    }
    let mut newcomer = running.peer();
    newcomer.connect("bench", "newcomer");
    newcomer.subscribe("anything");
}

#[derive(Debug, Default)]
struct Seen {
    refusing: bool,
    pausing: bool,
    counted_bytes_max: usize,
    resident_bytes_max: usize,
}

impl Seen {
    fn look(&mut self, peer: &mut Peer, budget_bytes: usize) {
        let stats = peer.request("system", json!({"action": "get_stats"}));
        assert_eq!(stats["max_memory"], budget_bytes);
        self.refusing |= stats["memory_pressure"] == "refusing";
        self.pausing |= stats["memory_pressure"] == "pausing";
        let counted = stats["memory_bytes"].as_u64().unwrap() as usize;
        self.counted_bytes_max = self.counted_bytes_max.max(counted);
    }
}

fn stat_text(peer: &mut Peer, name: &str) -> String {
    match &peer.request("system", json!({"action": "get_stats"}))[name] {
        Value::String(text) => text.clone(),
        other => panic!("{name} is {other}"),
    }
}
