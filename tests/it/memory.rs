//! The memory of connections and requests, the part of it that the server counts, and the server's
//! behaviour when memory runs short. The memory of channels and subscriptions is tested in
//! `attacks::tables`, and that the count covers what the allocator gave in `tests/alloc/budget.rs`.

use std::fs;
use std::io::{ErrorKind, Write};
use std::time::Instant;

use serde_json::json;

use crate::attacks::{connected, count, wait_until};
use crate::cli::{Running, serve};
use crate::descriptors::ServerProcess;
use crate::support::{HANG, Peer, code};

/// Memory that a process takes at once for reasons of its own: tables that double, pages, pools.
pub(crate) const SLACK_BYTES: usize = 3 << 20;

/// Returns the resident memory of a process, in bytes.
pub(crate) fn resident_bytes(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib = line.trim().strip_suffix(" kB").unwrap();
    kib.parse::<usize>().unwrap() << 10
}

#[test]
fn an_idle_connection_costs_less_than_a_kibibyte() {
    const CONNECTIONS: usize = 5_000;
    const BYTES_MAX: usize = 1 << 10;
    // The id is as long as a UUID, which most clients use.
    let connect = |server: &ServerProcess, at: usize| {
        connected(server, &format!("00000000-0000-4000-8000-{at:012}"))
    };
    let server = ServerProcess::start(None);
    // The first connection creates tables that the next ones do not have to create.
    let mut first = connect(&server, 0);
    assert_eq!(first.request("echo", json!(1)), 1);
    let before = resident_bytes(server.id());
    let idle: Vec<Peer> = (1..=CONNECTIONS).map(|at| connect(&server, at)).collect();
    let stats = first.stats();
    assert_eq!(stats["total_connections"], CONNECTIONS + 1);
    assert_eq!(stats["buffered_bytes"].as_u64(), Some(0), "an idle connection holds no buffer");
    let after = resident_bytes(server.id());
    let each = after.saturating_sub(before) / CONNECTIONS;
    println!("{CONNECTIONS} idle connections: {each} bytes each ({before} -> {after})");
    assert!(each < BYTES_MAX, "{each} bytes for each idle connection");
    drop((first, idle));
    server.stop();
}

#[test]
fn unanswered_requests_are_counted() {
    const REQUESTERS: usize = 30;
    const EACH: usize = 1_000;
    let server = ServerProcess::start(None);
    let mut bystander = connected(&server, "bystander");
    let counted_before = count(&bystander.stats(), "memory_bytes");
    let resident_before = resident_bytes(server.id());
    let worker = connected(&server, "worker").serving("work");
    let mut reader = worker.reader();
    let drain = std::thread::spawn(move || while reader.try_receive_body().is_ok() {});
    let long = "i".repeat(200);
    let requester = |at| {
        let mut peer = connected(&server, &format!("{long}{at}"));
        for _ in 0..EACH {
            peer.send("request", "work", json!(1));
        }
        peer.fence();
        peer
    };
    let requesters: Vec<Peer> = (0..REQUESTERS).map(requester).collect();
    let counted = count(&bystander.stats(), "memory_bytes") - counted_before;
    let resident = resident_bytes(server.id()).saturating_sub(resident_before);
    println!("{counted} bytes counted, {resident} resident");
    assert!(counted >= REQUESTERS * EACH * 500, "{counted} bytes counted");
    assert!(resident <= counted + SLACK_BYTES, "{counted} bytes counted, {resident} resident");
    let _ = worker.stream.shutdown(std::net::Shutdown::Both);
    drop(requesters);
    drain.join().unwrap();
}

/// Goes through all stages of memory pressure, with the worst clients possible.
#[test]
#[cfg(feature = "cli")]
fn a_server_with_a_budget_keeps_it_and_keeps_serving() {
    const BUDGET_BYTES: usize = 64 << 20;
    const ATTACKERS: usize = 40;
    let arguments = ["--port", "0", "--demo", "--max-memory", "64MiB", "--max-frame-bytes", "4MiB"];
    let running = Running::start(serve(&arguments));
    let mut bystander = running.connected("bench", "bystander");
    let before = resident_bytes(running.id());
    // Each begins a message of 4 MB and sends as many bytes of it as the server takes.
    let mut attackers: Vec<Option<Peer>> = (0..ATTACKERS)
        .map(|at| {
            let mut peer = running.connected("bench", &format!("{at}"));
            peer.stream.write_all(&(4_u32 << 20).to_be_bytes()).unwrap();
            peer.stream.set_nonblocking(true).unwrap();
            Some(peer)
        })
        .collect();
    let mut sent = [0; ATTACKERS];
    let mut seen = Seen::default();
    let piece = vec![b' '; 128 << 10];
    let deadline = Instant::now() + HANG;
    while count(&bystander.stats(), "memory_sheds") < 5 {
        assert!(Instant::now() < deadline, "nobody is closed: {seen:?}");
        for (attacker, sent) in attackers.iter_mut().zip(&mut sent) {
            let Some(peer) = attacker else { continue };
            // The last byte is never sent.
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
        if bystander.stats()["memory_pressure"] != "none" {
            let refused = running.peer().receive();
            assert_eq!(code(&refused), "server_full");
        }
        assert_eq!(bystander.request("echo", json!("on")), "on");
    }
    println!("{seen:?}");
    assert!(seen.refusing && seen.pausing, "{seen:?}");
    assert!(count(&bystander.stats(), "memory_refusals") > 0);
    assert!(count(&bystander.stats(), "memory_pauses") > 0);
    assert!(seen.counted_bytes_max <= BUDGET_BYTES, "{seen:?}");
    assert!(seen.resident_bytes_max <= BUDGET_BYTES + BUDGET_BYTES / 4 + SLACK_BYTES, "{seen:?}");
    drop(attackers);
    // All of the memory is returned.
    wait_until(&mut bystander, "the memory", |stats| {
        count(stats, "memory_bytes") <= BUDGET_BYTES / 2
    });
    let _newcomer = running.connected("bench", "newcomer").subscribed("anything");
}

#[cfg(feature = "cli")]
#[derive(Debug, Default)]
struct Seen {
    refusing: bool,
    pausing: bool,
    counted_bytes_max: usize,
    resident_bytes_max: usize,
}

#[cfg(feature = "cli")]
impl Seen {
    fn look(&mut self, peer: &mut Peer, budget_bytes: usize) {
        let stats = peer.stats();
        assert_eq!(stats["max_memory"], budget_bytes);
        self.refusing |= stats["memory_pressure"] == "refusing";
        self.pausing |= stats["memory_pressure"] == "pausing";
        self.counted_bytes_max = self.counted_bytes_max.max(count(&stats, "memory_bytes"));
    }
}
