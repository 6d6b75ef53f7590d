//! What a connection costs that does nothing.

use std::fs;

use serde_json::json;

use crate::descriptors::ServerProcess;
use crate::support::Peer;

const CONNECTIONS: usize = 5_000;
const BYTES_MAX: usize = 1 << 10;

/// Bytes of memory that a process holds.
pub(crate) fn resident_bytes(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib = line.trim().strip_suffix(" kB").unwrap();
    kib.parse::<usize>().unwrap() << 10
}

fn connected(server: &ServerProcess, at: usize) -> Peer {
    let mut peer = Peer::new(server.address);
    // As long as a UUID, which is what most give themselves.
    peer.connect("app", &format!("00000000-0000-4000-8000-{at:012}"));
    peer
}

#[test]
#[cfg(target_os = "linux")]
fn an_idle_connection_costs_less_than_a_kibibyte() {
    let server = ServerProcess::start(None);
    // What the first connection brings into being is not the price of the next.
    let mut first = connected(&server, 0);
    assert_eq!(first.request("echo", json!(1)), 1);
    let before = resident_bytes(server.id());
    let idle: Vec<Peer> = (1..=CONNECTIONS).map(|at| connected(&server, at)).collect();
    let stats = first.request("system", json!({"action": "get_stats"}));
    assert_eq!(stats["total_connections"], CONNECTIONS + 1);
    assert_eq!(stats["buffered_bytes"].as_u64(), Some(0), "an idle connection holds no buffer");
    let after = resident_bytes(server.id());
    let each = after.saturating_sub(before) / CONNECTIONS;
    println!("{CONNECTIONS} idle connections: {each} bytes each ({before} -> {after})");
    assert!(each < BYTES_MAX, "{each} bytes for each idle connection");
    drop((first, idle));
    server.stop();
}
